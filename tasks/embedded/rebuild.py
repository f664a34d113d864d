"""Make the embedded files again, bit for bit, from the original ones: ``python rebuild.py DATA_DIR OUT_DIR``.

DATA_DIR holds ``bloodmnist.npz``, ``organamnist.npz`` and the folder ``heart-disease`` with the four
files ``processed.*.data`` of the UCI Heart Disease set. The MD5 of every original is checked first.

The two image files are drawn within the official splits, class by class in proportion to its share, by fixed
named streams; they keep the layout and names of MedMNIST and add, for each split, the positions of the drawn
images in the official split (``train_ids``, ...). What depends on a version of numpy or zlib is left out:
only ``Generator.random`` is drawn from, and the archives are not compressed (a wheel is, as a whole).
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedbench.datasets import check_md5, md5_of
from fedbench.seeds import Streams

Array = npt.NDArray[Any]

IMAGES = {
    "blood-mini": (
        "bloodmnist",
        "7053d0359d879ad8a5505303e11de1dc",
        {"train": 1600, "val": 240, "test": 800},
    ),
    "organa-mini": (
        "organamnist",
        "68e3f8846a6bd62f0c9bf841c0d9eacc",
        {"train": 1600, "val": 240, "test": 1200},
    ),
}
"""For each file: the official set, its MD5, and how many images are drawn from each split."""

HOSPITALS = {
    "cleveland": "2d91a8ff69cfd9616aa47b59d6f843db",
    "hungarian": "22e96bee155b5973568101c93b3705f6",
    "switzerland": "9a87f7577310b3917730d06ba9349e20",
    "va": "4249d03ca7711e84f4444768c9426170",
}
"""The MD5 of each hospital's file."""

COLUMNS = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"),
)
DROPPED = ("slope", "ca", "thal")  # mostly missing outside Cleveland
SCALES = {"age": (50, 10), "trestbps": (130, 20), "chol": (220, 50), "thalach": (140, 25)}
LEVELS = {"cp": (2, 3, 4), "restecg": (1, 2)}  # one-hot without the first level
FETCH = "get the original file again."


def drawn(labels: Array, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the positions of ``n`` samples with the class shares of ``labels``, in rising order.

    Parameters
    ----------
    labels : array of shape (N,)
        Class of each sample.
    n : int
        How many to draw; what rounding down leaves goes to the classes with the largest remainders.
    rng : numpy.random.Generator
        Stream of the draw.
    """
    order = rng.random(len(labels)).argsort(kind="stable")
    counts = np.bincount(labels)
    quota, rest = np.divmod(counts * n, len(labels))
    quota[np.argsort(-rest, kind="stable")[: n - quota.sum()]] += 1
    chosen = [order[labels[order] == label][:size] for label, size in enumerate(quota)]
    return np.sort(np.concatenate(chosen))


def mini(data_dir: Path, name: str) -> dict[str, Array]:
    """Return the arrays of one image file.

    Parameters
    ----------
    data_dir : Path
        Folder of the official file.
    name : str
        Key of `IMAGES`.
    """
    flag, md5, sizes = IMAGES[name]
    path = data_dir / f"{flag}.npz"
    check_md5(path, md5, FETCH)
    arrays: dict[str, Array] = {}
    with np.load(path, allow_pickle=False) as official:
        for split, n in sizes.items():
            labels = official[f"{split}_labels"]
            ids = drawn(labels[:, 0], n, Streams(0).rng("embedded", task=name, split=split))
            arrays[f"{split}_images"] = official[f"{split}_images"][ids]
            arrays[f"{split}_labels"] = labels[ids]
            arrays[f"{split}_ids"] = ids.astype("<i4")
    return arrays


def heart(folder: Path) -> dict[str, Array]:
    """Return the arrays of the heart file: the patients of four hospitals who are complete in ten columns.

    Parameters
    ----------
    folder : Path
        Folder of the four files ``processed.*.data``.
    """
    features, targets, sites = [], [], []
    for site, (hospital, md5) in enumerate(HOSPITALS.items()):
        path = folder / f"processed.{hospital}.data"
        check_md5(path, md5, FETCH)
        with path.open(newline="") as file:
            for row in csv.reader(file):
                patient = {k: v for k, v in zip(COLUMNS, row, strict=True) if k not in DROPPED}
                if "?" in patient.values():
                    continue
                target = float(patient.pop("num"))
                features.append(_coded({name: float(value) for name, value in patient.items()}))
                targets.append(target > 0)
                sites.append(site)
    return {
        "x": np.array([list(row.values()) for row in features], dtype="<f4"),
        "y": np.array(targets, dtype=np.uint8),
        "site": np.array([list(HOSPITALS)[site] for site in sites], dtype="<U11"),
        "features": np.array(list(features[0]), dtype="<U9"),
    }


def _coded(patient: dict[str, float]) -> dict[str, float]:
    coded: dict[str, float] = {}
    for name, value in patient.items():
        if name in LEVELS:
            coded |= {f"{name}_{level}": float(value == level) for level in LEVELS[name]}
        else:
            # Fixed constants: statistics of the pooled patients would leak from hospital to hospital.
            centre, scale = SCALES.get(name, (0, 1))
            coded[name] = (value - centre) / scale
    return coded


def write(path: Path, arrays: dict[str, Array]) -> None:
    """Write an .npz file whose bytes depend on nothing but the arrays.

    Parameters
    ----------
    path : Path
        The file.
    arrays : dict of arrays
        Members, in this order.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # else it tells the operating system
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue())


def rebuild(data_dir: Path, out: Path) -> dict[str, str]:
    """Write the three files and return their MD5 by name.

    Parameters
    ----------
    data_dir : Path
        Folder of the originals.
    out : Path
        Folder to write to.
    """
    files = {name: mini(data_dir, name) for name in IMAGES} | {"heart": heart(data_dir / "heart-disease")}
    out.mkdir(parents=True, exist_ok=True)
    for name, arrays in files.items():
        write(out / f"{name}.npz", arrays)
    return {f"{name}.npz": md5_of(out / f"{name}.npz") for name in files}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path, help="folder of the original files")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent, help="folder to write to")
    arguments = parser.parse_args()
    for name, md5 in rebuild(arguments.data_dir, arguments.out).items():
        print(f"{md5}  {name}")  # noqa: T201 - the output of the script
