"""The forest plot: where marks stand, and that nothing is wider than it may be."""

import pytest
from fedbench.leaderboard.forest import forest
from hypothesis import given
from hypothesis import strategies as st

from fedbench.statistics import Interval


def test_marks_stand_where_the_scale_says():
    scale, row = forest([("heart", Interval(0.02, 0.01, 0.03, 10))], 0.005, 80)
    left = len("heart ")
    column = {int(mark): scale.index(mark) + len(mark) // 2 for mark in ("+1", "+2", "+3")}
    assert abs(row.index("(") - column[1]) <= 1
    assert abs(row.index("o", left) - column[2]) <= 1
    assert abs(row.index(")") - column[3]) <= 1
    assert abs(row.index("|") - scale.index(" 0 ") - 1) <= 1
    assert row.endswith("+2.00 [+1.00, +3.00]")
    assert scale.endswith("points")
    assert row.count(":") == 2


def test_one_seed_has_no_interval():
    _, row = forest([("heart", Interval(-0.01, None, None, 1))], 0.005, 60)
    assert "(" not in row
    assert row.endswith("-1.00")


def test_a_long_name_has_a_line_of_its_own():
    lines = forest([("a task with a very long name", Interval(0.0, -0.01, 0.01, 3))], 0.005, 60)
    assert lines[1] == "a task with a very long name"
    assert all(len(line) <= 60 for line in lines)


fractions = st.floats(-1, 1)


@pytest.mark.parametrize("width", [48, 60, 80, 100])
@given(rows=st.lists(st.tuples(fractions, fractions, fractions), min_size=1, max_size=6), margin=st.floats(1e-4, 0.2))
def test_it_fits_and_the_mean_is_between_the_ends(width, rows, margin):
    intervals = [Interval(mean, low, high, 5) for low, mean, high in (sorted(row) for row in rows)]
    lines = forest([(f"task {i}", interval) for i, interval in enumerate(intervals)], margin, width)
    assert len(lines) == len(rows) + 1
    for line in lines:
        # Figures of more than two digits before the point take a column or two more than the usual ones.
        assert len(line) <= width + 6
    for line in lines[1:]:
        plot = line[len("task 0 ") :].split("  ")
        assert line.count("o") == 1
        assert "".join(plot).index("o") >= 0


def test_equal_methods_are_drawn_at_zero():
    _, row = forest([("heart", Interval(0.0, 0.0, 0.0, 3))], 0.005, 60)
    assert row.count("o") == 1
    assert "|" not in row
