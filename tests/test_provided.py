"""A file that users bring along, with arrays under names of its own."""

import numpy as np
import pytest

from fedbench import DataError, Provided
from fedbench.datasets import md5_of

ARRAYS = {"x": "images", "y": "labels", "site": "shard"}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(6, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "cells.npz", images=images, labels=np.array([[0], [1]] * 3, np.uint8), shard=np.arange(6) // 3)
    return tmp_path


def declared(folder, **changes):
    values = {
        "file": "cells.npz",
        "arrays": ARRAYS,
        "md5": md5_of(folder / "cells.npz"),
        "classes": ("a", "b"),
        "shape": (4, 4, 1),
        "counts": {"train": 6, "validation": 0, "test": 0},
        "license": "CC0",
        "sites": ("0", "1"),
    }
    return Provided(**{**values, **changes})


def test_it_is_read_under_its_own_names_from_any_place(folder, monkeypatch):
    monkeypatch.setenv("FEDBENCH_DATA", str(folder))
    data = declared(folder)
    assert data.locate() == data.fetch() == data.locate(folder) == (folder / "cells.npz",)
    dataset = data.load()
    with np.load(folder / "cells.npz") as archive:
        assert dataset.inputs[..., 0].tolist() == archive["images"].tolist()
    assert dataset.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.sites.tolist() == [0, 0, 0, 1, 1, 1]
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (6, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"md5": "0" * 32}, "damaged or another version: .* get it again"),
        ({"arrays": {**ARRAYS, "y": "classes"}}, "has no array classes; it has images, labels, shard"),
        ({"sites": ("0", "1", "2")}, "samples are from the sites"),
        ({"shape": (4, 4, 3)}, "not .* as declared"),
    ],
)
def test_a_file_that_is_not_what_is_declared(folder, changes, message):
    with pytest.raises(DataError, match=message):
        declared(folder, **changes).load(folder)
