"""The site: well-formed pages, the same bytes, nothing from elsewhere, and no way in for a hostile name."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from fedbench.leaderboard import load_board, render
from fedbench.leaderboard.charts import Chart
from fedbench.leaderboard.page import Axis, axis, slug

from fedbench.metrics import METRICS

VOID = {"meta", "link", "br", "img", "input", "hr", "source"}


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


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out the drawing, which takes seconds and is tested where charts are."""
    monkeypatch.setattr(Chart, "svg", lambda self: "<svg/>\n")


@pytest.fixture(scope="module")
def files(shown, tmp_path_factory):
    """Return the rendered site: text by path."""
    out = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "svg", lambda self: "<svg/>\n")
        return read(out, render(shown, "demo", out))


def read(out, paths):
    return {path.relative_to(out).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def pages(files):
    return {name: Reader(text) for name, text in files.items() if name.endswith(".html")}


EVIL = "methods/evil.html"
PAGES = {
    "index.html", "tradeoff.html", "curves.html", "clients.html", "ranks.html", "methods.html", "tasks.html",
    "about.html", "methods/fedavg.html", "methods/fedkper.html", "methods/fedper.html", "methods/fedprox.html",
    "methods/majority.html", EVIL, "tasks/alpha.html", "tasks/beta.html",
}  # fmt: skip


def test_the_files(demo, tmp_path):
    out = tmp_path / "deep" / "out"
    paths = render(demo, "demo", out)
    assert paths[:2] == [out / "index.html", out / "leaderboard.md"]
    assert sorted(paths) == sorted(path for path in out.rglob("*") if path.is_file())
    assert {name for name in read(out, paths) if name.endswith(".html")} == PAGES


def test_every_page_is_well_formed(files):
    for name, page in pages(files).items():
        assert files[name].startswith("<!DOCTYPE html>")
        assert len(page.ids) == len(set(page.ids)), name
        labels = [
            value[key] for _, value in page.tags for key in ("aria-labelledby", "aria-describedby") if key in value
        ]
        assert set(labels) <= set(page.ids), name


def test_every_link_leads_to_a_file_and_a_place_of_the_site(files):
    read_pages = pages(files)
    for name, page in read_pages.items():
        links = [value[key] for _, value in page.tags for key in ("href", "src", "srcset") if key in value]
        assert len(links) > 8
        for link in links:
            path, _, place = link.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name  # noqa: PTH118, PTH120
            assert target in files, (name, link)
            assert not place or place in read_pages[target].ids, (name, link)


def test_tables_say_what_their_headings_head(files):
    for name, page in pages(files).items():
        assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th"), name
        assert ("html", {"lang": "en"}) in page.tags
        assert any(attributes.get("name") == "viewport" for tag, attributes in page.tags if tag == "meta")
        drawings = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
        assert all(attributes["aria-label"] for attributes in drawings)


def test_pages_ask_for_nothing_from_elsewhere_and_forbid_it(files):
    policy = "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; "
    for name, page in pages(files).items():
        tags = page.tags
        assert not {"iframe", "object", "embed", "base"} & {tag for tag, _ in tags}, name
        assert not [key for _, attributes in tags for key in attributes if key.startswith("on") or key == "style"], name
        scripts = [attributes for tag, attributes in tags if tag == "script"]
        assert all("src" in attributes or attributes["type"] == "application/json" for attributes in scripts), name
        seen = re.sub(
            r'<script type="application/json".*?</script>', "", files[name]
        )  # data, with the name of a schema
        assert not re.search(r"https?://|url\(|@import", seen), name
        policies = [value["content"] for _, value in tags if value.get("http-equiv") == "Content-Security-Policy"]
        assert len(policies) == 1
        assert policies[0].startswith(policy)
    assert not re.search(r"https?://|url\(|@import", files["assets/style.css"] + files["assets/site.js"])


def test_hostile_names_are_text(files, script):
    for name, page in pages(files).items():
        sources = [attributes["src"] for tag, attributes in page.tags if tag == "script" and "src" in attributes]
        assert len(sources) == 2, name
        assert all(source.endswith(("assets/site.js", "assets/sortable.min.js")) for source in sources)
    assert script in Reader(files["index.html"]).text
    assert script in Reader(files["tasks/beta.html"]).text
    # Docstrings too.
    assert "A temperature, <b>hot</b>." in Reader(files["methods/fedavg.html"]).text
    assert "<b>hot" not in files["methods/fedavg.html"]


def test_a_hostile_name_cannot_leave_its_folder_or_take_another_s_page(lab, tmp_path):
    assert slug("fedavg-ft") == "fedavg-ft"
    names = ["../../evil", "..", "con", "index", "FedAvg", "fedavg ", "a/b", "a-b", "x" * 300, "\u202ex", "é", "e"]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,60}", found) and ".." not in found for found in slugs)
    lab.done("alpha", "fedavg", 1, 0.5)
    evil = lab.plan("alpha", "fedper", 1).model_copy(update={"method": "../../evil", "task": "../up"})
    out = tmp_path / "a" / "b"
    files = render(lab.finish(cells=[lab.cells[0], evil]), "demo", out)
    assert all(out in path.parents and path.resolve() == path.absolute() for path in files)


def test_values_and_states_are_shown(files):
    words = Reader(files["index.html"]).text
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
        "incomplete on alpha; not planned on beta",
        "Ties at the top not computed: on the faithful track",
        "2.0 MB",
        "CC BY 4.0",
    ):
        assert expected in words, expected
    assert 'title="95 % t interval 35.2 to 84.8 %, n = 3 seeds"' in files["index.html"]


def test_ties_are_marked_by_more_than_colour(robust, tmp_path):
    files = read(tmp_path / "out", render(robust, "demo", tmp_path / "out"))
    words = Reader(files["index.html"]).text
    assert "2 methods share rank 1: fedkper and, not separated from it, fedntd" in words
    # fedkper 70 and 80 by turns: mean 75; fedntd one point of 10 less at one of 12 seeds.
    assert "★ best: 75.0" in words
    assert "≈ tied with the best: 74.2" in words
    assert "1= 1–2" in words
    assert "+20.0" in words
    assert "better" in words


def test_reference_points_stand_in_a_body_of_their_own_without_a_rank(files):
    body = re.findall(r'<tbody class="rows references">(.*?)</tbody>', files["tasks/alpha.html"], re.S)[0]
    assert "majority" in body
    assert 'class="num rank" data-sort="">–' in body
    assert "★" not in body


def test_a_method_s_page_has_all_that_is_needed_to_check_it(files):
    words = Reader(files["methods/fedkper.html"]).text
    for expected in (
        "Loss: something made up.",
        "Source: A. Author, <i>Title</i>.",
        "distillation, weighting",
        "distil = False",
        "set by hand",
        "fedbench run --suite demo --task alpha --method fedkper --set fedkper.distil=false --seed 3 --out again",
        "0123456789ab",
        "FedBench 0.1.0",
        "skipped: bloodmnist.npz is not on this machine",
    ):
        assert expected in words, expected


def test_a_task_s_page_has_its_split_and_every_run(files):
    words = Reader(files["tasks/alpha.html"]).text
    for expected in (
        "client 1, well: 5 training samples",
        "local test sets of 4 to 4 samples",
        "All seeds share this split.",
        "More about it.",
        "failed: loss is NaN in round 2",
        "12 s",
    ):
        assert expected in words, expected
    assert files["tasks/alpha.html"].count("--out again") == 15


def test_the_about_page_explains_every_metric_and_what_the_design_can_say(files):
    words = Reader(files["about.html"]).text
    for metric in METRICS.values():
        assert metric.title in words
    for expected in ("1 independent source of data (made-up)", "need 8 independent sources", "torch 2.13.0"):
        assert expected in words, expected
    # 6 methods on the board are 15 pairs; 2 / 2¹⁰ < 0.05 / 15 < 2 / 2⁹.
    assert "after Holm's correction is 10;" in words


def test_the_about_page_says_what_the_seeds_resolve(robust, lab, tmp_path):
    words = Reader(read(tmp_path / "out", render(robust, "demo", tmp_path / "out"))["about.html"]).text
    # fedkper differs by 20 points at every seed: no spread. fedntd differs by 20 at 11 seeds and by 10 at one:
    # s = 10 / √12 = 2.89. fedkper has no spread, so that is the root mean square over methods.
    assert "paired differences from fedavg spread by 2.9 points over seeds, so 12 seeds find differences" in words


def test_fidelity_only_where_a_paper_reports_a_task(files, lab, tmp_path):
    assert "fidelity.html" not in files
    for seed, accuracy in ((1, 0.5), (2, 0.6), (3, 0.7)):
        lab.done("blood", "fedavg", seed, accuracy)
    found = read(tmp_path / "new", render(lab.finish("other"), "other", tmp_path / "new"))
    words = Reader(found["fidelity.html"]).text
    assert "reported, second hand" in words
    assert "60.0 ± 24.8 40.9 +19.1 −5.7 to +43.9" in words
    assert 'href="fidelity.html"' in found["index.html"]


def test_one_seed_says_so(lab, tmp_path):
    lab.done("alpha", "fedavg", 1, 0.5)
    index, markdown = (path.read_text(encoding="utf-8") for path in render(lab.finish(), "demo", tmp_path / "out")[:2])
    assert "one seed" in index
    assert "one seed" in markdown
    assert "±" not in Reader(index).text.partition("Rank Method")[2].partition("How to read")[0]


def test_warnings_are_shown(lab, tmp_path):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("alpha", "fedkper", 1, 0.5, partition="other")
    for path in render(lab.finish(), "demo", tmp_path / "out")[:2]:
        assert "not paired: at seed 1 fedavg, fedkper do not share partition" in path.read_text(encoding="utf-8")


def test_nothing_done_yet(lab, tmp_path):
    lab.plan("alpha", "fedavg", 1)
    files = read(tmp_path / "out", render(lab.finish(), "demo", tmp_path / "out"))
    assert "missing" in Reader(files["index.html"]).text
    assert "| – | fedavg | defaults | missing |" in files["leaderboard.md"]
    assert "No record of it is whole" in Reader(files["methods/fedavg.html"]).text
    assert not [name for name in files if name.startswith("charts/")]


def test_the_same_records_give_the_same_bytes_wherever_and_in_whatever_order_they_stand(demo, tmp_path):
    first = read(tmp_path / "first", render(demo, "demo", tmp_path / "first"))
    assert read(tmp_path / "first", render(demo, "demo", tmp_path / "first")) == first
    # Copied backwards: another place, other dates, another order in the directory.
    for path in sorted((path for path in demo.rglob("*") if path.is_file()), reverse=True):
        copy = tmp_path / "elsewhere" / path.relative_to(demo)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        os.utime(copy, (0, 0))
    assert read(tmp_path / "second", render(tmp_path / "elsewhere", "demo", tmp_path / "second")) == first


def test_pages_are_replaced_whole_or_not_at_all(demo, tmp_path, monkeypatch):
    out = tmp_path / "out"
    before = read(out, render(demo, "demo", out))
    monkeypatch.setattr("fedbench.leaderboard.page.markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render(demo, "demo", out)
    assert read(out, [path for path in out.rglob("*") if path.is_file()]) == before


def test_a_page_whose_subject_is_gone_is_deleted_and_nobody_else_s(lab, tmp_path):
    out = tmp_path / "out"
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("beta", "fedkper", 1, 0.5)
    render(lab.finish(), "demo", out)
    (out / "methods" / "mine.html").write_text("<p>my notes</p>")
    lab.cells.pop()
    render(lab.finish(), "demo", out)
    assert sorted(path.name for path in (out / "methods").iterdir()) == ["fedavg.html", "mine.html"]
    assert sorted(path.name for path in (out / "tasks").iterdir()) == ["alpha.html"]


def test_a_picture_whose_subject_is_gone_is_deleted_and_nobody_else_s(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(Chart, "svg", lambda self: '<svg xmlns="…" role="img" aria-label="x"/>\n')
    out = tmp_path / "out"
    lab.done("alpha", "fedavg", 1, 0.5)
    render(lab.finish(), "demo", out)
    there = sorted(path.name for path in (out / "charts").iterdir())
    (out / "charts" / "old.svg").write_text('<svg role="img" aria-label="as earlier versions wrote it"/>')
    (out / "charts" / "old.js").write_text('site.specs["old"] = {};')
    (out / "charts" / "mine.svg").write_text("<svg/>")
    render(lab.finish(), "demo", out)
    assert sorted(path.name for path in (out / "charts").iterdir()) == sorted([*there, "mine.svg"])


def test_a_chart_has_its_picture_its_data_and_its_words(files):
    names = re.findall(r'data-chart="([^"]+)"', files["tradeoff.html"])
    assert names
    for name in names:
        assert f"charts/{name}.svg" in files
        spec = files["tradeoff.html"].partition(f'<script type="application/json" id="{name}-spec">')[2]
        assert json.loads(spec.partition("</script>")[0])["description"] in Reader(files["tradeoff.html"]).text
    assert files["assets/vega.js"].splitlines()[-1].startswith("site.themes = {")


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
