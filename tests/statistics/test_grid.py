"""What may be compared: no hole, no NaN, no cell with other draws."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fedbench.schema import SeedIds
from fedbench.statistics import Grid, PairingError, Value, whole_methods


@pytest.fixture
def results(make_results):
    return make_results({"fedavg": [[0.5, 0.6], [0.7, 0.8]], "fedkper": [[0.6, 0.6], [0.7, 0.9]]}, ["organc", "blood"])


def test_values_by_name(results):
    grid = Grid.of(results)
    assert (grid.methods, grid.tasks, grid.seeds) == (("fedavg", "fedkper"), ("blood", "organc"), (0, 1))
    assert grid.values.tolist() == [[[0.7, 0.8], [0.5, 0.6]], [[0.7, 0.9], [0.6, 0.6]]]
    assert grid.scores.tolist() == [0.65, 0.7]
    assert grid.paired("fedkper", "fedavg").differences.tolist() == [[0.0, 0.1], [0.1, 0.0]]


def test_differences_of_fractions_tie():
    ids = dict.fromkeys(("partition", "init", "schedule", "order"), "x")
    grid = Grid.of({"a": {("t", 0): Value(0.3, ids)}, "b": {("t", 0): Value(0.2, ids)}})
    assert 0.3 - 0.2 != 0.1
    assert grid.paired("a", "b").differences.tolist() == [[0.1]]


def test_a_missing_cell_is_named(results):
    del results["fedkper"]["blood", 1]
    with pytest.raises(PairingError, match=r"missing: blood/fedkper/seed-1; run the suite again"):
        Grid.of(results)


def test_a_cell_that_nobody_has_is_seen_from_the_plan(results):
    with pytest.raises(PairingError, match=r"missing: blood/fedavg/seed-2, organc/fedavg/seed-2, .*fedkper"):
        Grid.of(results, planned=[("blood", 2)])


def test_a_seed_that_one_task_lacks_is_a_hole(results):
    for cells in results.values():
        del cells["organc", 0]
    with pytest.raises(PairingError, match="missing: organc/fedavg/seed-0, organc/fedkper/seed-0"):
        Grid.of(results)


def test_many_missing_cells_are_counted(results):
    with pytest.raises(PairingError, match="and 15 more"):
        Grid.of(results, planned=[("blood", seed) for seed in range(7)])


@pytest.mark.parametrize("name", SeedIds.model_fields)
def test_another_draw_is_refused(results, name):
    cell = results["fedkper"]["blood", 1]
    results["fedkper"]["blood", 1] = replace(cell, ids={**cell.ids, name: "other"})
    with pytest.raises(PairingError, match=f"blood/fedkper/seed-1 is not paired with fedavg: {name} differs"):
        Grid.of(results)


def test_all_differing_ids_are_named_even_those_of_the_caller(results):
    cell = results["fedkper"]["organc", 0]
    results["fedkper"]["organc", 0] = replace(cell, ids={**cell.ids, "order": "other", "device": "cuda"})
    with pytest.raises(PairingError, match="organc/fedkper/seed-0 is not paired with fedavg: device and order differ"):
        Grid.of(results)


def test_a_cell_without_an_id_is_not_taken_for_equal(results):
    for cells in results.values():
        cells["blood", 0] = replace(cells["blood", 0], ids={"partition": "p", "init": "i", "order": "o"})
    with pytest.raises(PairingError, match="blood/fedavg/seed-0 carries no schedule id"):
        Grid.of(results)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(results, bad):
    results["fedkper"]["blood", 0] = replace(results["fedkper"]["blood", 0], value=bad)
    with pytest.raises(PairingError, match=r"blood/fedkper/seed-0: the value is (nan|inf)"):
        Grid.of(results)


def test_nothing_to_compare():
    with pytest.raises(PairingError, match="no cell"):
        Grid.of({})
    with pytest.raises(PairingError, match="no cell"):
        Grid.of({"fedavg": {}})


def test_an_unknown_method(results):
    with pytest.raises(PairingError, match="no method 'fedprox'"):
        Grid.of(results).paired("fedprox", "fedavg")


def test_a_method_with_a_hole_is_set_apart_and_flagged(results):
    del results["fedkper"]["organc", 0]
    whole, excluded = whole_methods(results)
    assert list(whole) == ["fedavg"]
    assert excluded == {"fedkper": "in no test: organc/fedkper/seed-0 missing"}
    assert Grid.of(whole).values.shape == (1, 2, 2)


def test_order_of_reading_changes_nothing(results):
    backwards = {name: dict(reversed(cells.items())) for name, cells in reversed(results.items())}
    ours, theirs = Grid.of(results), Grid.of(backwards)
    assert (ours.methods, ours.tasks, ours.seeds) == (theirs.methods, theirs.tasks, theirs.seeds)
    assert np.array_equal(ours.values, theirs.values)
