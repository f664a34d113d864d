"""What is published is what the records give."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fedbench.leaderboard import index

from fedbench import Record, SpecError, release
from fedbench.cli import main
from fedbench.records import read_plan
from fedbench.verbs import check_reports

REPORTS = Path(__file__).parents[1] / "reports"
RECORDS = sorted(path.parent for path in (REPORTS / "records").rglob("manifest.json"))


def test_there_are_published_records():
    assert len(RECORDS) >= 2


@pytest.mark.parametrize("folder", RECORDS, ids=lambda path: "/".join(path.parts[-4:]))
def test_a_published_record_is_whole_and_stands_where_its_identity_says(folder):
    record = Record.open(folder)
    record.verify()
    info = record.info
    method = info.identity["method"]["name"]
    assert folder.parts[-4:] == (info.identity["task"]["name"], method, info.hash, f"seed-{info.seed}")
    assert info.environment.commit is not None
    assert not info.environment.commit.endswith("+"), "made from a tree with changes"


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*/records.tar.xz")), ids=lambda path: path.parent.name)
def test_a_published_release_holds_whole_records_of_clean_commits(path):
    with release.opened(path) as folder:
        plan = read_plan(folder / "plans" / f"{path.parent.name}.json")
        found = {manifest.parent.relative_to(folder).as_posix() for manifest in folder.rglob("manifest.json")}
        assert found <= {cell.path for cell in plan.cells}
        assert len(found) > 0.9 * len(plan.cells)
        for place in found:
            record = Record.open(folder / place)
            record.verify()
            assert not str(record.info.environment.commit).endswith("+"), "made from a tree with changes"


def test_the_fidelity_table_is_what_the_records_give():
    done = subprocess.run([sys.executable, REPORTS / "fidelity.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_figure_and_tables_of_the_budget_are_what_the_records_give():
    done = subprocess.run([sys.executable, REPORTS / "budget.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_budget_buys_the_rounds_that_are_over_by_then(monkeypatch):
    monkeypatch.syspath_prepend(REPORTS)
    run = importlib.import_module("budget").Run(None, np.array([2.0, 5.0, 6.0]), np.array([10.0, 30.0, 20.0]))
    assert run.rounds(np.array([1.9, 2.0, 5.9, 99.0])).tolist() == [0, 1, 2, 3]
    assert run.at(np.array([2.0, 4.9, 5.0, 6.0])).tolist() == [10.0, 10.0, 30.0, 20.0]


@pytest.mark.long
def test_every_published_site_is_what_the_records_give(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", "--check", str(REPORTS)])
    sites = sorted(path.parent.name for path in REPORTS.glob("*/index.html"))
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: as the records give it" for name in (*sites, "index.html")
    ]
    assert ended.value.code == 0
    own = {path.parent.name for path in REPORTS.glob("*/records.tar.xz")}
    assert {"paper-local", "quick", "quick-robust"} <= set(sites)
    assert set(sites) <= own | {path.stem for path in (REPORTS / "records" / "plans").iterdir()}


def test_a_byte_changed_a_page_lost_and_a_page_added_are_found(tmp_path):
    shutil.copytree(REPORTS / "records", tmp_path / "records")
    shutil.copytree(REPORTS / "paper-local", tmp_path / "paper-local")
    board, about = tmp_path / "paper-local" / "index.html", tmp_path / "paper-local" / "about.html"
    board.write_bytes(board.read_bytes().replace(b"fedkper", b"fedkpeR", 1))
    about.rename(about.with_name("more.html"))
    index(tmp_path)
    found = check_reports(tmp_path)
    assert found == {"paper-local": ["about.html", "index.html", "more.html"], "index.html": []}
    (tmp_path / "index.md").unlink()
    assert check_reports(tmp_path)["index.html"] == ["index.md"]


def test_a_folder_without_records_or_sites_is_refused(tmp_path):
    with pytest.raises(SpecError, match="has no records/plans"):
        check_reports(tmp_path)
    (tmp_path / "records" / "plans").mkdir(parents=True)
    with pytest.raises(SpecError, match="has no site; render one with"):
        check_reports(tmp_path)
