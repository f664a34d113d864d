"""What is published is what the records give."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedbench import Record

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


def test_the_published_board_is_what_the_records_give(tmp_path):
    from fedbench import leaderboard

    published = REPORTS / "paper-local"
    pages = [page.relative_to(tmp_path) for page in leaderboard.render(REPORTS / "records", "paper-local", tmp_path)]
    assert sorted(pages) == sorted(path.relative_to(published) for path in published.rglob("*") if path.is_file())
    for page in pages:
        assert (tmp_path / page).read_bytes() == (published / page).read_bytes(), page
