"""Checkpoints: a run that is killed and started again gives the same bits.

A checkpoint is a folder beside the record to come. States of clients are files versioned by round, never changed in
place; ``checkpoint.json`` names the files that belong together, with their hashes, and is replaced atomically.
What no longer belongs to it is deleted afterwards. No pickle: tensors are stored as safetensors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedbench.errors import MethodError
from fedbench.records import write_atomic

VERSION = 1
INDEX = "checkpoint.json"
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


def unpack(data: bytes) -> State:
    """Return the state that `pack` stored."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    layout = json.loads(header["__metadata__"]["state"])
    values = {**layout["plain"], **load(data)}
    state: State = {}
    for path in layout["order"]:  # parents before children
        *parents, name = path.split("/")
        part = state
        for parent in parents:
            part = part[parent]
        part[name] = values[path]
    return state


class Checkpoint:
    """The checkpoint of one cell.

    Parameters
    ----------
    folder : Path
        Where its files stand; made at the first save.
    made_by : str
        Versions of what computes; a checkpoint of other versions is not gone on from, as its bits may differ.
    """

    def __init__(self, folder: Path, made_by: str = "") -> None:
        self.folder, self.made_by = folder, made_by
        self._files: dict[str, str] = {}

    def save(self, round: int, parts: Mapping[str, bytes]) -> None:
        """Store what changed since the last save, and make it the checkpoint.

        Parameters
        ----------
        round : int
            Rounds done.
        parts : mapping of str to bytes
            New versions of parts by name, such as ``"server"`` or ``"client-3"``; older parts stay as they are.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files = dict(self._files)
        for part, data in parts.items():
            name = f"{part}@{round}"
            with (self.folder / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            files[part] = f"{name} {hashlib.sha256(data).hexdigest()}"
        index = {"version": VERSION, "made_by": self.made_by, "round": round, "files": files}
        write_atomic(self.folder / INDEX, json.dumps(index, indent=1))
        self._files = files
        current = {entry.split()[0] for entry in files.values()}
        for path in self.folder.iterdir():
            if path.name != INDEX and path.name not in current:
                path.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, bytes]] | None:
        """Return the rounds done and all parts, or None where there is no whole checkpoint."""
        if not (self.folder / INDEX).is_file():
            return None
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            parts = {part: self._read(*entry.split()) for part, entry in index["files"].items()}
            if (index["version"], index["made_by"]) != (VERSION, self.made_by):
                raise ValueError(f"made by {index['made_by']}, not by {self.made_by}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            _log.warning(
                "%s: the checkpoint cannot be used (%s); the cell starts again from its first round.",
                self.folder,
                error,
            )
            return None
        self._files = index["files"]
        return index["round"], parts

    def remove(self) -> None:
        """Delete the checkpoint, once the record is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, name: str, expected: str) -> bytes:
        data = (self.folder / Path(name).name).read_bytes()
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError(f"{name} is not what {INDEX} names")
        return data
