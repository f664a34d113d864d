"""Errors a user can meet. Each message names the thing, the place and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedBenchError(Exception):
    """Base of every error that FedBench raises on purpose."""


class SpecError(FedBenchError):
    """A task, method, suite or hyperparameter is unknown or out of range."""


class DataError(FedBenchError):
    """A data file is damaged or is not what its task declares."""


class DataMissingError(DataError):
    """A data file is not on this machine and could not be downloaded."""


class PartitionError(FedBenchError):
    """The requested split over clients cannot be made from this data."""


class MethodError(FedBenchError):
    """A method broke its contract: NaN weights, a private tensor on the wire, a non-finite loss."""


class RecordError(FedBenchError):
    """A record is corrupt, incomplete, or of a newer schema."""


class PluginError(FedBenchError):
    """An installed plug-in cannot be imported, clashes with another, or is of the wrong type."""


def of_machine(error: BaseException) -> bool:
    """Say whether an error is for want of the machine (data, disk, memory) and no fault of what was run there.

    Torch has an error of its own for a GPU's memory, and none for the processor's.
    """
    return (
        isinstance(error, OSError | MemoryError | DataError)
        or type(error).__name__ == "OutOfMemoryError"
        or (type(error) is RuntimeError and "can't allocate memory" in str(error))
    )


def unknown(what: str, name: str, known: Iterable[str]) -> SpecError:
    """Return the error for a name that is not known, with the nearest known ones.

    Parameters
    ----------
    what : str
        What the name should have been, such as ``"task"``.
    name : str
        The name that was given.
    known : iterable of str
        All names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}."
    return SpecError(f"unknown {what} {name!r}; {hint}")
