"""Records of earlier schemas: how each version is read as the next. What stands on disk is never changed.

A new schema version comes with one entry in `STEPS` and a folder of records kept from the version before it
(``tests/records/schema-<n>/``). Its digest stays that of what was written, so `Record.verify` holds for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedbench import schema
from fedbench.errors import RecordError

Values = dict[str, Any]


def _same(name: str, content: Any) -> Any:
    return content


@dataclass(frozen=True)
class Step:
    """How what one version wrote is read as the next version; what a step does not name stays as it is.

    Each function gets a name and what is read, and returns the next version of it; it changes nothing in place.

    Parameters
    ----------
    values : callable
        JSON as a mapping, by the class it is for: ``"RunInfo"``, ``"Manifest"``, ``"Failure"`` or ``"Plan"``.
    arrays : callable
        The arrays of ``predictions.npz``, as a mapping by name.
    table : callable
        A pyarrow table, by its file: ``"rounds.parquet"`` or ``"clients.parquet"``.
    """

    values: Callable[[str, Values], Values] = _same
    arrays: Callable[[str, Values], Values] = _same
    table: Callable[[str, Any], Any] = _same


STEPS: Mapping[int, Step] = {}
"""The step from each version to the next: ``STEPS[1]`` reads version 1 as version 2. There is one version so far."""


def steps(version: int) -> Iterator[Step]:
    """Yield the steps from a version to today's, in their order.

    Raises
    ------
    RecordError
        There is none from this version, or from one after it.
    """
    for at in range(version, schema.SCHEMA_VERSION):
        if at not in STEPS:
            raise RecordError(
                f"nothing reads schema version {at} as version {at + 1}: there never was such a version, or this "
                "FedBench is not whole; install it again, or run the cell again."
            )
        yield STEPS[at]


def values(name: str, stored: Mapping[str, Any], version: int) -> Values:
    """Return JSON of a version as today's; see `Step.values`.

    Raises
    ------
    RecordError
        A step is missing.
    """
    found = dict(stored)
    for step in steps(version):
        found = step.values(name, found)
    return {**found, "schema_version": schema.SCHEMA_VERSION} if version < schema.SCHEMA_VERSION else found


def arrays(name: str, stored: Values, version: int) -> Values:
    """Return arrays of a version as today's; see `Step.arrays` and `values`."""
    for step in steps(version):
        stored = step.arrays(name, stored)
    return stored


def table(name: str, stored: Any, version: int) -> Any:
    """Return a table of a version as today's; see `Step.table` and `values`."""
    for step in steps(version):
        stored = step.table(name, stored)
    return stored
