"""Markdown: the exact table of the case worked by hand, and nothing that breaks out of a cell."""

from fedbench.leaderboard import load_board
from fedbench.leaderboard.markdown import escape, markdown

# fedavg 0.5 0.6 0.7 and fedkper 0.7 0.8 0.9: means 60 and 80, s 10, half 4.3027 * 10 / sqrt(3) = 24.8 points.
# Balance is (60 + 62.5) / 2 = 61.25 and (80 + 62.5) / 2 = 71.25, half 12.4. fedprox has 0.6 and 0.8: 70, s 14.14,
# half 12.706 * 14.14 / sqrt(2) = 127.1.
TABLE = """\
| Rank | Method | Hyperparameters | Seeds \
| Global accuracy, mean over rounds ↑ (%) | Global accuracy, last round ↑ (%) \
| Backward transfer, mean over rounds ↑ (points) | Consistency, by peak ↑ (%) | Local accuracy, mean over rounds ↑ (%) \
| Worst sampled client, mean over rounds ↑ (%) | Local consistency, by peak ↑ (%) | Personal accuracy ↑ (%) \
| Worst client ↑ (%) | Worst fifth of the clients ↑ (%) \
| Balance ↑ (%) |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 1 | fedkper\\[distil=False\\] | set by hand | 3 | **80.0 ± 24.8** ★ | **80.0 ± 24.8** ★ | −12.5 ± 0.0 | 100.0 ± 0.0 \
| 62.5 ± 0.0 | 50.0 ± 0.0 | 100.0 ± 0.0 | not defined | not defined | not defined | **71.3 ± 12.4** ★ |
| 2 | fedavg | defaults | 3 | 60.0 ± 24.8 | 60.0 ± 24.8 | −12.5 ± 0.0 | 100.0 ± 0.0 \
| 62.5 ± 0.0 | 50.0 ± 0.0 | 100.0 ± 0.0 | not defined | not defined | not defined | 61.3 ± 12.4 |
| – | fedper | defaults | 3 | not defined | not defined | not defined | not defined \
| 62.5 ± 0.0 | 50.0 ± 0.0 | 100.0 ± 0.0 | 75.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | not defined |
| – | fedprox | defaults | 2 of 3 | 70.0 ± 127.1 | 70.0 ± 127.1 | −12.5 ± 0.0 | 100.0 ± 0.0 \
| 62.5 ± 0.0 | 50.0 ± 0.0 | 100.0 ± 0.0 | not defined | not defined | not defined | 66.3 ± 63.5 |

- **fedper**: not ranked: Global accuracy, mean over rounds is not defined
- **fedprox**: 2 of 3 seeds: seed 3 failed: loss is NaN in round 2

Reference points, shown and never ranked:
"""


def test_the_table_worked_by_hand(demo):
    assert TABLE in markdown(load_board(demo, "demo"))


def test_it_says_what_tests_say(demo):
    shown = markdown(load_board(demo, "demo"))
    assert "Ranked by Global accuracy, mean over rounds. Ties at the top not computed: on the faithful track" in shown


def test_a_tie_is_named(robust):
    assert "2 methods share rank 1: fedkper and, not separated from it, fedntd" in markdown(load_board(robust, "demo"))


def test_every_table_row_has_the_columns_of_its_header(demo):
    lines = markdown(load_board(demo, "demo")).splitlines()
    width = None
    for line in lines:
        if not line.startswith("|"):
            width = None
            continue
        columns = line.replace("\\|", "").count("|")
        width = width or columns
        assert columns == width, line


def test_hostile_names_are_text(demo, script):
    shown = markdown(load_board(demo, "demo"))
    assert script not in shown
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\`x\\`" in shown


def test_escape():
    assert escape("a|b`c`\n<d> & [e](f) *g* _h_") == "a\\|b\\`c\\` &lt;d&gt; &amp; \\[e\\](f) \\*g\\* \\_h\\_"
    assert escape("![a](b) $x$ {{y}} http://e.org WWW.e.org a@b.org") == (
        "\\!\\[a\\](b) \\$x\\$ \\{\\{y\\}\\} http\\://e.org WWW\\.e.org a\\@b.org"
    )
    # What begins a line with a list, a rule or a heading; a number alone does not.
    assert [escape(line) for line in ("- a", "+ a", "1. a", "12) a", "---", "===", "0.5", "5-fold")] == [
        "\\- a", "\\+ a", "1\\. a", "12\\) a", "\\---", "\\===", "0.5", "5-fold",
    ]  # fmt: skip


def test_states_stand_in_the_table(demo):
    shown = markdown(load_board(demo, "demo"))
    assert "| – | fedkper | defaults | skipped: bloodmnist.npz is not on this machine |" in shown
    assert "18 of 24 cells done (1 missing, 1 failed, 3 skipped, 1 corrupt)" in shown
