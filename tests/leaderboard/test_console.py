"""The table in the terminal."""

import io

import pytest
from fedbench.leaderboard import load_board, summary, terminal
from rich.cells import cell_len
from rich.console import Console


def printed(board, width):
    stream = io.StringIO()
    terminal(board, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def test_summary_is_what_a_line_shows(demo):
    row = next(row for row in summary(load_board(demo, "demo")) if row.task == "alpha")
    assert (row.task, row.rank, row.method, row.note) == ("alpha", "1", "fedkper[distil=False]", "")
    assert row.values == ("80.0 ±24.8", "62.5", "50.0", "−12.5", "100.0", "71.3", "6.0 MB")


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_and_no_value_is_cut(demo, width):
    shown = printed(load_board(demo, "demo"), width)
    assert all(cell_len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    for words in ("Global ↑", "Traffic ↓", "80.0 ±24.8", "60.0 ±24.8", "6.0 MB", "majority"):
        assert words in shown


def test_holes_and_hostile_labels_are_printed_as_they_are(demo, script):
    shown = printed(load_board(demo, "demo"), 200)
    assert "fedprox: 2 of 3 seeds: seed 3 failed: loss is NaN in round 2" in shown
    assert "fedkper: skipped: bloodmnist.npz is not on this machine" in shown
    assert "fedkper[distil=False]" in shown  # square brackets are no markup
    assert script in shown


def test_a_task_that_was_not_begun_takes_one_line(lab):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.plan("alpha", "fedavg", 2)
    for seed in (1, 2):
        lab.plan("beta", "fedavg", seed)
    shown = printed(load_board(lab.finish(), "demo"), 100)
    assert shown.count("Global ↑") == 1
    assert "fedavg: 1 of 2 seeds: seed 2 missing" in shown
    assert "Not run yet: beta." in shown


def test_all_tasks_and_who_shares_the_first_place(lab):
    for task in ("alpha", "beta"):
        for seed in range(6):
            lab.done(task, "fedavg", seed, 0.5)
            lab.done(task, "fedkper", seed, 0.7 if task == "alpha" else 0.9)
            lab.done(task, "fedntd", seed, 0.7 if task == "alpha" or seed == 0 else 0.9)
    shown = printed(load_board(lab.finish(track="robust"), "demo"), 80)
    assert shown.splitlines()[0].startswith("All tasks")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    # (70 + 90) / 2 at every seed; fedntd differs from it in one cell of 12, which any sign reaches.
    assert "1= fedkper 80.0 ±0.0 62.5 50.0 −12.5 100.0 71.3 6.0 MB" in lines
    assert any(line.startswith("1= fedntd ") for line in lines)
    assert "3 fedavg 50.0 ±0.0 62.5 50.0 −12.5 100.0 56.3 6.0 MB" in lines
    assert "2 methods share rank 1: fedkper and, not separated from it, fedntd" in shown
    assert shown.index("All tasks") < shown.index("Task alpha") < shown.index("Task beta")
