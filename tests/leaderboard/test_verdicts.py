"""What a table shows of the statistics: ties, ranks, and the sentences in their place."""

import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.overall import overall
from fedbench.leaderboard.verdicts import Verdicts, decided

from fedbench.metrics import METRICS

PRIMARY = "global_accuracy_mean"


def verdict(results, task=0):
    board = load_board(results, "demo")
    return Verdicts(board).of(board.tasks[task])


def test_the_group_at_the_top_on_a_robust_board(robust):
    found = verdict(robust)
    # fedntd is below fedkper at one seed of 12 and equal at 11: every sign vector reaches that, so p = 1. fedavg is
    # below at every seed. fedprox has a hole and is in no test, so there are three pairs.
    assert found.tied(PRIMARY) == {"fedntd"}
    assert [(row.label, found.place(row)) for row in found.table.rows] == [
        ("fedkper", "1="),
        ("fedntd", "1="),
        ("fedavg", "3"),
        ("fedprox", "–"),
    ]
    assert found.sentence == (
        "2 methods share rank 1: fedkper and, not separated from it, fedntd "
        "(sign-flip test over 12 cells, Holm over 3 pairs, level 0.05)."
    )
    assert found.tested(PRIMARY)


def test_where_all_are_equal_nobody_is_tied_with_the_best(robust):
    assert verdict(robust).tied("local_accuracy_mean") == frozenset()


def test_bytes_are_not_tested(robust):
    assert verdict(robust).tied("bytes_up") == frozenset()
    assert not verdict(robust).tested("bytes_up")


def test_places_have_intervals(robust):
    places = verdict(robust).places
    assert {name: (place.low, place.high) for name, place in places.items()} == {
        "fedkper": (1, 1),
        "fedntd": (1, 2),  # without the one seed in a resample both are equal and share the first place
        "fedavg": (3, 3),
    }


def test_a_comparison_in_a_word(robust):
    found = {item.method: item for item in verdict(robust).standing.against}
    assert decided(found["fedkper"], METRICS[PRIMARY]) == "better"
    assert decided(found["fedkper"], METRICS["client_sd"]) == "worse"


def test_the_faithful_track_carries_no_test(demo):
    found = verdict(demo)
    assert found.tied(PRIMARY) == frozenset()
    assert found.sentence == (
        "Ties at the top not computed: on the faithful track all seeds share one partition and one client schedule. "
        "A rank is the order of the means, nothing more."
    )
    assert [found.place(row) for row in found.table.rows] == ["1", "2", "–", "–"]
    assert {decided(item, METRICS[PRIMARY]) for item in found.standing.against} == {"not tested"}


def test_too_few_cells_are_a_sentence(lab):
    for seed in (1, 2, 3):
        for label, accuracy in (("fedavg", 0.5), ("fedkper", 0.7)):
            lab.done("alpha", label, seed, accuracy)
    assert "3 cells cannot separate any of 1 pairs" in verdict(lab.finish(track="robust")).sentence


def test_one_alone_at_the_top(lab):
    for seed in range(12):
        for label, accuracy in (("fedavg", 0.5), ("fedkper", 0.7)):
            lab.done("alpha", label, seed, accuracy)
    assert verdict(lab.finish(track="robust")).sentence.startswith("fedkper stands first alone")


def test_what_is_not_paired_is_named(lab):
    for seed in range(12):
        lab.done("alpha", "fedavg", seed, 0.5)
        lab.done("alpha", "fedkper", seed, 0.7, partition="p" if seed else "other")
    found = verdict(lab.finish(track="robust"))
    assert [bool(found.left_out(row)) for row in found.table.rows] == [True, False]
    assert "partition differs" in found.left_out(found.table.rows[0])


def test_all_tasks_together(lab):
    for task in ("alpha", "beta"):
        for seed in range(6):
            for label, accuracy in (("fedavg", 0.5), ("fedkper", 0.7)):
                lab.done(task, label, seed, accuracy)
    board = load_board(lab.finish(track="robust"), "demo")
    found = Verdicts(board).of(overall(board))
    assert "over 12 cells" in found.sentence
    assert {name: place.rank for name, place in found.places.items()} == {"fedkper": 1, "fedavg": 2}


def test_nothing_to_rank_by(lab):
    lab.plan("alpha", "fedavg", 1)
    found = verdict(lab.finish())
    assert found.sentence == "No ranking: no record says by which one metric."
    assert found.place(found.table.rows[0]) == "–"


@pytest.mark.parametrize("metric", [name for name, of in METRICS.items() if of.direction == "none"])
def test_a_metric_without_a_better_way_has_no_ties(robust, metric):
    assert verdict(robust).tied(metric) == frozenset()
