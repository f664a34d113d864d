"""What a design resolves, against known numbers of the power of the t test."""

import math

import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.resolution import resolution, resolutions

from fedbench.errors import RecordError, SpecError
from fedbench.statistics import NotComputed


def test_needed_seeds_are_those_of_the_tables_of_power():
    # One, one and a half and two deviations, alone and over seven comparisons (R's power.t.test, paired).
    for effect, alone, of_seven in ((0.01, 10, 17), (0.015, 6, 10)):
        assert resolution(["a"], 0, effect, 1, sd=0.01).seeds == alone
        assert resolution(["a"], 0, effect, 7, sd=0.01).seeds == of_seven


def test_what_ten_seeds_resolve():
    assert resolution(["a"], 10, 0.01, 1, sd=0.005).detectable == pytest.approx(0.996 * 0.005, abs=1e-5)
    assert isinstance(resolution(["a"], 1, 0.01, 1, sd=0.005).detectable, NotComputed)


def test_no_fewer_cells_than_the_exact_test_needs():
    # Ten deviations: three pairs are enough for the t test; sign-flip needs six cells, over seven comparisons nine.
    assert resolution(["a"], 0, 0.1, 1, sd=0.01).seeds == 6
    assert resolution(["a"], 0, 0.1, 7, sd=0.01).seeds == 9
    assert resolution(["a", "b", "c"], 0, 1.0, 1, sd=0.01).seeds <= 3


def test_more_power_asks_for_more_seeds():
    needed = [resolution(["a"], 0, 0.01, 1, sd=0.01, power=power).seeds for power in (0.5, 0.8, 0.95)]
    assert needed == sorted(set(needed))


@pytest.mark.parametrize(
    ("effect", "sd", "comparisons", "power", "message"),
    [
        (0.0, 0.01, 1, 0.8, "effect must be a positive number; got 0 points"),
        (-0.01, 0.01, 1, 0.8, "effect must be a positive"),
        (math.nan, 0.01, 1, 0.8, "effect must be a positive"),
        (math.inf, 0.01, 1, 0.8, "effect must be a positive"),
        (0.01, 0.0, 1, 0.8, "standard deviation must be a positive"),
        (0.01, -1.0, 1, 0.8, "standard deviation must be a positive"),
        (0.01, math.nan, 1, 0.8, "standard deviation must be a positive"),
        (0.01, 0.01, 0, 0.8, "two methods or more"),
        (0.01, 0.01, 1, 1.0, "power must lie between"),
        (0.01, 0.01, 1, 0.01, "power must lie between"),
        (1e-6, 0.01, 1, 0.8, "thousandth of the spread"),
    ],
)
def test_what_cannot_be_planned_is_refused(effect, sd, comparisons, power, message):
    with pytest.raises(SpecError, match=message):
        resolution(["a"], 3, effect, comparisons, sd=sd, power=power)


def test_spreads_come_from_the_paired_differences(lab):
    # Differences of fedkper: 10, 20, 30 points, deviation 10. Of moon: 0, 20, 40, deviation 20. Over both tasks half.
    for seed in (1, 2, 3):
        for task in ("alpha", "beta"):
            lab.done(task, "fedavg", seed, 0.3)
            lab.done(task, "fedkper", seed, 0.3 + (0.1 * seed if task == "alpha" else 0))
            lab.done(task, "moon", seed, 0.3 + (0.2 * (seed - 1) if task == "alpha" else 0))
            lab.done(task, "fedprox", seed, 0.3)  # never differs: it says nothing about spread
    lab.done("alpha", "ditto", 1, 0.9)  # one seed has no spread
    both, alpha = resolutions(load_board(lab.finish(track="robust"), "demo"), 0.1, 1)
    assert both.tasks == ("alpha", "beta")
    assert (alpha.tasks, alpha.n, alpha.question) == (("alpha",), 3, "Q2")
    assert alpha.spreads == pytest.approx({"fedkper": 0.1, "moon": 0.2})
    assert both.spreads == pytest.approx({"fedkper": 0.05, "moon": 0.1})
    assert alpha.sd == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 2))
    assert alpha.least == 10  # one deviation of fedkper
    assert alpha.least < alpha.seeds < alpha.most
    assert alpha.detectable == pytest.approx(3.264 * alpha.sd, abs=1e-3)


def test_holes_and_unpaired_cells_do_not_count(lab):
    for seed in (1, 2, 3):
        lab.done("alpha", "fedavg", seed, 0.5)
        lab.done("alpha", "fedkper", seed, 0.5 + 0.1 * seed, partition="p" if seed < 3 else "other")
    lab.done("alpha", "moon", 1, 0.5)
    lab.failed("alpha", "moon", 2, "loss is NaN")
    lab.plan("alpha", "moon", 3)
    (alpha,) = resolutions(load_board(lab.finish(), "demo"), 0.1, 1)
    assert alpha.spreads == pytest.approx({"fedkper": 0.1 / math.sqrt(2)})
    assert alpha.n == 2


def test_without_a_pair_there_is_nothing_to_plan_with(lab):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("alpha", "fedkper", 1, 0.6)
    board = load_board(lab.finish(), "demo")
    with pytest.raises(RecordError, match="run a pilot"):
        resolutions(board, 0.01, 1)
    with pytest.raises(SpecError, match="unknown metric"):
        resolutions(board, 0.01, 1, metric="nothing")
