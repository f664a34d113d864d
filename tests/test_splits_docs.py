"""The documentation of splits shows every partitioner, and its pictures are those that its script draws."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fedbench import registry
from fedbench.taskfile import PARTITIONERS, load_task_file

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "splits.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("splits", DOCS / "splits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_partitioner_has_a_picture_and_every_picture_a_place(script):
    assert {*PARTITIONERS, "held-out"} == set(script.PICTURES)
    for name in (*(f"{name}.svg" for name in script.PICTURES), "styles.png"):
        assert (DOCS / "splits" / name).is_file()
        assert f"](splits/{name})" in TEXT
    for kind in PARTITIONERS.values():
        assert f"`{kind.__name__}(" in TEXT


def test_the_tasks_that_it_names_exist():
    for name in ("blood", "organa"):
        for task in registry.tasks.names():
            change = task.removeprefix(f"{name}-")
            assert change in (task, "mini", "mini-bn") or f"-{change}`" in TEXT


@pytest.mark.long
def test_pictures_are_drawn_again_to_the_same_bytes(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "FOLDER", tmp_path / "splits")
    script.main()
    assert {path.name for path in (DOCS / "splits").iterdir()} == {path.name for path in script.FOLDER.iterdir()}
    for path in script.FOLDER.iterdir():
        assert path.read_bytes() == (DOCS / "splits" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("dirichlet", {"alpha": 0.5, "clients": 3}),
        ("plain-dirichlet", {"alpha": 0.5, "clients": 3}),
        ("shards", {"classes": 2, "clients": 3}),
        ("iid", {"clients": 3}),
        ("log-normal-sizes", {"sigma": 0.5, "clients": 3}),
        ("dirichlet-sizes", {"alpha": 5.0, "clients": 3}),
    ],
)
def test_every_partitioner_can_be_named_in_a_task_file(kind, keys, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((90, 28, 28), np.uint8), y=np.arange(90) % 3)
    lines = ["[task]", 'name = "mine"', 'title = "Mine"', "held_out = 0.34", "[data]", 'file = "x.npz"', "[partition]"]
    lines += [f'kind = "{kind}"', *(f"{key} = {value}" for key, value in keys.items()), "[model]", 'name = "cnn-small"']
    lines += ["[protocol]", "rounds = 1", "participation = 1.0", "local_epochs = 1", "batch_size = 8", "lr = 0.01"]
    (tmp_path / "mine.toml").write_text("\n".join(lines), encoding="utf-8")
    task = load_task_file(tmp_path / "mine.toml")
    assert task.partitioner == PARTITIONERS[kind](**keys)
    assert task.held_out == 0.34
