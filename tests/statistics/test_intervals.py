import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedbench.statistics import Interval, t_interval

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


def test_by_hand():
    # mean of 0.70 0.80 0.90 is 0.80, s = 0.10, t(0.975; 2) = 4.3027: half-width 4.3027 * 0.10 / sqrt(3) = 0.2484
    interval = t_interval([0.70, 0.80, 0.90])
    assert interval.mean == pytest.approx(0.80)
    assert interval.low == pytest.approx(0.80 - 0.2484, abs=5e-5)
    assert interval.high == pytest.approx(0.80 + 0.2484, abs=5e-5)
    assert interval.n == 3


@pytest.mark.parametrize(("n", "width"), [(3, 2.48), (5, 1.24), (10, 0.72)])
def test_half_width_in_standard_deviations(n, width):
    data = np.random.default_rng(n).normal(size=n)
    interval = t_interval(data)
    assert (interval.high - interval.mean) / data.std(ddof=1) == pytest.approx(width, abs=5e-3)


@given(values, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_like_scipy(data, level):
    interval = t_interval(data, level)
    spread = np.std(data, ddof=1)
    if spread > 1e-9 * max(map(abs, data)):  # scipy has NaN for equal values
        low, high = stats.t.interval(level, len(data) - 1, loc=np.mean(data), scale=spread / math.sqrt(len(data)))
        tolerance = 1e-9 * max(map(abs, data))
        assert interval.low == pytest.approx(low, rel=1e-9, abs=tolerance)
        assert interval.high == pytest.approx(high, rel=1e-9, abs=tolerance)


@given(values.flatmap(lambda data: st.tuples(st.just(data), st.permutations(data))))
def test_order_changes_no_bit(pair):
    assert t_interval(pair[0]) == t_interval(pair[1])


@given(values)
def test_wider_at_a_higher_level(data):
    narrow, wide = t_interval(data, 0.9), t_interval(data, 0.95)
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high


@given(st.floats(-1e6, 1e6), st.integers(2, 10))
def test_equal_values_have_no_width(value, n):
    assert t_interval([value] * n) == Interval(value, value, value, n)


def test_one_seed_has_no_interval():
    assert t_interval([0.8]) == Interval(0.8, None, None, 1)


def test_coverage():
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(size=3)) for _ in range(2000)]
    assert np.mean([i.low <= 0 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("bad", [[], [math.nan], [0.5, math.nan, 0.6], [0.5, math.inf]])
def test_refuses_what_is_not_defined(bad):
    with pytest.raises(ValueError, match="an interval needs"):
        t_interval(bad)


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, math.nan])
def test_refuses_a_level_that_is_no_share(level):
    with pytest.raises(ValueError, match="level"):
        t_interval([1.0, 2.0], level)
