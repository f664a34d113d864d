"""Two concrete models on one test set (Q1): it says nothing about their methods, or about another seed.

Test samples are treated as independent; where several images come from one patient, p is too small and intervals are
too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from fedbench.outcome import Bits
from fedbench.seeds import Streams
from fedbench.statistics.grid import PairingError
from fedbench.statistics.result import Result
from fedbench.statistics.standings import ENOUGH_SEEDS, RESAMPLES


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model got right.

    Parameters
    ----------
    ids : int64 (N,)
        ``test_ids`` of the record.
    right : bool (N,)
        Whether the model was right on each.
    """

    ids: npt.NDArray[np.int64]
    right: Bits


@dataclass(frozen=True, kw_only=True)
class McNemar(Result):
    """Result of `mcnemar`; n counts test samples.

    Parameters
    ----------
    only_first, only_second : int
        b and c: samples that one model alone got right.
    p : float
        Exact, two-sided.
    chi2, chi2_corrected : float
        (b − c)² / (b + c), and (abs(b − c) − 1)² / (b + c), for reference; 0 without discordant samples.
    """

    only_first: int
    only_second: int
    p: float
    chi2: float
    chi2_corrected: float


@dataclass(frozen=True, kw_only=True)
class CrossedBootstrap(Result):
    """Result of `crossed_bootstrap`; n counts test samples.

    Parameters
    ----------
    seeds : int
        S.
    difference : float
        Accuracy of the first minus that of the second, a fraction.
    low, high : float
        Percentile interval.
    descriptive : bool
        Whether several, but fewer than ten, seeds were resampled: it covers less than it says.
    """

    seeds: int
    difference: float
    low: float
    high: float
    descriptive: bool


def mcnemar(first: Answers, second: Answers) -> McNemar:
    """Return McNemar's exact test of two models: binomial, min(b, c) of b + c at one half.

    For one seed; discordant samples of several seeds are never pooled. Without any, p is 1.

    Parameters
    ----------
    first, second : Answers
        On the same test samples, in the same order.

    Raises
    ------
    PairingError
        The test samples differ.
    """
    _check([first, second])
    b, c = int((first.right & ~second.right).sum()), int((second.right & ~first.right).sum())
    n, gap = b + c, abs(b - c)
    return McNemar(
        question="Q1",
        n=len(first.ids),
        unit="test samples",
        only_first=b,
        only_second=c,
        p=float(binomtest(min(b, c), n).pvalue) if n else 1.0,
        chi2=gap**2 / n if n else 0.0,
        chi2_corrected=max(gap - 1, 0) ** 2 / n if n else 0.0,
    )


def crossed_bootstrap(first: Sequence[Answers], second: Sequence[Answers], level: float = 0.95) -> CrossedBootstrap:
    """Return the difference of accuracy with an interval over seeds and test samples.

    9,999 times seeds are resampled, then test samples, the same for both models and all seeds. Samples on which all
    seeds give the same differences are interchangeable, so counts of such patterns are drawn instead of samples.
    Cost: 10⁴ · min(N, 3ˢ) draws.

    Parameters
    ----------
    first, second : sequence of Answers
        One a seed, in the same order of seeds; all on the same test samples.
    level : float, between 0 and 1
        Share of resamples between low and high.

    Raises
    ------
    PairingError
        The test samples or the numbers of seeds differ.
    """
    if len(first) != len(second) or not first:
        raise PairingError(f"one model a seed is needed on each side; got {len(first)} and {len(second)}.")
    _check([*first, *second])
    gains = [a.right.astype(np.int64) - b.right.astype(np.int64) for a, b in zip(first, second, strict=True)]
    patterns, counts = np.unique(np.stack(gains), axis=1, return_counts=True)
    seeds, n = len(first), int(counts.sum())
    rng = Streams(0).rng("crossed", seeds=seeds, samples=n)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    of_samples = rng.multinomial(n, counts / n, size=RESAMPLES) / n
    drawn = ((of_seeds @ patterns) * of_samples).sum(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return CrossedBootstrap(
        question="Q1",
        n=n,
        unit="test samples",
        seeds=seeds,
        difference=float((patterns @ counts).sum() / (n * seeds)),
        low=float(low),
        high=float(high),
        descriptive=1 < seeds < ENOUGH_SEEDS,
    )


def _check(answers: Sequence[Answers]) -> None:
    ids = answers[0].ids
    if not len(ids):
        raise PairingError("there is no test sample to compare models on.")
    for other in answers:
        if len(other.right) != len(other.ids):
            raise PairingError(f"{len(other.ids)} test samples have {len(other.right)} answers; the record is corrupt.")
        if not np.array_equal(ids, other.ids):
            raise PairingError("the models were not tested on the same samples in the same order; compare one task.")
