"""Who stands where on these tasks (Q2): the group at the top, rank intervals, and how stable an order is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, rankdata

from fedbench.seeds import Streams
from fedbench.statistics.comparisons import holm, sign_flip_p
from fedbench.statistics.grid import DIGITS, Direction, Floats, Grid
from fedbench.statistics.planning import ALPHA, required_cells
from fedbench.statistics.result import NotComputed, Result

RESAMPLES = 9_999
ENOUGH_SEEDS = 10
"""With fewer seeds a percentile bootstrap covers far less than it says (83 % instead of 95 % with 5)."""

_HALVES = 500


@dataclass(frozen=True, kw_only=True)
class TopGroup(Result):
    """Result of `top_group`; n counts cells.

    Parameters
    ----------
    leader : str
        The method with the best mean over tasks; of several, the first by name.
    members : tuple of str
        The methods that share rank 1, the leader first, then by mean and name.
    p_holm : mapping of str to float
        Adjusted p of every other method against the leader.
    comparisons : int
        k (k − 1) / 2, which share alpha.
    """

    leader: str
    members: tuple[str, ...]
    p_holm: Mapping[str, float]
    comparisons: int


@dataclass(frozen=True, kw_only=True)
class RankInterval(Result):
    """One method's place and its bootstrap interval; n counts seeds.

    Parameters
    ----------
    method : str
        Its name.
    rank : int
        Place by the mean over tasks; ties share the better place.
    low, high : int
        Percentile interval.
    descriptive : bool
        Whether there are too few seeds for the stated coverage: show it as a description, not as an interval.
    """

    method: str
    rank: int
    low: int
    high: int
    descriptive: bool


@dataclass(frozen=True, kw_only=True)
class Agreement(Result):
    """Kendall's tau-b between two orders of the same methods; n counts methods, or seeds for `split_half`.

    Parameters
    ----------
    tau : float, -1 to 1
        1: the same order.
    """

    tau: float


def ordered(grid: Grid) -> tuple[str, ...]:
    """Return the methods, best mean over tasks first, ties by name."""
    sign = -1 if grid.direction == "higher" else 1
    keyed = sorted(zip(sign * grid.scores, grid.methods, strict=True))
    return tuple(name for _, name in keyed)


def top_group(grid: Grid, alpha: float = ALPHA) -> TopGroup | NotComputed:
    """Return the methods that no test separates from the leader.

    The data chose the leader, so Holm runs over the sign-flip tests of all k (k − 1) / 2 pairs; a method shares rank 1
    unless its test against the leader is rejected. Computed where some pair could be rejected: 2 / 2ⁿ times the number
    of pairs is at most alpha (twelve methods need 12 cells).

    Parameters
    ----------
    grid : Grid
        The board's primary metric, two methods or more.
    alpha : float
        Family-wise level.
    """
    names = ordered(grid)
    pairs = list(combinations(names, 2))
    if not pairs:
        reason = "not computed: 1 method; 2 are needed"
        return NotComputed(question="Q2", n=grid.cells, unit="cells", reason=reason)
    if grid.cells < (needed := required_cells(len(pairs), alpha)):
        reason = (
            f"not computed: {grid.cells} cells cannot separate any of {len(pairs)} pairs of methods "
            f"(smallest adjusted p {min(1, len(pairs) * 2 / 2**grid.cells):.2g}); {needed} are needed"
        )
        return NotComputed(question="Q2", n=grid.cells, unit="cells", reason=reason)
    rows = np.stack([grid.paired(*pair).differences.ravel() for pair in pairs])
    leader, others = names[0], names[1:]
    adjusted = dict(zip(others, holm([float(p) for p in sign_flip_p(rows)])[: len(others)], strict=True))
    return TopGroup(
        question="Q2",
        n=grid.cells,
        unit="cells",
        leader=leader,
        members=(leader, *(name for name in others if adjusted[name] > alpha)),
        p_holm=adjusted,
        comparisons=len(pairs),
    )


def rank_intervals(grid: Grid, level: float = 0.95) -> tuple[RankInterval, ...] | NotComputed:
    """Return each method's place with a percentile bootstrap interval, best first.

    Seeds are resampled within each task, the same for all methods; 9,999 times the methods are ranked by the mean over
    tasks. Below ten seeds marked as descriptive. Not computed with one seed. Cost: 10⁴ · k · T · S.

    Parameters
    ----------
    grid : Grid
        The board's primary metric.
    level : float, between 0 and 1
        Share of resamples between low and high.
    """
    n = len(grid.seeds)
    if n < 2:
        return NotComputed(question="Q2", n=n, unit="seeds", reason="not computed: 1 seed; 2 are needed")
    resampled = np.zeros((RESAMPLES, len(grid.methods)))
    for values, chosen in zip(np.swapaxes(grid.values, 0, 1), resampled_seeds(grid), strict=True):
        resampled += values[:, chosen].mean(axis=2).T
    drawn = places(np.round(resampled / len(grid.tasks), DIGITS), grid.direction)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf").astype(int)
    own = places(grid.scores[None], grid.direction)[0].astype(int)
    return tuple(
        RankInterval(
            question="Q2",
            n=n,
            unit="seeds",
            method=name,
            rank=int(own[i]),
            low=int(low[i]),
            high=int(high[i]),
            descriptive=n < ENOUGH_SEEDS,
        )
        for name in ordered(grid)
        for i in [grid.methods.index(name)]
    )


def resampled_seeds(grid: Grid) -> list[npt.NDArray[np.int64]]:
    """Return, for each task, which seeds each bootstrap resample takes: int64 (9,999, S), from a stream of its own."""
    n = len(grid.seeds)
    return [Streams(0).rng("bootstrap", task=task, seeds=n).integers(0, n, (RESAMPLES, n)) for task in grid.tasks]


def places(scores: Floats, direction: Direction) -> Floats:
    """Return places along the last axis, 1 the best; ties share the better place."""
    signed: Floats = -scores if direction == "higher" else scores
    ranked: Floats = rankdata(signed, method="min", axis=-1)
    return ranked


def kendall_tau(first: Mapping[str, float], second: Mapping[str, float]) -> Agreement | NotComputed:
    """Return how far two boards order the same methods alike: Kendall's tau-b, which allows for ties.

    Parameters
    ----------
    first, second : mapping of method to score
        In one direction; only the order counts. Methods that are in one of them alone are an error.
    """
    if first.keys() != second.keys():
        raise ValueError(f"only in one of both boards: {', '.join(sorted(first.keys() ^ second.keys()))}")
    names = sorted(first)
    tau = _tau(np.array([first[name] for name in names]), np.array([second[name] for name in names]))
    if tau is None:
        reason = f"not computed: of {len(names)} methods all are tied; two different scores are needed"
        return NotComputed(question="Q2", n=len(names), unit="methods", reason=reason)
    return Agreement(question="Q2", n=len(names), unit="methods", tau=tau)


def split_half(grid: Grid) -> Agreement | NotComputed:
    """Return the mean of Kendall's tau between the boards of both halves of the seeds, over ways to halve them.

    All ways where there are at most 500, else as many drawn ones; of an odd number of seeds one half has one more.

    Parameters
    ----------
    grid : Grid
        Two seeds and two methods or more.
    """
    n = len(grid.seeds)
    if n < 2:
        return NotComputed(question="Q2", n=n, unit="seeds", reason="not computed: 1 seed; 2 are needed")
    if comb(n, n // 2) <= 2 * _HALVES:
        halves = list(combinations(range(n), n // 2))
        halves = halves[: len(halves) // 2] if n % 2 == 0 else halves  # the second half mirrors the first
    else:
        rng = Streams(0).rng("split-half", seeds=n)
        halves = [tuple(rng.permutation(n)[: n // 2]) for _ in range(_HALVES)]
    by_seed = grid.values.mean(axis=1)
    taus = []
    for half in halves:
        mask = np.isin(np.arange(n), half)
        taus.append(_tau(*(np.round(by_seed[:, side].mean(axis=1), DIGITS) for side in (mask, ~mask))))
    known = [tau for tau in taus if tau is not None]
    if not known:
        reason = f"not computed: of {len(grid.methods)} methods all are tied; two different scores are needed"
        return NotComputed(question="Q2", n=n, unit="seeds", reason=reason)
    return Agreement(question="Q2", n=n, unit="seeds", tau=float(np.mean(known)))


def _tau(first: Floats, second: Floats) -> float | None:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(kendalltau(first, second).statistic)
