"""A data set as it lies in memory while cells run: read and normalised once, and once a machine.

Whoever starts workers prepares a data set and hands it on: to processes as files that each of them maps, so that the
operating system keeps one copy of them; to a cluster through its object store.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedbench.task import Data, Dataset


@lru_cache(maxsize=2)
def load_data(data: Data, data_dir: Path | None = None) -> Dataset:
    """Read, check and normalise a data set; the last two are remembered, as cells come sorted by task.

    Raises
    ------
    DataError
        A file is missing, damaged or not what is declared.
    """
    dataset = data.load(data_dir)
    return replace(dataset, inputs=normalised(dataset.inputs))


def normalised(inputs: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return inputs as float32: images of bytes as (x / 255 - 0.5) / 0.5, features as they are.

    Source: the transform of the FedKPer training code, the same for training and testing, without augmentation.
    """
    if inputs.dtype != np.uint8:
        return np.ascontiguousarray(inputs, dtype=np.float32)
    values = inputs.astype(np.float32)
    for step, by in ((np.divide, 255), (np.subtract, 0.5), (np.divide, 0.5)):
        step(values, np.float32(by), out=values)
    return values


def store(dataset: Dataset, folder: Path) -> None:
    """Write a data set's arrays as files that `mapped` opens."""
    folder.mkdir(parents=True)
    for name, array in _arrays(dataset).items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def mapped(folder: Path) -> Dataset:
    """Return the data set whose files stand in a folder, mapped into memory.

    A page is shared by all processes until one writes to it, and then is that process' own.
    """
    return Dataset(
        **{path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
    )


def _arrays(dataset: Dataset) -> dict[str, npt.NDArray[np.generic]]:
    values = {item.name: getattr(dataset, item.name) for item in fields(dataset)}
    return {name: array for name, array in values.items() if array is not None}
