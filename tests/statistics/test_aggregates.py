"""Aggregates over many tasks, against the definitions of Agarwal et al. 2021."""

import numpy as np
import pytest

from fedbench.statistics import NotComputed, PairingError, aggregate, imputed_mean, performance_profiles
from fedbench.statistics.aggregates import iqm, optimality_gap

SCORES = np.arange(1, 10).reshape(3, 3) / 10
SOURCES = {f"task{t}": f"source{t}" for t in range(8)}


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_definitions():
    assert iqm(SCORES) == pytest.approx(0.5)
    assert iqm([0, 0, 0.4, 0.5, 0.6, 1, 1, 1]) == pytest.approx(0.625)
    assert optimality_gap(SCORES) == pytest.approx(0.5)
    assert optimality_gap([0.5, 2.0]) == 0.25  # nothing for being beyond the target


def test_one_outlier_moves_the_mean_alone():
    assert iqm([0.1, 0.5, 0.5, 0.9]) == iqm([-100, 0.5, 0.5, 0.9])


@pytest.fixture
def grid(make_grid):
    return make_grid({"a": 0.7 + 0.01 * noise(0, 8, 10), "b": np.full((8, 10), 0.25)})


def test_all_three(grid):
    found = {(r.method, r.name): r for r in aggregate(grid, SOURCES)}
    cells = grid.values[0]
    assert found["a", "mean"].value == pytest.approx(cells.mean())
    assert found["a", "iqm"].value == pytest.approx(np.sort(cells.ravel())[20:60].mean())
    assert found["a", "optimality gap"].value == pytest.approx(1 - cells.mean())
    assert {(r.question, r.n, r.unit) for r in found.values()} == {("Q2", 80, "cells")}
    for result in found.values():
        assert result.interval[0] <= result.value <= result.interval[1]
    assert found["b", "iqm"].interval == (0.25, 0.25)


def test_width_of_the_interval(make_grid):
    """Normal cells: the mean of 80 has an error of 0.1 / √80; the bootstrap's is √(9 / 10) of it; ± 1.96."""
    table = 0.1 * noise(1, 8, 10) + np.arange(8)[:, None]  # tasks differ, and are fixed
    low, high = aggregate(make_grid({"a": table}), SOURCES)[0].interval
    within = np.sqrt(np.var(table, axis=1).mean() / 80)
    assert (high - low) / (2 * 1.96 * within) == pytest.approx(1, abs=0.03)


def test_intervals_need_ten_seeds(make_grid):
    for result in aggregate(make_grid({"a": noise(0, 8, 9)}), SOURCES):
        assert str(result.interval) == "not computed: 9 seeds; 10 are needed"
        assert result.interval.n == 9
    (profile,) = performance_profiles(make_grid({"a": noise(0, 8, 9)}), SOURCES, [0.0])
    assert isinstance(profile.band, NotComputed)


@pytest.mark.parametrize("function", [aggregate, lambda grid, sources: performance_profiles(grid, sources, [0.5])])
def test_eight_sources_are_needed(make_grid, function):
    found = function(make_grid({"a": noise(0, 8, 10)}), {**SOURCES, "task7": "source0"})
    assert str(found) == "not computed: 7 independent sources; 8 are needed"
    assert found.question == "Q2"


def test_no_gap_where_lower_is_better(make_grid):
    assert {r.name for r in aggregate(make_grid({"a": noise(0, 8, 3)}, "lower"), SOURCES)} == {"mean", "iqm"}


def test_profile_counts_cells(make_grid):
    table = np.repeat(np.arange(1, 9)[:, None] / 10, 10, axis=1)  # task t has 0.1 (t + 1) at every seed
    (found,) = performance_profiles(make_grid({"a": table}), SOURCES, [0.0, 0.1, 0.35, 0.8])
    assert found.shares.tolist() == [1, 7 / 8, 5 / 8, 0]
    assert found.band.tolist() == [found.shares.tolist()] * 2
    assert (found.question, found.n, found.unit, found.method) == ("Q2", 80, "cells", "a")
    (found,) = performance_profiles(make_grid({"a": table}, "lower"), SOURCES, [0.1, 0.35, 0.9])
    assert found.shares.tolist() == [0, 3 / 8, 1]


def test_profile_falls_and_its_area_is_the_mean(grid):
    """Scores lie in [0, 1]: the area under the share of cells above τ is their mean."""
    levels = (np.arange(200) + 0.5) / 200
    found = performance_profiles(grid, SOURCES, levels)[0]
    assert np.all(np.diff(found.shares) <= 0)
    assert found.shares.mean() == pytest.approx(grid.values[0].mean(), abs=4e-3)
    assert np.all((found.band[0] <= found.shares) & (found.shares <= found.band[1]))


class TestImputedMean:
    def test_by_hand(self):
        found = imputed_mean({("a", 0): 0.8, ("a", 1): None, ("b", 0): 0.6, ("b", 1): 0.4}, {"a": 0.2})
        assert found.value == pytest.approx((0.5 + 0.5) / 2)
        assert found.imputed == (("a", 1),)
        assert (found.question, found.n, found.unit) == ("Q2", 3, "cells")

    def test_nothing_is_missing(self):
        assert imputed_mean({("a", 0): 0.8}, {}).imputed == ()

    def test_refusals(self):
        with pytest.raises(PairingError, match="no fill value for b"):
            imputed_mean({("a", 0): 0.8, ("b", 0): None}, {"a": 0.1})
        with pytest.raises(PairingError, match="no cell was measured"):
            imputed_mean({("a", 0): None}, {"a": 0.1})
