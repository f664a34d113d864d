"""The zip of a submission: whatever it is made of, it is unpacked in its folder, within its limits, or refused by name.

Archives are crafted byte by byte, as no library writes what is wrong with them.
"""

import hashlib
import io
import stat
import struct
import zipfile
import zlib

import pytest

from fedbench.errors import FedBenchError
from fedbench.submissions import SubmissionError, archive
from fedbench.submissions.archive import unpack, write

FORM = "submission.json"
PLACE = "records/heart/steady/0123456789ab/seed-1"


class Member:
    """One member: what stands before it, its bytes, and what the directory says of it."""

    def __init__(self, name, content=b"{}", *, method=8, mode=stat.S_IFREG | 0o644, flags=0, packed=None, **lies):
        self.name = name.encode() if isinstance(name, str) else name
        self.method, self.flags, self.attributes = method, flags, mode << 16
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        self.packed = packed if packed is not None else squeeze.compress(content) + squeeze.flush()
        if method == 0:
            self.packed = content
        self.crc, self.size = lies.pop("crc", zlib.crc32(content)), lies.pop("size", len(content))
        self.in_directory = lies.pop("directory", {})
        self.attributes = lies.pop("attributes", self.attributes)
        self.extra = lies.pop("extra", b"")
        assert not lies

    def local(self):
        head = (b"PK\3\4", 20, self.flags, self.method, 0, 33, self.crc, len(self.packed), self.size)
        return struct.pack("<4s5H3L2H", *head, len(self.name), len(self.extra)) + self.name + self.extra + self.packed

    def entry(self, offset):
        told = {"name": self.name, "crc": self.crc, "packed": len(self.packed), "size": self.size, "offset": offset}
        told |= self.in_directory
        numbers = (20, 0x314, self.flags, self.method, 0, 33, told["crc"], told["packed"], told["size"])
        rest = (len(told["name"]), len(self.extra), 0, 0, 0, self.attributes, told["offset"])
        return struct.pack("<4s6H3L5H2L", b"PK\1\2", *numbers, *rest) + told["name"] + self.extra


def crafted(*members, between=b"", before=b"", after=b"", end=None):
    """Return the bytes of an archive, good or bad."""
    body, directory = before, b""
    for member in members:
        directory += member.entry(len(body))
        body += member.local() + between
    told = {"entries": len(members), "length": len(directory), "start": len(body), "disk": 0, "comment": 0} | (
        end or {}
    )
    numbers = (told["disk"], 0, told["entries"], told["entries"], told["length"], told["start"], told["comment"])
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", *numbers) + after


def tree(folder):
    """Return every file and folder below a folder, with what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def bomb(n):
    """Return so many zeros, packed by deflate into about a thousandth."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(n >> 20)) + squeeze.flush()


GOOD = Member(FORM)
OVERLAP = Member(f"{PLACE}/run.json", b"0123456789" * 30)
CASES = {
    "path traversal": ((GOOD, Member("../evil.json")), "evil.json: it leads out"),
    "path traversal below": ((GOOD, Member("records/heart/../../../evil.json")), "it leads out"),
    "absolute path": ((GOOD, Member("/etc/passwd")), "/etc/passwd: it is absolute"),
    "drive letter": ((GOOD, Member("C:/evil.json")), "C:/evil.json: it begins with a drive letter"),
    "backslashes": ((GOOD, Member("..\\evil.json")), "a backslash has no place"),
    "Windows share": ((GOOD, Member("\\\\host\\evil.json")), "a backslash has no place"),
    "Windows device": ((GOOD, Member("plans/nul.json")), "plans/nul.json: Windows takes it for a device"),
    "alternate stream": ((GOOD, Member("plans/quick.json:evil")), "only letters"),
    "no name": ((GOOD, Member("")), "a member without a name"),
    "a NUL in a name": ((GOOD, Member("plans/quick.json\0.exe")), "only letters"),
    "escape sequence in a name": ((GOOD, Member("plans/\x1b[2Jquick.json")), "plans/⟨U+001B⟩[2Jquick.json"),
    "right-to-left name": ((GOOD, Member("plans/\u202enosj.json", flags=0x800)), "plans/⟨U+202E⟩nosj.json"),
    "broken UTF-8": ((GOOD, Member(b"plans/\xff\xfe.json", flags=0x800)), "cannot be read"),
    "very long name": ((GOOD, Member("plans/" + "a" * 5000 + ".json")), "longer than 250"),
    "folder": ((GOOD, Member("records/")), "it is a folder"),
    "folder by its attributes": ((GOOD, Member("plans/quick.json", attributes=0x10)), "it is a folder"),
    "unknown file": ((GOOD, Member("evil.py")), "evil.py: it is no part of a submission"),
    "a pickle": ((GOOD, Member(f"{PLACE}/model.pkl")), "no part of a submission"),
    "weights": ((GOOD, Member(f"{PLACE}/weights.safetensors")), "no part of a submission"),
    "a task called plans": ((GOOD, Member("records/plans/m/0123456789ab/seed-1/run.json")), "no part of a submission"),
    "the log of a board": ((GOOD, Member("submissions/decisions.jsonl")), "no part of a submission"),
    "symbolic link": (
        (GOOD, Member("plans/quick.json", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)),
        "plans/quick.json: it is a symbolic link",
    ),
    "character device": ((GOOD, Member("plans/quick.json", mode=stat.S_IFCHR)), "it is a character device"),
    "block device": ((GOOD, Member("plans/quick.json", mode=stat.S_IFBLK)), "it is a block device"),
    "pipe": ((GOOD, Member("plans/quick.json", mode=stat.S_IFIFO)), "it is a pipe"),
    "socket": ((GOOD, Member("plans/quick.json", mode=stat.S_IFSOCK)), "it is a socket"),
    "the same name twice": ((GOOD, Member(FORM, b"[]")), "submission.json: a second member of this name"),
    "the same name by case": ((GOOD, Member("Submission.JSON")), "Submission.JSON: a second member of this name"),
    "the same name by its letters": (
        (GOOD, Member("\u017fubmission.json", flags=0x800)),  # a long s
        "\\u017fubmission.json".replace("\\u017f", "\u017f") + ": a second member of this name",
    ),
    "encrypted": ((GOOD, Member("plans/quick.json", flags=1)), "plans/quick.json: it is encrypted"),
    "a data descriptor": ((GOOD, Member("plans/quick.json", flags=8)), "flags 0x8"),
    "bzip2": ((GOOD, Member("plans/quick.json", method=12)), "packed by method 12"),
    "LZMA": ((GOOD, Member("plans/quick.json", method=14)), "packed by method 14"),
    "method 99": ((GOOD, Member("plans/quick.json", method=99)), "packed by method 99"),
    "extra field": ((GOOD, Member("plans/quick.json", extra=b"up\4\0evil")), "extra fields"),
    "a bomb that says what it is": (
        (GOOD, Member("plans/quick.json", size=32 << 20, packed=bomb(32 << 20))),
        "plans/quick.json: 33,554,432 bytes or more from",
    ),
    "a bomb that lies": (
        (GOOD, Member("plans/quick.json", size=50_000, packed=bomb(32 << 20))),
        "plans/quick.json: more bytes come out of it than it says (50,000)",
    ),
    "a member beyond its limit": (
        (GOOD, Member("plans/quick.json", size=archive.LARGEST_MEMBER + 1)),
        "plans/quick.json: it has 64,000,001 bytes unpacked",
    ),
    "members beyond their limit together": (
        (
            GOOD,
            *(Member(f"plans/a{n}.json", size=60_000_000, directory={"packed": 30_000_000}) for n in range(5)),
        ),
        "the members have 300,000,002 bytes unpacked",
    ),
    "less than it says": ((GOOD, Member("plans/quick.json", b"{}", size=3)), "is not what it says"),
    "a wrong checksum": ((GOOD, Member("plans/quick.json", crc=1)), "is not what it says"),
    "no deflated bytes": ((GOOD, Member("plans/quick.json", packed=b"\xff\xff\xff")), "cannot be inflated"),
    "bytes after the deflated ones": (
        (GOOD, Member("plans/quick.json", packed=bomb(0) + b"hidden", size=0, crc=0)),
        "is not what it says",
    ),
    "a directory that lies about a size": (
        (GOOD, Member("plans/quick.json", directory={"size": 3})),
        "the directory of the archive says other things",
    ),
    "a directory that lies about a name": (
        (GOOD, Member("plans/quick.json", directory={"name": b"plans/other.json"})),
        "plans/other.json: the directory of the archive says other things",
    ),
    "overlapping members": (
        (Member(FORM, directory={"offset": 0}), Member("plans/quick.json", directory={"offset": 0})),
        "it overlaps the one before",
    ),
    "a member beyond the end": (
        (GOOD, Member("plans/quick.json", directory={"offset": 1 << 30})),
        "bytes that are nobody's",
    ),
    "a member into the directory": (
        (Member(FORM, directory={"packed": 40}, packed=b"\3\0", size=0, crc=0),),
        "the directory of the archive says other things",
    ),
}
WHOLE = {
    "trailing bytes": (crafted(GOOD, after=b"hidden"), "bytes follow its end"),
    "a comment": (crafted(GOOD, after=b"hi", end={"comment": 2}), "bytes follow its end"),
    "bytes before": (crafted(GOOD, before=b"#!/bin/sh\n"), "submission.json: it is preceded by bytes"),
    "bytes before, told shorter": (b"MZ" + crafted(GOOD), "not where its end says"),
    "bytes between": (crafted(GOOD, Member("plans/quick.json"), between=b"hidden"), "preceded by bytes"),
    "bytes before the directory": (crafted(GOOD, between=b"hidden"), "followed by bytes that are nobody's"),
    "a second archive behind": (crafted(GOOD) + crafted(GOOD), "not where its end says"),
    "fewer entries told": (crafted(GOOD, Member("plans/quick.json"), end={"length": 61}), "not where its end says"),
    "too many members": (crafted(*(Member(f"plans/a{n}.json") for n in range(4_001))), "4,001 members"),
    "told: too many members": (crafted(GOOD, end={"entries": 50_000}), "50,000 members"),
    "in parts": (crafted(GOOD, end={"disk": 1}), "in parts"),
    "zip64": (crafted(GOOD, end={"entries": 0xFFFF}), "zip64"),
    "no members": (crafted(), "1 to 4,000"),
    "nothing": (b"", "shorter than an empty one"),
    "a text": (b"hello, this is no archive at all", "no archive"),
    "a tar": (b"submission.json" + bytes(1 << 16), "no archive"),
    "the end alone, with a directory that is none": (
        b"x" * 46 + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0),
        "cannot be read",
    ),
}


def refused(tmp_path, content):
    """Return the message with which an archive is refused, after a look at what that left behind."""
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "keep.json").write_text("{}")
    path = tmp_path / "around" / "m-1.fedbench.zip"
    path.write_bytes(content)
    before = tree(tmp_path / "around")
    with pytest.raises(FedBenchError) as found:
        unpack(path, tmp_path / "scratch" / "raw")
    assert tree(tmp_path / "around") == before
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_symlink()]
    assert {path.name for path in tmp_path.iterdir()} <= {"around", "scratch"}
    assert isinstance(found.value, SubmissionError)
    assert found.value.mend
    assert str(found.value).isprintable()
    return str(found.value)


@pytest.mark.reliability
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_member_is_refused_by_name(tmp_path, tally, case):
    members, told = CASES[case]
    assert told in refused(tmp_path, crafted(*members))
    tally("hostile archives")


@pytest.mark.reliability
@pytest.mark.parametrize("case", WHOLE)
def test_a_hostile_archive_is_refused(tmp_path, tally, case):
    content, told = WHOLE[case]
    assert told in refused(tmp_path, content)
    tally("hostile archives")


@pytest.mark.reliability
def test_an_archive_cut_anywhere_is_refused(tmp_path, tally):
    content = crafted(GOOD, Member("plans/quick.json"))
    path = tmp_path / "cut.zip"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(SubmissionError):
            unpack(path, tmp_path / str(length))
    tally("hostile archives", len(content))


@pytest.mark.reliability
def test_a_bit_flipped_anywhere_is_refused_or_changes_nothing(tmp_path, tally):
    content = crafted(GOOD, Member("plans/quick.json", b'{"a": 1}'))
    path = tmp_path / "flipped.zip"
    for at in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        folder = tmp_path / str(at)
        try:
            unpack(path, folder)
        except SubmissionError:
            continue
        # What is left are dates, versions and permissions, which nobody reads.
        assert tree(folder) == {
            FORM: hashlib.sha256(b"{}").hexdigest(),
            "plans": "folder",
            "plans/quick.json": hashlib.sha256(b'{"a": 1}').hexdigest(),
        }
    tally("hostile archives", 8 * len(content))


def test_too_large_an_archive_is_not_even_looked_at(tmp_path):
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate(archive.LARGEST + 1)  # sparse
    with pytest.raises(SubmissionError, match="64,000,001 bytes, more than"):
        unpack(path, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_what_is_no_file_is_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent"):
        with pytest.raises(SubmissionError, match=r"is no file|cannot be unpacked"):
            unpack(path, tmp_path / "raw")


def test_what_is_written_is_read_and_is_the_same_each_time(tmp_path):
    files = {FORM: b"{}", "plans/quick.json": b"x" * 3_000_000, f"{PLACE}/run.json": bytes(range(256))}
    (tmp_path / "run.json").write_bytes(files[f"{PLACE}/run.json"])
    write(tmp_path / "a.zip", files)
    write(tmp_path / "b.zip", dict(reversed(files.items())) | {f"{PLACE}/run.json": tmp_path / "run.json"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_is_written_is_what_comes_out(tmp_path):
    files = {FORM: b"{}", "plans/quick.json": b"[1, 2]", f"{PLACE}/run.json": bytes(range(256)) * 100}
    write(tmp_path / "a.zip", files)
    with zipfile.ZipFile(tmp_path / "a.zip") as found:  # an independent reader agrees
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == files
    out = unpack(tmp_path / "a.zip", tmp_path / "raw")
    assert {name: (tmp_path / "raw" / name).read_bytes() for name in out.members} == files
    assert out.sha256 == hashlib.sha256((tmp_path / "a.zip").read_bytes()).hexdigest()
    assert (out.packed, out.unpacked) == ((tmp_path / "a.zip").stat().st_size, sum(map(len, files.values())))


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"earlier")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "a.zip", {FORM: b"{}", "plans/quick.json": tmp_path / "absent"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.zip": b"earlier"}


def test_stored_members_are_read_as_well(tmp_path):
    path = tmp_path / "stored.zip"
    path.write_bytes(crafted(Member(FORM, b"{}", method=0), Member("plans/quick.json", b"", method=0)))
    assert unpack(path, tmp_path / "raw").unpacked == 2
    assert zipfile.ZipFile(io.BytesIO(path.read_bytes())).read(FORM) == b"{}"
