"""The picture of a split."""

from fedbench.leaderboard.board import Split
from fedbench.leaderboard.splits import STEP, picture

SPLIT = Split(counts=((40, 0), (10, 90)), test_sizes=(6, 12), held_out=(False, True))


def test_the_area_of_a_bubble_is_the_number_of_samples():
    drawn = picture(SPLIT, ("ill", "well"))
    # 90 is the largest: radius 10; 40 and 10 have radii 10 · √(4/9) and 10 · √(1/9).
    assert [(b.x // STEP, b.y // STEP, b.r, b.held_out) for b in drawn.bubbles] == [
        (0, 0, "6.67", False),
        (1, 0, "3.33", True),
        (1, 1, "10.00", True),
    ]
    assert drawn.bubbles[0].title == "client 0, ill: 40 training samples"


def test_the_same_in_words():
    assert picture(SPLIT, ("ill", "well")).description == (
        "2 clients; 40 to 100 training samples a client, median 70; 1 to 2 of 2 classes a client; "
        "local test sets of 6 to 12 samples; held out, and never training: 1"
    )


def test_what_does_not_fit_is_not_drawn():
    assert picture(SPLIT, ("ill",)) is None
    assert picture(None, ("ill", "well")) is None
