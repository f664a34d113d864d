"""The zip of a submission: written whole and the same each time, read as hostile.

Of all that the format allows, one plain shape is read: members one behind the other from the first byte on, the
directory, its end, and nothing else. So no two members share bytes, nothing is hidden between or behind them, and what
the directory says of a member is what stands before the member itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from fedbench.characters import shown
from fedbench.durable import replacing
from fedbench.schema import CLIENTS, MANIFEST, PREDICTIONS, ROUNDS, RUN
from fedbench.submissions import SubmissionError
from fedbench.submissions.form import FORM

LARGEST = 64_000_000  # bytes of the archive
LARGEST_MEMBER = 64_000_000  # bytes, unpacked
LARGEST_TOTAL = 256_000_000  # bytes, unpacked
MOST_MEMBERS = 4_000
LONGEST_NAME = 250
LARGEST_RATIO = 100  # unpacked over packed, of a member beyond
SMALL = 100_000  # bytes, unpacked
PLANS, RECORDS = "plans", "records"

_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
LAYOUT = re.compile(
    rf"{re.escape(FORM)}|{PLANS}/{_NAME}\.json|{RECORDS}/{_NAME}/{_NAME}/[0-9a-f]{{12}}/seed-(0|[1-9][0-9]{{0,9}})/"
    rf"({'|'.join(map(re.escape, (RUN, ROUNDS, CLIENTS, PREDICTIONS, MANIFEST)))})"
)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # devices to Windows, in every folder
_TAKEN = (PLANS, "submissions")  # folders of a results folder that are no task's
_END = struct.Struct("<4s4H2LH")
_LOCAL = struct.Struct("<4s5H3L2H")
_CHUNK = 1 << 20
_PACK = "make the archive with `fedbench submit pack`"
_UTF8, _ENCRYPTED = 0x800, 0x1


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive.

    Parameters
    ----------
    sha256 : str
        Of the archive.
    packed, unpacked : int
        Bytes.
    members : tuple of str
        Names, in the order of the archive.
    """

    sha256: str
    packed: int
    unpacked: int
    members: tuple[str, ...]


def write(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write an archive, whole or not at all; equal files give equal bytes.

    Parameters
    ----------
    path : Path
        Where it will stand; replaced, if it is there.
    files : mapping of str to bytes or Path
        Contents, by their name in the archive.
    """
    with (
        replacing(path) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, allowZip64=False, compresslevel=9) as archive,
    ):
        for name, content in sorted(files.items(), key=lambda item: (item[0] != FORM, item[0])):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # on Windows too, so that the bytes are the same
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content if isinstance(content, bytes) else content.read_bytes())


def unpack(path: Path, into: Path) -> Unpacked:
    """Unpack an archive that may come from anybody; nothing is written outside a folder, and no more than is allowed.

    Every name, size and place is checked before the first byte is inflated; bytes are counted as they come out.

    Parameters
    ----------
    path : Path
        The archive.
    into : Path
        An empty folder.

    Raises
    ------
    SubmissionError
        It is no archive, or one that `fedbench submit pack` would not have made; the message names the member.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SubmissionError(f"{shown(str(path))} is no file", "name an archive of `fedbench submit pack`")
        with path.open("rb") as file:
            return _unpack(file, into)
    except OSError as error:
        raise SubmissionError(
            f"{shown(str(path))} cannot be unpacked ({error.strerror or error})", "name a file that can be read"
        ) from None


def _unpack(file: BufferedReader, into: Path) -> Unpacked:
    size = file.seek(0, os.SEEK_END)
    if size > LARGEST:
        raise SubmissionError(
            f"the archive has {size:,} bytes, more than {LARGEST:,}", "submit fewer rows, or one suite at a time"
        )
    start = _directory(file, size)
    entries = _entries(file)
    _check_places(file, entries, start)
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    total = 0
    for entry in entries:
        target = into.joinpath(*entry.filename.split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            total += _inflate(file, entry, out, LARGEST_TOTAL - total)
    return Unpacked(sha256, size, total, tuple(entry.filename for entry in entries))


def _directory(file: BufferedReader, size: int) -> int:
    """Return where the directory begins; its end must be the last 22 bytes of the file."""
    if size < _END.size:
        raise SubmissionError("this is no archive: it is shorter than an empty one", _PACK)
    file.seek(size - _END.size)
    mark, disk, disk_of, here, entries, length, start, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment:
        raise SubmissionError(
            "this is no archive, or bytes follow its end", f"{_PACK}, and send it as it is, without a comment"
        )
    if disk or disk_of or here != entries or 0xFFFF in (here, entries) or 0xFFFFFFFF in (length, start):
        raise SubmissionError("the archive is in parts, or in the format for large ones (zip64)", _PACK)
    if entries > MOST_MEMBERS or length > MOST_MEMBERS * (46 + LONGEST_NAME):
        raise SubmissionError(
            f"the archive has {entries:,} members in a directory of {length:,} bytes, more than {MOST_MEMBERS:,} fill",
            "submit fewer rows, or one suite at a time",
        )
    if start + length + _END.size != size:
        raise SubmissionError("the directory of the archive is not where its end says: it lies about places", _PACK)
    return int(start)


def _entries(file: BufferedReader) -> list[zipfile.ZipInfo]:
    """Return the members in the order of their places, each of them allowed by its name, kind and sizes."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, OSError, IndexError) as error:
        raise SubmissionError(f"the directory of the archive cannot be read ({shown(str(error))})", _PACK) from None
    if not entries or len(entries) > MOST_MEMBERS:
        raise SubmissionError(f"the archive has {len(entries):,} members; 1 to {MOST_MEMBERS:,} are allowed", _PACK)
    seen: dict[str, str] = {}
    for entry in entries:
        name = entry.orig_filename
        alike = unicodedata.normalize("NFKC", name).casefold()
        if alike in seen:
            raise SubmissionError(
                f"{shown(name)}: a second member of this name, after {shown(seen[alike])}",
                "keep one of them; names that differ in case or in how a letter is composed are one name",
            )
        seen[alike] = name
        _check_name(name)
        _check_kind(entry)
    if (total := sum(entry.file_size for entry in entries)) > LARGEST_TOTAL:
        raise SubmissionError(
            f"the members have {total:,} bytes unpacked, more than {LARGEST_TOTAL:,}", "submit one suite at a time"
        )
    return sorted(entries, key=lambda entry: entry.header_offset)


def _check_name(name: str) -> None:
    parts = name.split("/")
    reasons = {
        f"it is longer than {LONGEST_NAME} characters": len(name) > LONGEST_NAME,
        "a backslash has no place in it": "\\" in name,
        "it begins with a drive letter": re.match(r"[A-Za-z]:", name) is not None,
        "it is absolute": name.startswith("/"),
        "it leads out of the folder": ".." in parts,
        "it is a folder, which needs no member of its own": name.endswith("/"),
        "only letters, digits, dots, hyphens and underscores have a place in it": not re.fullmatch(
            r"[A-Za-z0-9._/-]*", name
        ),
        "Windows takes it for a device": any(_RESERVED.fullmatch(part.lower()) for part in parts),
        "it is no part of a submission": not LAYOUT.fullmatch(name) or (parts[0] == RECORDS and parts[1] in _TAKEN),
    }
    for reason, found in reasons.items():
        if found:
            raise SubmissionError(f"{shown(name) or 'a member without a name'}: {reason}", f"take it out, or {_PACK}")


def _check_kind(entry: zipfile.ZipInfo) -> None:
    name, mode = entry.filename, entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG) or entry.external_attr & 0x10:
        what = _KINDS.get(kind, "a folder" if entry.external_attr & 0x10 else "no plain file")
        raise SubmissionError(f"{name}: it is {what}", f"plain files alone are unpacked; {_PACK}")
    if entry.flag_bits & _ENCRYPTED:
        raise SubmissionError(f"{name}: it is encrypted", "submit what everybody can read")
    if entry.flag_bits & ~_UTF8:
        raise SubmissionError(f"{name}: it has flags {entry.flag_bits:#x} that are not read", _PACK)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SubmissionError(f"{name}: it is packed by method {entry.compress_type}", "store or deflate it")
    if entry.extra or entry.comment:
        raise SubmissionError(f"{name}: it has extra fields or a comment", _PACK)
    if entry.file_size > LARGEST_MEMBER:
        raise SubmissionError(
            f"{name}: it has {entry.file_size:,} bytes unpacked, more than {LARGEST_MEMBER:,}", "submit a smaller one"
        )
    _check_ratio(name, entry.file_size, entry.compress_size)


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def _check_ratio(name: str, unpacked: int, packed: int) -> None:
    if unpacked > SMALL and unpacked > LARGEST_RATIO * packed:
        raise SubmissionError(
            f"{name}: {unpacked:,} bytes or more from {packed:,}, more than {LARGEST_RATIO} times as many",
            "no record is like this; run the cell again",
        )


def _check_places(file: BufferedReader, entries: list[zipfile.ZipInfo], end: int) -> None:
    """Check that members follow one another without gap or overlap, and that each says of itself what is said of it."""
    place = 0
    for entry in entries:
        name = entry.filename
        if entry.header_offset != place:
            how = "overlaps the one before" if entry.header_offset < place else "is preceded by bytes that are nobody's"
            raise SubmissionError(f"{name}: it {how}", _PACK)
        file.seek(place)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size:
            raise SubmissionError(f"{name}: it lies beyond the end of the archive", _PACK)
        mark, _, flags, method, _, _, crc, packed, unpacked, length, extra = _LOCAL.unpack(head)
        own = (mark, flags, method, crc, packed, unpacked, length, extra, file.read(length))
        raw = name.encode("ascii")
        told = (
            b"PK\x03\x04",
            entry.flag_bits,
            entry.compress_type,
            entry.CRC,
            entry.compress_size,
            entry.file_size,
            len(raw),
            0,
            raw,
        )
        if own != told:
            raise SubmissionError(f"{name}: the directory of the archive says other things of it than it does", _PACK)
        place += _LOCAL.size + length + packed
    if place != end:
        how = "overlaps the directory" if place > end else "is followed by bytes that are nobody's"
        raise SubmissionError(f"{entries[-1].filename}: it {how}", _PACK)


def _inflate(file: BufferedReader, entry: zipfile.ZipInfo, out: IO[bytes], most: int) -> int:
    """Write one member and return its true size, which must be the one that was told."""
    name, left = entry.filename, entry.compress_size
    file.seek(entry.header_offset + _LOCAL.size + len(entry.filename))
    inflate = zlib.decompressobj(-15) if entry.compress_type == zipfile.ZIP_DEFLATED else None
    size, crc, pending = 0, 0, b""
    while True:
        if not pending and left:
            pending = file.read(min(left, _CHUNK))
            left -= len(pending)
            if not pending:
                raise SubmissionError(f"{name}: the archive ends in the middle of it", "send it again")
        if inflate is None:
            content, pending = pending, b""
        else:
            try:
                content = inflate.decompress(pending, _CHUNK)
            except zlib.error as error:
                raise SubmissionError(f"{name}: it cannot be inflated ({error})", "send the archive again") from None
            pending = inflate.unconsumed_tail
        size, crc = size + len(content), zlib.crc32(content, crc)
        if size > min(entry.file_size, LARGEST_MEMBER, most):
            raise SubmissionError(
                f"{name}: more bytes come out of it than it says ({entry.file_size:,}) or than is allowed", _PACK
            )
        _check_ratio(name, size, entry.compress_size)
        out.write(content)
        if not content and not pending and not left:
            break
    whole = inflate is None or (inflate.eof and not inflate.unused_data)
    if not whole or size != entry.file_size or crc != entry.CRC:
        raise SubmissionError(f"{name}: what comes out of it is not what it says (size or checksum)", "send it again")
    return size
