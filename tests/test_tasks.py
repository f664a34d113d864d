"""The built-in tasks declare what their files and medmnist say; facts are from the data sets' publications."""

import importlib.util
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from fedbench import DataMissingError, Dirichlet, Embedded, MedMNIST, Natural, datasets, registry

OFFICIAL = ["blood", "organa", "organc", "organs", "pneumonia"]
EMBEDDED = ["blood-mini", "heart", "organa-mini"]
FOLDER = Path(str(resources.files("fedbench.tasks"))) / "embedded"


@pytest.fixture
def task():
    return registry.tasks.get


def test_these_are_the_tasks(task):
    assert sorted(OFFICIAL + EMBEDDED) == registry.tasks.names()
    for name in registry.tasks.names():
        assert task(name).name == name
        assert isinstance(task(name).data, MedMNIST if name in OFFICIAL else Embedded)
        assert "Licence: CC BY 4.0" in task(name).description
        assert "Not for clinical use" in " ".join(task(name).description.split())


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


@pytest.mark.parametrize("name", OFFICIAL)
def test_missing_data_is_mended_by_the_name_of_the_task(task, name, tmp_path, monkeypatch):
    monkeypatch.delenv("FEDBENCH_DATA", raising=False)
    monkeypatch.setattr(datasets, "places", lambda data_dir: [tmp_path])
    with pytest.raises(DataMissingError, match=f"run `fedbench data fetch {name}`"):
        task(name).data.locate()


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


def test_views_of_the_same_scans_are_one_source(task):
    assert {task(name).source for name in ("organa", "organc", "organs", "organa-mini")} == {"lits"}
    assert task("blood").source == task("blood-mini").source
    assert len({task(name).source for name in registry.tasks.names()}) == 4


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
        "assert len([registry.tasks.get(name).data.counts for name in registry.tasks.names()]) == 8\n"
        "assert not [name for name in opened if name.endswith('.npz')]\n"
        "assert not {'torch', 'medmnist', 'pooch', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def data_dir():
    return Path(os.environ["FEDBENCH_DATA"])


# Counts per class as published by MedMNIST.
COUNTS = {
    "blood": ([852, 2181, 1085, 2026, 849, 993, 2330, 1643], [244, 624, 311, 579, 243, 284, 666, 470]),
    "organa": (
        [1956, 1390, 1357, 1474, 3963, 3817, 6164, 3919, 3929, 3031, 3561],
        [1036, 784, 793, 785, 2064, 1965, 3285, 1747, 1813, 1622, 1884],
    ),
    "pneumonia": ([1214, 3494], [234, 390]),
}


@pytest.mark.data
@pytest.mark.parametrize("name", COUNTS)
def test_official_files(task, name, data_dir):
    data = task(name).data.load(data_dir)
    assert tuple(np.bincount(data.targets[ids]).tolist() for ids in (data.train, data.test)) == COUNTS[name]


@pytest.mark.data
@pytest.mark.parametrize(("mini", "whole"), [("blood-mini", "blood"), ("organa-mini", "organa")])
def test_small_files_can_be_traced_to_the_official_ones(task, mini, whole, data_dir):
    small, large = task(mini).data.load(), task(whole).data.load(data_dir)
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
