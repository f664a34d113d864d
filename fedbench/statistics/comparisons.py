"""Differences between methods on fixed tasks, for a new seed (Q2): the tests that carry a claim.

Everything is paired: `fedbench.statistics.grid` has checked that both methods had the same draws. Differences are
method minus reference in the unit of the metric (fractions, not points).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, stdtr
from scipy.stats import false_discovery_control

from fedbench.seeds import Streams
from fedbench.statistics.grid import DIGITS, Floats, Grid, Paired
from fedbench.statistics.intervals import Interval, t_interval
from fedbench.statistics.planning import ALPHA, minimum_detectable_effect, required_cells
from fedbench.statistics.result import NotComputed, Result, Unit

EXACT = 18
"""Up to so many cells all 2ⁿ sign vectors are visited."""

DRAWS = 99_999
"""Beyond that, so many are drawn, and the observed one is counted among them."""

_TIE = 1e-12  # of the sum of absolute differences: sums that differ by less differ in rounding alone
_BLOCK = 8192


@dataclass(frozen=True, kw_only=True)
class SignFlip(Result):
    """Result of `sign_flip`.

    Parameters
    ----------
    p : float
        Two-sided.
    smallest : float
        The smallest p that the design can give.
    exact : bool
        Whether all sign vectors were visited.
    """

    p: float
    smallest: float
    exact: bool


@dataclass(frozen=True, kw_only=True)
class Equivalence(Result):
    """Result of `equivalence`.

    Parameters
    ----------
    margin : float
        In the unit of the metric.
    t_low, t_high : float
        Statistics against -margin and against +margin, n − 1 degrees of freedom.
    p : float
        The larger of both one-sided p.
    """

    margin: float
    t_low: float
    t_high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class TaskComparison(Result):
    """Two methods on one task; n counts seeds.

    Parameters
    ----------
    task : str
        Its name.
    difference : Interval
        Mean paired difference with its t interval.
    sign_flip : SignFlip or NotComputed
        Exact test over the seeds.
    hedges_g : float or NotComputed
        See `hedges_g`.
    p_improvement : float
        See `probability_of_improvement`.
    detectable : float or NotComputed
        Smallest difference that the design detects with 80 % power after correction, in the unit of the metric.
    """

    task: str
    difference: Interval
    sign_flip: SignFlip | NotComputed
    hedges_g: float | NotComputed
    p_improvement: float
    detectable: float | NotComputed


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Two methods over all tasks, and on each; n counts cells.

    Parameters
    ----------
    method, reference : str
        Differences are the first minus the second.
    comparisons : int
        m, the comparisons that share alpha.
    difference : Interval
        Mean over tasks of the mean difference. Its interval is Student's over the seeds, each averaged over tasks:
        at one seed all tasks share random streams, so their cells are not independent, and the between-task spread is
        no part of the error while the tasks are fixed. Its n counts seeds.
    sign_flip : SignFlip or NotComputed
        Over all cells: the headline test.
    p_holm : float or NotComputed
        The same p, adjusted by `holm`.
    equivalence : Equivalence or NotComputed
        Over the same seeds as the interval.
    p_equivalence_holm : float or NotComputed
        Its p, adjusted by `holm`.
    detectable : float or NotComputed
        As in `TaskComparison`, for the mean over tasks.
    tasks : tuple of TaskComparison
        By name.
    """

    method: str
    reference: str
    comparisons: int
    difference: Interval
    sign_flip: SignFlip | NotComputed
    p_holm: float | NotComputed
    equivalence: Equivalence | NotComputed
    p_equivalence_holm: float | NotComputed
    detectable: float | NotComputed
    tasks: tuple[TaskComparison, ...]


def sign_flip_p(differences: npt.ArrayLike) -> Floats:
    """Return two-sided p of the sign-flip (Fisher–Pitman) test, one a row of (m, n).

    The share of sign vectors whose sum is at least as far from zero as the observed one. All 2ⁿ vectors for n ≤ 18;
    beyond, 99,999 drawn ones, with the observed one counted: (1 + hits) / 100,000 (Phipson and Smyth 2010). With one
    weight for every cell the sum tests the mean over tasks of the mean over seeds, and flipping each cell by itself is
    the test stratified by task and seed. Exact under the null that in each cell both methods could be exchanged.
    Cost: 2¹⁸ additions a row, or 10⁵ · n.

    Parameters
    ----------
    differences : array of shape (n,) or (m, n), n >= 1
        Paired differences; all rows share their draws.

    Examples
    --------
    >>> sign_flip_p([0.01, 0.02, 0.03])
    array([0.25])
    """
    rows = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    if rows.ndim != 2 or not rows.shape[1] or not np.isfinite(rows).all():
        raise ValueError(f"a sign-flip test needs finite differences, shape (n,) or (m, n); got shape {rows.shape}")
    bars = np.abs(rows.sum(axis=1)) - _TIE * np.abs(rows).sum(axis=1)
    n = rows.shape[1]
    if n <= EXACT:
        hits = np.array([np.mean(np.abs(_all_sums(row)) >= bar) for row, bar in zip(rows, bars, strict=True)])
        return hits.astype(np.float64)
    counts = np.ones(len(rows))
    signs = _signs(n)
    for start in range(0, DRAWS, _BLOCK):
        sums = signs[start : start + _BLOCK].astype(np.float64) @ rows.T
        counts += (np.abs(sums) >= bars).sum(axis=0)
    p: Floats = counts / (DRAWS + 1)
    return p


def _all_sums(row: Floats) -> Floats:
    """Return the sums over all sign vectors whose first sign is plus; the others mirror them."""
    sums = row[:1]
    for value in row[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


@lru_cache(maxsize=2)
def _signs(n: int) -> npt.NDArray[np.int8]:
    """Return ``DRAWS`` sign vectors: the same for all comparisons, and on every rendering."""
    bits = Streams(0).rng("sign-flip", cells=n).integers(0, 2, size=(DRAWS, n), dtype=np.int8)
    return 2 * bits - 1


def sign_flip(differences: npt.ArrayLike, unit: Unit = "cells", alpha: float = ALPHA) -> SignFlip | NotComputed:
    """Return the sign-flip test of paired differences, where it could reject at all: six or more at alpha 0.05.

    Parameters
    ----------
    differences : array of shape (n,)
        One a cell or a seed.
    unit : {"cells", "seeds"}
        What they are.
    alpha : float
        The level that must be reachable.
    """
    row = np.asarray(differences, dtype=np.float64).ravel()
    n, needed = len(row), required_cells(1, alpha)
    if n < needed:
        reason = f"not computed: {_count(n, unit)}, the smallest possible p is {2 / 2**n:g}; {needed} are needed"
        return NotComputed(question="Q2", n=n, unit=unit, reason=reason)
    exact = n <= EXACT
    smallest = 2 / 2**n if exact else 1 / (DRAWS + 1)
    return SignFlip(question="Q2", n=n, unit=unit, p=float(sign_flip_p(row)[0]), smallest=smallest, exact=exact)


def equivalence(differences: npt.ArrayLike, margin: float) -> Equivalence | NotComputed:
    """Return two one-sided paired t tests of -margin < mean difference < margin (TOST; Schuirmann 1987).

    t_low = (mean + margin) · √n / s and t_high = (mean − margin) · √n / s, n − 1 degrees of freedom. A large p of a
    test for a difference says nothing about equality; a small p here does.

    Parameters
    ----------
    differences : array of shape (n,)
        One a seed.
    margin : float, > 0
        In the unit of the metric; fixed in advance, by the suite.
    """
    row = np.asarray(differences, dtype=np.float64).ravel()
    if not margin > 0:
        raise ValueError(f"the margin must be positive; got {margin}")
    n = len(row)
    if isinstance(spread := _spread(row), NotComputed):
        return spread
    error, centre = spread / math.sqrt(n), t_interval(row).mean
    low, high = (centre + margin) / error, (centre - margin) / error
    p = max(float(stdtr(n - 1, -low)), float(stdtr(n - 1, high)))
    return Equivalence(question="Q2", n=n, unit="seeds", margin=margin, t_low=low, t_high=high, p=p)


def hedges_g(differences: npt.ArrayLike) -> float | NotComputed:
    """Return the standardised paired difference J · mean / s with Hedges' small-sample factor.

    J = Γ(df / 2) / (√(df / 2) · Γ((df − 1) / 2)), df = n − 1 (Hedges 1981). s is the deviation of the paired
    differences over seeds. Not defined with two seeds, or where all differences are equal.
    """
    row = np.asarray(differences, dtype=np.float64).ravel()
    n = len(row)
    if n < 3:
        reason = f"not computed: {_count(n, 'seeds')}; 3 are needed"
        return NotComputed(question="Q2", n=n, unit="seeds", reason=reason)
    if isinstance(spread := _spread(row), NotComputed):
        return spread
    df = n - 1
    factor = math.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / math.sqrt(df / 2)
    return factor * t_interval(row).mean / spread


def probability_of_improvement(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the share of pairs (one run of each method) that the first wins, ties counted half.

    The Mann–Whitney statistic over n · m (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").
    Higher values win.

    Examples
    --------
    >>> round(probability_of_improvement([0.8, 0.9, 0.7], [0.6, 0.85, 0.5]) * 9)
    7
    """
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    signs = np.sign(np.round(ours[:, None] - theirs[None, :], DIGITS))
    return float((signs.mean() + 1) / 2)


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Return p adjusted by Holm's step-down procedure, in the order given.

    The i-th smallest of m is multiplied by m − i + 1; then each is at least the one before it, and at most one
    (Holm 1979). Holds the family-wise error under any dependence.

    Examples
    --------
    >>> [round(p, 12) for p in holm([0.01, 0.02, 0.03, 0.04, 0.05])]
    [0.05, 0.08, 0.09, 0.09, 0.09]
    """
    raw = _probabilities(p)
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return tuple(float(value) for value in adjusted)


def benjamini_hochberg(p: Sequence[float]) -> tuple[float, ...]:
    """Return p adjusted for the false discovery rate, in the order given: for what is labelled exploratory.

    Benjamini and Hochberg 1995; valid for independent or positively dependent tests.
    """
    raw = _probabilities(p)
    return tuple(float(value) for value in false_discovery_control(raw, method="bh")) if len(raw) else ()


def compare(paired: Paired, margin: float, comparisons: int = 1, alpha: float = ALPHA) -> Comparison:
    """Return all that is said about two methods: over the fixed tasks, and on each.

    Parameters
    ----------
    paired : Paired
        Two methods on the same cells.
    margin : float, > 0
        Largest difference that counts as none, in the unit of the metric.
    comparisons : int, >= 1
        m; with one, ``p_holm`` is p.
    alpha : float
        Level of the intervals (1 − alpha), of the family and of the detectable difference.
    """
    differences = paired.differences
    by_seed = differences.mean(axis=0)
    flipped = sign_flip(differences, "cells", alpha)
    equal = equivalence(by_seed, margin)
    return Comparison(
        question="Q2",
        n=differences.size,
        unit="cells",
        method=paired.method,
        reference=paired.reference,
        comparisons=comparisons,
        difference=t_interval(by_seed, 1 - alpha),
        sign_flip=flipped,
        p_holm=flipped if isinstance(flipped, NotComputed) else flipped.p,
        equivalence=equal,
        p_equivalence_holm=equal if isinstance(equal, NotComputed) else equal.p,
        detectable=_detectable(by_seed, comparisons, alpha),
        tasks=tuple(_on_task(paired, index, comparisons, alpha) for index in range(len(paired.tasks))),
    )


def against_reference(
    grid: Grid, reference: str, margin: float, methods: Sequence[str] | None = None, alpha: float = ALPHA
) -> tuple[Comparison, ...]:
    """Compare every method with a reference that was fixed in advance; Holm over these k − 1 comparisons.

    Equivalence is adjusted over those comparisons where it was computed, in a family of its own.

    Parameters
    ----------
    grid : Grid
        The board's primary metric.
    reference : str
        Its name. A leader that the data chose is no reference: see `top_group`.
    margin, alpha
        As in `compare`.
    methods : sequence of str, optional
        Those to compare, if not all others.
    """
    names = [name for name in (grid.methods if methods is None else methods) if name != reference]
    found = [compare(grid.paired(name, reference), margin, len(names), alpha) for name in names]
    tested = [i for i, c in enumerate(found) if isinstance(c.sign_flip, SignFlip)]
    for i, p in zip(tested, holm([_p(found[i].sign_flip) for i in tested]), strict=True):
        found[i] = replace(found[i], p_holm=p)
    tested = [i for i, c in enumerate(found) if isinstance(c.equivalence, Equivalence)]
    for i, p in zip(tested, holm([_p(found[i].equivalence) for i in tested]), strict=True):
        found[i] = replace(found[i], p_equivalence_holm=p)
    return tuple(found)


def _on_task(paired: Paired, index: int, comparisons: int, alpha: float) -> TaskComparison:
    row, sides = paired.differences[index], (paired.values[index], paired.baseline[index])
    return TaskComparison(
        question="Q2",
        n=len(row),
        unit="seeds",
        task=paired.tasks[index],
        difference=t_interval(row, 1 - alpha),
        sign_flip=sign_flip(row, "seeds", alpha),
        hedges_g=hedges_g(row),
        p_improvement=probability_of_improvement(*(sides if paired.direction == "higher" else sides[::-1])),
        detectable=_detectable(row, comparisons, alpha),
    )


def _detectable(row: Floats, comparisons: int, alpha: float) -> float | NotComputed:
    spread = _spread(row)
    if isinstance(spread, NotComputed):
        return spread
    return minimum_detectable_effect(len(row), comparisons, alpha) * spread


def _spread(row: Floats) -> float | NotComputed:
    """Return the standard deviation of differences over seeds, where there is one."""
    n = len(row)
    if n < 2:
        reason = f"not computed: {_count(n, 'seeds')}; 2 are needed"
    elif (spread := float(np.std(row, ddof=1))) <= 10.0**-DIGITS:
        reason = f"not computed: the difference is {row[0]:g} at all {n} seeds, which show no spread to test against"
    else:
        return spread
    return NotComputed(question="Q2", n=n, unit="seeds", reason=reason)


def _count(n: int, unit: Unit) -> str:
    return f"{n} {unit[:-1] if n == 1 else unit}"


def _p(result: SignFlip | Equivalence | NotComputed) -> float:
    assert not isinstance(result, NotComputed)
    return result.p


def _probabilities(p: Sequence[float]) -> Floats:
    raw = np.asarray(p, dtype=np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p must be between 0 and 1; got {list(p)}")
    return raw
