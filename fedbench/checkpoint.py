"""Checkpoints: a run that is killed and started again gives the same bits.

A checkpoint is a folder beside the record to come. States of clients are files versioned by round, never changed in
place; ``checkpoint.json`` names the files that belong together, with their hashes, and is replaced atomically. The
index before it is kept as ``checkpoint.before.json``, with its files: should a file of the newest turn out to be torn
or corrupt, the cell goes on from there. What neither names is deleted afterwards. Whatever is cut short, by a kill or
by a loss of power, leaves one of the two whole. No pickle: tensors are stored as safetensors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedbench.durable import make_folder, sync, write_atomic
from fedbench.errors import MethodError
from fedbench.schema import CHECKPOINT

VERSION = 3
BEFORE = "checkpoint.before.json"
CPU = torch.device("cpu")
_log = logging.getLogger(__name__)

State = dict[str, Any]


def check_state(state: Mapping[str, Any], prefix: str = "") -> None:
    """Check that a state can be stored: text without a slash names tensors, numbers, text, and mappings of these.

    Raises
    ------
    MethodError
        A value is of another type, or a name is not text or holds a slash.
    """
    for name, value in state.items():
        if not isinstance(name, str) or "/" in name:
            raise MethodError(f"state: {prefix}{name!r} must be named by text without a slash")
        if isinstance(value, Mapping):
            check_state(value, f"{prefix}{name}/")
        elif not isinstance(value, Tensor | bool | int | float | str):
            raise MethodError(
                f"state: {prefix}{name} is a {type(value).__name__}; keep tensors, mappings of tensors, numbers or text"
            )


def pack(state: Mapping[str, Any]) -> bytes:
    """Return a state as a safetensors file.

    Parameters
    ----------
    state : mapping of str to tensor, mapping or number
        Nested mappings are stored under their joined names, numbers and text in the file's metadata, and so is the
        order of all names: a sum over a mapping's tensors must round the same after a resume.

    Raises
    ------
    MethodError
        A value is of another type, or a name is not text or holds a slash.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    order: list[str] = []

    def walk(part: Mapping[str, Any], prefix: str) -> None:
        for name, value in part.items():
            order.append(prefix + name)
            if isinstance(value, Tensor):  # cloned, as one tensor under two names is no error in a state
                tensors[prefix + name] = value.detach().clone(memory_format=torch.contiguous_format)
            elif isinstance(value, Mapping):
                plain[prefix + name] = {}
                walk(value, f"{prefix}{name}/")
            else:
                plain[prefix + name] = value

    check_state(state)
    walk(state, "")
    return bytes(save(tensors, {"state": json.dumps({"plain": plain, "order": order})}))


def unpack(data: bytes, device: torch.device = CPU) -> State:
    """Return the state that `pack` stored, with its tensors on a device."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    layout = json.loads(header["__metadata__"]["state"])
    tensors = {name: tensor.to(device) for name, tensor in load(data).items()}
    values = {**layout["plain"], **tensors}
    state: State = {}
    for path in layout["order"]:  # parents before children
        *parents, name = path.split("/")
        part = state
        for parent in parents:
            part = part[parent]
        part[name] = values[path]
    return state


class Checkpoint:
    """The checkpoint of one cell, and the place for states of clients that do not fit into memory.

    Parameters
    ----------
    folder : Path
        Where its files stand; made at the first write.
    made_by : str
        Versions of what computes; a checkpoint of other versions is not gone on from, as its bits may differ.
    """

    def __init__(self, folder: Path, made_by: str = "") -> None:
        self.folder, self.made_by = folder, made_by
        self._files: dict[str, _File] = {}  # newest version of each part
        self._saved: dict[str, _File] = {}  # the versions that belong to the last save
        self._saved_as: str | None = None  # the index that names them

    def write(self, part: str, data: bytes, version: int) -> None:
        """Write a new version of a part, which belongs to the checkpoint from the next `save` on.

        Parameters
        ----------
        part : str
            Its name, such as ``"server"`` or ``"client-3"``.
        data : bytes
            Its content.
        version : int
            The number of rounds done when `save` is called; more than at the last save.
        """
        make_folder(self.folder)
        file = _File(f"{part}@{version}", _hash(data))
        (self.folder / file.name).write_bytes(data)
        before = self._files.get(part)
        if before is not None and before.name != file.name and before != self._saved.get(part):
            (self.folder / before.name).unlink(missing_ok=True)  # no index will ever name it
        self._files[part] = file

    def read(self, part: str) -> bytes:
        """Return the newest version of a part."""
        return (self.folder / self._files[part].name).read_bytes()

    def save(self, round: int, parts: Mapping[str, bytes]) -> None:
        """Write what changed since the last save, and make the newest versions of all parts the checkpoint.

        The checkpoint before stays beside it until the next save.

        Parameters
        ----------
        round : int
            Rounds done, more than at the last save.
        parts : mapping of str to bytes
            New versions of parts by name; older parts stay as they are.
        """
        for part, data in parts.items():
            self.write(part, data, round)
        for part, file in self._files.items():
            if file != self._saved.get(part):
                sync(self.folder / file.name)
        sync(self.folder)  # before an index that names them can be there
        index = {
            "version": VERSION,
            "made_by": self.made_by,
            "round": round,
            "files": {part: f"{file.name} {file.hash}" for part, file in self._files.items()},
        }
        # An index that was not gone on from is of no use: it gives way to the new one, and the one before stays.
        keep = self.folder / BEFORE if self._saved_as == CHECKPOINT else None
        write_atomic(self.folder / CHECKPOINT, json.dumps({**index, "hash": index_hash(index)}, indent=1), keep=keep)
        named = {CHECKPOINT, *(file.name for file in (*self._files.values(), *self._saved.values()))}
        if self._saved_as is not None:
            named.add(BEFORE)
        self._saved, self._saved_as = dict(self._files), CHECKPOINT
        for path in self.folder.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def load(self) -> tuple[int, Mapping[str, bytes]] | None:
        """Return the rounds done and all parts, or None where there is no whole checkpoint.

        Where the newest is torn or corrupt it is the one before, and a line in the log says so. Every file is checked
        now and read when it is asked for, as all of them together may not fit into memory.
        """
        faults: list[str] = []
        for name in (CHECKPOINT, BEFORE):
            if not (self.folder / name).is_file():  # after a kill between two renames, BEFORE alone is there
                continue
            try:
                done, files = self._whole(name)
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                faults.append(str(error))
                continue
            if faults:
                _log.warning(
                    "%s: the newest checkpoint cannot be used (%s); the cell goes on from the one before, after %d "
                    "rounds.", self.folder, faults[0], done,
                )  # fmt: skip
            self._files, self._saved, self._saved_as = dict(files), dict(files), name
            return done, _Parts(self)
        if faults:
            _log.warning(
                "%s: the checkpoint cannot be used (%s); the cell starts again from its first round.",
                self.folder,
                "; ".join(dict.fromkeys(faults)),
            )
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def remove(self) -> None:
        """Delete the checkpoint, once the record is whole or the run starts again."""
        for name in (BEFORE, CHECKPOINT):  # first, so that a kill in the middle leaves nothing to go on from
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._files, self._saved, self._saved_as = {}, {}, None

    def _whole(self, name: str) -> tuple[int, dict[str, _File]]:
        """Return the rounds done and the files that an index names, all of them checked."""
        index = json.loads((self.folder / name).read_text(encoding="utf-8"))
        if (index["version"], index["made_by"]) != (VERSION, self.made_by):
            raise ValueError(f"{name} is made by {index['made_by']}, not by {self.made_by}")
        if index["hash"] != index_hash(index):
            raise ValueError(f"{name} is not as it was written")
        files = {part: _File(*entry.split()) for part, entry in index["files"].items()}
        for file in files.values():
            self._check(file, name)
        return int(index["round"]), files

    def _check(self, file: _File, index: str) -> None:
        if Path(file.name).name != file.name:
            raise ValueError(f"{file.name} is not in its folder")
        with (self.folder / file.name).open("rb") as data:
            if hashlib.file_digest(data, "blake2b").hexdigest() != file.hash:
                raise ValueError(f"{file.name} is not what {index} names")


def index_hash(index: Mapping[str, Any]) -> str:
    """Return the hash of what an index says; the names of files are no part of it, as those of their contents are."""
    hashes = {part: entry.split()[1] for part, entry in index["files"].items()}
    return _hash(json.dumps([index["version"], index["made_by"], index["round"], hashes], sort_keys=True).encode())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data).hexdigest()  # fast where a processor has no instructions for SHA


@dataclass(frozen=True)
class _File:
    name: str
    hash: str  # of its content


class _Parts(Mapping[str, bytes]):
    """The parts of a checkpoint, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getitem__(self, part: str) -> bytes:
        return self._checkpoint.read(part)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint)

    def __len__(self) -> int:
        return len(self._checkpoint)


class States(Mapping[int, State]):
    """The states of a cell's clients: in memory as far as they fit, the longest unused ones in files.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where the files stand; those of one save are part of it.
    device : torch device
        Where the tensors belong.
    memory : int
        Bytes of states to keep in memory. It changes no result.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, memory: int = 128 << 20) -> None:
        self._checkpoint, self._device, self._memory = checkpoint, device, memory
        self._at_hand: OrderedDict[int, State] = OrderedDict()  # the longest unused first
        self._held = 0  # bytes
        self._unwritten: dict[int, int] = {}  # the version under which each will be written
        self._known: set[int] = set()

    def __getitem__(self, client: int) -> State:
        if client not in self._known:
            raise KeyError(client)
        if client not in self._at_hand:
            self._hold(client, unpack(self._checkpoint.read(f"client-{client}"), self._device))
        self._at_hand.move_to_end(client)
        return self._at_hand[client]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._known))

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, client: object) -> bool:
        return client in self._known

    def put(self, client: int, state: State, version: int) -> None:
        """Keep a client's new state.

        Parameters
        ----------
        client : int
            Whose.
        state : State
            Checked; not to be changed from here on.
        version : int
            The number of rounds that will be done at the end of this one.
        """
        check_state(state)
        self._known.add(client)
        self._unwritten[client] = version
        self._hold(client, state)

    def write(self) -> None:
        """Write what was not written yet, one state at a time, so that the next save has all of it."""
        for client, version in sorted(self._unwritten.items()):
            self._checkpoint.write(f"client-{client}", pack(self._at_hand[client]), version)
        self._unwritten.clear()

    def restore(self, parts: Iterable[str]) -> None:
        """Go on with the clients that a checkpoint has parts of."""
        self._known = {int(part.removeprefix("client-")) for part in parts if part.startswith("client-")}

    def _hold(self, client: int, state: State) -> None:
        self._held += _bytes(state) - _bytes(self._at_hand.get(client, {}))
        self._at_hand[client] = state
        self._at_hand.move_to_end(client)
        while self._held > self._memory and len(self._at_hand) > 1:
            oldest, given_up = self._at_hand.popitem(last=False)
            self._held -= _bytes(given_up)
            if oldest in self._unwritten:
                self._checkpoint.write(f"client-{oldest}", pack(given_up), self._unwritten.pop(oldest))


def _bytes(state: Mapping[str, Any]) -> int:
    parts = (_bytes(value) if isinstance(value, Mapping) else getattr(value, "nbytes", 8) for value in state.values())
    return sum(parts)
