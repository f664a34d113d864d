"""Student's interval for a mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# The standard library's mean and deviation are correctly rounded: neither the order of the seeds nor the
# machine can change a digit, and equal values have a deviation of exactly zero.
from statistics import mean, stdev

from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Parameters
    ----------
    mean : float
        Arithmetic mean, in the unit of the values.
    low, high : float or None
        Ends of the interval; None where there is one value: one seed has no interval.
    n : int
        Number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def t_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Return mean ± t · s / √n, Student's interval for the mean of n independent values.

    t is the (1 + level) / 2 quantile of Student's distribution with n − 1 degrees of freedom, s the sample
    standard deviation (divisor n − 1). With three seeds the half-width is 2.48 s: "mean ± s" understates it
    by 2.5 times. The ends may lie outside the range of the metric; they are not cut, so that the width can be
    read off.

    Parameters
    ----------
    values : iterable of float, n >= 1
        One value a seed, all defined and finite.
    level : float, between 0 and 1
        Share of such intervals that cover the true mean.

    Raises
    ------
    ValueError
        There is no value, a value is NaN or infinite, or the level is not strictly between 0 and 1.

    Examples
    --------
    The mean of 1, 2, 3 is 2 and s is 1; t with 2 degrees of freedom is 4.303, so the half-width is 4.303 / √3
    = 2.484.

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
    (2.0, -0.484, 4.484)
    >>> t_interval([0.8])
    Interval(mean=0.8, low=None, high=None, n=1)
    """
    data = [float(value) for value in values]
    if not data:
        raise ValueError("an interval needs at least one value; got none")
    if not all(map(math.isfinite, data)):
        raise ValueError(f"an interval needs finite values; got {data}: leave out what is not defined")
    if not 0 < level < 1:
        raise ValueError(f"the level must be strictly between 0 and 1; got {level}")
    centre, n = mean(data), len(data)
    if n == 1:
        return Interval(centre, None, None, n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * stdev(data) / math.sqrt(n)
    return Interval(centre, centre - half, centre + half, n)
