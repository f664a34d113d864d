"""The page: well-formed, self-contained, the same bytes, and no way in for a hostile name."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from fedbench.leaderboard import load_board, render
from fedbench.leaderboard.page import Axis, axis

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Read a page, and fail where a tag is not closed or an id is taken twice."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def page(demo, tmp_path):
    return render(demo, "demo", tmp_path / "out")[0].read_text(encoding="utf-8")


def test_the_two_files(demo, tmp_path):
    out = tmp_path / "deep" / "out"
    assert render(demo, "demo", out) == [out / "index.html", out / "leaderboard.md"]
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "leaderboard.md"]


def test_well_formed(page):
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert len(reader.ids) == len(set(reader.ids))
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(reader.ids)
    labels = [value["aria-labelledby"] for _, value in reader.tags if "aria-labelledby" in value]
    assert set(labels) <= set(reader.ids)


def test_tables_say_what_their_headings_head(page):
    tags = Reader(page).tags
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    assert ("html", {"lang": "en"}) in tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in tags if tag == "meta")
    drawings = [attributes for tag, attributes in tags if tag == "svg" and attributes.get("role") == "img"]
    assert drawings
    assert all(attributes["aria-label"] for attributes in drawings)


def test_self_contained(page):
    tags = Reader(page).tags
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name == "src" or name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page


def test_hostile_names_are_text(page, script):
    assert "<script" not in page
    assert script in Reader(page).text


def test_values_and_states_are_shown(page):
    words = Reader(page).text
    for expected in (
        "80.0 ± 24.8",
        "best: 80.0",
        "2 of 3",
        "2 of 3 seeds: seed 3 failed: loss is NaN in round 2",
        "skipped: bloodmnist.npz is not on this machine",
        "not ranked: Global accuracy, mean over rounds is not defined",
        "Reference points",
        "Descriptive: three seeds on one split.",
        "18 of 24 cells done",
        "2.0 MB",
        "CC BY 4.0",
        "alpha/fedavg/0123456789ab/seed-1",
        "torch 2.13.0",
    ):
        assert expected in words, expected
    assert 'title="95 % t interval 35.2 to 84.8 %, n = 3 seeds"' in page


def test_one_seed_says_so(lab, tmp_path):
    lab.done("alpha", "fedavg", 1, 0.5)
    words = [path.read_text(encoding="utf-8") for path in render(lab.finish(), "demo", tmp_path / "out")]
    assert all("one seed" in text for text in words)
    assert all("±" not in Reader(words[0]).text.partition(start)[2][:300] for start in ("Rank Method",))


def test_warnings_are_shown(lab, tmp_path):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("alpha", "fedkper", 1, 0.5, partition="other")
    for path in render(lab.finish(), "demo", tmp_path / "out"):
        assert "not paired: at seed 1 fedavg, fedkper do not share partition" in path.read_text(encoding="utf-8")


def test_nothing_done_yet(lab, tmp_path):
    lab.plan("alpha", "fedavg", 1)
    page, markdown = render(lab.finish(), "demo", tmp_path / "out")
    assert "missing" in Reader(page.read_text(encoding="utf-8")).text
    assert "| – | fedavg | defaults | missing |" in markdown.read_text(encoding="utf-8")


def test_the_same_records_give_the_same_bytes_wherever_and_in_whatever_order_they_stand(demo, tmp_path):
    first = [path.read_bytes() for path in render(demo, "demo", tmp_path / "first")]
    assert [path.read_bytes() for path in render(demo, "demo", tmp_path / "first")] == first
    # Copied backwards: another place, other dates, another order in the directory.
    for path in sorted((path for path in demo.rglob("*") if path.is_file()), reverse=True):
        copy = tmp_path / "elsewhere" / path.relative_to(demo)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        os.utime(copy, (0, 0))
    assert [path.read_bytes() for path in render(tmp_path / "elsewhere", "demo", tmp_path / "second")] == first


def test_pages_are_replaced_whole_or_not_at_all(demo, tmp_path, monkeypatch):
    before = [path.read_bytes() for path in render(demo, "demo", tmp_path / "out")]
    monkeypatch.setattr("fedbench.leaderboard.page.markdown", lambda board: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render(demo, "demo", tmp_path / "out")
    assert [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())] == before


def test_axis_holds_all_intervals_and_stays_within_bounds(demo):
    alpha, beta = load_board(demo, "demo").tasks
    assert axis(alpha) == Axis(0.0, 1.0)  # fedprox, with two seeds, reaches far beyond both ends
    assert axis(beta) == Axis(0.4, 0.9)  # 40 % three times, and 90 %
    assert Axis(0.4, 0.9).at(0.65) == "50.00"
    assert Axis(0.4, 0.9).at(2.0) == "100.00"


def test_importing_loads_neither_torch_nor_pandas():
    code = "import sys, fedbench.leaderboard; print(sorted({'torch', 'pandas', 'medmnist'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
