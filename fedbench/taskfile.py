"""A task from a TOML file: a user's own data without a package. Checked like a built-in task."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from fedbench import toml
from fedbench.datasets import CsvFile, NpzFile
from fedbench.errors import SpecError, unknown
from fedbench.partition import IID, Dirichlet, DirichletSizes, LogNormalSizes, Natural, PlainDirichlet, Shards
from fedbench.task import Partitioner, Protocol, Spec, Task

Section = TypeVar("Section", bound=Spec)

PARTITIONERS: dict[str, type[Partitioner]] = {
    "dirichlet": Dirichlet,
    "natural": Natural,
    "plain-dirichlet": PlainDirichlet,
    "shards": Shards,
    "iid": IID,
    "log-normal-sizes": LogNormalSizes,
    "dirichlet-sizes": DirichletSizes,
}
DIMENSIONS = {
    "cnn-small": 3,
    "cnn-small-bn": 3,
    "cnn4": 3,
    "cnn4-bn": 3,
    "mlp": 1,
}  # by name, how many dimensions a sample has
CARD = ("name", "title", "description", "source", "version", "held_out")
SECTIONS = ("task", "data", "partition", "model", "protocol")


class _NpzSection(Spec):
    file: str
    classes: tuple[str, ...] = ()
    license: str = "not stated"


class _CsvSection(_NpzSection):
    label: str
    site: str | None = None
    features: tuple[str, ...] = ()


def load_task_file(path: str | Path) -> Task:
    """Return the task that a TOML file describes; its data is read and checked at once.

    Sections: ``[task]`` as `Task` (name, title; source, description, version, held_out may be left out), ``[data]`` as
    the arguments of `NpzFile.of` or `CsvFile.of` with the path as ``file``, ``[partition]`` with ``kind`` and the
    parameters of that partitioner (see `PARTITIONERS`), ``[model]`` with ``name``, ``[protocol]`` as `Protocol`.

    Parameters
    ----------
    path : str or Path
        The TOML file; a relative path of the data counts from its folder.

    Raises
    ------
    SpecError
        The file is not TOML, or a key is unknown, missing or out of range.
    DataError
        The data is missing or not what it should be.
    """
    path = Path(path)
    try:
        return _task(toml.parse(path.read_bytes()), path.parent)
    except OSError as error:
        raise SpecError(f"task file {path}: {error.strerror}; give the path of a TOML file.") from None
    except SpecError as error:
        raise SpecError(f"task file {path}: {error}") from None


def _task(document: dict[str, Any], folder: Path) -> Task:
    for name in document:
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS)
    for name in SECTIONS:
        if not isinstance(document.get(name), dict):
            raise SpecError(f"the section [{name}] is missing; a task needs {', '.join(SECTIONS)}.")

    for key in document["task"]:
        if key not in CARD:
            raise unknown("key in [task]", key, CARD)
    data = _data(document["data"], folder)
    model = _pop(document["model"], "model", "name", DIMENSIONS)
    if document["model"]:
        raise unknown("key in [model]", next(iter(document["model"])), ["name"])
    if len(data.shape) != DIMENSIONS[model]:
        fit = [name for name, dimensions in DIMENSIONS.items() if dimensions == len(data.shape)]
        raise SpecError(f"[model] {model!r} does not fit samples of shape {data.shape}; use {' or '.join(fit)}.")
    kind = _pop(document["partition"], "partition", "kind", PARTITIONERS)
    if kind == "natural" and not data.sites:
        raise SpecError("[partition] 'natural' needs sites; name the site column in [data] or use 'dirichlet'.")
    return _made(
        "task",
        Task,
        {
            "source": document["task"].get("name"),
            **document["task"],
            "data": data,
            "partitioner": _made("partition", PARTITIONERS[kind], document["partition"]),
            "model": model,
            "protocol": _made("protocol", Protocol, document["protocol"]),
        },
    )


def _data(values: dict[str, Any], folder: Path) -> NpzFile | CsvFile:
    suffix = Path(str(values.get("file", ""))).suffix.lower()
    if suffix == ".npz":
        npz = _made("data", _NpzSection, values)
        return NpzFile.of(folder / npz.file, **npz.model_dump(exclude={"file"}))
    if suffix == ".csv":
        table = _made("data", _CsvSection, values)
        return CsvFile.of(folder / table.file, **table.model_dump(exclude={"file"}))
    raise SpecError(f"[data] file must end in .npz or .csv, got {values.get('file')!r}.")


def _pop(values: dict[str, Any], section: str, key: str, known: dict[str, Any]) -> str:
    """Take a name out of a section."""
    name = values.pop(key, None)
    if not isinstance(name, str):
        raise SpecError(f"[{section}] {key} is missing; known: {', '.join(known)}.")
    if name not in known:
        raise unknown(f"{key} in [{section}]", name, known)
    return name


def _made(section: str, kind: type[Section], values: dict[str, Any]) -> Section:
    try:
        return kind(**values)
    except SpecError as error:  # the reader knows sections, not classes
        raise SpecError(str(error).replace(f"{kind.__name__}: ", f"[{section}] ")) from None
