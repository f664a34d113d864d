"""From hand-made records to comparisons whose every number is known in closed form.

The duel (robust track, six seeds): on alpha fedavg is right on 50 % at every seed, fedkper on 60 60 70 70 60 70 %, so
the differences have mean 15 points and standard deviation √(6 · 25 / 5) = 5.4772 points. On beta both are at 50 %.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.comparison import (
    FAITHFUL,
    answers,
    contrast,
    holm_over_tasks,
    models,
    name_of,
    standings,
)
from scipy.stats import binomtest, nct, t, ttest_rel

from fedbench.errors import RecordError, SpecError
from fedbench.schema import Tuning
from fedbench.statistics import NotComputed, PairingError

OURS = (0.6, 0.6, 0.7, 0.7, 0.6, 0.7)
MEAN, SD = 0.15, math.sqrt(6 * 0.0025 / 5)


def fill(lab, label, accuracies, tasks=("alpha",), **changes):
    for task in tasks:
        for seed, accuracy in enumerate(accuracies, 1):
            lab.done(task, label, seed, accuracy, **changes)


def finished(lab, track="robust"):
    return load_board(lab.finish(track=track), "demo")


@pytest.fixture
def duel(lab):
    fill(lab, "fedavg", [0.5] * 6)
    fill(lab, "fedkper", OURS)
    return lab


# --- two methods ------------------------------------------------------------------------------------------------------


def test_one_task_has_the_numbers_of_the_closed_forms(duel):
    found = contrast(finished(duel), ["fedkper"], "fedavg")
    (only,) = found.comparisons
    assert (only.method, only.reference, only.n, only.question, only.comparisons) == ("fedkper", "fedavg", 6, "Q2", 1)
    own = ttest_rel(OURS, [0.5] * 6).confidence_interval(0.95)
    assert only.difference.mean == pytest.approx(MEAN)
    assert (only.difference.low, only.difference.high) == pytest.approx((own.low, own.high))
    assert only.sign_flip.p == only.p_holm == 2 / 2**6  # all six have one sign
    assert only.equivalence.t_low == pytest.approx((MEAN + 0.005) / (SD / math.sqrt(6)))
    assert only.equivalence.t_high == pytest.approx((MEAN - 0.005) / (SD / math.sqrt(6)))
    shift, critical = only.detectable / SD * math.sqrt(6), t.ppf(0.975, 5)
    assert nct.sf(critical, 5, shift) + nct.cdf(-critical, 5, shift) == pytest.approx(0.8, abs=1e-6)
    (task,) = only.tasks
    factor = math.gamma(2.5) / (math.sqrt(2.5) * math.gamma(2))
    assert (task.task, task.p_improvement) == ("alpha", 1.0)
    assert task.hedges_g == pytest.approx(factor * MEAN / SD)
    assert found.sources.reason == "not computed: 1 independent source; 8 are needed"
    assert found.notes == ()


def test_across_tasks_cells_are_flipped_and_seeds_averaged(duel):
    fill(duel, "fedavg", [0.5] * 6, ["beta"])
    fill(duel, "fedkper", [0.5] * 6, ["beta"])
    (over,) = contrast(finished(duel), ["fedkper"], "fedavg").comparisons
    assert (over.n, over.sign_flip.n, over.difference.n) == (12, 12, 6)
    assert over.difference.mean == pytest.approx(MEAN / 2)
    assert over.sign_flip.p == 2 / 2**6  # the signs of six zeros are nobody's
    assert [task.task for task in over.tasks] == ["alpha", "beta"]
    assert over.tasks[0].sign_flip.p == 2 / 2**6
    assert over.tasks[1].sign_flip.p == 1.0
    assert holm_over_tasks(over) == {"alpha": 4 / 2**6, "beta": 1.0}
    assert "no spread" in over.tasks[1].hedges_g.reason
    (one,) = contrast(finished(duel), ["fedkper"], "fedavg", task="alpha").comparisons
    assert one.difference.mean == pytest.approx(MEAN)


def test_several_methods_share_alpha_and_keep_the_order_named(duel):
    fill(duel, "fedprox[mu=0.01]", [0.6] * 6)
    found = contrast(finished(duel), ["fedprox[mu=0.01]", "fedkper"], "fedavg").comparisons
    assert [item.method for item in found] == ["fedprox[mu=0.01]", "fedkper"]
    assert [item.p_holm for item in found] == [4 / 2**6, 4 / 2**6]
    assert {item.comparisons for item in found} == {2}


def test_lower_may_be_better(duel):
    fill(duel, "fedper", [0.5] * 6, models=("global", "local", "personal"))
    fill(duel, "fedrep", [0.5] * 6, models=("global", "local", "personal"))
    (only,) = contrast(finished(duel), ["fedrep"], "fedper", metric="client_sd").comparisons
    assert (only.difference.mean, only.sign_flip.p, only.tasks[0].p_improvement) == (0.0, 1.0, 0.5)


def test_reference_points_may_be_compared_by_name(duel):
    fill(duel, "majority", [0.5] * 6, family="reference", models=("global",))
    (only,) = contrast(finished(duel), ["fedkper"], "majority").comparisons
    assert only.difference.mean == pytest.approx(MEAN)


def test_the_faithful_track_describes_and_tests_nothing(duel):
    (only,) = contrast(finished(duel, "faithful"), ["fedkper"], "fedavg").comparisons
    assert only.difference.mean == pytest.approx(MEAN)
    assert only.difference.low is not None
    untested = (only.sign_flip, only.p_holm, only.equivalence, only.p_equivalence_holm, only.detectable)
    untested += (only.tasks[0].sign_flip, only.tasks[0].detectable)
    assert {item.reason for item in untested} == {FAITHFUL}
    assert only.tasks[0].hedges_g > 0


def test_a_seed_that_only_one_was_planned_with_is_left_out_and_named(duel):
    duel.done("alpha", "fedavg", 7, 0.9)
    found = contrast(finished(duel), ["fedkper"], "fedavg")
    assert found.grid.seeds == (1, 2, 3, 4, 5, 6)
    assert found.notes == ("left out: seed 7, planned for some methods and tasks only",)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "reference", "options", "message"),
    [
        (["fedkpr"], "fedavg", {}, "unknown method on the board of demo 'fedkpr'; did you mean fedkper"),
        (["fedkper"], "fedavq", {}, "unknown method on the board of demo 'fedavq'; did you mean fedavg"),
        (["fedavg"], "fedavg", {}, "fedavg cannot be compared with itself"),
        (["fedkper"], "fedavg", {"task": "alfa"}, "unknown task on the board of demo 'alfa'; did you mean alpha?"),
        (["fedkper"], "fedavg", {"metric": "acuracy"}, "unknown metric 'acuracy'"),
        (["fedkper"], "fedavg", {"metric": "bytes_up"}, "bytes_up is measured in bytes"),
        (["fedkper"], "fedavg", {"metric": "seconds_evaluate"}, "seconds_evaluate is measured in seconds"),
    ],
)
def test_wrong_names_are_refused(duel, methods, reference, options, message):
    with pytest.raises(SpecError, match=message):
        contrast(finished(duel), methods, reference, **options)


def test_holes_are_refused_by_name_and_state(duel):
    duel.failed("alpha", "fedprox", 1, "loss is NaN")
    duel.plan("alpha", "fedprox", 2)
    duel.corrupt("alpha", "fedprox", 3)
    for seed in (4, 5, 6):
        duel.plan("alpha", "fedprox", seed, skipped="no data")
    with pytest.raises(PairingError) as refused:
        contrast(finished(duel), ["fedprox"], "fedavg")
    for words in (
        "alpha/fedprox/seed-1 failed: loss is NaN",
        "alpha/fedprox/seed-2 missing",
        "alpha/fedprox/seed-3 corrupt",
        "alpha/fedprox seeds 4, 5, 6 skipped: no data",
        "run the suite again",
    ):
        assert words in str(refused.value)


def test_a_metric_that_a_method_does_not_have_is_a_hole(duel):
    fill(duel, "fedper", [0.5] * 6, models=("local", "personal"))
    with pytest.raises(PairingError, match=r"fedper seeds 1, 2, 3, 4, 5, 6 without Global accuracy.*another metric"):
        contrast(finished(duel), ["fedper"], "fedavg")


def test_a_task_that_one_was_not_planned_on_is_a_hole(duel):
    fill(duel, "fedavg", [0.5] * 6, ["beta"])
    with pytest.raises(PairingError, match="fedkper is not planned on beta"):
        contrast(finished(duel), ["fedkper"], "fedavg")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"partition": "other"}, "partition differs"),
        ({"device": "cuda: A processor"}, "kind of device differs"),
        ({"partition": "other", "device": "mps"}, "kind of device and partition differ"),
    ],
)
def test_cells_that_are_not_paired_are_refused(duel, changes, names):
    fill(duel, "moon", [0.6] * 6, **changes)
    with pytest.raises(PairingError, match=names):
        contrast(finished(duel), ["moon"], "fedavg")


def test_two_kinds_of_one_device_are_one(duel):
    fill(duel, "moon", [0.6] * 6, device="cpu: another")
    assert contrast(finished(duel), ["moon"], "fedavg").comparisons


def test_records_of_different_definitions_of_a_task_are_refused(duel):
    cell = duel.done("alpha", "moon", 1, 0.6)
    identity = {"task": {"name": "alpha", "version": 2}, "method": {"name": "moon"}, "track": "robust"}
    duel.done("alpha", "moon", 1, 0.6, identity=identity)
    duel.cells.remove(cell)
    for seed in range(2, 7):
        duel.done("alpha", "moon", seed, 0.6)
    with pytest.raises(PairingError, match="task definition differs"):
        contrast(finished(duel), ["moon"], "fedavg")


def test_tasks_with_different_rankings_need_a_metric(duel):
    fill(duel, "fedavg", [0.5] * 6, ["beta"], primary="local_accuracy_mean")
    fill(duel, "fedkper", OURS, ["beta"], primary="local_accuracy_mean")
    board = finished(duel)
    with pytest.raises(SpecError, match="ranked by different metrics"):
        contrast(board, ["fedkper"], "fedavg")
    assert contrast(board, ["fedkper"], "fedavg", metric="global_accuracy_mean").grid.cells == 12
    found = standings(board)
    assert "different metrics" in found.across.grid.reason
    assert found.tasks["beta"].metric.name == "local_accuracy_mean"


def test_two_rows_of_one_name_are_refused(duel):
    double = [cell.model_copy(update={"hash": "ba9876543210"}) for cell in duel.cells if cell.method == "fedkper"]
    board = load_board(duel.finish(cells=[*duel.cells, *double], track="robust"), "demo")
    with pytest.raises(PairingError, match="alpha has two rows named fedkper"):
        contrast(board, ["fedkper"], "fedavg")


# --- all methods ------------------------------------------------------------------------------------------------------


def test_standings_name_what_cannot_take_part_and_compare_the_rest(duel):
    duel.failed("alpha", "moon", 1, "loss is NaN")
    fill(duel, "fedper", [0.5] * 6, models=("local", "personal"))
    fill(duel, "ditto", [0.9] * 6, partition="other")
    fill(duel, "majority", [0.5] * 6, family="reference", models=("global",))
    for seed in range(2, 7):
        duel.plan("alpha", "moon", seed)
    found = standings(finished(duel)).tasks["alpha"]
    assert found.grid.methods == ("fedavg", "fedkper")
    assert list(found.left_out) == ["ditto", "fedper", "moon"]  # and no reference point
    assert "not paired" in found.left_out["ditto"]
    assert found.left_out["fedper"].startswith("in no test: alpha/fedper seeds 1, 2, 3, 4, 5, 6 without Global")
    assert found.left_out["moon"] == (
        "in no test: alpha/moon/seed-1 failed: loss is NaN; alpha/moon seeds 2, 3, 4, 5, 6 missing"
    )
    (only,) = found.against
    assert (only.method, only.p_holm) == ("fedkper", 2 / 2**6)
    assert found.top.members == ("fedkper",)
    assert found.top.p_holm == {"fedavg": 2 / 2**6}
    assert [(place.method, place.rank, place.low, place.high) for place in found.ranks] == [
        ("fedkper", 1, 1, 1),
        ("fedavg", 2, 2, 2),
    ]
    assert all(place.descriptive for place in found.ranks)  # six seeds
    assert found.agreement.tau == 1.0


def test_a_method_planned_with_fewer_seeds_takes_no_seed_from_the_others(duel):
    fill(duel, "moon", [0.5] * 2)
    found = standings(finished(duel)).tasks["alpha"]
    assert found.grid.seeds == (1, 2, 3, 4, 5, 6)
    assert found.left_out == {"moon": "in no test: alpha/moon seeds 3, 4, 5, 6 not planned"}


def test_a_hole_of_one_method_changes_no_number_of_another(duel):
    before = standings(finished(duel)).tasks["alpha"].against
    duel.failed("alpha", "moon", 1, "loss is NaN")
    for seed in range(2, 7):
        duel.done("alpha", "moon", seed, 0.9)
    assert standings(finished(duel)).tasks["alpha"].against == before


def test_equal_methods_share_the_top(duel):
    fill(duel, "fedprox", OURS)
    for label, accuracy in (("fedavg", 0.5), ("fedkper", 0.6), ("fedprox", 0.6)):
        duel.done("alpha", label, 7, accuracy)
    found = standings(finished(duel)).tasks["alpha"].top
    assert found.members == ("fedkper", "fedprox")
    assert found.p_holm == {"fedavg": 3 * 2 / 2**7, "fedprox": 1.0}


def test_too_few_cells_leave_a_sentence(duel):
    fill(duel, "fedprox", OURS)
    found = standings(finished(duel)).tasks["alpha"].top
    # Three pairs need 2 / 2ⁿ ≤ 0.05 / 3: seven cells.
    assert isinstance(found, NotComputed)
    assert found.reason.endswith("7 are needed")


def test_without_a_reference_there_are_no_differences_and_a_reason(lab):
    lab.failed("alpha", "fedavg", 1, "loss is NaN")
    lab.done("alpha", "fedkper", 1, 0.5)
    lab.done("alpha", "fedprox", 1, 0.5)
    found = standings(finished(lab)).tasks["alpha"]
    assert found.grid.methods == ("fedkper", "fedprox")
    assert "no difference from fedavg: in no test: alpha/fedavg/seed-1 failed" in found.against.reason
    assert "fedrep is not on this board" in standings(finished(lab), reference="fedrep").tasks["alpha"].against.reason


def test_a_task_without_records_says_so(lab):
    lab.plan("alpha", "fedavg", 1)
    found = standings(finished(lab))
    for standing in (found.tasks["alpha"], found.across):
        for part in ("grid", "against", "top", "ranks", "agreement", "sources"):
            assert "no record says" in getattr(standing, part).reason
    assert found.across.sources.question == "Q3"


def test_on_the_faithful_track_ranks_are_descriptive_and_no_group_is_tested(duel):
    found = standings(finished(duel, "faithful")).tasks["alpha"]
    assert found.descriptive
    assert found.top.reason == FAITHFUL
    assert all(place.descriptive for place in found.ranks)
    assert {item.p_holm.reason for item in found.against} == {FAITHFUL}


def test_eight_sources_open_the_third_question(lab):
    tasks = [f"task{i}" for i in range(8)]
    for task in tasks:
        for label in ("fedavg", "fedkper"):
            for seed in (1, 2):
                accuracy = 0.5 if label == "fedavg" else 0.6
                identity = {"task": {"name": task, "source": task}, "method": {"name": label}, "track": "robust"}
                lab.done(task, label, seed, accuracy, identity=identity)
    sources = standings(finished(lab)).across.sources
    assert (sources.question, sources.n) == ("Q3", 8)
    assert sources.differences("fedkper", "fedavg").tolist() == pytest.approx([0.1] * 8)


def test_views_of_one_source_count_once(duel):
    fill(duel, "fedavg", [0.5] * 6, ["beta"])
    fill(duel, "fedkper", OURS, ["beta"])
    found = standings(finished(duel)).across
    assert found.source_of == {"alpha": "made-up", "beta": "made-up"}
    assert found.sources.n == 1


def test_a_tuned_method_has_one_name_on_all_tasks(lab):
    tuning = Tuning(task="alpha", metric="m", budget=20, seed=0, digest="d")
    for task, mu in (("alpha", "0.1"), ("beta", "0.01")):
        lab.done(task, "fedavg", 1, 0.5)
        lab.done(task, f"fedprox[mu={mu}]", 1, 0.7)
    cells = [cell.model_copy(update={"tuning": tuning}) if cell.method == "fedprox" else cell for cell in lab.cells]
    board = load_board(lab.finish(cells=cells, track="robust"), "demo")
    assert {name_of(row) for task in board.tasks for row in task.rows} == {"fedavg", "fedprox[tuned]"}
    (only,) = contrast(board, ["fedprox[tuned]"], "fedavg").comparisons
    assert only.difference.mean == pytest.approx(0.2)
    (only,) = contrast(board, ["fedprox[mu=0.1]"], "fedavg", task="alpha").comparisons
    assert only.difference.mean == pytest.approx(0.2)


# --- two models -------------------------------------------------------------------------------------------------------


def test_two_models_are_compared_on_their_shared_test_samples(duel):
    results = duel.finish(track="robust")
    board = load_board(results, "demo")
    found = models(results, board, "fedkper", "fedavg", "alpha", 3)
    # 7 of 10 right against 5, and the five among the seven.
    assert (found.test.only_first, found.test.only_second, found.test.n) == (2, 0, 10)
    assert found.test.p == binomtest(0, 2).pvalue == 0.5
    assert found.here.difference == pytest.approx(0.2)
    assert (found.here.seeds, found.here.question) == (1, "Q1")
    assert found.over_seeds.difference == pytest.approx(MEAN)
    assert (found.over_seeds.seeds, found.over_seeds.descriptive) == (6, True)
    assert answers(results, board, "fedavg", "alpha")[1].right.tolist() == [True] * 5 + [False] * 5


def test_seeds_with_their_own_test_sets_are_not_pooled(lab):
    for label, accuracy in (("fedavg", 0.5), ("fedkper", 0.7)):
        for seed in (1, 2):
            lab.done("alpha", label, seed, accuracy, test_ids=np.arange(10) + 10 * seed)
    results = lab.finish()
    found = models(results, load_board(results, "demo"), "fedkper", "fedavg", "alpha", 1)
    assert found.over_seeds.reason == "not computed: every seed has another test set"
    assert found.test.only_first == 2


def test_one_seed_has_no_interval_over_seeds(lab):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("alpha", "fedkper", 1, 0.5)
    results = lab.finish()
    found = models(results, load_board(results, "demo"), "fedkper", "fedavg", "alpha", 1)
    assert (found.test.p, found.here.difference) == (1.0, 0.0)
    assert found.over_seeds.reason == "not computed: 1 seed; 2 are needed"


def test_models_that_cannot_be_compared_are_refused(duel):
    fill(duel, "fedper", [0.5] * 6, models=("local", "personal"))
    fill(duel, "moon", [0.5] * 6, test_ids=np.arange(100, 110))
    results = duel.finish(track="robust")
    board = load_board(results, "demo")
    for first, second, task, seed, error, message in (
        ("fedavg", "fedavg", "alpha", 1, SpecError, "with itself"),
        ("fedkper", "fedavq", "alpha", 1, SpecError, "unknown method"),
        ("fedkper", "fedavg", "alfa", 1, SpecError, "unknown task"),
        ("fedper", "fedavg", "alpha", 1, SpecError, "fedper has no global model"),
        ("moon", "fedavg", "alpha", 9, RecordError, "alpha/moon/seed-9 has no record; seeds that have one: 1, 2"),
        ("moon", "fedavg", "alpha", 1, PairingError, "not tested on the same samples"),
    ):
        with pytest.raises(error, match=message):
            models(results, board, first, second, task, seed)


def test_the_margin_of_the_suite_decides_what_is_equivalent(duel):
    board = replace(finished(duel), margin=0.3)
    (only,) = contrast(board, ["fedkper"], "fedavg").comparisons
    assert only.equivalence.margin == 0.3
    assert only.equivalence.p < 0.01  # 15 points with an error of 2.2 lie well within 30
