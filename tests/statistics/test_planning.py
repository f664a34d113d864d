"""Power, against published numbers (statsmodels' TTestPower) and a simulation."""

import numpy as np
import pytest
from scipy import stats

from fedbench.statistics import minimum_detectable_effect, power, required_cells, required_seeds


@pytest.mark.parametrize(
    ("n", "effect"), [(3, 3.264044), (4, 2.127949), (5, 1.681997), (6, 1.434545), (10, 0.996002), (20, 0.660442)]
)
def test_like_statsmodels(n, effect):
    assert minimum_detectable_effect(n) == pytest.approx(effect, abs=2e-6)


@pytest.mark.parametrize(("n", "effect"), [(3, 8.66), (5, 2.87), (10, 1.41), (20, 0.87)])
def test_after_correction_for_seven(n, effect):
    assert minimum_detectable_effect(n, comparisons=7) == pytest.approx(effect, abs=5e-3)


@pytest.mark.parametrize(("effect", "alone", "of_seven"), [(1, 10, 17), (1.5, 6, 10), (2, 5, 7), (3, 4, 5)])
def test_required_seeds(effect, alone, of_seven):
    assert required_seeds(effect) == alone
    assert required_seeds(effect, comparisons=7) == of_seven


def test_both_directions_agree():
    for n in (2, 4, 9, 33):
        assert required_seeds(minimum_detectable_effect(n, 3) * 1.0001, 3) == n


@pytest.mark.parametrize(("effect", "n", "alpha"), [(0, 3, 0.05), (1, 10, 0.05), (0.3, 20, 0.05 / 11), (2, 5, 0.01)])
def test_like_the_noncentral_t(effect, n, alpha):
    critical, shift = stats.t.isf(alpha / 2, n - 1), effect * np.sqrt(n)
    both = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power(effect, n, alpha) == pytest.approx(both, abs=1e-8)


def test_like_a_simulation_where_scipy_has_nan():
    draws = np.random.default_rng(0).normal(6.0, 1.0, (100_000, 3))
    p = stats.ttest_1samp(draws, 0, axis=1).pvalue
    assert power(6.0, 3, 0.05 / 7) == pytest.approx((p < 0.05 / 7).mean(), abs=0.006)


def test_a_huge_effect_is_found():
    assert power(1000, 2, 0.001) == pytest.approx(1, abs=0.05)
    assert power(50, 20, 0.05) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("comparisons", "cells"), [(1, 6), (7, 9), (66, 12)])
def test_cells_of_an_exact_test(comparisons, cells):
    assert required_cells(comparisons) == cells
    assert 2 / 2**cells <= 0.05 / comparisons < 2 / 2 ** (cells - 1)


def test_refusals():
    with pytest.raises(ValueError, match="two pairs"):
        minimum_detectable_effect(1)
    with pytest.raises(ValueError, match="at least one comparison"):
        minimum_detectable_effect(5, comparisons=0)
    with pytest.raises(ValueError, match="effect"):
        required_seeds(0)
    with pytest.raises(ValueError, match="alpha"):
        required_seeds(1, alpha=0.9)
    with pytest.raises(ValueError, match="alpha"):
        power(1, 5, 0)
