"""Words and digits."""

from dataclasses import replace

import pytest
from fedbench.leaderboard import Score, load_board, text

from fedbench.metrics import METRICS
from fedbench.statistics import Interval, t_interval

ACCURACY, BWT = METRICS["global_accuracy_mean"], METRICS["bwt"]


def score(*values):
    return Score(t_interval(values))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("global_accuracy_mean", 0.64549, "64.5"),
        ("global_accuracy_mean", 1.0, "100.0"),
        ("global_accuracy_mean", 0.6125, "61.3"),
        ("global_accuracy_mean", 0.7125, "71.3"),
        ("bwt", -0.0125, "−1.3"),
        ("bwt", -0.0321, "−3.2"),
        ("bwt", -0.0001, "0.0"),
        ("bytes_up", 0, "0 B"),
        ("bytes_up", 999, "999 B"),
        ("bytes_up", 12_345_678, "12.3 MB"),
        ("bytes_up", 1.5e12, "1,500.0 GB"),
        ("seconds_train", 0.44, "0.4 s"),
        ("seconds_train", 3723.4, "3,723 s"),
        ("train_samples", 1234567, "1,234,567"),
    ],
)
def test_figure(name, value, expected):
    assert text.figure(value, METRICS[name]) == expected


def test_estimate_has_half_the_interval():
    assert text.estimate(score(0.5, 0.6, 0.7), ACCURACY) == "60.0 ± 24.8"
    assert text.estimate(score(0.5), ACCURACY) == "50.0"
    assert text.estimate(Score(None), ACCURACY) == "not defined"
    assert text.estimate(score(1e6, 2e6), METRICS["bytes_up"]) == "1.5 MB"


def test_backward_transfer_has_a_sign_and_its_margin_has_none():
    assert text.estimate(Score(Interval(0.012, 0.002, 0.022, 3)), BWT) == "+1.2 ± 1.0"
    assert text.estimate(score(-0.125), BWT) == "−12.5"
    assert text.unit(BWT) == "points"


def test_details_tell_the_interval_and_n():
    assert text.details(score(0.5, 0.6, 0.7), ACCURACY) == "95 % t interval 35.2 to 84.8 %, n = 3 seeds"
    assert text.details(score(0.5), ACCURACY) == "one seed, no interval"
    partly = Score(t_interval([0.5, 0.5]), undefined=(3,))
    assert text.details(partly, ACCURACY).endswith("n = 2 seeds; not defined at seed 3")


def test_every_metric_stands_in_one_table_once():
    shown = [column.metric for group in (*text.SCORES, *text.COST, *text.MORE) for column in group.columns]
    assert sorted(shown) == sorted(METRICS)


def test_caveats_say_what_the_track_can_tell(demo):
    words = " ".join(text.caveats(load_board(demo, "demo")))
    assert words.startswith("Descriptive: three seeds on one split.")
    assert "Whether methods can be told apart is said above each table" in words
    assert "a constant predictor has perfect ones" in words


def test_progress_counts_every_state(demo):
    expected = "18 of 24 cells done (1 missing, 1 failed, 3 skipped, 1 corrupt)"
    assert text.progress(load_board(demo, "demo")) == expected


def test_printable_takes_out_what_could_move_the_cursor_or_turn_the_text():
    assert text.printable("a\x1b[31mb\u202ec\nd") == "a [31mb c d"


def test_paragraphs_of_a_docstring():
    assert text.paragraphs("One\nline.\n\nReferences\n----------\n.. [1] A.") == ["One line.", "References .. [1] A."]


CARD = """Loss: CE.

    More of it.

    Parameters
    ----------
    mu : float, >= 0
        Weight.

    Cost: none.

    References
    ----------
    .. [1] A. Author,
       "Title".
    """


def test_blocks_of_a_docstring():
    assert text.blocks(CARD) == [
        ("paragraph", "Loss: CE."),
        ("paragraph", "More of it."),
        ("heading", "Parameters"),
        ("verbatim", "mu : float, >= 0\n    Weight."),
        ("paragraph", "Cost: none."),
        ("heading", "References"),
        ("verbatim", '.. [1] A. Author,\n   "Title".'),
    ]
    assert text.blocks("") == []


def test_lines_keep_their_breaks_and_nothing_else_that_moves_the_cursor():
    assert text.lines("a\n  b\x1b[2J") == ["a", "  b [2J"]


def test_a_command_makes_one_cell_again(demo):
    board = load_board(demo, "demo")
    cells = {(cell.planned.label, cell.seed): cell for cell in board.cells if cell.planned.task == "alpha"}
    assert text.command(board, cells["fedavg", 2]) == (
        "fedbench run --suite demo --task alpha --method fedavg --seed 2 --out again"
    )
    assert text.command(board, cells["fedkper[distil=False]", 1]) == (
        "fedbench run --suite demo --task alpha --method fedkper --set fedkper.distil=false --seed 1 --out again"
    )


def test_a_command_is_safe_to_paste(demo):
    board = load_board(demo, "demo")
    hostile = next(cell for cell in board.cells if cell.planned.method == "evil")
    planned = hostile.planned.model_copy(update={"method": "x; rm -rf ~ #"})
    assert "--method 'x; rm -rf ~ #' --seed" in text.command(board, replace(hostile, planned=planned))


def test_long_lists_are_cut():
    assert text.some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert text.some(["a", "b"], 2) == "a, b"
