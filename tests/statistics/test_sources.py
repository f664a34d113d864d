"""The condition of all statements about a new task."""

import numpy as np
import pytest
from scipy import stats

from fedbench.statistics import NotComputed, PairingError, Sources, by_source


@pytest.fixture
def grid(make_grid):
    tables = {name: np.random.default_rng(i).normal(size=(9, 3)) for i, name in enumerate("ab")}
    return make_grid(tables)


def test_three_tasks_of_two_sources(make_grid):
    grid = make_grid({"a": np.ones((3, 3)), "b": np.zeros((3, 3))}, tasks=["blood", "organc", "organs"])
    found = by_source(grid, {"blood": "Blood", "organc": "Organ", "organs": "Organ"})
    assert isinstance(found, NotComputed)
    assert str(found) == "not computed: 2 independent sources; 8 are needed"
    assert (found.question, found.n, found.unit) == ("Q3", 2, "independent sources")


def test_one_source_is_singular(make_grid):
    assert (
        str(by_source(make_grid({"a": [[1, 2]]}), {"task0": "x"})) == "not computed: 1 independent source; 8 are needed"
    )


def test_views_of_one_source_are_averaged(grid):
    sources = {name: name for name in grid.tasks} | {"task8": "task0"}
    found = by_source(grid, sources)
    assert isinstance(found, Sources)
    assert (found.n, found.question, found.names) == (8, "Q3", grid.tasks[:8])
    assert found.scores[0] == pytest.approx(grid.values[:, [0, 8]].mean(axis=(1, 2)))
    assert found.scores[1:] == pytest.approx(grid.values[:, 1:8].mean(axis=2).T)
    assert found.differences("a", "b") == pytest.approx(found.scores[:, 0] - found.scores[:, 1])


def test_seven_sources_of_nine_tasks_are_too_few(grid):
    sources = {name: name for name in grid.tasks} | {"task8": "task0", "task7": "task0"}
    assert by_source(grid, sources).n == 7


def test_a_task_without_a_source_is_named(grid):
    with pytest.raises(PairingError, match="no source is named for task3"):
        by_source(grid, {name: name for name in grid.tasks if name != "task3"})


def test_pooled_cells_would_reject_too_often(make_grid):
    """Spread between tasks twice that within, no difference on average: t of cells errs in 30 %, of sources in 5."""
    rng, pooled, ours = np.random.default_rng(0), [], []
    for _ in range(400):
        table = 2 * rng.normal(size=(8, 1)) + rng.normal(size=(8, 3))
        found = by_source(make_grid({"a": table, "b": 0 * table}), {f"task{t}": str(t) for t in range(8)})
        pooled.append(stats.ttest_1samp(table.ravel(), 0).pvalue <= 0.05)
        ours.append(stats.ttest_1samp(found.differences("a", "b"), 0).pvalue <= 0.05)
    assert np.mean(ours) == pytest.approx(0.05, abs=0.03)
    assert np.mean(pooled) > 0.2
