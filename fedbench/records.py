"""Records: writing them whole, reading them checked. No pickle anywhere.

A record is the folder of one cell: ``run.json``, ``rounds.parquet`` (one row a round), ``clients.parquet`` (one row a
round and client), ``predictions.npz`` (see `ARRAYS`) and ``manifest.json``, which is written last by an atomic rename.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from fedbench import reading, upgrades
from fedbench.durable import make_folder, sync, write_atomic
from fedbench.errors import RecordError
from fedbench.outcome import Outcome
from fedbench.schema import (
    CLIENTS,
    FAILURE,
    FILES,
    MANIFEST,
    PREDICTIONS,
    ROUNDS,
    RUN,
    SCHEMA_VERSION,
    WEIGHTS,
    Failure,
    Manifest,
    Plan,
    PlannedCell,
    RunInfo,
    identity_hash,
    versions_of,
)

Model = TypeVar("Model", bound=BaseModel)
Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
State = Literal["done", "failed", "corrupt", "missing"]

ARRAYS = {
    "schedule": "bool (R, K): which clients took part",
    "train_class_counts": "int64 (K, C): training samples of each client and class",
    "test_ids": "int64 (N,): sample ids of the global test set",
    "test_labels": "uint8 (N,)",
    "validation_ids": "int64 (V,)",
    "client_offsets": "int64 (K + 1,): client k's local test samples are k..k + 1 of the next two",
    "client_test_ids": "int64 (M,)",
    "client_test_labels": "uint8 (M,)",
    "global_test_predictions": "uint8 (R, N): predicted class of the global model",
    "global_test_probabilities": "float16 (N, C): of the global model after the last round",
    "global_validation_correct": "bits (R, V), packed along the last axis",
    "global_client_correct": "bits (R, M), packed: global model on every client's local test set",
    "local_client_correct": "bits (R, M), packed: local models of the sampled clients on their own test sets",
    "personal_rounds": "int64 (P,): rounds with personal models",
    "personal_client_correct": "bits (P, M), packed: personal models on their own test sets",
    "final_test_predictions": "uint8 (N,): global model after the traffic that follows the last round",
    "final_client_correct": "bits (M,), packed: the same model on every client's local test set",
    "final_bytes_down": "int64 (K,): that traffic, to each client",
    "final_bytes_up": "int64 (K,): that traffic, from each client",
    "held_out": "bool (K,): which clients never train; absent where all may",
}
"""The arrays of ``predictions.npz``; those of a model that the method does not have are absent."""

LAYOUTS = {name: reading.Layout.of(description) for name, description in ARRAYS.items()}
"""The dtype and the axes of each of them, as said there."""

ROUND_COLUMNS = {
    "round": "int64", "lr": "float64", "sampled": "int64", "train_loss": "float64", "global_accuracy": "float64",
    "validation_accuracy": "float64", "bytes_down": "int64", "bytes_up": "int64", "train_samples": "int64",
    "forward_samples": "int64", "adapt_samples": "int64", "seconds_train": "float64", "seconds_evaluate": "float64",
}  # fmt: skip
"""Columns of ``rounds.parquet`` and their types."""
CLIENT_COLUMNS = {
    "round": "int64", "client": "int64", "weight": "float64", "train_loss": "float64", "global_accuracy": "float64",
    "local_accuracy": "float64", "personal_accuracy": "float64", "bytes_down": "int64", "bytes_up": "int64",
    "seconds_train": "float64",
}  # fmt: skip
"""Columns of ``clients.parquet`` and their types."""
COLUMNS = {ROUNDS: ROUND_COLUMNS, CLIENTS: CLIENT_COLUMNS}

_TIMED = "seconds"  # columns of this beginning are no part of the digest
_UNDIGESTED = {"environment", "started", "seconds", "fedbench", "cards"}  # nor are these of `RunInfo`


@dataclass(frozen=True)
class Record:
    """A whole record, checked when opened.

    Parameters
    ----------
    folder : Path
        Where it stands.
    info : RunInfo
        ``run.json``.
    manifest : Manifest
        Hashes and digest.
    most_values : int
        Numbers and bits that are read of its arrays, and of each table; see `fedbench.reading`.
    """

    folder: Path
    info: RunInfo
    manifest: Manifest
    most_values: int = reading.MOST_VALUES

    @classmethod
    def open(cls, folder: str | Path, *, most_values: int = reading.MOST_VALUES) -> Record:
        """Read and check a record: schema and the hash of every file.

        Raises
        ------
        RecordError
            The record is of a newer schema, incomplete, or a file is not what the manifest says.
        """
        folder = Path(folder)
        manifest = _parse(Manifest, folder / MANIFEST)
        for name in FILES:
            if name not in manifest.files:
                raise RecordError(f"{folder / MANIFEST} does not list {name}; run the cell again, it is replaced.")
        for name, expected in manifest.files.items():
            path = folder / name
            if name not in (*FILES, WEIGHTS):
                raise RecordError(
                    f"{folder / MANIFEST} lists {reading.shown(name)}, which is no file of a record; "
                    "run the cell again, it is replaced."
                )
            if not path.is_file():
                raise RecordError(f"{path} is missing; run the cell again, it is replaced.")
            if reading.sha256(path) != expected:
                raise RecordError(
                    f"{path} is not the file that {MANIFEST} was written for (SHA-256 differs); "
                    "run the cell again, it is replaced."
                )
        return cls(folder, _parse(RunInfo, folder / RUN), manifest, most_values)

    @classmethod
    def unchecked(cls, folder: Path, *, most_values: int = reading.MOST_VALUES) -> Record:
        """Read a record whatever the hashes of its files are: for `fedbench.verification`, which says what differs.

        Raises
        ------
        RecordError
            ``run.json`` or the manifest cannot be read.
        """
        return cls(folder, _parse(RunInfo, folder / RUN), _parse(Manifest, folder / MANIFEST), most_values)

    def verify(self) -> None:
        """Check that the digest is that of the files, and the hash that of the identity.

        Raises
        ------
        RecordError
            One of them is not: the record was changed after it was written.
        """
        if self.recomputed_digest() != self.digest:
            raise RecordError(f"{self.folder}: the digest in {MANIFEST} is not that of the files.")
        if identity_hash(self.stored["identity"]) != self.stored["hash"]:
            raise RecordError(f"{self.folder}: the hash in {RUN} is not that of the identity in it.")

    @property
    def digest(self) -> str:
        """Hash over the contents that depend on the cell alone, not on timing or machine."""
        return self.manifest.digest

    def recomputed_digest(self) -> str:
        """Return the digest that its files give; see `content_digest`.

        Raises
        ------
        RecordError
            A file cannot be read.
        """
        rounds, clients = _columns(self._stored_table(ROUNDS)), _columns(self._stored_table(CLIENTS))
        return content_digest(self.stored, rounds, clients, self._stored_arrays)

    @cached_property
    def stored(self) -> dict[str, Any]:
        """``run.json`` as it stands on disk, of whatever schema version: the digest is over this."""
        return _json(self.folder / RUN, "run the cell again")[0]

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The arrays of ``predictions.npz``; see `ARRAYS`."""
        return upgrades.arrays(PREDICTIONS, self._stored_arrays, self.stored["schema_version"])

    @cached_property
    def _stored_arrays(self) -> dict[str, Array]:
        return reading.arrays(self.folder / PREDICTIONS, LAYOUTS, self.most_values)

    @cached_property
    def rounds(self) -> pa.Table:
        """``rounds.parquet``: one row a round."""
        return upgrades.table(ROUNDS, self._stored_table(ROUNDS), self.stored["schema_version"])

    @cached_property
    def clients(self) -> pa.Table:
        """``clients.parquet``: one row a round and client."""
        return upgrades.table(CLIENTS, self._stored_table(CLIENTS), self.stored["schema_version"])

    def _stored_table(self, name: str) -> pa.Table:
        return reading.table(self.folder / name, COLUMNS[name], self.most_values)

    @cached_property
    def outcome(self) -> Outcome:
        """What metrics read.

        Raises
        ------
        RecordError
            A file cannot be read, or its arrays do not fit together.
        """
        try:
            return self._outcome()
        except RecordError:
            raise
        except Exception as error:  # arrays that do not fit together can fail anywhere in numpy
            raise RecordError(
                f"{self.folder}: its arrays and series do not fit together ({type(error).__name__}: "
                f"{reading.shown(str(error))}); run the cell again."
            ) from None

    def _outcome(self) -> Outcome:
        arrays, offsets = self.arrays, self.arrays["client_offsets"]

        def bits(name: str, width: int) -> npt.NDArray[np.bool_] | None:
            return np.unpackbits(arrays[name], axis=-1, count=width).view(bool) if name in arrays else None

        def column(name: str) -> Array:
            values: Array = self.rounds.column(name).to_numpy()
            return values

        predictions = arrays.get("global_test_predictions")
        probabilities = arrays.get("global_test_probabilities")
        final = "final_test_predictions" in arrays
        return Outcome(
            n_classes=arrays["train_class_counts"].shape[1],
            sampled=arrays["schedule"],
            test_labels=arrays["test_labels"].astype(np.int64),
            test_predictions=None if predictions is None else predictions.astype(np.int64),
            test_probabilities=None if probabilities is None else probabilities.astype(np.float64),
            validation=bits("global_validation_correct", len(arrays["validation_ids"])),
            offsets=offsets,
            client_labels=arrays["client_test_labels"].astype(np.int64),
            on_clients=bits("global_client_correct", int(offsets[-1])),
            local=bits("local_client_correct", int(offsets[-1])),
            personal_rounds=arrays.get("personal_rounds", np.zeros(0, dtype=np.int64)),
            personal=bits("personal_client_correct", int(offsets[-1])),
            held_out=arrays.get("held_out"),
            final_predictions=arrays["final_test_predictions"].astype(np.int64) if final else None,
            final_on_clients=bits("final_client_correct", int(offsets[-1])),
            final_bytes_up=int(arrays["final_bytes_up"].sum()) if "final_bytes_up" in arrays else 0,
            final_bytes_down=int(arrays["final_bytes_down"].sum()) if "final_bytes_down" in arrays else 0,
            bytes_up=column("bytes_up"),
            bytes_down=column("bytes_down"),
            seconds_train=column("seconds_train"),
            seconds_evaluate=column("seconds_evaluate"),
            train_samples=column("train_samples"),
            forward_samples=column("forward_samples"),
        )


def write(
    folder: Path,
    info: RunInfo,
    rounds: Mapping[str, Any],
    clients: Mapping[str, Any],
    arrays: Arrays,
    weights: bytes | None = None,
    *,
    deflated: bool = True,
) -> Record:
    """Write a record whole or not at all, and return it.

    The files are made in a folder beside, the manifest last, and the folder is renamed into its place.

    Parameters
    ----------
    folder : Path
        Where the record will stand; an older failure there is replaced.
    info : RunInfo
        ``run.json``.
    rounds, clients : mapping of str to column
        Tidy series.
    arrays : mapping of str to array
        See `ARRAYS`.
    weights : bytes, optional
        A safetensors file with the final models.
    deflated : bool
        Deflate the arrays; not where all records will be compressed together.

    Raises
    ------
    OSError
        The disk is full or the folder is not writable; nothing is left behind.
    """
    make_folder(folder.parent)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (staging / RUN).write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for name, columns in ((ROUNDS, rounds), (CLIENTS, clients)):
            # Without what only large tables need: statistics, dictionaries, a second schema. Half the bytes here.
            pq.write_table(
                pa.table(dict(columns)), staging / name, compression="zstd",
                write_statistics=False, use_dictionary=False, store_schema=False,
            )  # fmt: skip
        (staging / PREDICTIONS).write_bytes(_npz(arrays, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED))
        if weights is not None:
            (staging / WEIGHTS).write_bytes(weights)
        for path in staging.iterdir():
            sync(path)
        files = {path.name: reading.sha256(path) for path in sorted(staging.iterdir())}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION, files=files, digest=content_digest(info, rounds, clients, arrays)
        )
        write_atomic(staging / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
        sync(folder.parent)  # before anything that the record makes needless is deleted
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Record.open(folder)


def content_digest(
    info: RunInfo | Mapping[str, Any], rounds: Mapping[str, Any], clients: Mapping[str, Any], arrays: Arrays
) -> str:
    """Return SHA-256 over what a cell computed: names, dtypes, shapes and bytes, but no seconds and no machine.

    Equal digests mean equal bits: it is what tests of resume, of repeats and of worker counts compare. A record that
    was written earlier gives ``run.json`` as it stands there, so that what is added to `RunInfo` later changes nothing.
    """
    digest = hashlib.sha256()
    values = info.model_dump(mode="json") if isinstance(info, RunInfo) else info
    identity = {name: value for name, value in values.items() if name not in _UNDIGESTED}
    digest.update(json.dumps(identity, sort_keys=True).encode())
    parts: dict[str, Array] = {f"arrays/{name}": array for name, array in arrays.items()}
    for table, columns in (("rounds", rounds), ("clients", clients)):
        parts |= {
            f"{table}/{name}": pa.array(column).to_numpy(zero_copy_only=False)
            for name, column in columns.items()
            if not name.startswith(_TIMED)
        }
    for name, array in sorted(parts.items()):
        if array.dtype.hasobject:
            raise TypeError(f"{name} holds objects, whose bytes are addresses; a record keeps numbers and bits.")
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_plan(path: Path) -> Plan:
    """Read what a suite asked for.

    Raises
    ------
    RecordError
        The file is missing, damaged or of a newer schema.
    """
    return _parse(Plan, path)


def write_plan(path: Path, plan: Plan) -> None:
    """Leave what a suite asks for beside the records."""
    write_atomic(path, plan.model_dump_json(indent=1) + "\n")


def rewrite(record: Record, folder: Path) -> Record:
    """Write a record again elsewhere, with its arrays stored plain and without its weights; the digest is the same.

    Raises
    ------
    RecordError
        It is not, as the record is of an older schema; `copy` it instead.
    """
    again = write(folder, record.info, _columns(record.rounds), _columns(record.clients), record.arrays, deflated=False)
    if again.digest != record.digest:
        raise RecordError(
            f"{record.folder} cannot be written again, as it has schema {record.manifest.schema_version}."
        )
    return again


def copy(record: Record, folder: Path) -> Record:
    """Copy a record's files to a folder that is not there yet, and check the copy.

    Raises
    ------
    RecordError
        The record was changed meanwhile.
    """
    folder.mkdir(parents=True)
    for name in (*record.manifest.files, MANIFEST):
        shutil.copyfile(record.folder / name, folder / name)
    copied = Record.open(folder)
    if copied.digest != record.digest:
        raise RecordError(f"{record.folder} was changed while it was copied; do the same when nothing runs there.")
    return copied


def write_failure(folder: Path, failure: Failure) -> None:
    """Leave a note in place of a record that could not be made."""
    write_atomic(folder / FAILURE, failure.model_dump_json(indent=1) + "\n")


def read_failure(folder: Path) -> Failure:
    """Read why a cell has no record.

    Raises
    ------
    RecordError
        The note is missing, damaged or of a newer schema.
    """
    return _parse(Failure, folder / FAILURE)


def state(folder: Path) -> tuple[State, str]:
    """Return the state of a cell's folder and the reason, which is empty for ``done`` and ``missing``.

    Raises
    ------
    RecordError
        The record is of a newer schema than this FedBench knows: it is neither read nor overwritten.
    """
    if (folder / MANIFEST).is_file():
        try:
            Record.open(folder)
        except NewerSchemaError:
            raise
        except RecordError as error:
            return _failure(folder) or ("corrupt", str(error))  # a failed attempt to make it again is the newer news
        return "done", ""
    return _failure(folder) or ("missing", "")


def stale(results: Path, planned: PlannedCell, track: str) -> str:
    """Return what an earlier version made in place of a cell, as ``made with version 1 of fedavg, now 2``, or nothing.

    It is a whole record of the same task, method, label, track and seed, in which the version of the task, the method
    or the harness is older and none is newer. Whatever else came with the new version may differ: a task's definition,
    a hyperparameter's default. Of several such records the one of the newest versions counts.

    Parameters
    ----------
    results : Path
        The results folder.
    planned : PlannedCell
        What is asked for, of which there is no record.
    track : {"faithful", "robust"}
        What a seed redraws.
    """
    home, asked = (results / planned.path).parent.parent, planned.versions
    names = {"task": planned.task, "method": planned.method, "harness": "the harness"}
    found: list[tuple[list[int], str]] = []
    for folder in sorted(home.iterdir()) if asked and home.is_dir() else []:
        made = _versions_made(folder / f"seed-{planned.seed}", planned, track) if folder.name != planned.hash else {}
        if made.keys() != asked.keys() or any(made[part] > asked[part] for part in asked):
            continue
        if older := [part for part in asked if made[part] < asked[part]]:
            told = (f"version {made[part]} of {names[part]}, now {asked[part]}" for part in older)
            found.append(([made[part] for part in asked], f"made with {' and '.join(told)}"))
    return max(found)[1] if found else ""


def _versions_made(folder: Path, planned: PlannedCell, track: str) -> dict[str, int]:
    """Return the versions of the whole record in a folder; none if there is none, or of something else."""
    if not (folder / MANIFEST).is_file():
        return {}
    try:
        info = Record.open(folder).info
    except (RecordError, OSError):
        return {}  # neither a damaged record nor one of a newer schema stands for what is asked for
    task, method = (info.identity.get(part) for part in ("task", "method"))
    if not (isinstance(task, Mapping) and isinstance(method, Mapping)):
        return {}
    is_of = (task.get("name"), method.get("name"), info.identity.get("track"), info.label, info.hash, info.seed)
    asked = (planned.task, planned.method, track, planned.label, folder.parent.name, planned.seed)
    return versions_of(info.identity) if is_of == asked else {}


def _failure(folder: Path) -> tuple[State, str] | None:
    if not (folder / FAILURE).is_file():
        return None
    try:
        return "failed", read_failure(folder).reason
    except NewerSchemaError:
        raise
    except RecordError as error:
        return "failed", str(error)


class NewerSchemaError(RecordError):
    """A file was written by a newer FedBench."""


def _parse(model: type[Model], path: Path) -> Model:
    mend = "delete this file and run the suite again, its records stay" if model is Plan else "run the cell again"
    values, version = _json(path, mend)
    try:
        values = upgrades.values(model.__name__, values, version)
    except (RecordError, LookupError, TypeError, ValueError) as error:
        raise RecordError(f"{path} of schema version {version} cannot be read ({error}); {mend}.") from None
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = reading.shown(".".join(str(part) for part in first["loc"]))
        raise RecordError(f"{path} is not a valid {model.__name__}: {where}: {first['msg']}; {mend}.") from None


def _json(path: Path, mend: str) -> tuple[dict[str, Any], int]:
    """Return what a file holds, and of which schema version it is, which is none that is newer than ours."""
    try:
        values = reading.json_object(path, mend=mend)
        version = values.get("schema_version", 1)  # notes of failures did not say it at first
        if not isinstance(version, int):
            raise ValueError(f"schema_version is {reading.shown(version)}")
    except ValueError as error:
        raise RecordError(f"{path} cannot be read ({error}); {mend}.") from None
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path} has schema version {version}, this FedBench reads up to {SCHEMA_VERSION}; "
            "update FedBench, or choose another results folder."
        )
    return values, version


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table.column(name) for name in table.column_names}


def _npz(arrays: Arrays, compression: int) -> bytes:
    """Return an .npz with fixed dates, so that equal arrays give equal files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=6) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = compression
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()
