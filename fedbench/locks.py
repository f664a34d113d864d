"""Locks: what is written to a results folder is written by one process at a time.

A lock is held on an open file by the operating system's ``flock``, so it ends with the process that holds it, however
that ends. What stands in the file says who that is, for messages alone. The file is deleted when the lock is let go.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fedbench.durable import make_folder
from fedbench.errors import FedBenchError


class LockError(FedBenchError):
    """The file system of a results folder has no locks."""


class BusyError(FedBenchError):
    """Another process holds a lock; the message says which, and for how long."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, or held it when its process died.

    Parameters
    ----------
    host : str
        Name of the machine.
    pid : int
        Process there.
    since : float
        Seconds since the epoch.
    """

    host: str
    pid: int
    since: float

    def __str__(self) -> str:
        return f"pid {self.pid} on host {self.host}"

    @property
    def age(self) -> str:
        """How long ago that was, in words."""
        seconds = max(0.0, time.time() - self.since)
        if seconds < 7200:
            return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
        return f"{seconds / 3600:.0f} h"


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[Owner | None]:
    """Hold a lock; give who held it before and died with it, or None.

    Parameters
    ----------
    path : Path
        The lock's file, in a folder that is made if it is not there.
    wait : bool
        Wait until it is free, as is right where it is only held for a moment.

    Raises
    ------
    BusyError
        Another process holds it, and this one does not wait.
    LockError
        The file system has no locks.
    OSError
        The folder cannot be written.
    """
    descriptor = _taken(path, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        dead = _read(descriptor)
        mine = Owner(socket.gethostname(), os.getpid(), time.time())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(mine)).encode(), 0)
        yield dead
    finally:
        try:
            path.unlink(missing_ok=True)  # while it is held, so that nobody's but one's own is deleted
        finally:
            os.close(descriptor)


def held(path: Path) -> str:
    """Return who holds a lock now and for how long, without taking it; nothing where nobody does.

    Raises
    ------
    LockError
        The file system has no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, path)
    except BusyError as busy:
        return str(busy)
    finally:
        os.close(descriptor)
    return ""


def _taken(path: Path, how: int) -> int:
    """Return a file that is locked, and that is the one which stands there."""
    while True:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _flock(descriptor, how, path)
            if _is_there(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has deleted it meanwhile: what stands there now is another


def _flock(descriptor: int, how: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        owner = _read(descriptor)
        raise BusyError(f"held by {owner} for {owner.age}" if owner else "held by another process") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            raise
        raise LockError(
            f"{path.parent}: this file system has no locks ({error.strerror}), by which runs keep out of each other's "
            "way; choose a folder on another disk with --out, or mount it with locks (NFS: no nolock; Lustre: flock)."
        ) from None


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Owner | None:
    """Return whom a lock's file names; nobody where it is new, or not yet written."""
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return Owner(str(said["host"]), int(said["pid"]), float(said["since"]))
    except (ValueError, TypeError, LookupError):
        return None
