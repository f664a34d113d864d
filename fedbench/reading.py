"""Reading files that may come from anybody: bounded before anything is allocated, and every failure is one error.

JSON, ``.npz`` and Parquet are read here and nowhere else where a record is concerned. A file is opened only if it is a
regular one, never through a link. What it says of itself (lengths, counts, shapes) is compared with what is there, and
with what the harness writes, before a library reads it. No pickle, no evaluated header.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from io import BufferedReader
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fedbench.errors import RecordError

P = ParamSpec("P")
T = TypeVar("T")
Array = npt.NDArray[Any]

LARGEST_JSON = 8 << 20
"""Bytes of a JSON file: a plan of some 20,000 cells."""
MOST_VALUES = 1 << 27
"""Numbers and bits in the arrays of one record, and in one table: 47,000 test samples in 1,000 rounds, with room."""

_DEEPEST = 32  # levels of JSON; an identity has five
_DIRECTORY = 1 << 16  # bytes of a zip's central directory; that of 20 arrays has 1,400
_HEADER = 1 << 10  # bytes of an array's header; numpy pads to 128
_PAGES = 1 << 14  # of a Parquet file; ours have two a column
_NESTED = 10  # structs and lists within each other, in the description of a Parquet file
_SHOWN = 120  # characters of a name or reason that somebody else wrote


class _Unfit(Exception):
    """Why a file is not read, in a few words."""


def shown(value: object) -> str:
    """Return what somebody else wrote, quoted, cut and without control characters: it may be meant for a terminal."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _named(read: Callable[P, T]) -> Callable[P, T]:
    """Make every failure of a reader a `RecordError` that names the file, what is wrong and the mend."""

    @wraps(read)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except RecordError:
            raise
        except Exception as error:  # what libraries raise on made-up bytes is listed nowhere
            if isinstance(error, OSError):
                reason = error.strerror or type(error).__name__
            else:
                reason = str(error) if isinstance(error, _Unfit) else f"{type(error).__name__}: {shown(str(error))}"
            mend = kwargs.get("mend", "run the cell again")
            raise RecordError(f"{args[0]} cannot be read ({reason}); {mend}.") from None

    return checked


@contextmanager
def _opened(path: Path, most: int) -> Iterator[BufferedReader]:
    """Open a regular file of at most so many bytes; neither a link is followed nor a device or pipe waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _Unfit("it is no regular file")
        if found.st_size > most:
            raise _Unfit(f"it has {found.st_size:,} bytes, and at most {most:,} are read")
        yield file


@_named
def sha256(path: Path, *, mend: str = "run the cell again") -> str:
    """Return the SHA-256 of a regular file, as hexadecimal digits.

    Raises
    ------
    RecordError
        It cannot be read, or is a link, a device or a pipe.
    """
    with _opened(path, 1 << 62) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- JSON -----------------------------------------------------------------------------------------------------------


@_named
def json_object(path: Path, *, mend: str = "run the cell again") -> dict[str, Any]:
    """Return the object in a JSON file.

    Its numbers are finite and fit into 64 bits, no key stands twice, and it is at most 32 levels deep.

    Raises
    ------
    RecordError
        It is something else, too large, or cannot be read.
    """
    with _opened(path, LARGEST_JSON) as file:
        content = file.read(LARGEST_JSON + 1)
    try:
        values = json.loads(
            content.decode(), object_pairs_hook=_once, parse_int=_whole, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise _Unfit(f"it is more than {_DEEPEST} levels deep") from None
    except ValueError as error:
        raise _Unfit(f"it is no JSON: {shown(str(error))}") from None
    if not isinstance(values, dict):
        raise _Unfit(f"it holds a {type(values).__name__}, not an object")
    _check_depth(values)
    if b"\\u" in content:
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _Unfit("it holds half a character (a lone surrogate)") from None
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Unfit(f"the key {shown(next(name for name in names if names.count(name) > 1))} stands twice")
    return values


def _whole(text: str) -> int:
    if len(text) > 18 and not (len(text) <= 20 and -(1 << 63) <= int(text) < 1 << 63):
        raise _Unfit("it holds a whole number of more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Unfit(f"it holds {value}, which is no finite number")
    return value


def _check_depth(values: dict[str, Any]) -> None:
    """Check level by level how deep it is, so that no recursion of those who read it depends on it."""
    level: list[Any] = [values]
    for _ in range(_DEEPEST):
        inside = (value.values() if type(value) is dict else value for value in level)
        level = [value for values in inside for value in values if type(value) is dict or type(value) is list]
        if not level:
            return
    raise _Unfit(f"it is more than {_DEEPEST} levels deep")


# --- .npz -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """What an array must be.

    Parameters
    ----------
    dtype : numpy.dtype
        Of what is stored.
    axes : tuple of str
        Symbols of its axes, such as ``("R", "K")`` or ``("K + 1",)``.
    bits : bool
        Whether the last axis is stored as bits, eight a byte.
    """

    dtype: np.dtype[Any]
    axes: tuple[str, ...]
    bits: bool = False

    @classmethod
    def of(cls, description: str) -> Layout:
        """Return the layout that a description begins with, such as ``int64 (K, C): training samples of ...``."""
        found = re.match(r"(\w+) \(([^)]*)\)", description)
        if found is None:
            raise ValueError(f"{description!r} does not begin with a dtype and a shape.")
        axes = tuple(axis.strip() for axis in found[2].split(",") if axis.strip())
        bits = found[1] == "bits"
        return cls(np.dtype("uint8" if bits else found[1]), axes, bits)


_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n"
)
_END = b"PK\x05\x06"


@_named
def arrays(path: Path, layouts: Mapping[str, Layout], most_values: int = MOST_VALUES) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` file; each is one of those that have a layout, and has it.

    Parameters
    ----------
    path : Path
        The file.
    layouts : mapping of str to Layout
        What may be there; nothing needs to.
    most_values : int
        Numbers and bits in all of them together.

    Raises
    ------
    RecordError
        It holds something else, objects among it, or more, or cannot be read.
    """
    found: dict[str, Array] = {}
    with _opened(path, 8 * most_values + _DIRECTORY) as file:
        _check_directory(file, len(layouts))
        with zipfile.ZipFile(file) as archive:
            left = most_values
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name not in layouts or entry.filename != f"{name}.npy":
                    raise _Unfit(f"it holds {shown(entry.filename)}, which is no array of a record")
                if name in found:
                    raise _Unfit(f"it holds {name} twice")
                if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _Unfit(f"{name} is encrypted or packed in another way than deflated")
                with archive.open(entry) as member:
                    found[name] = _array(name, member, entry.file_size, layouts[name], left)
                left -= found[name].size * (8 if layouts[name].bits else 1)
    return found


def _check_directory(file: BufferedReader, most: int) -> None:
    """Check the end of a zip file: how many members it lists, and on how many bytes, before anything is listed.

    `zipfile` makes an object of each of them. It takes these 22 bytes as well: nothing may follow them, and no 64-bit
    version of them may stand before.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 42))
    tail = file.read()
    end = tail[-22:]
    if end[:4] != _END or len(end) < 22 or end[20:] != b"\0\0" or tail[:4] == b"PK\x06\x07":
        raise _Unfit("it is no plain zip file")
    members, length = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if members > most or length > _DIRECTORY:
        raise _Unfit(f"it lists {members} members on {length:,} bytes, and a record has at most {most} arrays")
    file.seek(0)


def _array(name: str, member: Any, size: int, layout: Layout, most_values: int) -> Array:
    """Return one array; its header is compared with the layout and with the bytes that follow before these are read."""
    start = member.read(10)
    length = int.from_bytes(start[8:10], "little")
    if length > _HEADER:
        raise _Unfit(f"the header of {name} has {length:,} bytes")
    header = _NPY.fullmatch(start + member.read(length))
    if header is None:
        raise _Unfit(f"the header of {name} is none that FedBench writes")
    dtype = header[1].decode()
    if dtype != layout.dtype.str:
        raise _Unfit(f"{name} is of dtype {dtype}, not {layout.dtype.str}")
    axes = [axis.strip() for axis in header[2].decode().split(",") if axis.strip()]
    shape = tuple(int(axis) for axis in axes)
    if len(shape) != len(layout.axes):
        raise _Unfit(f"{name} is of shape {shown(shape)}, and should be ({', '.join(layout.axes)})")
    values = math.prod(shape)
    if values * layout.dtype.itemsize != size - 10 - length:
        raise _Unfit(f"{name} is of shape {shown(shape)}, which does not fit its {size - 10 - length:,} bytes")
    if values * (8 if layout.bits else 1) > most_values:
        raise _Unfit(f"{name} takes the record beyond the number of values that is read")
    content = member.read()  # at most the size that the directory names, and its checksum is compared at the end
    if len(content) != values * layout.dtype.itemsize:
        raise _Unfit(f"{name} ends after {len(content):,} bytes")
    array = np.frombuffer(content, layout.dtype).reshape(shape)
    if layout.dtype == bool and array.view(np.uint8).max(initial=0) > 1:
        raise _Unfit(f"{name} holds bytes that are neither True nor False")
    return array.copy()  # that can be written to, as arrays can


# --- Parquet ----------------------------------------------------------------------------------------------------------


@_named
def table(path: Path, columns: Mapping[str, str], most_values: int = MOST_VALUES) -> pa.Table:
    """Return a Parquet file's table; each column is one of those named, and has its type.

    Parameters
    ----------
    path : Path
        The file.
    columns : mapping of str to {"int64", "float64"}
        What may be there; nothing needs to.
    most_values : int
        Rows times columns.

    Raises
    ------
    RecordError
        It holds something else, or more, or cannot be read.
    """
    with _opened(path, 8 * most_values + _DIRECTORY) as source:
        content = source.read()
    buffer = pa.py_buffer(content)
    limits = {"thrift_string_size_limit": 1 << 20, "thrift_container_size_limit": 1 << 14}
    with pq.ParquetFile(pa.BufferReader(buffer), **limits) as file:
        schema, metadata = file.schema_arrow, file.metadata
        for field in schema:
            if field.name not in columns:
                raise _Unfit(f"it has the column {shown(field.name)}, which is none of a record")
            if field.type != pa.type_for_alias(columns[field.name]):
                raise _Unfit(f"{field.name} is of type {shown(str(field.type))}, not {columns[field.name]}")
        if len(set(schema.names)) < len(schema.names):
            raise _Unfit("a column stands twice")
        if metadata.num_rows < 0 or metadata.num_rows * len(columns) > most_values:
            raise _Unfit(f"it has {metadata.num_rows:,} rows")
        pages = _PAGES
        for chunk in _chunks(content):
            pages = _check_pages(content, chunk, metadata.num_rows, pages)
        found = file.read(use_threads=False)
    found.validate(full=True)
    if found.num_rows != metadata.num_rows or found.schema.names != schema.names:
        raise _Unfit("it does not hold what it announces")
    return found


def _chunks(content: bytes) -> Iterator[dict[int, Any]]:
    """Yield what the footer of a Parquet file says of each column chunk, by the numbers of its fields.

    pyarrow would say it as well, but ends the process over a chunk whose statistics contradict each other.
    """
    footer, _ = _thrift(content, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))
    for group in footer.get(4, []):
        for chunk in group.get(1, []):
            yield chunk.get(3, {})


def _check_pages(content: bytes, chunk: dict[int, Any], rows: int, pages: int) -> int:
    """Check a column chunk page by page, so that no page unpacks to more than its rows take; return the pages left.

    The footer says how large a chunk is, but each page has a header of its own, and that is what a reader allocates by.
    """
    size, starts = chunk.get(7), [chunk[field] for field in (9, 11) if field in chunk]  # of data, of a dictionary
    if not starts or not all(isinstance(value, int) for value in (size, *starts)):
        raise _Unfit("a column has no place in the file")
    at = min(starts)
    end = at + chunk[7]
    if not 0 <= at <= end <= len(content):
        raise _Unfit("a column lies outside the file")
    while at < end:
        header, at = _thrift(content, at)
        unpacked, packed = header.get(2), header.get(3)
        if not isinstance(unpacked, int) or not isinstance(packed, int) or min(unpacked, packed) < 0:
            raise _Unfit("a page of a column has no size")
        # A value takes 8 bytes, its level or index at most 4 more; what is left is for the fields around them.
        counts = [part.get(1) for key in (5, 7, 8) if isinstance(part := header.get(key), dict)]
        if unpacked > 16 * rows + 4096 or not all(isinstance(n, int) and 0 <= n <= rows for n in counts):
            raise _Unfit(f"a page of a column claims {unpacked:,} bytes for {rows:,} rows")
        at += packed
        pages -= 1
        if at > end or not pages:
            raise _Unfit("the pages of a column do not fit in it")
    return pages


def _thrift(content: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return a struct in Thrift's compact protocol, by the numbers of its fields, and where it ends.

    Source: the specification of the compact protocol. Text and bytes are passed over.
    """
    fields: dict[int, Any] = {}
    number = 0
    while kind := content[at]:
        at += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, at = _varint(content, at)
        kind &= 15
        if kind in (1, 2):  # in a struct a truth value is its kind
            fields[number] = kind == 1
        else:
            fields[number], at = _thrift_value(content, at, kind, depth)
    return fields, at + 1


def _thrift_value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):
        return content[at], at + 1
    if kind in (4, 5, 6):
        return _varint(content, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(content, at, signed=False)
        return None, at + length
    if kind in (9, 10) and depth < _NESTED:
        length, kind, at = content[at] >> 4, content[at] & 15, at + 1
        if length == 15:
            length, at = _varint(content, at, signed=False)
        if length > _PAGES:
            raise _Unfit(f"a list in its description has {length:,} entries")
        values = []
        for _ in range(length):
            value, at = _thrift_value(content, at, kind, depth + 1)
            values.append(value)
        return values, at
    if kind == 12 and depth < _NESTED:
        return _thrift(content, at, depth + 1)
    raise _Unfit("its description is none that Parquet has")


def _varint(content: bytes, at: int, *, signed: bool = True) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value >> 1) ^ -(value & 1) if signed else value, at
    raise _Unfit("its description is none that Parquet has")
