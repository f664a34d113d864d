"""What is verified: a results folder, or a part of it down to one record, read once and read by all checks."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedbench import registry
from fedbench.cell import Cell
from fedbench.errors import DataMissingError, FedBenchError, PluginError, RecordError, SpecError
from fedbench.federation import Federation, federate
from fedbench.reading import MOST_VALUES, shown
from fedbench.records import Array, Record, read_plan
from fedbench.schema import MANIFEST, Plan, versions_of
from fedbench.task import Dataset, Protocol, Task, Track
from fedbench.verification.checks import NotApplicable

PLANS = "plans"
DEPTH = 4  # of a record below its results folder: task, method, hash, seed


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    values : int64 or float64 array
        With 0 where nothing is.
    known : bool array
        Where something is.
    """

    values: Array
    known: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Contents:
    """All that a record holds, once it could be read, and what its identity says of it.

    Parameters
    ----------
    record : Record
        The record.
    task, method : mapping of str to value
        The two parts of its identity.
    track : {"faithful", "robust"}
        What a seed redraws.
    protocol : Protocol
        Of the task.
    arrays : mapping of str to array
        See `fedbench.records.ARRAYS`.
    rounds, clients : mapping of str to Column
        The two series.
    """

    record: Record
    task: Mapping[str, Any]
    method: Mapping[str, Any]
    track: Track
    protocol: Protocol
    arrays: Mapping[str, Array]
    rounds: Mapping[str, Column]
    clients: Mapping[str, Column]

    @property
    def pooled(self) -> bool:
        """Whether all data was in one place, so that no client of the federation trained."""
        return not self.arrays["schedule"].any()

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Which clients never train, bool (K,)."""
        none = np.zeros(len(self.arrays["train_class_counts"]), dtype=bool)
        return self.arrays.get("held_out", none)

    def of_client(self, name: str) -> Column:
        """Return a column of the clients' series, as arrays (R, K)."""
        column, shape = self.clients[name], (self.protocol.rounds, -1)
        return Column(column.values.reshape(shape), column.known.reshape(shape))

    def bits(self, name: str) -> npt.NDArray[np.bool_]:
        """Return packed bits as they were, without their padding."""
        width = len(self.arrays["validation_ids" if "validation" in name else "client_test_ids"])
        return np.unpackbits(self.arrays[name], axis=-1, count=width).view(np.bool_)


@dataclass
class Entry:
    """One record, whole or not.

    Parameters
    ----------
    subject : Subject
        What it belongs to.
    place : str
        Where it stands below the results folder, as ``task/method/hash/seed-1``.
    folder : Path
        Where it stands.
    """

    subject: Subject
    place: str
    folder: Path

    @cached_property
    def _read(self) -> Contents | RecordError:
        try:
            return _contents(Record.unchecked(self.folder, most_values=self.subject.most_values))
        except RecordError as error:
            return error

    @property
    def contents(self) -> Contents:
        """What it holds.

        Raises
        ------
        RecordError
            Something of it cannot be read.
        """
        if isinstance(self._read, RecordError):
            raise self._read
        return self._read

    @cached_property
    def _cell(self) -> Cell | str:
        try:
            return _installed(self.contents)
        except NotApplicable as reason:
            return str(reason)

    @property
    def cell(self) -> Cell:
        """The cell that this installation makes of its task, method and hyperparameters.

        Raises
        ------
        NotApplicable
            The task or the method is not installed, or in another version.
        SpecError
            The hyperparameters are none that the method takes.
        """
        if isinstance(self._cell, str):
            raise NotApplicable(self._cell)
        return self._cell


@dataclass
class Subject:
    """What is verified.

    Parameters
    ----------
    path : Path
        As it was named.
    root : Path
        The results folder.
    entries : tuple of Entry
        Its records, in order of their places.
    whole : bool
        Whether all of the results folder is meant, and not a part of it.
    data_dir : Path or None
        Where to look for data first.
    most_values : int
        See `fedbench.records.Record`.
    passed : mapping of check to set of str
        Where each check passed, as far as they were made.
    """

    path: Path
    root: Path
    whole: bool
    data_dir: Path | None = None
    most_values: int = MOST_VALUES
    entries: tuple[Entry, ...] = ()
    passed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _md5: dict[Path, str] = field(default_factory=dict)
    _datasets: dict[Task, Dataset | str] = field(default_factory=dict)
    _federations: dict[tuple[Task, Track, int], Federation] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, data_dir: Path | None = None, most_values: int = MOST_VALUES) -> Subject:
        """Find the records at a path: a results folder, the folder of a task in it, and so on down to one record.

        Raises
        ------
        SpecError
            There is none, or something cannot be read, or results folders lie below it.
        """
        mend = "name a results folder, or a folder in it"
        try:
            if not stat.S_ISDIR(path.stat().st_mode):
                raise SpecError(f"verify: {path} is no folder; {mend}.")
            places = [folder.relative_to(path) for folder in _records(path)]
        except OSError as error:
            raise SpecError(
                f"verify: {error.filename} cannot be read ({error.strerror}); name what can be read."
            ) from None
        if not places:
            raise SpecError(f"verify: there is no record in {path}; {mend}.")
        deepest = max(places, key=lambda place: len(place.parts))
        whole = any(len(place.parts) == DEPTH for place in places)
        if not whole and len(deepest.parts) > DEPTH:
            raise SpecError(
                f"verify: {path} is no results folder, but {(path / deepest).parents[DEPTH - 1]} is; {mend}."
            )
        start = path if whole else path.resolve()  # what is named may be `.`
        above = (start / deepest, *(start / deepest).parents)
        root = start if whole else above[min(DEPTH, len(above) - 1)]
        subject = cls(path, root, whole, data_dir, most_values)
        subject.entries = tuple(
            Entry(subject, (start / place).relative_to(root).as_posix(), start / place) for place in sorted(places)
        )
        return subject

    @property
    def sound(self) -> Iterator[Entry]:
        """The records that can be read and whose arrays fit together."""
        return (entry for entry in self.entries if entry.place in self.passed["arrays"])

    @cached_property
    def plans(self) -> dict[str, Plan | RecordError]:
        """What suites asked for, by the names of the files; or why one cannot be read."""
        found: dict[str, Plan | RecordError] = {}
        for path in sorted((self.root / PLANS).glob("*.json")) if self.whole else ():
            try:
                found[path.stem] = read_plan(path)
            except RecordError as error:
                found[path.stem] = error
        return found

    def dataset(self, task: Task) -> Dataset:
        """Return the samples of a task, read and checked once.

        Raises
        ------
        NotApplicable
            They are not here, or damaged.
        """
        if task not in self._datasets:
            self._datasets.clear()  # records come sorted by task, and one data set may fill a good part of memory
            try:
                self._datasets[task] = task.data.load(self.data_dir)
            except DataMissingError:
                self._datasets[task] = f"the data of {task.name} is not here"
            except FedBenchError as error:
                self._datasets[task] = f"the data of {task.name} cannot be read: {error}"
        dataset = self._datasets[task]
        if isinstance(dataset, str):
            raise NotApplicable(dataset)
        return dataset

    def md5(self, path: Path) -> str:
        """Return the MD5 of a data file, computed once."""
        if path not in self._md5:
            with path.open("rb") as file:
                self._md5[path] = hashlib.file_digest(file, "md5").hexdigest()
        return self._md5[path]

    def federation(self, task: Task, track: Track, seed: int) -> Federation:
        """Return the federation of a task, drawn again once for each seed; see `fedbench.federation.federate`.

        Raises
        ------
        NotApplicable
            The data is not here.
        PartitionError
            The split cannot be made.
        """
        key = (task, track, seed)
        if key not in self._federations:
            self._federations[key] = federate(task, self.dataset(task), track, seed)
        return self._federations[key]


def _records(root: Path) -> Iterator[Path]:
    """Yield the folders of records, without those that are just being written, whose names begin with a dot."""

    def stop(error: OSError) -> None:
        raise error  # a record that cannot be seen must not be passed over

    for folder, below, files in os.walk(root, onerror=stop):
        below[:] = [name for name in below if MANIFEST not in files and not name.startswith(".")]
        if MANIFEST in files:
            yield Path(folder)


def _contents(record: Record) -> Contents:
    identity, where = record.info.identity, f"{record.folder}: the identity in run.json"
    task, method, track = (identity.get(part) for part in ("task", "method", "track"))
    if not isinstance(task, dict) or not isinstance(method, dict) or track not in ("faithful", "robust"):
        raise RecordError(f"{where} has no task, method or track; run the cell again.")
    for what, part in (("task", task), ("method", method)):
        if not isinstance(part.get("name"), str) or type(part.get("version")) is not int:
            raise RecordError(f"{where} has no name or version of a {what}; run the cell again.")
    if not isinstance(task.get("data"), dict) or not isinstance(method.get("hyperparameters"), dict):
        raise RecordError(f"{where} has no data or no hyperparameters; run the cell again.")
    try:
        protocol = Protocol(**task.get("protocol", {}))
    except (SpecError, TypeError) as error:
        raise RecordError(f"{where} has no valid protocol ({shown(str(error))}); run the cell again.") from None
    rounds, clients = (_columns(table) for table in (record.rounds, record.clients))
    return Contents(record, task, method, track, protocol, record.arrays, rounds, clients)


def _columns(table: pa.Table) -> dict[str, Column]:
    found = {}
    for name in table.column_names:
        column = table.column(name)
        known = ~column.is_null().to_numpy()
        values = column.fill_null(0).to_numpy() if column.null_count else column.to_numpy()
        found[name] = Column(values, known)
    return found


def _installed(contents: Contents) -> Cell:
    """Return the cell that is installed under a record's names, in its versions."""
    task, method = contents.task, contents.method
    for group, part in ((registry.tasks, task), (registry.methods, method)):
        if part["name"] not in group.names():
            raise NotApplicable(f"the {group.what} {shown(part['name'])} is not installed here")
    try:
        installed: Task = registry.tasks.get(task["name"])
        kind = registry.methods.get(method["name"])
    except PluginError as error:
        raise NotApplicable(str(error)) from None
    if task.get("evaluated_on", "test") == "validation":
        installed = installed.but(evaluated_on="validation")
    made = versions_of(contents.record.info.identity)
    here = versions_of(Cell(installed, method["name"], kind(), contents.track, 0).identity())
    if other := [f"{part} {made.get(part)}, here {here[part]}" for part in here if made.get(part) != here[part]]:
        raise NotApplicable(f"made with other versions: {'; '.join(other)}")
    configured = kind.configure(method["name"], method["hyperparameters"])
    return Cell(installed, method["name"], configured, contents.track, contents.record.info.seed)
