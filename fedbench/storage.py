"""Shared storage: a results folder that all machines of a cluster reach, as a path or as a URL that fsspec knows.

It has the layout of a results folder, and a reader never takes half of something for the whole: a record's manifest is
written last, and so is a checkpoint's index. A file that an index names is not touched before the next index stands;
names there end in a hash of the content, as two attempts at a cell may give one name to different files.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from fedbench.durable import sync, write_atomic
from fedbench.errors import FedBenchError, RecordError
from fedbench.records import NewerSchemaError, Record
from fedbench.schema import CHECKPOINT, FAILURE, MANIFEST


class StorageError(FedBenchError):
    """Shared storage cannot be reached, read or written."""


class Storage:
    """The shared counterpart of a results folder.

    Parameters
    ----------
    url : str
        A path, or a URL such as ``"s3://bucket/prefix"``. Endpoint and credentials come from where its protocol always
        takes them: for S3 from ``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ``AWS_ACCESS_KEY_ID`` and so on, for any
        protocol also from fsspec's own configuration (``FSSPEC_S3_ENDPOINT_URL``).
    results : Path
        The results folder of this process. What stands below it is pushed to the same place below ``url``, and pulled
        from there.

    Attributes
    ----------
    url : str
        As given, but absolute: another process may have another working directory.

    Raises
    ------
    StorageError
        The URL is not one, or what its protocol needs is not installed.
    """

    def __init__(self, url: str, results: Path) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        if set(url) & set("*?["):
            raise StorageError(
                f"storage {url}: has *, ? or [ in it, which stand for other names; choose another place."
            )
        try:
            # Listings are not remembered: other machines write there as well.
            self._files, self._root = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise StorageError(
                f'storage {url}: {error}; `pip install "fedbench[ray]"` brings what S3 needs, here and on every node.'
            ) from None
        except ValueError as error:
            raise StorageError(f"storage {url}: {error}; give a path, or a URL such as s3://bucket/prefix.") from None
        self.url = str(self._files.unstrip_protocol(self._root))
        self._results = results
        self._is_path = isinstance(self._files, LocalFileSystem)
        if self._is_path:
            self._files = LocalFileSystem(auto_mkdir=True)

    def check(self) -> None:
        """Check that files can be written there and deleted.

        Raises
        ------
        StorageError
            They cannot; the message has a mend.
        """
        probe = f"{self._root}/.fedbench"
        self._write(probe, "")
        self._delete([probe])

    # --- records ------------------------------------------------------------------------------------------------

    def has_record(self, folder: Path) -> bool:
        """Say whether a record is there and whole, given the folder in which it would stand here."""
        return self._read(f"{self._place(folder)}/{MANIFEST}") is not None

    def push_record(self, folder: Path) -> None:
        """Copy a record there, its manifest last; one that is there stays, as it has the same digest."""
        place = self._place(folder)
        if self.has_record(folder):
            return
        manifest = (folder / MANIFEST).read_text(encoding="utf-8")
        self._put({f"{place}/{name}": folder / name for name in json.loads(manifest)["files"]})
        self._write(f"{place}/{MANIFEST}", manifest)
        self._delete([f"{place}/{FAILURE}"])

    def pull_record(self, folder: Path) -> Record:
        """Copy a record from there, whole or not at all, and return it.

        Raises
        ------
        StorageError
            There is none.
        RecordError
            It is damaged, and no longer counts as there; or it is of a newer schema.
        """
        try:
            return self._pulled(folder)
        except NewerSchemaError:
            raise
        except RecordError as error:
            self._delete([f"{self._place(folder)}/{MANIFEST}"])
            raise RecordError(f"the record in {self.url}/{self._below(folder)} is damaged: {error}") from None

    def _pulled(self, folder: Path) -> Record:
        place = self._place(folder)
        if self._is_path and Path(place) == folder.resolve():
            return Record.open(folder)
        manifest = self._read(f"{place}/{MANIFEST}")
        if manifest is None:
            raise StorageError(
                f"storage {self.url}: no record in {self._below(folder)}; give a place that all nodes share, run again."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            (staging / MANIFEST).write_text(manifest, encoding="utf-8")
            with suppress(ValueError, KeyError, TypeError, AttributeError):  # what is no manifest is found out below
                names = [name for name in json.loads(manifest)["files"] if Path(name).name == name]
                self._get({f"{place}/{name}": staging / name for name in names})  # a missing one as well
            record = Record.open(staging)
            staging.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            staging.replace(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return replace(record, folder=folder)

    def push_failure(self, folder: Path) -> None:
        """Copy the note of a failure there."""
        self._write(f"{self._place(folder)}/{FAILURE}", (folder / FAILURE).read_text(encoding="utf-8"))

    # --- checkpoints --------------------------------------------------------------------------------------------

    def push_checkpoint(self, folder: Path) -> None:
        """Copy what is new of a checkpoint there.

        At any moment the old one or the new one is whole: first go the files that the old index does not name, then
        the new index, and last go away the files that it names no more. The one before, which is kept on a worker's own
        disk, is not pushed: a store takes an object whole or not at all and guards it against decay, so what a second
        one could save is rounds in the rarest of cases, at twice the requests for each push.
        """
        place = self._place(folder)
        index = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8"))
        before = _named(self._read(f"{place}/{CHECKPOINT}"))
        new: dict[str, Path] = {}
        for part, entry in index["files"].items():
            name, sha256 = entry.split()
            shared = name if name.endswith(sha256[:16]) else f"{name}-{sha256[:16]}"
            index["files"][part] = f"{shared} {sha256}"
            if shared not in before:
                new[f"{place}/{shared}"] = folder / name
        self._put(new)
        text = json.dumps(index, indent=1)
        self._write(f"{place}/{CHECKPOINT}", text)
        self._delete([f"{place}/{name}" for name in sorted(before - _named(text))])

    def pull_checkpoint(self, folder: Path) -> bool:
        """Copy a checkpoint from there, and say whether there was one.

        Two attempts at a cell may overlap, where a node was only thought to be lost. That can cost the checkpoint,
        which is then as good as none, but no bit: parts are checked against the index before they are used.
        """
        place, seen = self._place(folder), None
        while (index := self._read(f"{place}/{CHECKPOINT}")) not in (None, seen):
            if self._get({f"{place}/{name}": folder / name for name in _named(index)}):
                write_atomic(folder / CHECKPOINT, str(index))
                return True
            seen = index  # a newer one has taken its place meanwhile, or it is not whole
        shutil.rmtree(folder, ignore_errors=True)
        return False

    def remove_checkpoint(self, folder: Path) -> None:
        """Delete a checkpoint there, once the record is."""
        with self._explained(), suppress(FileNotFoundError):
            self._files.rm(self._place(folder), recursive=True)

    # --- files --------------------------------------------------------------------------------------------------

    def _below(self, folder: Path) -> str:
        return folder.relative_to(self._results).as_posix()

    def _place(self, folder: Path) -> str:
        return f"{self._root}/{self._below(folder)}"

    def _read(self, place: str) -> str | None:
        with self._explained(), suppress(FileNotFoundError):
            return str(self._files.cat_file(place), "utf-8")
        return None

    def _write(self, place: str, text: str) -> None:
        """Write a small file whole or not at all, as object stores do by themselves."""
        with self._explained():
            if self._is_path:
                write_atomic(Path(place), text)
            else:
                self._files.pipe_file(place, text.encode())

    def _put(self, files: Mapping[str, Path]) -> None:
        with self._explained():
            self._files.put([str(path) for path in files.values()], list(files))
            if self._is_path:
                for place in files:
                    sync(Path(place))

    def _get(self, files: Mapping[str, Path]) -> bool:
        """Copy files from there, and say whether all of them were there."""
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(), suppress(FileNotFoundError):
            self._files.get(list(files), [str(path) for path in files.values()])
            return True
        return False

    def _delete(self, places: Sequence[str]) -> None:
        if places:
            with self._explained(), suppress(FileNotFoundError):
                self._files.rm(list(places))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a protocol raises, each its own, into an error with a mend."""
        try:
            yield
        except PermissionError as error:
            raise StorageError(
                f"storage {self.url}: {error}; let this account list, read, write and delete files there."
            ) from None
        except FileNotFoundError as error:
            raise StorageError(f"storage {self.url}: {error}; make that bucket or folder first.") from None
        except Exception as error:
            mend = _MENDS.get(type(error).__name__, "mend that and run again, what is finished stays.")
            raise StorageError(f"storage {self.url}: {error}; {mend}") from error


_MENDS = {
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, here and on every node.",
    "EndpointConnectionError": "check AWS_ENDPOINT_URL, here and on every node, and the network.",
}


def _named(index: str | None) -> set[str]:
    """Return the files that an index names; none, where it is damaged or there is none."""
    try:
        names = {entry.split()[0] for entry in json.loads(index or "{}")["files"].values()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return set()
    return {name for name in names if Path(name).name == name}
