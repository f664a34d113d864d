"""Full tables of values, method × task × seed: no hole, and every cell paired."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedbench.errors import FedBenchError
from fedbench.schema import SeedIds

Floats = npt.NDArray[np.float64]
Direction = Literal["higher", "lower"]
Key = tuple[str, int]
"""A task and a seed."""

IDS = tuple(SeedIds.model_fields)
"""The ids that every cell must carry: fingerprints of the task's draws."""

DIGITS = 12
"""Differences are rounded to so many decimals: accuracies are fractions of counts, and 0.3 - 0.2 must tie with 0.1."""

_SHOWN = 5  # cells that an error lists


class PairingError(FedBenchError):
    """Cells that were to be compared are missing, not finite, or do not share the task's draws."""


@dataclass(frozen=True)
class Value:
    """One metric of one cell.

    Parameters
    ----------
    value : float
        The metric, a fraction where the metric is one.
    ids : mapping of str to str
        ``SeedIds.model_dump()`` of the record, and whatever else must agree before two cells may be compared, such
        as ``device``.
    """

    value: float
    ids: Mapping[str, str]


Results = Mapping[str, Mapping[Key, Value]]
"""Method to (task, seed) to value."""


@dataclass(frozen=True, eq=False)
class Paired:
    """Two methods on the same cells; made by `Grid.paired`.

    Parameters
    ----------
    method, reference : str
        Their names.
    tasks, seeds : tuple
        Rows and columns, sorted.
    values, baseline : float64 (T, S)
        The metric of the method and of the reference.
    direction : {"higher", "lower"}
        Which values are better.
    """

    method: str
    reference: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    baseline: Floats
    direction: Direction = "higher"

    @property
    def differences(self) -> Floats:
        """Method minus reference, float64 (T, S), in the unit of the metric: a fraction, not points."""
        return np.round(self.values - self.baseline, DIGITS)


@dataclass(frozen=True, eq=False)
class Grid:
    """All methods of a board on the same cells; made by `Grid.of`.

    Names and seeds are sorted, so the order in which results were read changes no digit.

    Parameters
    ----------
    methods, tasks, seeds : tuple
        The three axes.
    values : float64 (k, T, S)
        The metric.
    direction : {"higher", "lower"}
        Which values are better.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    direction: Direction = "higher"

    @classmethod
    def of(cls, results: Results, planned: Iterable[Key] = (), direction: Direction = "higher") -> Grid:
        """Return the table of some methods, or refuse.

        Parameters
        ----------
        results : mapping of method to (task, seed) to Value
            What is there.
        planned : iterable of (task, seed)
            What must be there besides: a cell that no method has is only seen from the plan.
        direction : {"higher", "lower"}
            Which values are better.

        Raises
        ------
        PairingError
            A cell of tasks × seeds is missing for a method, a value is not finite, a cell carries no fingerprint of a
            draw, or one that differs between methods. The message names the cells and the id.
        """
        methods = tuple(sorted(results))
        tasks, seeds = _axes(results, planned)
        if not methods or not tasks:
            raise PairingError("there is no cell to compare; run the suite first.")
        if missing := [cell for name in methods for cell in _missing(name, results, tasks, seeds)]:
            raise PairingError(f"missing: {_listed(missing)}; run the suite again, only missing cells are made.")
        for name in methods:
            for (task, seed), cell in results[name].items():
                _check(f"{task}/{name}/seed-{seed}", cell, methods[0], results[methods[0]][task, seed])
        values = [[[results[name][task, seed].value for seed in seeds] for task in tasks] for name in methods]
        return cls(methods, tasks, seeds, np.array(values, dtype=np.float64), direction)

    def paired(self, method: str, reference: str) -> Paired:
        """Return two methods of the table.

        Raises
        ------
        PairingError
            One of them is not in the table.
        """
        for name in (method, reference):
            if name not in self.methods:
                raise PairingError(f"no method {name!r} in this table; there: {', '.join(self.methods)}.")
        ours, theirs = (self.values[self.methods.index(name)] for name in (method, reference))
        return Paired(method, reference, self.tasks, self.seeds, ours, theirs, self.direction)

    @property
    def scores(self) -> Floats:
        """Mean over tasks of the mean over seeds, float64 (k,), rounded so that equal counts compare equal."""
        means: Floats = np.round(self.values.mean(axis=2).mean(axis=1), DIGITS)
        return means

    @property
    def cells(self) -> int:
        """T · S."""
        return len(self.tasks) * len(self.seeds)


def whole_methods(results: Results, planned: Iterable[Key] = ()) -> tuple[Results, dict[str, str]]:
    """Split methods into those without a hole, and the others with a sentence that names theirs.

    A method with a hole takes part in no test and is flagged; what is missing is never imputed there.

    Parameters
    ----------
    results, planned
        As in `Grid.of`.
    """
    tasks, seeds = _axes(results, planned)
    missing = {name: _missing(name, results, tasks, seeds) for name in sorted(results)}
    whole = {name: results[name] for name, cells in missing.items() if not cells}
    return whole, {name: f"in no test: {_listed(cells)} missing" for name, cells in missing.items() if cells}


def _axes(results: Results, planned: Iterable[Key]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    keys = {key for cells in results.values() for key in cells} | set(planned)
    return tuple(sorted({task for task, _ in keys})), tuple(sorted({seed for _, seed in keys}))


def _missing(name: str, results: Results, tasks: Iterable[str], seeds: tuple[int, ...]) -> list[str]:
    cells = results[name]
    return [f"{task}/{name}/seed-{seed}" for task in tasks for seed in seeds if (task, seed) not in cells]


def _listed(cells: list[str]) -> str:
    more = len(cells) - _SHOWN
    return ", ".join(cells[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check(where: str, cell: Value, reference: str, other: Value) -> None:
    if not math.isfinite(cell.value):
        raise PairingError(f"{where}: the value is {cell.value}; a metric that is not defined cannot be compared.")
    for name in IDS:
        if not cell.ids.get(name):
            raise PairingError(f"{where} carries no {name} id, so nobody knows whether it is paired; run it again.")
    differing = [
        name for name in sorted(cell.ids.keys() | other.ids.keys()) if cell.ids.get(name) != other.ids.get(name)
    ]
    if differing:
        raise PairingError(
            f"{where} is not paired with {reference}: {' and '.join(differing)} "
            f"{'differs' if len(differing) == 1 else 'differ'}; run both from one suite, with one version."
        )
