"""Words and digits."""

import sys
import unicodedata
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


def test_printable_shows_what_could_move_the_cursor_turn_the_text_or_hide():
    assert text.printable("a\x1b[31mb\u202ec\nd\u200be\ud800") == "a⟨U+001B⟩[31mb⟨U+202E⟩c d⟨U+200B⟩e⟨U+D800⟩"
    assert text.printable("naïve Ω 漢字 שלום 🙂 ± − ≈ ★") == "naïve Ω 漢字 שלום 🙂 ± − ≈ ★"


@pytest.mark.parametrize("category", ["Cc", "Cs", "Co", "Zl", "Zp"])
def test_printable_leaves_nothing_of_a_category_that_is_not_seen(category):
    hidden = [chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)) == category]
    assert (every := set(hidden))
    for start in range(0, len(hidden), 100):
        shown = text.printable("".join(hidden[start : start + 100]))
        assert not set(shown) & every


def test_printable_leaves_no_mark_of_direction_and_nothing_without_a_width():
    # Unicode's Bidi_Control, and its format characters but for those that are seen (signs of Arabic, Kaithi, Egyptian).
    marks = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    seen = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
    formats = {chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)) == "Cf"}
    formats -= {*seen, *map(chr, range(0x13430, 0x13440))}
    assert formats > set(marks)
    for mark in formats:
        assert text.printable(f"a{mark}b") == f"a⟨U+{ord(mark):04X}⟩b"


def test_printable_cuts_what_is_too_long_and_says_so():
    assert text.printable("x" * 4_000) == "x" * 4_000
    assert text.printable("x" * 1_234_567) == "x" * 4_000 + " … [cut: 1,234,567 characters]"
    assert len(text.printable("\u202e" * 10_000)) < 40_000
    assert text.printable("e" + "\u0301" * 100) == "e" + "\u0301" * 4
    assert sum(len(content) for _, content in text.blocks("word " * 1_000_000)) < 21_000
    assert sum(map(len, text.paragraphs("word\n\n" * 1_000_000))) < 21_000


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
    assert text.blocks("Data [1]_, from [12]_.") == [("paragraph", "Data [1], from [12].")]


def test_lines_keep_their_breaks_and_nothing_else_that_moves_the_cursor():
    assert text.lines("a\n  b\x1b[2J") == ["a", "  b⟨U+001B⟩[2J"]


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
