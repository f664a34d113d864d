"""Where samples come from: official MedMNIST files, files in the package, a user's own .npz or .csv.

Every file is checked before use: its MD5 first, then names, dtypes, shapes, labels and counts against what the
task declares. No file is ever changed, and none is read with pickle.

Environment
-----------
FEDBENCH_DATA
    A folder with data files, looked in after ``--data-dir``.
FEDBENCH_MIRROR
    Base URL that replaces the official one, such as ``https://files.hospital.example/medmnist``, where the
    official site cannot be reached. The MD5 is checked all the same.
"""

from __future__ import annotations

import abc
import ast
import contextlib
import csv
import hashlib
import importlib.util
import os
import time
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import platformdirs
from pydantic import Field

from fedbench import registry
from fedbench.errors import DataError, DataMissingError, PluginError, unknown
from fedbench.task import Data, Dataset, Indices

if TYPE_CHECKING:
    import requests

Array = npt.NDArray[Any]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

MOST_CLASSES = 256  # records keep a predicted class in one byte
ATTEMPTS = 5
FIRST_WAIT = 0.5  # seconds before the second attempt; doubled before each further one
BLOCK = 1 << 16  # bytes; a transfer that breaks off loses less than one block
_MISSING = frozenset({"", "?", "na", "nan"})
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


class _OneFile(Data, abc.ABC):
    """Data in one file whose MD5 is declared, and so is part of the task's identity.

    Parameters
    ----------
    md5 : str
        Of the whole file, in lower-case hexadecimal digits.
    """

    md5: Md5

    @abc.abstractmethod
    def _mend(self) -> str:
        """Return what to do about a damaged file."""

    @abc.abstractmethod
    def _read(self, path: Path) -> Dataset:
        """Return the content of the file."""

    def fetch(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the file; there is no place to download it from."""
        return self.locate(data_dir)

    def load(self, data_dir: Path | None = None) -> Dataset:
        """Read and check the file.

        Raises
        ------
        DataMissingError
            The file is in none of the places looked in.
        DataError
            The file is damaged or not what is declared.
        """
        (path,) = self.locate(data_dir)
        check_md5(path, self.md5, self._mend())
        dataset = self._read(path)
        _check_declared(path, self, dataset)
        return dataset


class MedMNIST(_OneFile):
    """An official 2-D MedMNIST file of 28x28 images [1]_.

    Looked for in ``data_dir``, ``$FEDBENCH_DATA``, ``~/.medmnist`` and FedBench's cache, in this order.

    Parameters
    ----------
    flag : str
        Name of the set in ``medmnist.INFO``, such as ``"bloodmnist"``; the file is ``<flag>.npz``.

    References
    ----------
    .. [1] J. Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8.
    """

    flag: str = Field(pattern=r"^[a-z0-9_]+$")

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.flag}.npz"

    def locate(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the file in the first place that has it.

        Raises
        ------
        DataMissingError
            No place has it.
        """
        return _located(
            self.file,
            data_dir,
            f"; run `fedbench data fetch {self._task()}`, or name the folder that has it with --data-dir or "
            "FEDBENCH_DATA.",
        )

    def fetch(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the file with its MD5 checked; if no place has it, download it into FedBench's cache.

        Raises
        ------
        DataMissingError
            The file is missing and cannot be downloaded.
        DataError
            The file, here or on the server, has another MD5.
        """
        try:
            (path,) = self.locate(data_dir)
        except DataMissingError:
            path = self._download(_missing(self.file, data_dir))
        check_md5(path, self.md5, self._mend())
        return (path,)

    def _download(self, missing: str) -> Path:
        import pooch

        mirror = os.environ.get("FEDBENCH_MIRROR", "").rstrip("/")
        url = f"{mirror}/{self.file}" if mirror else str(medmnist_info(self.flag)["url"])
        try:
            return Path(
                pooch.retrieve(
                    url, known_hash=f"md5:{self.md5}", fname=self.file, path=cache_dir(), downloader=_resuming
                )
            )
        except OSError as error:  # requests' own errors are OSErrors as well
            raise DataMissingError(
                f"{missing}, and it cannot be downloaded from {url}: {_reason(error)}; run "
                f"`fedbench data fetch {self._task()}` where there is a network, set FEDBENCH_MIRROR, or put "
                "the file in one of these folders."
            ) from None
        except ValueError:  # pooch has thrown the file away
            raise DataError(
                f"{url} served a file whose MD5 is not {self.md5}; nothing was kept. "
                f"Try again, or get {self.file} from elsewhere and name its folder with --data-dir."
            ) from None

    def _task(self) -> str:
        """Return the name of a task with this data: tasks are what the command line knows."""
        for name in registry.tasks.names():
            with contextlib.suppress(PluginError):  # another's broken plug-in is told elsewhere
                if registry.tasks.get(name).data == self:
                    return name
        return self.flag

    def _mend(self) -> str:
        return f"delete it and run `fedbench data fetch {self._task()}`."

    def _read(self, path: Path) -> Dataset:
        return _official(path, _read_npz(path))


def _located(file: str, data_dir: Path | None, mend: str) -> tuple[Path, ...]:
    """Return a file in the first place that has it."""
    for place in places(data_dir):
        if _is_file(place / file):
            return (place / file,)
    raise DataMissingError(_missing(file, data_dir) + mend)


def _missing(file: str, data_dir: Path | None) -> str:
    return f"{file} is not on this machine (looked in {', '.join(map(str, places(data_dir)))})"


class _Layouts(_OneFile, abc.ABC):
    """An .npz file in either of two layouts: MedMNIST's, or arrays ``x``, ``y`` and optionally ``site``.

    Parameters
    ----------
    file : str
        Name of the file.
    sites : tuple of str
        Names of the natural clients, in the order of their codes; empty where there are none.
    """

    file: str
    sites: tuple[str, ...] = ()

    def _content(self, path: Path) -> tuple[Dataset, tuple[str, ...]]:
        """Return the content of the file, and the names of the sites."""
        return _either_layout(path)

    def _read(self, path: Path) -> Dataset:
        dataset, sites = self._content(path)
        if sites != self.sites:
            raise DataError(f"{path}: samples are from the sites {sites}, not {self.sites} as declared.")
        return dataset


class Embedded(_Layouts):
    """A file that is installed with FedBench."""

    def locate(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the installed file; ``data_dir`` plays no part.

        Raises
        ------
        DataMissingError
            The installation is not whole.
        """
        path = Path(str(resources.files("fedbench.tasks"))) / "embedded" / self.file
        if not _is_file(path):
            raise DataMissingError(f"{path} is missing from the installation; {self._mend()}")
        return (path,)

    def _mend(self) -> str:
        return "install fedbench again."


class Provided(_Layouts):
    """An .npz file that users bring along: looked for where official ones are, but nobody offers it for download.

    Parameters
    ----------
    arrays : dict of str to str
        Names of the file's arrays that are ``x``, ``y`` and, if there is one, ``site``.
    """

    arrays: dict[str, str]

    def locate(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the file in the first place that has it.

        Raises
        ------
        DataMissingError
            No place has it.
        """
        return _located(
            self.file,
            data_dir,
            ", and there is no site to download it from; name the folder that has it with --data-dir or FEDBENCH_DATA.",
        )

    def _content(self, path: Path) -> tuple[Dataset, tuple[str, ...]]:
        held = _read_npz(path)
        _need(path, held, self.arrays.values())
        return _plain(path, {name: held[theirs] for name, theirs in self.arrays.items()})

    def _mend(self) -> str:
        return "get it again."


class _OwnFile(_OneFile, abc.ABC):
    """A file of the user's, wherever it is.

    Parameters
    ----------
    file : str
        Name of the file.
    folder : Path
        Where the file is. It is no part of the task's identity: the MD5 is.
    """

    file: str
    folder: Path = Field(exclude=True)

    def locate(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the file; ``data_dir`` plays no part.

        Raises
        ------
        DataMissingError
            There is no such file.
        """
        return (_own_file(self.folder / self.file),)

    def _mend(self) -> str:
        return "it was changed since its task was made; make the task again."


class NpzFile(_OwnFile, _Layouts):
    """A user's own .npz file; `of` makes one.

    Its arrays are either ``x`` (images (N, H, W[, channels]) uint8, or features (N, F) of numbers), ``y``
    (classes from 0) and optionally ``site`` (whole numbers or strings); or those of a MedMNIST file
    (``train_images``, ..., ``test_labels``).
    """

    @classmethod
    def of(cls, path: Path, *, classes: Sequence[str] = (), license: str = "not stated") -> Self:
        """Read a file and declare what is found in it.

        Parameters
        ----------
        path : Path
            The file.
        classes : sequence of str
            Names of the classes 0, 1, ...; by default their numbers.
        license : str
            Licence of the data.

        Raises
        ------
        DataMissingError
            There is no such file.
        DataError
            The file is not what is described above.
        """
        md5 = _own_md5(path)
        dataset, sites = _either_layout(path)
        made = cls(
            file=path.name,
            folder=path.parent.absolute(),
            md5=md5,
            classes=tuple(classes) or tuple(str(c) for c in range(int(dataset.targets.max()) + 1)),
            shape=dataset.inputs.shape[1:],
            counts=_counts(dataset),
            license=license,
            sites=sites,
        )
        made.load()
        return made


class CsvFile(_OwnFile):
    """A user's own .csv file: a header line, then one sample a line; `of` makes one.

    Parameters
    ----------
    label, site : str
        Names of the columns that hold class and natural client; ``site`` may be None.
    features : tuple of str
        Names of the feature columns, which hold finite numbers.
    sites : tuple of str
        Names of the natural clients; empty where there are none.
    """

    label: str
    site: str | None = None
    features: tuple[str, ...]
    sites: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        path: Path,
        *,
        label: str,
        site: str | None = None,
        features: Sequence[str] = (),
        classes: Sequence[str] = (),
        license: str = "not stated",
    ) -> Self:
        """Read a file and declare what is found in it.

        Parameters
        ----------
        path : Path
            The file: UTF-8, separated by commas.
        label, site : str
            Names of the columns that hold class and natural client; None for no natural clients.
        features : sequence of str
            Names of the feature columns; by default all others.
        classes : sequence of str
            The labels in the order of their codes, or names for the labels 0, 1, ...; by default all labels
            found, sorted.
        license : str
            Licence of the data.

        Raises
        ------
        DataMissingError
            There is no such file.
        DataError
            A column is unknown, or a cell is missing, not a finite number, or not a class.
        """
        md5 = _own_md5(path)
        table = _read_csv(path, label, site, features)
        found = _names(table.sites) if table.sites is not None else ()
        made = cls(
            file=path.name,
            folder=path.parent.absolute(),
            md5=md5,
            label=label,
            site=site,
            features=table.features,
            classes=tuple(classes) or _names(_present(path, label, table.labels)),
            shape=table.values.shape[1:],
            counts={"train": len(table.labels), "validation": 0, "test": 0},
            license=license,
            sites=found,
        )
        made.load()
        return made

    def _read(self, path: Path) -> Dataset:
        table = _read_csv(path, self.label, self.site, self.features)
        targets = _coded(path, self.label, table.labels, self.classes)
        sites = None if table.sites is None else _coded(path, str(self.site), table.sites, self.sites)
        return _whole(table.values, targets, sites)


def cache_dir() -> Path:
    """Return the folder into which FedBench downloads."""
    return Path(platformdirs.user_cache_dir("fedbench"))


def places(data_dir: Path | None = None) -> list[Path]:
    """Return the folders in which official files are looked for, in this order.

    Parameters
    ----------
    data_dir : Path, optional
        A folder that goes before all others.
    """
    given = [folder for folder in (data_dir, os.environ.get("FEDBENCH_DATA")) if folder]
    return list(dict.fromkeys([*map(Path, given), Path.home() / ".medmnist", cache_dir()]))


@cache
def _medmnist_sets() -> dict[str, Any]:
    # Importing medmnist loads torch and makes a folder in the user's home: its table is read from the source.
    spec = importlib.util.find_spec("medmnist")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the package medmnist is not installed; run `pip install medmnist`.")
    source = Path(spec.submodule_search_locations[0], "info.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INFO":
            return dict(ast.literal_eval(node.value))
    raise DataError("the installed medmnist has no table INFO; install medmnist 3.0.2.")


def medmnist_info(flag: str) -> dict[str, Any]:
    """Return what the installed medmnist says about one set, without importing it.

    Parameters
    ----------
    flag : str
        Such as ``"bloodmnist"``.

    Raises
    ------
    SpecError
        There is no such set.
    """
    sets = _medmnist_sets()
    if flag not in sets:
        raise unknown("MedMNIST set", flag, sets)
    return dict(sets[flag])


def md5_of(path: Path) -> str:
    """Return the MD5 of a file.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions.") from None


def check_md5(path: Path, expected: str, mend: str) -> None:
    """Compare the MD5 of a file.

    Parameters
    ----------
    path : Path
        The file.
    expected : str
        The MD5 that it should have.
    mend : str
        What to do otherwise; the end of the message.

    Raises
    ------
    DataError
        The file has another MD5 or cannot be read.
    """
    found = md5_of(path)
    if found != expected:
        raise DataError(f"{path} is damaged or another version: its MD5 is {found}, not {expected}; {mend}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a place that this user may not look into has no file for this user
        return False


def _own_file(path: Path) -> Path:
    if not _is_file(path):
        raise DataMissingError(f"{path} does not exist; put the file there or mend the path in the task file.")
    return path


def _own_md5(path: Path) -> str:
    return md5_of(_own_file(path))


def _counts(dataset: Dataset) -> dict[str, int]:
    return {split: len(getattr(dataset, split)) for split in _SPLITS}


def _check_declared(path: Path, data: Data, dataset: Dataset) -> None:
    """Compare what was read with what the task declares."""
    if dataset.inputs.shape[1:] != data.shape:
        raise DataError(f"{path}: samples have the shape {dataset.inputs.shape[1:]}, not {data.shape} as declared.")
    if _counts(dataset) != data.counts:
        raise DataError(f"{path}: the splits have {_counts(dataset)} samples, not {data.counts} as declared.")
    n_classes = len(data.classes)
    if len(set(data.classes)) < n_classes:
        raise DataError(f"{path}: a class is named twice in {', '.join(data.classes)}; name each once.")
    if not 2 <= n_classes <= MOST_CLASSES:
        raise DataError(f"{path}: {n_classes} classes, not 2 to {MOST_CLASSES}; check the label column.")
    too_high = np.flatnonzero(dataset.targets >= n_classes)
    if too_high.size:
        row = int(too_high[0])
        raise DataError(
            f"{path}: sample {row} has the label {dataset.targets[row]}, but only the classes 0 to "
            f"{n_classes - 1} are declared."
        )


# --- .npz ---------------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:  # numpy leaves a path open where it fails
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one array, no archive; save it with numpy.savez.")
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as .npz ({reason}); get or save it again, without object arrays."
        ) from None


def _either_layout(path: Path) -> tuple[Dataset, tuple[str, ...]]:
    arrays = _read_npz(path)
    return (_official(path, arrays), ()) if "train_images" in arrays else _plain(path, arrays)


def _need(path: Path, arrays: dict[str, Array], names: Iterable[str]) -> None:
    missing = sorted(set(names) - set(arrays))
    if missing:
        has = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"{path} has no array {', '.join(missing)}; it has {has}.")


def _official(path: Path, arrays: dict[str, Array]) -> Dataset:
    """Return the content of a file in MedMNIST's layout; the splits are consecutive ranges."""
    _need(path, arrays, [f"{split}_{part}" for split in _SPLITS.values() for part in ("images", "labels")])
    inputs: list[Array] = []
    targets: list[Indices] = []
    splits: dict[str, Indices] = {}
    start = 0
    for split, prefix in _SPLITS.items():
        images = _inputs(path, f"{prefix}_images", arrays[f"{prefix}_images"])
        if images.ndim != 4:
            raise DataError(f"{path}: {prefix}_images has the shape {images.shape}; images are (N, H, W[, C]).")
        if inputs and images.shape[1:] != inputs[0].shape[1:]:
            raise DataError(
                f"{path}: {prefix}_images has images of {images.shape[1:]}, but train_images of {inputs[0].shape[1:]}."
            )
        inputs.append(images)
        targets.append(_labels(path, f"{prefix}_labels", arrays[f"{prefix}_labels"], len(images)))
        splits[split] = np.arange(start, start + len(images))
        start += len(images)
    if not len(inputs[0]):
        raise DataError(f"{path}: train_images is empty; there is nothing to train on.")
    return Dataset(inputs=np.concatenate(inputs), targets=np.concatenate(targets), **splits)


def _plain(path: Path, arrays: dict[str, Array]) -> tuple[Dataset, tuple[str, ...]]:
    """Return the content of a file with ``x``, ``y`` and perhaps ``site``, and the names of the sites."""
    _need(path, arrays, ["x", "y"])
    inputs = _inputs(path, "x", arrays["x"])
    if not len(inputs):
        raise DataError(f"{path}: x is empty; there is nothing to train on.")
    targets = _labels(path, "y", arrays["y"], len(inputs))
    if "site" not in arrays:
        return _whole(inputs, targets, None), ()
    site = arrays["site"]
    if site.shape != (len(inputs),) or site.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: site is {site.dtype} of shape {site.shape}; it must be whole numbers or strings of "
            f"shape ({len(inputs)},), as many as x has rows."
        )
    names, codes = np.unique(site, return_inverse=True)
    return _whole(inputs, targets, codes.astype(np.int64)), tuple(str(name) for name in names)


def _whole(inputs: Array, targets: Indices, sites: Indices | None) -> Dataset:
    """Return a data set without official splits: the harness cuts test sets from the clients."""
    none = np.arange(0)
    return Dataset(inputs, targets, train=np.arange(len(inputs)), validation=none, test=none, sites=sites)


def _inputs(path: Path, name: str, values: Array) -> Array:
    """Return images as (N, H, W, C) uint8, or features as (N, F) float32."""
    if values.ndim in (3, 4):
        if values.dtype != np.uint8:
            raise DataError(f"{path}: {name} is {values.dtype}; images must be uint8, from 0 to 255.")
        return values[..., np.newaxis] if values.ndim == 3 else values
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.shape[1]:
        raise DataError(
            f"{path}: {name} is {values.dtype} of shape {values.shape}; it must be images (N, H, W[, C]) or "
            "numbers (N, features)."
        )
    return _finite(path, values, [f"{name}[:, {column}]" for column in range(values.shape[1])], first_row=0)


def _finite(path: Path, values: Array, columns: Sequence[str], first_row: int) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is named below
        features = values.astype(np.float32)
    bad = np.argwhere(~np.isfinite(features))
    if bad.size:
        row, column = (int(position) for position in bad[0])
        raise DataError(
            f"{path}: column {columns[column]}, row {row + first_row}: {values[row, column]} is not a finite "
            f"number ({len(bad)} such values in all); fill in or leave out such rows."
        )
    return features


def _labels(path: Path, name: str, values: Array, n: int) -> Indices:
    if values.dtype.kind not in "iu" or values.shape not in ((n,), (n, 1)):
        raise DataError(
            f"{path}: {name} is {values.dtype} of shape {values.shape}; it must be whole numbers of "
            f"shape ({n},) or ({n}, 1), one for each sample."
        )
    labels = values.reshape(n).astype(np.int64)
    negative = np.flatnonzero(labels < 0)
    if negative.size:
        row = int(negative[0])
        raise DataError(f"{path}: {name}, row {row}: the label {labels[row]} is negative; classes count from 0.")
    return labels


# --- .csv ---------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    features: tuple[str, ...]
    values: npt.NDArray[np.float32]
    labels: list[str]
    sites: list[str] | None


def _read_csv(path: Path, label: str, site: str | None, features: Sequence[str]) -> _Table:
    """Return the columns of a file; rows are counted as in a spreadsheet, the header is row 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as .csv in UTF-8 ({error}); save it again.") from None
    while rows and not any(rows[-1]):
        rows.pop()
    if len(rows) < 2:
        raise DataError(f"{path} is empty: it needs a header line and one line for each sample.")
    header, body = rows[0], rows[1:]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: the header has the column {twice!r} twice; give each its own name.")
    chosen = tuple(features) or tuple(name for name in header if name not in (label, site))
    for name in (label, *chosen, *([site] if site is not None else [])):
        if name not in header:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(header)}.")
    if not chosen or label in chosen:
        raise DataError(f"{path}: a sample needs a feature column beside the label {label!r}; found {chosen}.")
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells, but the header has {len(header)}.")
    where = [header.index(name) for name in chosen]
    numbers = [
        [_number(path, header[column], number, row[column]) for column in where]
        for number, row in enumerate(body, start=2)
    ]
    return _Table(
        features=chosen,
        values=_finite(path, np.array(numbers), chosen, first_row=2),
        labels=[row[header.index(label)] for row in body],
        sites=None if site is None else _present(path, site, [row[header.index(site)] for row in body]),
    )


def _number(path: Path, column: str, row: int, cell: str) -> float:
    try:
        return float("nan") if cell.lower() in _MISSING else float(cell)
    except ValueError:
        raise DataError(
            f"{path}: column {column}, row {row}: {cell!r} is not a number; leave the column out with "
            "`features`, or code it as numbers."
        ) from None


def _present(path: Path, column: str, cells: list[str]) -> list[str]:
    """Return the cells of a label or site column if none is missing or a negative number."""
    for row, cell in enumerate(cells, start=2):
        if cell.lower() in _MISSING:
            raise DataError(f"{path}: column {column}, row {row}: the value is missing; fill it in or leave it out.")
        if cell.startswith("-") and _numeric([cell]):
            raise DataError(
                f"{path}: column {column}, row {row}: {cell} is negative, which often stands for missing; "
                "give it a name or drop the row."
            )
    return cells


def _names(cells: Iterable[str]) -> tuple[str, ...]:
    found = set(cells)
    return tuple(sorted(found, key=float) if _numeric(found) else sorted(found))


def _numeric(cells: Iterable[str]) -> bool:
    try:
        return all(float(cell) is not None for cell in cells)
    except ValueError:
        return False


def _coded(path: Path, column: str, cells: list[str], names: tuple[str, ...]) -> Indices:
    codes = {name: code for code, name in enumerate(names)}
    if not any(_numeric([name]) for name in names):
        codes |= {str(code): code for code in range(len(names))}  # labels 0, 1, ... to which names were given
    for row, cell in enumerate(cells, start=2):
        if cell not in codes:
            raise DataError(f"{path}: column {column}, row {row}: {cell!r} is none of {', '.join(names)}.")
    return np.array([codes[cell] for cell in cells], dtype=np.int64)


# --- download -----------------------------------------------------------------------------------------------


def _resuming(url: str, output_file: str, _pooch: object) -> None:
    """Download to a file, going on where a broken-off transfer stopped: a downloader for pooch.

    Raises
    ------
    requests.RequestException
        No attempt succeeded, or the server refuses.
    OSError
        The file cannot be written.
    """
    import requests

    path = Path(output_file)
    path.write_bytes(b"")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(url, path)
            return
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if attempt == ATTEMPTS:
                raise
        except requests.HTTPError as error:
            if attempt == ATTEMPTS or _status(error) not in (408, 429, 500, 502, 503, 504):
                raise
        time.sleep(FIRST_WAIT * 2 ** (attempt - 1))


def _transfer(url: str, path: Path) -> None:
    """Append the rest of a file to what is there already."""
    import requests
    from tqdm import tqdm

    have = path.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # a server without ranges sends all again
        size = int(response.headers.get("Content-Length", 0)) + have
        with (
            path.open("ab" if have else "wb") as file,
            tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=url.rpartition("/")[2], disable=None) as bar,
        ):
            for block in response.iter_content(BLOCK):
                bar.update(file.write(block))
    if path.stat().st_size < size:
        raise requests.ConnectionError(f"the transfer ended at {path.stat().st_size} of {size} bytes")


def _status(error: requests.HTTPError) -> int | None:
    return None if error.response is None else error.response.status_code


def _reason(error: OSError) -> str:
    """Return in a few words why a download failed; what requests says fills a page."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {_status(error)}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return f"no connection, or it broke off {ATTEMPTS} times"
    return error.strerror or type(error).__name__
