"""Board data: every number by hand, every hole named."""

import json

import numpy as np
import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.markdown import markdown

from fedbench.errors import RecordError
from fedbench.metrics import METRICS
from fedbench.records import NewerSchemaError
from fedbench.schema import Tuning


def rows_of(board, task):
    found = next(item for item in board.tasks if item.name == task)
    return {row.label: row for row in found.all_rows}


def test_mean_and_interval_over_seeds(demo):
    score = rows_of(load_board(demo, "demo"), "alpha")["fedavg"].scores["global_accuracy_mean"]
    # 0.5, 0.6, 0.7: mean 0.6, s 0.1, half = 4.3027 * 0.1 / sqrt(3) = 0.2484
    assert score.interval.n == 3
    assert score.interval.mean == pytest.approx(0.6)
    assert score.interval.high - score.interval.mean == pytest.approx(0.2484, abs=1e-4)


def test_every_metric_has_a_score_and_each_is_as_computed_by_hand(demo):
    scores = rows_of(load_board(demo, "demo"), "alpha")["fedavg"].scores
    assert list(scores) == list(METRICS)
    by_hand = {
        "bwt": -0.125,
        "local_accuracy_mean": 0.625,
        "worst_sampled_accuracy": 0.5,
        "consistency_peak": 1.0,
        "balance": (0.6 + 0.625) / 2,
        "bytes_up": 2e6,
        "seconds_train": 12.0,
    }
    for name, value in by_hand.items():
        assert scores[name].interval.mean == pytest.approx(value), name


def test_complete_methods_are_ranked_by_the_primary_metric(demo):
    alpha = load_board(demo, "demo").tasks[0]
    assert alpha.primary == "global_accuracy_mean"
    assert [(row.label, row.rank) for row in alpha.rows] == [
        ("fedkper[distil=False]", 1),
        ("fedavg", 2),
        ("fedper", None),  # no global model: the primary metric is not defined
        ("fedprox", None),  # a seed failed
    ]


def test_reference_points_stand_aside_and_are_never_ranked(demo):
    alpha = load_board(demo, "demo").tasks[0]
    assert [(row.label, row.rank) for row in alpha.references] == [("majority", None)]
    # Its BwT is not worse than any, yet no star.
    assert "majority" not in alpha.best("consistency_peak") | alpha.best("bwt")


def test_equal_means_share_a_rank(lab):
    for label, accuracies in {"a": (0.5, 0.7), "b": (0.7, 0.5), "c": (0.4, 0.4), "d": (0.9, 0.9)}.items():
        for seed, accuracy in enumerate(accuracies):
            lab.done("alpha", label, seed, accuracy)
    rows = load_board(lab.finish(), "demo").tasks[0].rows
    assert [(row.label, row.rank) for row in rows] == [("d", 1), ("a", 2), ("b", 2), ("c", 4)]


def test_holes_are_named(demo, script):
    board = load_board(demo, "demo")
    alpha, beta = rows_of(board, "alpha"), rows_of(board, "beta")
    assert alpha["fedprox"].hole == "2 of 3 seeds: seed 3 failed: loss is NaN in round 2"
    assert alpha["fedprox"].scores["global_accuracy_mean"].interval.n == 2
    assert beta["fedkper"].hole == "skipped: bloodmnist.npz is not on this machine"
    assert beta["fedavg"].hole.startswith("1 of 3 seeds: seed 2 missing; seed 3 corrupt: ")
    assert alpha["fedavg"].hole == ""
    assert [(row.label, row.rank) for row in board.tasks[1].rows if row.rank] == [(script, 1)]
    states = ("done", "missing", "failed", "skipped", "corrupt")
    assert [board.count(state) for state in states] == [18, 1, 1, 3, 1]


def test_a_model_that_a_method_lacks_is_not_defined_and_not_zero(demo):
    scores = rows_of(load_board(demo, "demo"), "alpha")["fedper"].scores
    assert scores["global_accuracy_mean"].interval is None
    assert scores["global_accuracy_mean"].undefined == (1, 2, 3)
    assert scores["personal_accuracy"].interval.mean == pytest.approx(0.75)


def test_one_seed_has_no_interval(lab):
    lab.done("alpha", "fedavg", 1, 0.5)
    interval = load_board(lab.finish(), "demo").tasks[0].rows[0].scores["global_accuracy_mean"].interval
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.5, None, None, 1)


def test_best_is_among_complete_methods_only_and_needs_a_difference(demo):
    alpha = load_board(demo, "demo").tasks[0]
    assert alpha.best("global_accuracy_mean") == {"fedkper[distil=False]"}
    assert alpha.best("local_accuracy_mean") == frozenset()  # all equal: nobody is best
    assert alpha.best("seconds_evaluate") == frozenset()  # neither way is better


def test_unpaired_methods_are_called_so_and_reference_points_are_exempt(lab):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("alpha", "fedkper", 1, 0.6)
    lab.done("alpha", "local", 1, 0.6, family="reference", partition="other", device="cuda")
    assert load_board(lab.finish(), "demo").tasks[0].warnings == ()
    lab.done("alpha", "fedprox", 1, 0.7, partition="other")
    assert load_board(lab.finish(), "demo").tasks[0].warnings == (
        "not paired: at seed 1 fedavg, fedkper, fedprox do not share partition",
    )


def test_mixed_devices_and_different_seeds_are_warned_of(lab):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("alpha", "fedkper", 2, 0.6, device="cuda")
    warnings = load_board(lab.finish(), "demo").tasks[0].warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["not paired", "mixed devices"]


def test_methods_that_gave_the_same_answers_are_named(lab):
    for seed in (1, 2):
        for label, accuracy in (("fedavg", 0.5), ("fedbn", 0.5), ("fedprox", 0.5 if seed == 1 else 0.6)):
            lab.done("alpha", label, seed, accuracy)
        lab.done("alpha", "fedper", seed, 0.5, models=("global", "local", "personal"))
        lab.done("alpha", "majority", seed, 0.5, family="reference")
    assert load_board(lab.finish(), "demo").tasks[0].warnings == (
        "the same method here: fedavg, fedbn gave the same answers, bit for bit, in every round",
    )


def tune(lab, label, budget):
    """Say in the plan that a method's hyperparameters were searched."""
    found = Tuning(task="alpha", metric="global_accuracy_mean", budget=budget, seed=0, digest="ab" * 32)
    lab.cells = [cell.model_copy(update={"tuning": found}) if cell.label == label else cell for cell in lab.cells]


def test_each_row_says_where_its_hyperparameters_came_from(lab):
    labels = "fedavg", "fedprox", "fedkper[tau=2.0]", "fedlc[tau=3.0]"
    for label, accuracy in zip(labels, (0.5, 0.6, 0.7, 0.8), strict=True):
        for seed in (1, 2):
            lab.done("alpha", label, seed, accuracy)
    tune(lab, "fedprox", 20)
    tune(lab, "fedkper[tau=2.0]", 20)
    (task,) = load_board(lab.finish(), "demo").tasks
    assert {row.label: row.origin for row in task.rows} == {
        "fedavg": "defaults",
        "fedprox": "tuned, budget 20",
        "fedkper[tau=2.0]": "tuned, budget 20",
        "fedlc[tau=3.0]": "set by hand",
    }
    assert task.warnings == ()
    shown = markdown(load_board(lab.results, "demo"))
    assert "| fedprox | tuned, budget 20 | 2 |" in shown
    assert (
        "- **fedprox** on alpha: tuned on validation data of alpha for global\\_accuracy\\_mean, budget 20 trials, "
        in shown
    )


def test_unequal_budgets_are_warned_of(lab):
    for label, budget, accuracy in (("fedprox", 20, 0.5), ("fedper", 10, 0.6)):
        lab.done("alpha", label, 1, accuracy)
        tune(lab, label, budget)
    (task,) = load_board(lab.finish(), "demo").tasks
    assert task.warnings == ("unequal tuning: the methods were tuned with budgets of 10 and 20 trials",)


def test_facts_come_from_the_records(demo):
    board = load_board(demo, "demo")
    alpha = board.tasks[0]
    assert (alpha.title, alpha.licence) == ("Task alpha", "CC BY 4.0")
    facts = dict(alpha.facts)
    assert facts["Samples"] == "train 1,234, test 10"
    assert facts["Clients"] == "2"
    assert facts["Taking part in a round"] == "75%"
    assert facts["Local training"] == "5 epochs, batch 12"
    assert board.seeds == (1, 2, 3)


def test_a_record_without_the_usual_facts_is_shown_all_the_same(lab):
    identity = {"task": {"name": "alpha", "data": [], "protocol": None}, "method": {"name": "fedavg"}}
    lab.done("alpha", "fedavg", 1, 0.5, identity=identity, cards={})
    alpha = load_board(lab.finish(), "demo").tasks[0]
    assert (alpha.title, alpha.licence, alpha.rows[0].rank) == ("alpha", "", 1)


def test_an_unknown_primary_metric_ranks_nobody(lab):
    lab.done("alpha", "fedavg", 1, 0.5, primary="charm")
    alpha = load_board(lab.finish(), "demo").tasks[0]
    assert alpha.rows[0].rank is None
    assert alpha.warnings == ("no ranking can be trusted: the records name as primary metric charm",)


class TestBadFolders:
    """One bad folder is a visible state and hides no other."""

    def verdict(self, results):
        cells = load_board(results, "demo").cells
        assert any(cell.state == "done" for cell in cells if cell.seed == 1)
        return next(cell.verdict for cell in cells if cell.seed == 2)

    @pytest.fixture
    def results(self, lab):
        lab.done("alpha", "fedavg", 1, 0.5)
        lab.done("alpha", "fedavg", 2, 0.5)
        return lab.finish()

    def folder(self, results):
        return results / "alpha" / "fedavg" / "0123456789ab" / "seed-2"

    def test_a_newer_schema_is_no_bad_folder(self, results):
        """Without a good record the board would be wrong, so there is none."""
        path = self.folder(results) / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
        with pytest.raises(NewerSchemaError, match=r"alpha/fedavg/.* schema version 99"):
            load_board(results, "demo")

    def test_where_the_results_folder_stands_is_not_shown(self, results):
        (self.folder(results) / "rounds.parquet").write_bytes(b"")
        assert str(results) not in self.verdict(results)

    def test_a_record_of_another_cell(self, lab):
        lab.done("alpha", "fedavg", 1, 0.5)
        lab.done("alpha", "fedavg", 2, 0.5, hash="ba9876543210")
        assert "of another cell" in self.verdict(lab.finish())

    def test_arrays_that_do_not_fit_together(self, lab):
        lab.done("alpha", "fedavg", 1, 0.5)
        lab.done("alpha", "fedavg", 2, 0.5, test_labels=np.zeros(7, dtype=np.uint8))
        assert self.verdict(lab.finish()).startswith("corrupt: ")

    def test_a_failure_note_that_cannot_be_read(self, lab):
        lab.done("alpha", "fedavg", 1, 0.5)
        cell = lab.plan("alpha", "fedavg", 2)
        (lab.results / cell.path).mkdir(parents=True)
        (lab.results / cell.path / "failure.json").write_text("{")
        assert self.verdict(lab.finish()).startswith(f"failed: {cell.path}/failure.json cannot be read")

    def test_a_plan_that_points_out_of_the_results_folder(self, lab):
        lab.done("alpha", "fedavg", 1, 0.5)
        cell = lab.plan("alpha", "fedavg", 2)
        outside = cell.model_copy(update={"method": "../../.."})
        assert self.verdict(lab.finish(cells=[lab.cells[0], outside])) == (
            "corrupt: its path leads out of the results folder"
        )

    def test_a_long_reason_is_cut(self, lab):
        lab.done("alpha", "fedavg", 1, 0.5)
        lab.failed("alpha", "fedavg", 2, "x" * 10_000)
        assert len(self.verdict(lab.finish())) < 400


def test_a_suite_that_was_not_run_is_an_error_that_names_the_others(demo):
    with pytest.raises(RecordError, match=r"no suite 'paper' was run .*; there: demo\."):
        load_board(demo, "paper")


@pytest.mark.parametrize("suite", ["../demo", "plans/demo", ""])
def test_a_suite_name_is_no_path(demo, suite):
    with pytest.raises(RecordError, match="was run"):
        load_board(demo, suite)
