"""Reading TOML that somebody wrote by hand, or to do harm: it gives values or a `SpecError`."""

from __future__ import annotations

import tomllib
from typing import Any

from fedbench.errors import SpecError

LARGEST = 8 << 20
"""Bytes of a file; what FedBench itself writes is a thousand times smaller."""


def parse(content: bytes) -> dict[str, Any]:
    """Return what a TOML file holds.

    Parameters
    ----------
    content : bytes
        The file, in UTF-8.

    Raises
    ------
    SpecError
        It is no TOML, too large, nested too deeply, or holds a number with thousands of digits.
    """
    if len(content) > LARGEST:
        raise SpecError(f"has {len(content) >> 20} MiB, and no more than {LARGEST >> 20} are read")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise SpecError("not text in UTF-8") from None
    except RecursionError:
        raise SpecError("nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError is one, and so is a number that Python refuses to read
        raise SpecError(str(error)) from None
