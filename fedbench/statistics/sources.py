"""Tasks as a sample of possible tasks (Q3): the condition, and the table that all such tests start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedbench.statistics.grid import DIGITS, Direction, Floats, Grid, PairingError
from fedbench.statistics.result import NotComputed, Result

ENOUGH_SOURCES = 8
"""Below so many independent sources nothing is said about a new task."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources(Result):
    """Scores of all methods on independent sources of data; made by `by_source`, n counts sources.

    Parameters
    ----------
    names : tuple of str
        The sources, sorted.
    methods : tuple of str
        As in the grid.
    scores : float64 (N, k)
        Mean over the tasks of a source of the mean over seeds.
    direction : {"higher", "lower"}
        Which values are better.
    """

    names: tuple[str, ...]
    methods: tuple[str, ...]
    scores: Floats
    direction: Direction

    def differences(self, method: str, reference: str) -> Floats:
        """Return method minus reference on each source, float64 (N,), in the unit of the metric."""
        ours, theirs = (self.scores[:, self.methods.index(name)] for name in (method, reference))
        return np.round(ours - theirs, DIGITS)


def by_source(grid: Grid, sources: Mapping[str, str]) -> Sources | NotComputed:
    """Return the scores by independent source, where there are enough of them.

    Tasks that are views of the same data (OrganA, OrganC and OrganS are planes of the same CT scans) are one draw from
    the population of tasks, so they are averaged and count once. Seeds are averaged too: pooling cells as if they were
    independent raises the error of the first kind from 5 to 25 % (twice as much spread between tasks as within).

    Parameters
    ----------
    grid : Grid
        The board's primary metric.
    sources : mapping of task to str
        The independent source of each task's data.

    Raises
    ------
    PairingError
        A task has no source.
    """
    if unknown := [task for task in grid.tasks if task not in sources]:
        raise PairingError(f"no source is named for {', '.join(unknown)}; a task says where its data comes from.")
    names = tuple(sorted({sources[task] for task in grid.tasks}))
    if len(names) < ENOUGH_SOURCES:
        plural = "source" if len(names) == 1 else "sources"
        reason = f"not computed: {len(names)} independent {plural}; {ENOUGH_SOURCES} are needed"
        return NotComputed(question="Q3", n=len(names), unit="independent sources", reason=reason)
    by_task = grid.values.mean(axis=2)
    belongs = np.array([[sources[task] == name for task in grid.tasks] for name in names])
    scores = np.stack([by_task[:, rows].mean(axis=1) for rows in belongs])
    return Sources(
        question="Q3",
        n=len(names),
        unit="independent sources",
        names=names,
        methods=grid.methods,
        scores=np.round(scores, DIGITS),
        direction=grid.direction,
    )
