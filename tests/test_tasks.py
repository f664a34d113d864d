"""The built-in tasks declare what their files and medmnist say; facts are from the data sets' publications."""

import importlib.util
import os
import subprocess
import sys
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from fedbench import (
    IID,
    Cell,
    DataMissingError,
    Dirichlet,
    Embedded,
    LogNormalSizes,
    MedMNIST,
    Natural,
    Provided,
    Shards,
    SiteStyles,
    datasets,
    registry,
)
from fedbench.federation import federate

OFFICIAL = [
    "blood", "breast", "derma", "oct", "organa", "organc", "organs", "path", "pneumonia", "retina", "tissue-full",
]  # fmt: skip
CHANGES = ["alpha0.05", "alpha0.3", "alpha1.0", "heldout", "iid", "quantity", "shards2", "styles"]
VARIANTS = [f"{name}-{change}" for name in ("blood", "organa") for change in CHANGES] + ["blood-bn", "blood-styles-bn"]
EMBEDDED = ["blood-mini", "blood-mini-bn", "heart", "organa-mini"]
PROVIDED = ["tissue"]
ALL = sorted([*OFFICIAL, *VARIANTS, *EMBEDDED, *PROVIDED])
FOLDER = Path(str(resources.files("fedbench.tasks"))) / "embedded"


@pytest.fixture
def task():
    return registry.tasks.get


def kind_of_data(name):
    if name in EMBEDDED:
        return Embedded
    return Provided if name in PROVIDED else MedMNIST


def test_these_are_the_tasks(task):
    assert registry.tasks.names() == ALL
    for name in ALL:
        card = " ".join(task(name).description.split())
        assert task(name).name == name
        assert type(task(name).data) is kind_of_data(name)
        assert f"Licence: {task(name).data.license}" in card
        assert "Not for clinical use" in card
        assert len(task(name).title) <= 100


@pytest.mark.parametrize("name", OFFICIAL)
def test_declared_is_what_medmnist_says(task, name):
    data = task(name).data
    info = datasets.medmnist_info(data.flag)
    assert data.md5 == info["MD5"]
    assert data.classes == tuple(info["label"][str(label)] for label in range(len(info["label"])))
    assert data.license == info["license"]
    assert data.shape == (28, 28, info["n_channels"])
    assert tuple(data.counts) == ("train", "validation", "test")
    assert tuple(data.counts.values()) == tuple(info["n_samples"][split] for split in ("train", "val", "test"))
    assert info["url"].split("?")[0].endswith(f"/{data.file}")


def test_every_set_of_images_with_one_label_each_is_a_task(task):
    """ChestMNIST has several labels an image, which no kind of task has so far; the other sets are of volumes."""
    flags = {flag for flag, info in datasets._medmnist_sets().items() if not flag.endswith("3d")}
    assert {task(name).data.flag for name in OFFICIAL} == flags - {"chestmnist"}


@pytest.mark.parametrize("name", OFFICIAL)
def test_missing_data_is_mended_by_the_name_of_the_task(task, name, tmp_path, monkeypatch):
    monkeypatch.delenv("FEDBENCH_DATA", raising=False)
    monkeypatch.setattr(datasets, "places", lambda data_dir: [tmp_path])
    with pytest.raises(DataMissingError, match=f"run `fedbench data fetch {name}`"):
        task(name).data.locate()


def test_missing_data_that_nobody_offers_is_mended_by_a_folder(task, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "places", lambda data_dir: [tmp_path])
    for get in (task("tissue").data.locate, task("tissue").data.fetch):
        with pytest.raises(DataMissingError, match=r"no site to download it from; name the folder"):
            get()


@pytest.mark.parametrize(("name", "clients"), [("blood", 20), ("organa", 30), ("organc", 30), ("organs", 50)])
def test_protocol_of_the_paper(task, name, clients):
    assert task(name).partitioner == Dirichlet(alpha=0.1, clients=clients, min_size=10)
    assert task(name).model == "cnn4"
    assert task(name).protocol.resolved() == {
        "rounds": 100,
        "participation": 0.1,
        "local_epochs": 5,
        "batch_size": 12,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-5,
        "lr_decay": 0.99,
        "local_test": 0.2,
        "personal_every": 10,
        "evaluation_batch": 128,
    }
    assert task(name).protocol.sampled(clients) == {20: 2, 30: 3, 50: 5}[clients]


FIRST = {
    "blood": "500177e4d86d",
    "blood-mini": "cb65e185b3c9",
    "heart": "7bc7bd77c5ae",
    "organa": "8a9540beb2e7",
    "organa-mini": "9d0298e3c1f6",
    "organc": "a1571ec185d9",
    "organs": "8de03c1a6ed7",
    "pneumonia": "e68ce7c14b99",
}


@pytest.mark.parametrize("name", FIRST)
def test_tasks_keep_the_identity_under_which_they_were_published(task, name):
    cell = Cell(task(name), "fedavg", registry.methods.get("fedavg")(), "faithful", 1)
    assert cell.hash == FIRST[name]


@pytest.mark.parametrize(("name", "clients"), [("blood", 20), ("organa", 30)])
def test_a_variant_changes_one_thing(task, name, clients):
    dealt = {"min_size": 10, "clients": clients}
    changes = {
        "alpha0.05": {"partitioner": Dirichlet(alpha=0.05, **dealt)},
        "alpha0.3": {"partitioner": Dirichlet(alpha=0.3, **dealt)},
        "alpha1.0": {"partitioner": Dirichlet(alpha=1.0, **dealt)},
        "iid": {"partitioner": IID(**dealt)},
        "shards2": {"partitioner": Shards(classes=2, **dealt)},
        "quantity": {"partitioner": LogNormalSizes(sigma=1.0, **dealt)},
        "styles": {"partitioner": IID(**dealt), "styles": SiteStyles()},
        "heldout": {"held_out": 0.2, "protocol": task(name).protocol.but(participation=0.125)},
    }
    assert sorted(changes) == CHANGES
    for change, values in changes.items():
        variant = task(f"{name}-{change}")
        prose = {"name": variant.name, "title": variant.title}
        assert variant == task(name).but(**values, **prose)
        assert variant.title not in {other.title for other in map(task, ALL) if other.name != variant.name}
    held_out = round(0.2 * clients)
    heldout = task(f"{name}-heldout").protocol
    assert heldout.sampled(clients - held_out) == task(name).protocol.sampled(clients)


def test_views_of_the_same_images_are_one_source(task):
    assert {task(name).source for name in ("organa", "organc", "organs", "organa-mini")} == {"lits"}
    assert task("tissue").source == task("tissue-full").source
    for name in ("blood", "organa"):
        assert {task(other).source for other in ALL if other.startswith(f"{name}-")} == {task(name).source}
    assert len({task(name).source for name in ALL}) == 10


@pytest.mark.parametrize("name", ["blood-mini", "organa-mini"])
def test_small_tasks(task, name):
    small = task(name)
    assert small.model == "cnn-small"
    assert small.partitioner == Dirichlet(alpha=0.1, clients=8, min_size=10)
    assert (small.protocol.rounds, small.protocol.sampled(8)) == (10, 4)
    data = small.data.load()
    tested = np.bincount(data.targets[data.test], minlength=small.n_classes)
    assert tested.min() >= 50  # a robust local test set may ask for 50 images of one class
    for split in (data.train, data.validation, data.test):
        assert np.unique(data.targets[split]).size == small.n_classes


def test_heart_has_the_patients_of_flamby(task):
    heart = task("heart")
    assert heart.partitioner == Natural()
    data = heart.data.load()
    assert heart.data.sites == ("cleveland", "hungarian", "switzerland", "va")
    assert np.bincount(data.sites).tolist() == [303, 261, 46, 130]
    assert np.bincount(data.targets[data.sites == 0]).tolist() == [164, 139]  # none of Cleveland is dropped
    assert data.inputs.shape == (740, 13)
    assert data.test.size == data.validation.size == 0
    # The first line of the Cleveland file: 63,1,1,145,233,1,2,150,0,2.3,3,0,6,0
    first = [1.3, 1, 0, 0, 0, 0.75, 0.26, 1, 0, 1, 0.4, 0, 2.3]
    assert data.inputs[0].tolist() == pytest.approx(first)
    assert data.targets[0] == 0


def test_embedded_files_are_small_and_attributed():
    files = list(FOLDER.glob("*.npz"))
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) < 12e6
    text = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for path in files:
        assert f"## {path.name}" in text
    for name in ("CC BY 4.0", "Acevedo", "Bilic", "Janosi", "Steinbrunn", "Pfisterer", "Detrano", "MedMNIST v2"):
        assert name in text


def test_tasks_need_no_torch_and_no_file():
    code = (
        "import sys; from fedbench import registry\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        f"assert len([registry.tasks.get(name).data.counts for name in registry.tasks.names()]) == {len(ALL)}\n"
        "assert not [name for name in opened if name.endswith('.npz')]\n"
        "assert not {'torch', 'medmnist', 'pooch', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def data_dir():
    return Path(os.environ["FEDBENCH_DATA"])


@lru_cache(maxsize=1)
def loaded(data, data_dir):
    return data.load(data_dir)


# Counts per class as published by MedMNIST.
COUNTS = {
    "blood": ([852, 2181, 1085, 2026, 849, 993, 2330, 1643], [244, 624, 311, 579, 243, 284, 666, 470]),
    "organa": (
        [1956, 1390, 1357, 1474, 3963, 3817, 6164, 3919, 3929, 3031, 3561],
        [1036, 784, 793, 785, 2064, 1965, 3285, 1747, 1813, 1622, 1884],
    ),
    "pneumonia": ([1214, 3494], [234, 390]),
    "breast": ([147, 399], [42, 114]),
    "retina": ([486, 128, 206, 194, 66], [174, 46, 92, 68, 20]),
    "tissue": ([15178, 2289, 1692, 4430, 3336, 2220, 11108, 7007], [0] * 8),
}


@pytest.mark.data
@pytest.mark.parametrize("name", COUNTS)
def test_official_files(task, name, data_dir):
    data = loaded(task(name).data, data_dir)
    counts = (np.bincount(data.targets[ids], minlength=len(COUNTS[name][0])) for ids in (data.train, data.test))
    assert tuple(count.tolist() for count in counts) == COUNTS[name]


@pytest.mark.data
@pytest.mark.parametrize("track", ["faithful", "robust"])
@pytest.mark.parametrize("name", sorted([*COUNTS, *VARIANTS]))
def test_every_split_can_be_had(task, name, track, data_dir):
    data = loaded(task(name).data, data_dir)
    for seed in range(1, 11) if track == "robust" else [1]:
        federation = federate(task(name), data, track, seed)
        assert min(map(len, federation.train)) >= 8
        assert sum(map(len, federation.train)) >= 0.75 * len(data.train)


@pytest.mark.data
@pytest.mark.parametrize(("mini", "whole"), [("blood-mini", "blood"), ("organa-mini", "organa")])
def test_small_files_can_be_traced_to_the_official_ones(task, mini, whole, data_dir):
    small, large = task(mini).data.load(), loaded(task(whole).data, data_dir)
    with np.load(FOLDER / f"{mini}.npz") as archive:
        for split, prefix in (("train", "train"), ("validation", "val"), ("test", "test")):
            origin = getattr(large, split)[archive[f"{prefix}_ids"]]
            assert len(set(origin.tolist())) == len(origin)
            assert (small.inputs[getattr(small, split)] == large.inputs[origin]).all()
            assert (small.targets[getattr(small, split)] == large.targets[origin]).all()


@pytest.mark.data
def test_embedded_files_are_rebuilt_bit_for_bit(data_dir, tmp_path):
    spec = importlib.util.spec_from_file_location("rebuild", FOLDER / "rebuild.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sums = script.rebuild(data_dir, tmp_path)
    assert sums == {task.data.file: task.data.md5 for task in map(registry.tasks.get, EMBEDDED)}
    for name in sums:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
