"""The page over all boards: one row a board, tracks apart, made of the entries beside the sites."""

import re

import pytest
from fedbench.leaderboard import index, render
from fedbench.leaderboard.charts import Chart
from fedbench.leaderboard.entry import ENTRY, Entry, read

from fedbench import RecordError


@pytest.fixture
def reports(demo, lab, tmp_path, monkeypatch):
    """Return a folder with a board of each track: the demonstration, and three methods on twelve seeds."""
    monkeypatch.setattr(Chart, "svg", lambda self: "<svg/>\n")
    folder = tmp_path / "reports"
    render(demo, "demo", folder / "demo")
    lab.cells.clear()
    for seed in range(12):
        for method, accuracy in (("fedavg", 0.5), ("fedkper", 0.7), ("fedprox", 0.6)):
            lab.done("gamma", method, seed, accuracy + seed % 2 / 10, partition=f"p{seed}")
    render(lab.finish("firm", title="Twelve <seeds>", track="robust"), "firm", folder / "firm")
    return folder


def test_an_entry_has_the_numbers_of_its_board(reports):
    found = read(reports / "demo" / ENTRY)
    assert (found.suite, found.title, found.track) == ("demo", "A demonstration", "faithful")
    # fedavg, two fedkper, fedprox, fedper and the hostile one; majority. See conftest for the cells.
    assert (found.tasks, found.methods, found.references, found.seeds) == (("alpha", "beta"), 6, 1, 3)
    assert (found.done, found.cells) == (18, 24)
    assert found.finding == (
        "Descriptive: on the faithful track all seeds share one partition and one client schedule. "
        "On alpha best by Global accuracy, mean over rounds: fedkper[distil=False]."
    )
    firm = read(reports / "firm" / ENTRY)
    # 70 and 80 by turns against 60 and 70: at every seed ten points, 2 / 2¹² < 0.05 / 3.
    assert firm.finding.startswith("On gamma: fedkper stands first alone: it is separated from every other method")


def test_the_page_has_every_board_under_its_track_and_a_link_to_it(reports):
    files = index(reports)
    assert [path.relative_to(reports).as_posix() for path in files[:2]] == ["index.html", "index.md"]
    page, plain = (path.read_text(encoding="utf-8") for path in files[:2])
    for shown in (page, plain):
        robust, faithful = shown.index("The robust track"), shown.index("The faithful track")
        assert robust < shown.index("firm/") < faithful < shown.index("demo/")
        assert "18 of 24" in shown
        assert "36 of 36" in shown
        assert "Twelve &lt;seeds&gt;" in shown
    links = re.findall(r'(?:href|src)="([^"#]+)"', page) + re.findall(r"\]\(([^)]+)\)", plain)
    assert {"demo/index.html", "firm/index.html", "demo/leaderboard.md", "assets/style.css"} <= set(links)
    assert all((reports / link).is_file() for link in links)
    assert "Content-Security-Policy" in page


def test_the_same_sites_give_the_same_bytes_and_the_page_is_no_site(reports):
    first = {path: path.read_bytes() for path in index(reports)}
    assert {path: path.read_bytes() for path in index(reports)} == first
    assert sorted(path.parent.name for path in reports.glob(f"*/{ENTRY}")) == ["demo", "firm"]


def test_nothing_rendered_yet(tmp_path):
    page, plain = (path.read_text(encoding="utf-8") for path in index(tmp_path)[:2])
    assert "No board has been rendered here yet." in page
    assert plain.startswith("# Boards\n")


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"suite": 1}', '{"tasks": 3}'])
def test_an_entry_that_cannot_be_read_is_named_with_its_mend(tmp_path, broken):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / ENTRY).write_text(broken)
    with pytest.raises(RecordError, match=r"quick/board\.json cannot be read .*`fedbench report --suite quick`"):
        index(tmp_path)


def test_a_board_without_a_record_has_nothing_to_rank(lab, tmp_path):
    lab.plan("alpha", "fedavg", 1)
    render(lab.finish(), "demo", tmp_path / "demo")
    assert read(tmp_path / "demo" / ENTRY) == Entry(
        "demo", "A demonstration", "faithful", ("alpha",), 1, 0, 1, 0, 1, "Nothing to rank yet."
    )
