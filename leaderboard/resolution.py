"""What a board's design can resolve, from the spread of the paired differences that are there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from fedbench.leaderboard.board import Board
from fedbench.leaderboard.comparison import REFERENCE, paired_by_seed, ranking_metric

from fedbench.errors import RecordError, SpecError
from fedbench.statistics import NotComputed, Result, minimum_detectable_effect, required_cells, required_seeds
from fedbench.statistics.planning import ALPHA, POWER

_FINEST = 1e-3  # deviations; an effect below asks for millions of seeds


@dataclass(frozen=True, kw_only=True)
class Resolution(Result):
    """What some tasks can tell apart, and how many seeds an effect asks for; n counts seeds that are there.

    Parameters
    ----------
    tasks : tuple of str
        One task, or all: then differences are averaged over them, seed by seed.
    sd : float
        Standard deviation over seeds of the paired difference from the reference: the root mean square over methods,
        or the one that was given. A fraction.
    spreads : mapping of method to float
        That of each method; empty where it was given.
    detectable : float or NotComputed
        Smallest difference that the seeds at hand detect, a fraction.
    seeds : int
        The seeds that the effect asks for.
    least, most : int
        The same with the smallest and the largest of the spreads.
    """

    tasks: tuple[str, ...]
    sd: float
    spreads: Mapping[str, float] = field(default_factory=dict)
    detectable: float | NotComputed
    seeds: int
    least: int
    most: int


def resolutions(
    board: Board, effect: float, comparisons: int, *, power: float = POWER, metric: str | None = None
) -> tuple[Resolution, ...]:
    """Return what all tasks together resolve, if they were run, and then what each task does.

    The spreads come from the seeds that a method shares with FedAvg; missing cells are no hindrance, as nothing is
    claimed about the methods. A method that never differs from FedAvg says nothing about spread and is left out.

    Parameters
    ----------
    board : Board
        With two seeds or more of FedAvg and another method on some task.
    effect : float, > 0
        A fraction.
    comparisons : int, >= 1
        m, which share alpha.
    power : float, between 0.05 and 1
        Probability that an effect of this size is found.
    metric : str, optional
        The metric that ranks, if not given.

    Raises
    ------
    RecordError
        There are no two seeds of any pair to take a spread from.
    SpecError
        The effect, the power or the metric is out of range.
    """
    found = []
    scopes = [tuple(task.name for task in board.tasks)] if len(board.tasks) > 1 else []
    for tasks in [*scopes, *((task.name,) for task in board.tasks)]:
        chosen = ranking_metric(board, tasks, metric)
        differences = {} if chosen is None else paired_by_seed(board, tasks, chosen, REFERENCE)
        spreads = {
            name: spread
            for name, row in differences.items()
            if len(row) > 1 and (spread := float(np.std(list(row.values()), ddof=1))) > 1e-12
        }
        if spreads:
            n = min(len(differences[name]) for name in spreads)
            found.append(resolution(tasks, n, effect, comparisons, spreads=spreads, power=power))
    if not found:
        raise RecordError(
            f"no task of {board.suite} has two seeds of {REFERENCE} and of another method, so there is no spread to "
            "plan with: run a pilot, or name a standard deviation with --sd."
        )
    return tuple(found)


def resolution(
    tasks: Sequence[str],
    n: int,
    effect: float,
    comparisons: int,
    *,
    spreads: Mapping[str, float] | None = None,
    sd: float | None = None,
    power: float = POWER,
) -> Resolution:
    """Return what n seeds of some tasks resolve with a spread, and how many an effect asks for.

    The number is that of the paired t test at level alpha / m, and never below what the exact sign-flip test over these
    tasks needs to reject at all.

    Parameters
    ----------
    tasks : sequence of str
        Their names.
    n : int, >= 0
        Seeds at hand.
    effect, comparisons, power
        As in `resolutions`.
    spreads : mapping of method to float, optional
        Standard deviations of paired differences, fractions.
    sd : float, optional
        One standard deviation in place of them.
    """
    known = dict(spreads or {})
    if sd is None:
        sd = math.sqrt(sum(spread**2 for spread in known.values()) / len(known))
    for what, value in (("effect", effect), ("standard deviation", sd)):
        if not (math.isfinite(value) and value > 0):
            raise SpecError(f"the {what} must be a positive number; got {100 * value:g} points.")
    if comparisons < 1:
        raise SpecError(f"there must be two methods or more to compare; got {comparisons + 1}.")
    if not ALPHA < power < 1:
        raise SpecError(f"the power must lie between {ALPHA} and 1; got {power:g}.")

    def needed(spread: float) -> int:
        if effect / spread < _FINEST:
            raise SpecError(
                f"{100 * effect:g} points are less than a thousandth of the spread between seeds ({100 * spread:g} "
                "points); no number of seeds is worth that."
            )
        by_test = required_seeds(effect / spread, comparisons, power_=power)
        return max(by_test, math.ceil(required_cells(comparisons) / len(tasks)))

    return Resolution(
        question="Q2",
        n=n,
        unit="seeds",
        tasks=tuple(tasks),
        sd=sd,
        spreads=known,
        detectable=_detectable(n, sd, comparisons, power),
        seeds=needed(sd),
        least=needed(min(known.values(), default=sd)),
        most=needed(max(known.values(), default=sd)),
    )


def _detectable(n: int, sd: float, comparisons: int, power: float) -> float | NotComputed:
    if n < 2:
        reason = f"not computed: {n} {'seed' if n == 1 else 'seeds'}; 2 are needed"
        return NotComputed(question="Q2", n=n, unit="seeds", reason=reason)
    try:
        return minimum_detectable_effect(n, comparisons, power_=power) * sd
    except ValueError as error:
        return NotComputed(question="Q2", n=n, unit="seeds", reason=f"not computed: {error}")
