"""Records: writing them whole, reading them checked. No pickle anywhere.

A record is the folder of one cell: ``run.json``, ``rounds.parquet`` (one row a round), ``clients.parquet`` (one row a
round and client), ``predictions.npz`` (see `ARRAYS`) and ``manifest.json``, which is written last by an atomic rename.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
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
    RunInfo,
    identity_hash,
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

_TIMED = "seconds"  # columns and keys of this beginning are no part of the digest


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
    """

    folder: Path
    info: RunInfo
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Record:
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
            path = folder / Path(name).name
            if not path.is_file():
                raise RecordError(f"{path} is missing; run the cell again, it is replaced.")
            if _sha256(path) != expected:
                raise RecordError(
                    f"{path} is not the file that {MANIFEST} was written for (SHA-256 differs); "
                    "run the cell again, it is replaced."
                )
        return cls(folder, _parse(RunInfo, folder / RUN), manifest)

    def verify(self) -> None:
        """Check that the digest is that of the files, and the hash that of the identity.

        Raises
        ------
        RecordError
            One of them is not: the record was changed after it was written.
        """
        if content_digest(self.info, _columns(self.rounds), _columns(self.clients), self.arrays) != self.digest:
            raise RecordError(f"{self.folder}: the digest in {MANIFEST} is not that of the files.")
        if identity_hash(self.info.identity) != self.info.hash:
            raise RecordError(f"{self.folder}: the hash in {RUN} is not that of the identity in it.")

    @property
    def digest(self) -> str:
        """Hash over the contents that depend on the cell alone, not on timing or machine."""
        return self.manifest.digest

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The arrays of ``predictions.npz``; see `ARRAYS`."""
        try:
            with (self.folder / PREDICTIONS).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (
            ValueError,
            EOFError,
            AttributeError,
            zipfile.BadZipFile,
        ) as error:  # whoever wrote it hashed it as well
            raise RecordError(f"{self.folder / PREDICTIONS} cannot be read ({error}); run the cell again.") from None

    @cached_property
    def rounds(self) -> pa.Table:
        """``rounds.parquet``: one row a round."""
        return pq.read_table(self.folder / ROUNDS)

    @cached_property
    def clients(self) -> pa.Table:
        """``clients.parquet``: one row a round and client."""
        return pq.read_table(self.folder / CLIENTS)

    @cached_property
    def outcome(self) -> Outcome:
        """What metrics read."""
        arrays, offsets = self.arrays, self.arrays["client_offsets"]

        def bits(name: str, width: int) -> npt.NDArray[np.bool_] | None:
            return np.unpackbits(arrays[name], axis=-1, count=width).astype(bool) if name in arrays else None

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

    Raises
    ------
    OSError
        The disk is full or the folder is not writable; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (staging / RUN).write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for name, columns in ((ROUNDS, rounds), (CLIENTS, clients)):
            pq.write_table(pa.table(dict(columns)), staging / name, compression="zstd")
        (staging / PREDICTIONS).write_bytes(_npz(arrays))
        if weights is not None:
            (staging / WEIGHTS).write_bytes(weights)
        files = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION, files=files, digest=content_digest(info, rounds, clients, arrays)
        )
        write_atomic(staging / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Record.open(folder)


def content_digest(info: RunInfo, rounds: Mapping[str, Any], clients: Mapping[str, Any], arrays: Arrays) -> str:
    """Return SHA-256 over what a cell computed: names, dtypes, shapes and bytes, but no seconds and no machine.

    Equal digests mean equal bits: it is what tests of resume, of repeats and of worker counts compare.
    """
    digest = hashlib.sha256()
    identity = info.model_dump(mode="json", exclude={"environment", "started", "seconds", "fedbench", "cards"})
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


def write_failure(folder: Path, failure: Failure) -> None:
    """Leave a note in place of a record that could not be made."""
    folder.mkdir(parents=True, exist_ok=True)
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


def _failure(folder: Path) -> tuple[State, str] | None:
    if not (folder / FAILURE).is_file():
        return None
    try:
        return "failed", read_failure(folder).reason
    except NewerSchemaError:
        raise
    except RecordError as error:
        return "failed", str(error)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, and no half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class NewerSchemaError(RecordError):
    """A file was written by a newer FedBench."""


def _parse(model: type[Model], path: Path) -> Model:
    mend = "delete this file and run the suite again, its records stay" if model is Plan else "run the cell again"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.get("schema_version", SCHEMA_VERSION)
        if not isinstance(version, int):
            raise ValueError(f"schema_version is {version!r}")
    except (OSError, ValueError, AttributeError) as error:
        raise RecordError(f"{path} cannot be read ({error}); {mend}.") from None
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path} has schema version {version}, this FedBench reads up to {SCHEMA_VERSION}; "
            "update FedBench, or choose another results folder."
        )
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path} is not a valid {model.__name__}: {where}: {first['msg']}; {mend}.") from None


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table.column(name) for name in table.column_names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _npz(arrays: Arrays) -> bytes:
    """Return a deflated .npz with fixed dates, so that equal arrays give equal files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()
