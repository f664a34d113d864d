"""Files and folders that are there whole or not at all, and that outlast a loss of power."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yield the path of a file to write, which takes its place when the block ends, and is deleted when it fails.

    A reader sees the old file or the new one, and no half of either. After the block the new one outlasts a loss of
    power.

    Parameters
    ----------
    path : Path
        Its place, in a folder that is made if it is not there.
    keep : Path, optional
        A name in the same folder that the old file gets. A reader may then for a moment see the old one there alone.
    """
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        sync(part)
        if keep is not None:
            path.replace(keep)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_atomic(path: Path, text: str, *, keep: Path | None = None) -> None:
    """Write a text file in UTF-8; see `replacing`."""
    with replacing(path, keep=keep) as part:
        part.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that it outlasts a loss of power."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:  # made by another process just now, or a file
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    sync(folder.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or the names that stand in a folder, to where they outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # some network file systems do this with folders unasked, and refuse to be asked
    finally:
        os.close(descriptor)
