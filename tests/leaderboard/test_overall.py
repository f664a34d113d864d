"""All tasks in one table: means over tasks by hand, and holes that are named."""

import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.overall import overall as across

from fedbench.schema import Tuning


def overall(results):
    table = across(load_board(results, "demo"))
    return table, {row.label: row for row in table.all_rows}


def test_a_value_is_the_mean_over_tasks_then_over_seeds(lab):
    for seed, (one, other) in enumerate([(0.5, 0.9), (0.6, 0.8), (0.7, 0.7)]):
        lab.done("alpha", "fedavg", seed, one)
        lab.done("beta", "fedavg", seed, other)
        lab.done("alpha", "fedkper", seed, 0.8)
        lab.done("beta", "fedkper", seed, 0.8)
    table, rows = overall(lab.finish())
    # fedavg is 0.7 at every seed: its spread within a task is none between seeds.
    interval = rows["fedavg"].scores["global_accuracy_mean"].interval
    assert (interval.mean, interval.low, interval.high, interval.n) == pytest.approx((0.7, 0.7, 0.7, 3))
    assert [(row.label, row.rank) for row in table.rows] == [("fedkper", 1), ("fedavg", 2)]
    assert table.primary == "global_accuracy_mean"


def test_a_method_with_a_hole_on_one_task_has_no_value_and_says_where(demo, script):
    _, rows = overall(demo)
    assert rows["fedavg"].hole == "incomplete on beta"
    assert rows["fedprox"].hole == "incomplete on alpha; not planned on beta"
    assert rows[script].hole == "not planned on alpha"
    assert not any(row.valued or row.rank for row in rows.values())


def test_a_metric_that_one_task_does_not_define_is_not_defined_over_all(lab):
    lab.done("alpha", "fedper", 1, 0.5, models=("global", "local"))
    lab.done("beta", "fedper", 1, 0, models=("local", "personal"))
    _, rows = overall(lab.finish())
    assert rows["fedper"].scores["global_accuracy_mean"].interval is None
    assert rows["fedper"].scores["local_accuracy_mean"].interval.mean == pytest.approx(0.625)


def test_a_method_that_was_tuned_for_each_task_is_one_row(lab):
    lab.done("alpha", "fedprox[mu=1.0]", 1, 0.5)
    lab.done("beta", "fedprox[mu=0.1]", 1, 0.7)
    tuning = Tuning(task="alpha", metric="global_accuracy_mean", budget=20, seed=0, digest="ab" * 32)
    lab.cells = [cell.model_copy(update={"tuning": tuning}) for cell in lab.cells]
    _, rows = overall(lab.finish())
    assert list(rows) == ["fedprox[tuned]"]
    assert rows["fedprox[tuned]"].mean("global_accuracy_mean") == pytest.approx(0.6)


def test_two_settings_of_one_method_are_two_rows(lab):
    for task in ("alpha", "beta"):
        lab.done(task, "fedprox", 1, 0.5)
        lab.done(task, "fedprox[mu=1.0]", 1, 0.6)
    assert set(overall(lab.finish())[1]) == {"fedprox[mu=1.0]", "fedprox"}


def test_one_task_needs_no_second_table(robust):
    assert across(load_board(robust, "demo")) is None


def test_a_seed_of_some_tasks_only_is_left_out_of_the_mean(lab):
    for seed in (1, 2):
        lab.done("alpha", "fedavg", seed, 0.5)
        lab.done("beta", "fedavg", seed, 0.7)
    lab.done("alpha", "fedavg", 3, 0.9)
    _, rows = overall(lab.finish())
    interval = rows["fedavg"].scores["global_accuracy_mean"].interval
    assert (interval.mean, interval.n) == (pytest.approx(0.6), 2)
