"""Releases: the records that a board was rendered from, in one file beside it.

A release is ``records.tar.xz`` in the folder of a board: the suite's plan, its records, and the notes of cells that
failed, as they stand in a results folder. Records of one task and seed share most of what they hold, so together they
take a third of what they take one by one: for that their arrays are stored plain, and the whole is compressed once.
That changes the hash of a file, and no digest.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedbench.durable import replacing
from fedbench.errors import RecordError
from fedbench.records import Record, read_failure, read_plan, rewrite, write_failure, write_plan
from fedbench.schema import FAILURE, MANIFEST, Plan

NAME = "records.tar.xz"
LARGEST = 4 << 30
"""Bytes of a release, unpacked; the 450 cells of ``quick-robust`` have 28 million."""
MOST = 200_000
"""Files in a release."""


def pack(results: Path, suite: str, path: Path) -> int:
    """Write the records of a suite as one file, whole or not at all, and return how many they are.

    The same records give the same bytes, with the same version of liblzma.

    Parameters
    ----------
    results : Path
        Where the suite was run; it stays as it is.
    suite : str
        Its name.
    path : Path
        The file; an earlier one is replaced.

    Raises
    ------
    RecordError
        The suite was never run there, or a record is damaged.
    """
    plan = read_plan(results / "plans" / f"{suite}.json")
    count = 0
    with tempfile.TemporaryDirectory(prefix="fedbench-release-") as scratch:
        for cell in plan.cells:
            folder = results / cell.path
            if (folder / MANIFEST).is_file():
                record = Record.open(folder)
                record.verify()
                rewrite(record, Path(scratch, cell.path))
                count += 1
            elif (folder / FAILURE).is_file():
                write_failure(Path(scratch, cell.path), read_failure(folder))
        _write(Path(scratch), plan, path)
    return count


def _write(folder: Path, plan: Plan, path: Path) -> None:
    """Write a tar file in which what resembles each other stands together."""
    write_plan(folder / "plans" / f"{plan.suite}.json", plan)
    files = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    with replacing(path) as part, tarfile.open(part, "w:xz", preset=9) as archive:
        for name, file in sorted(files.items(), key=lambda item: (item[0].parts[0], item[0].parts[-2:], item[0])):
            entry = tarfile.TarInfo(name.as_posix())
            content = file.read_bytes()
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield a results folder: a release is unpacked into a temporary one, anything else is yielded as it is.

    Raises
    ------
    RecordError
        It is a file, and no release: no tar file, too large, or with something else in it than plain files below it.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fedbench-release-") as scratch:
        try:
            _unpack(path, Path(scratch))
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise RecordError(f"{path} is no release ({error}); name a results folder, or a {NAME}.") from None
        except Exception as error:  # liblzma has an error of its own
            raise RecordError(f"{path} is no release ({type(error).__name__}: {error}); get it again.") from None
        yield Path(scratch)


def _unpack(path: Path, folder: Path) -> None:
    left, files = LARGEST, 0
    with tarfile.open(path, "r:xz") as archive:
        for entry in archive:
            files += 1
            left -= entry.size
            if not entry.isreg() or left < 0 or files > MOST:
                raise ValueError(f"{entry.name!r} is no plain file, or one too many")
            place = tarfile.data_filter(entry, str(folder)).name  # which refuses what leads out of the folder
            if place != entry.name:
                raise ValueError(f"{entry.name!r} does not begin in the folder")
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(entry)
            assert source is not None  # as it is a plain file
            with (folder / place).open("xb") as target:
                shutil.copyfileobj(source, target)
