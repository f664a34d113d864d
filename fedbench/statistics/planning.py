"""What a design can resolve, before it is run: power, minimum detectable effect, required seeds.

Effects are in standard deviations of the paired difference over seeds, which is what a pilot measures: times that
deviation they are in the unit of the metric. With m comparisons the level is alpha / m, the first step of Holm.
"""

from __future__ import annotations

import math
from functools import lru_cache

from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import gammaln, ndtr, stdtrit

ALPHA = 0.05
POWER = 0.8
_FAR = 1e6  # an effect beyond this is not worth a number


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Return the probability that the two-sided paired t test with n pairs rejects.

    P(T' > c) + P(T' < -c), T' noncentral t with n − 1 degrees of freedom and noncentrality effect · √n, c the
    1 − alpha / 2 quantile of t. Given u, the ratio of estimated to true deviation, T' is normal; over u we integrate.
    (`scipy.stats.nct` has NaN at 2 degrees of freedom and small alpha.)

    Parameters
    ----------
    effect : float
        In standard deviations of the paired difference.
    n : int, >= 2
        Pairs.
    alpha : float, between 0 and 1
        Level.

    Examples
    --------
    >>> round(power(1.0, 10), 2)
    0.8
    """
    if n < 2:
        raise ValueError(f"power needs two pairs or more; got {n}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be strictly between 0 and 1; got {alpha}")
    df, shift = n - 1, abs(effect) * math.sqrt(n)
    critical = float(stdtrit(df, 1 - alpha / 2))
    constant = math.log(2) + (df / 2) * math.log(df / 2) - float(gammaln(df / 2))

    def density(u: float) -> float:  # of a chi variable divided by the root of its degrees of freedom
        return math.exp(constant + (df - 1) * math.log(u) - df * u * u / 2) if u > 0 else 0.0

    def rejects(u: float) -> float:
        return float(ndtr(shift - critical * u) + ndtr(-shift - critical * u)) * density(u)

    # Where the normal part falls from one to zero; without this, quad can step over it.
    turn = [edge for edge in ((shift - 8) / critical, shift / critical, (shift + 8) / critical) if 0 < edge < 12]
    return min(1.0, float(quad(rejects, 0, 12, points=turn or None, limit=200, epsabs=1e-10)[0]))


@lru_cache(maxsize=256)
def minimum_detectable_effect(n: int, comparisons: int = 1, alpha: float = ALPHA, power_: float = POWER) -> float:
    """Return the effect that n pairs detect with the given power at level alpha / comparisons.

    Parameters
    ----------
    n : int, >= 2
        Pairs (seeds).
    comparisons : int, >= 1
        m, the comparisons that share alpha.
    alpha, power_ : float, between 0 and 1
        Level and power.

    Returns
    -------
    float
        In standard deviations of the paired difference.

    Examples
    --------
    >>> [round(minimum_detectable_effect(n), 2) for n in (3, 5, 10)]
    [3.26, 1.68, 1.0]
    """
    _check(comparisons, alpha, power_)
    high = 1.0
    while power(high, n, alpha / comparisons) < power_:
        high *= 2
        if high > _FAR:
            raise ValueError(f"{n} pairs detect no effect below {_FAR:g} deviations over {comparisons} comparisons")
    return float(brentq(lambda effect: power(effect, n, alpha / comparisons) - power_, 0, high, xtol=1e-9))


def required_seeds(effect: float, comparisons: int = 1, alpha: float = ALPHA, power_: float = POWER) -> int:
    """Return the smallest number of pairs that detects an effect with the given power at level alpha / comparisons.

    Parameters
    ----------
    effect : float, > 0
        In standard deviations of the paired difference.
    comparisons, alpha, power_
        As in `minimum_detectable_effect`.

    Examples
    --------
    >>> required_seeds(1.0), required_seeds(1.0, comparisons=7)
    (10, 17)
    """
    _check(comparisons, alpha, power_)
    if not effect > 1e-3:
        raise ValueError(f"the effect must be at least 0.001 deviations; got {effect}")
    level, low, high = alpha / comparisons, 1, 2
    while power(effect, high, level) < power_:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, level) >= power_ else (middle, high)
    return high


def required_cells(comparisons: int = 1, alpha: float = ALPHA) -> int:
    """Return the fewest pairs with which an exact sign-flip test can reject at all: 2 / 2ⁿ ≤ alpha / comparisons.

    Examples
    --------
    >>> required_cells(), required_cells(comparisons=7), required_cells(comparisons=66)
    (6, 9, 12)
    """
    _check(comparisons, alpha, POWER)
    n = 1
    while 2 / 2**n > alpha / comparisons:
        n += 1
    return n


def _check(comparisons: int, alpha: float, power_: float) -> None:
    if comparisons < 1:
        raise ValueError(f"there must be at least one comparison; got {comparisons}")
    if not (0 < alpha < power_ < 1):
        raise ValueError(f"0 < alpha < power < 1 must hold; got alpha {alpha}, power {power_}")
