"""Rank tests over independent sources (Q3): Friedman, Iman–Davenport, Wilcoxon with Holm, Nemenyi's diagram.

Source: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006. Functions of a `Sources`
have passed its condition; functions of plain arrays are the arithmetic below them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, fdtrc, ndtri
from scipy.stats import rankdata, studentized_range

from fedbench.seeds import Streams
from fedbench.statistics.comparisons import DRAWS, holm, sign_flip_p
from fedbench.statistics.grid import DIGITS, Direction, Floats
from fedbench.statistics.planning import ALPHA
from fedbench.statistics.result import Result
from fedbench.statistics.sources import Sources

FEW = 10
"""Below so many sources the chi-square approximation is accompanied by a permutation test."""

_ALL = 2**18  # arrangements that are visited one by one; beyond, `DRAWS` are drawn
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Friedman(Result):
    """Result of `friedman`; n counts sources.

    Parameters
    ----------
    mean_ranks : tuple of float
        One a method, 1 the best.
    chi2, p : float
        With tie correction, k − 1 degrees of freedom.
    chi2_uncorrected : float
        As Demšar prints it; the same without ties.
    f, p_f : float
        Iman–Davenport, from the uncorrected one as in Demšar, (k − 1, (k − 1)(n − 1)) degrees of freedom.
    p_permutation : float or None
        By permutation within sources; None for ten sources or more.
    """

    mean_ranks: tuple[float, ...]
    chi2: float
    p: float
    chi2_uncorrected: float
    f: float
    p_f: float
    p_permutation: float | None


@dataclass(frozen=True, kw_only=True)
class Wilcoxon(Result):
    """Result of `wilcoxon`; n counts sources.

    Parameters
    ----------
    r_plus, r_minus : float
        Sums of the ranks of positive and of negative differences, those of zeros halved.
    z : float
        The smaller sum standardised, with tie correction; for reference, p is not taken from it.
    p : float
        Two-sided, from the permutation distribution of the ranks at hand.
    """

    r_plus: float
    r_minus: float
    z: float
    p: float


@dataclass(frozen=True, kw_only=True)
class PostHoc(Wilcoxon):
    """One pair of `pairwise_wilcoxon`.

    Parameters
    ----------
    pair : (str, str)
        Differences are the first minus the second.
    p_holm : float
        Adjusted over all pairs.
    """

    pair: tuple[str, str]
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class Diagram(Result):
    """What a critical-difference diagram draws; n counts sources.

    Parameters
    ----------
    mean_ranks : tuple of (str, float)
        Methods from the best to the worst mean rank, ties by name.
    critical_difference : float
        Nemenyi's.
    bars : tuple of tuples of str
        Groups that are joined by a bar, from left to right.
    """

    mean_ranks: tuple[tuple[str, float], ...]
    critical_difference: float
    bars: tuple[tuple[str, ...], ...]


def rank_rows(scores: npt.ArrayLike, direction: Direction = "higher") -> Floats:
    """Return ranks within each row of (N, k), 1 the best, ties averaged; scores are first rounded to 12 decimals."""
    table = np.round(np.atleast_2d(np.asarray(scores, dtype=np.float64)), DIGITS)
    ranked: Floats = rankdata(-table if direction == "higher" else table, axis=1)
    return ranked


def friedman(sources: Sources) -> Friedman:
    """Return the Friedman test of "all methods are alike on a new source"."""
    return friedman_of_ranks(rank_rows(sources.scores, sources.direction))


def friedman_of_ranks(ranks: npt.ArrayLike) -> Friedman:
    """Return the Friedman test of given ranks.

    χ² = 12 n / (k (k + 1)) · Σ_j (R_j − (k + 1) / 2)², divided by 1 − Σ (t³ − t) / (n k (k² − 1)) over groups of t ties
    in a row; F = (n − 1) χ² / (n (k − 1) − χ²) of the undivided one (Iman and Davenport 1980). Where all rows are tied
    throughout, both are 0.

    Parameters
    ----------
    ranks : array of shape (n, k), n >= 2, k >= 2
        Ranks within rows, ties averaged. Ranks, not scores: ties that a table's rounding makes change χ².
    """
    table = np.asarray(ranks, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"Friedman's test needs two rows and two methods or more; got shape {table.shape}")
    n, k = table.shape
    if not np.allclose(table.sum(axis=1), k * (k + 1) / 2):
        raise ValueError(f"each row must hold ranks that add up to {k * (k + 1) / 2:g}; use rank_rows for scores")
    means = table.mean(axis=0)
    plain = 12 * n / (k * (k + 1)) * float(((means - (k + 1) / 2) ** 2).sum())
    tied = sum(int(t) ** 3 - int(t) for row in table for t in np.unique(row, return_counts=True)[1])
    correction = 1 - tied / (n * k * (k * k - 1))
    chi2 = plain / correction if correction > 0 else 0.0
    rest = n * (k - 1) - plain
    f = (n - 1) * plain / rest if rest > 1e-9 else math.inf
    return Friedman(
        question="Q3",
        n=n,
        unit="independent sources",
        mean_ranks=tuple(float(mean) for mean in means),
        chi2=chi2,
        p=float(chdtrc(k - 1, chi2)),
        chi2_uncorrected=plain,
        f=f,
        p_f=float(fdtrc(k - 1, (k - 1) * (n - 1), f)),
        p_permutation=friedman_permutation_p(table) if n < FEW else None,
    )


def friedman_permutation_p(ranks: npt.ArrayLike) -> float:
    """Return the share of arrangements within rows whose rank sums are at least as far apart as the observed ones.

    All (k!)ⁿ⁻¹ (the first row may stay) where that is at most 2¹⁸; else 99,999 drawn ones, with the observed one
    counted. Cost: 2¹⁸ · k, or 10⁵ · n · k. Ranks are multiples of 1/2, so ties are exact.

    Examples
    --------
    >>> round(friedman_permutation_p([[1, 2, 3]] * 3) * 36, 9)
    1.0
    """
    table = np.asarray(ranks, dtype=np.float64)
    n, k = table.shape
    observed = float((table.sum(axis=0) ** 2).sum())
    if math.factorial(k) ** (n - 1) <= _ALL:
        sums = table[:1]
        for row in table[1:]:
            sums = (sums[:, None] + np.array(list(permutations(row)))[None]).reshape(-1, k)
        return float(((sums**2).sum(axis=1) >= observed).mean())
    rng, hits = Streams(0).rng("friedman", sources=n, methods=k), 1
    for start in range(0, DRAWS, _BLOCK):
        block = np.broadcast_to(table, (min(_BLOCK, DRAWS - start), n, k))
        sums = rng.permuted(block, axis=2).sum(axis=1)
        hits += int(((sums**2).sum(axis=1) >= observed).sum())
    return hits / (DRAWS + 1)


def wilcoxon(differences: npt.ArrayLike) -> Wilcoxon:
    """Return Wilcoxon's signed-rank test, zeros split between both sides.

    p comes from flipping the signs of the ranks at hand, so it is exact with ties and zeros for n ≤ 18, and drawn
    beyond (see `sign_flip_p`). z = (min(R⁺, R⁻) − n (n + 1) / 4) / √(n (n + 1)(2 n + 1) / 24 − Σ (t³ − t) / 48).

    Parameters
    ----------
    differences : array of shape (n,)
        One an independent source.
    """
    row = np.round(np.asarray(differences, dtype=np.float64).ravel(), DIGITS)
    n, ranks = len(row), rankdata(np.abs(row))
    zeros = ranks[row == 0].sum() / 2
    plus, minus = float(ranks[row > 0].sum() + zeros), float(ranks[row < 0].sum() + zeros)
    tied = sum(int(t) ** 3 - int(t) for t in np.unique(ranks, return_counts=True)[1])
    variance = n * (n + 1) * (2 * n + 1) / 24 - tied / 48
    z = (min(plus, minus) - n * (n + 1) / 4) / math.sqrt(variance)
    p = float(sign_flip_p(np.sign(row) * ranks)[0])
    return Wilcoxon(question="Q3", n=n, unit="independent sources", r_plus=plus, r_minus=minus, z=z, p=p)


def pairwise_wilcoxon(sources: Sources) -> tuple[PostHoc, ...]:
    """Return Wilcoxon's test of every pair, with Holm over all pairs: the primary post-hoc.

    Unlike those on mean ranks, its answer about two methods does not depend on which others are in the table
    (Benavoli, Corani and Mangili, JMLR 17, 2016).
    """
    pairs = list(combinations(sources.methods, 2))
    found = [wilcoxon(sources.differences(*pair)) for pair in pairs]
    adjusted = holm([result.p for result in found])
    return tuple(
        PostHoc(**vars(result), pair=pair, p_holm=p) for result, pair, p in zip(found, pairs, adjusted, strict=True)
    )


def rank_error(k: int, n: int) -> float:
    """Return √(k (k + 1) / (6 n)), the standard error of the difference of two mean ranks."""
    return math.sqrt(k * (k + 1) / (6 * n))


def nemenyi_difference(k: int, n: int, alpha: float = ALPHA) -> float:
    """Return Nemenyi's critical difference of mean ranks, for all pairs of k methods on n sources.

    q · `rank_error`, q the 1 − alpha quantile of the studentised range of k normals over √2.

    Examples
    --------
    >>> round(nemenyi_difference(4, 14), 3)
    1.254
    """
    return float(studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2) * rank_error(k, n)


def bonferroni_dunn_difference(k: int, n: int, alpha: float = ALPHA) -> float:
    """Return the critical difference of mean ranks to one control: the 1 − alpha / (2 (k − 1)) normal quantile."""
    return -float(ndtri(alpha / (2 * (k - 1)))) * rank_error(k, n)


def nemenyi_p(mean_ranks: Sequence[float], n: int) -> Floats:
    """Return Nemenyi's p of every pair, float64 (k, k) with ones on the diagonal, for k mean ranks on n sources."""
    means = np.asarray(mean_ranks, dtype=np.float64)
    gaps = np.abs(means[:, None] - means[None, :]) / rank_error(len(means), n) * math.sqrt(2)
    p: Floats = np.clip(studentized_range.sf(gaps, len(means), np.inf), 0, 1)
    return p


def diagram(sources: Sources, alpha: float = ALPHA) -> Diagram:
    """Return the critical-difference diagram of Demšar, without drawing it.

    Two methods differ if their mean ranks do by at least Nemenyi's critical difference.
    """
    means = dict(zip(sources.methods, rank_rows(sources.scores, sources.direction).mean(axis=0).tolist(), strict=True))
    return diagram_of_ranks(means, sources.n, alpha)


def diagram_of_ranks(mean_ranks: Mapping[str, float], n: int, alpha: float = ALPHA) -> Diagram:
    """Return the diagram for given mean ranks on n sources."""
    ranked = sorted(((round(rank, DIGITS), name) for name, rank in mean_ranks.items()))
    width = nemenyi_difference(len(ranked), n, alpha)
    groups = bars([name for _, name in ranked], lambda a, b: abs(mean_ranks[a] - mean_ranks[b]) >= width)
    return Diagram(
        question="Q3",
        n=n,
        unit="independent sources",
        mean_ranks=tuple((name, rank) for rank, name in ranked),
        critical_difference=width,
        bars=groups,
    )


def bars(order: Sequence[str], differ: Callable[[str, str], bool]) -> tuple[tuple[str, ...], ...]:
    """Return the bars of a diagram: maximal runs of two or more in which no pair differs.

    With mean ranks and one critical difference that is asked of a run's ends; with any other post-hoc test a run may
    hold a differing pair between its ends, and is cut there. A bar never joins two methods that differ, none lies
    inside another, and two neighbours in the order that do not differ share one.

    Parameters
    ----------
    order : sequence of str
        Methods along the axis.
    differ : function of two names
        Whether the test separates them.

    Examples
    --------
    >>> bars("abcd", lambda a, b: {a, b} in ({"a", "c"}, {"a", "d"}))
    (('a', 'b'), ('b', 'c', 'd'))
    """
    differ, found, end = cache(differ), [], 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and not any(differ(name, order[stop]) for name in order[start:stop]):
            stop += 1
        if stop > max(end, start + 1):
            found.append(tuple(order[start:stop]))
            end = stop
    return tuple(found)
