"""Cells that an earlier version made: seen, offered to be run again, never deleted and never ranked."""

import csv
import hashlib
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.console import terminal
from rich.console import Console

from fedbench import Record, cli, leaderboard, records, registry, verbs
from fedbench import cell as cells
from fedbench.merging import merge
from fedbench.schema import Failure, Plan, PlannedCell

KEPT = Path(__file__).parent / "records" / "schema-1"
PLACE = "heart/fedavg/7bc7bd77c5ae/seed-1"  # made with version 1 of the task, of the method and of the harness
CHOSEN = verbs.Selection("quick", ["heart"], ["fedavg"], [1])


@pytest.fixture
def results(tmp_path):
    return Path(shutil.copytree(KEPT, tmp_path / "results"))


@pytest.fixture
def bumped(monkeypatch):
    monkeypatch.setattr(registry.methods.get("fedavg"), "version", 2)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def asked(*, task=1, method=1, harness=1, task_="heart", method_="fedavg", **changes):
    """Return a planned cell of these versions."""
    values = {"task": task_, "method": method_, "label": method_, "family": "global", "hash": "f" * 12, "seed": 1}
    return PlannedCell(**{**values, "versions": {"task": task, "method": method, "harness": harness}, **changes})


class TestWhatIsStale:
    @pytest.mark.parametrize(
        ("versions", "told"),
        [
            ({"method": 2}, "made with version 1 of fedavg, now 2"),
            ({"task": 3}, "made with version 1 of heart, now 3"),
            ({"harness": 2}, "made with version 1 of the harness, now 2"),
            ({"task": 2, "method": 5}, "made with version 1 of heart, now 2 and version 1 of fedavg, now 5"),
        ],
    )
    def test_a_record_of_an_older_version(self, results, versions, told):
        assert records.stale(results, asked(**versions), "faithful") == told

    @pytest.mark.parametrize(
        "planned",
        [
            asked(),  # another definition at the same versions is another cell, not an older one
            asked(method=0),
            asked(task=2, method=0),
            asked(method=2, label="fedavg[mu=1]"),
            asked(method=2, seed=2),
            asked(method=2, method_="fedper"),
            asked(method=2, hash="7bc7bd77c5ae"),  # it stands where it is asked for
            asked(method=2, versions={}),  # a plan from before versions were written there
            asked(method=2, versions={"method": 2}),
        ],
    )
    def test_nothing_else(self, results, planned):
        assert records.stale(results, planned, "faithful") == ""

    def test_nothing_of_another_track(self, results):
        assert records.stale(results, asked(method=2), "robust") == ""

    def test_no_damaged_record(self, results):
        (results / PLACE / "rounds.parquet").write_bytes(b"")
        assert records.stale(results, asked(method=2), "faithful") == ""

    def test_no_record_of_another_cell_that_was_moved_there(self, results):
        shutil.copytree(results / PLACE, results / "heart/fedkper/7bc7bd77c5ae/seed-1")
        assert records.stale(results, asked(method=2, method_="fedkper", label="fedavg"), "faithful") == ""
        (results / PLACE).parent.rename(results / "heart/fedavg/ba9876543210")
        assert records.stale(results, asked(method=2), "faithful") == ""

    def test_versions_that_are_no_numbers(self, results):
        identity = json.loads((results / PLACE / "run.json").read_text())["identity"]
        for version in ("1", True, None, 1.0):
            write(results / PLACE, identity={**identity, "method": {**identity["method"], "version": version}})
            assert records.stale(results, asked(method=2), "faithful") == ""
        write(results / PLACE, identity={**identity, "task": "heart"})
        assert records.stale(results, asked(method=2), "faithful") == ""

    def test_the_newest_of_several(self, results):
        identity = json.loads((results / PLACE / "run.json").read_text())["identity"]
        for version in (3, 2):
            hash = f"{version}" * 12
            folder = shutil.copytree(results / PLACE, results / f"heart/fedavg/{hash}/seed-1")
            write(folder, identity={**identity, "method": {**identity["method"], "version": version}}, hash=hash)
        assert records.stale(results, asked(method=4), "faithful") == "made with version 3 of fedavg, now 4"


def write(folder, **changes):
    """Change ``run.json`` and the manifest's hash of it, as whoever makes up a record can."""
    path, manifest = folder / "run.json", folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    values = json.loads(manifest.read_text())
    values["files"]["run.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(values))


@pytest.mark.usefixtures("bumped")
class TestRunning:
    def run(self, results, **options):
        return verbs.run(CHOSEN, results, reports=None, executor="serial", **options)

    def test_status_says_it_in_words(self, results):
        (item,) = verbs.status(CHOSEN, results)
        assert (item.state, item.reason) == ("stale", "made with version 1 of fedavg, now 2")
        assert item.seconds > 0  # of running it again

    def test_it_is_kept_if_nobody_wants_it_again(self, results):
        before, begun = contents(results / PLACE), []
        summary = self.run(results, begin=begun.extend)
        assert (summary.count("stale"), summary.ran) == (1, 0)
        assert [item.seconds for item in begun] == [0]
        assert contents(results / PLACE) == before

    def test_it_is_run_again_if_wanted_and_the_old_one_stays(self, results):
        before, offered = contents(results / PLACE), []
        summary = self.run(results, redo_stale=lambda stale: offered.extend(stale) or True)
        assert [str(item.cell) for item in offered] == ["heart/fedavg/seed-1"]
        assert (summary.count("done"), summary.ran) == (1, 1)
        assert contents(results / PLACE) == before
        cell = CHOSEN.load()[1][0]
        assert Record.open(cell.folder(results)).info.identity["method"]["version"] == 2
        assert verbs.status(CHOSEN, results)[0].state == "done"

    def test_nobody_is_asked_where_nothing_is_stale(self, results):
        self.run(results, redo_stale=lambda stale: True)
        self.run(results, redo_stale=lambda stale: pytest.fail("asked"))

    def test_a_failed_attempt_is_newer_news(self, results):
        folder = CHOSEN.load()[1][0].folder(results)
        records.write_failure(folder, Failure(reason="loss is NaN", traceback="", at=""))
        assert verbs.status(CHOSEN, results)[0].state == "failed"

    def test_without_a_terminal_a_line_says_how_to_run_it_again(self, results, tmp_path, capfd):
        run = ["run", "--task", "heart", "--method", "fedavg", "--seed", "1", "--executor", "serial"]
        run += ["--out", str(results), "--reports", str(tmp_path / "reports")]
        for flag in ([], ["--keep-stale"]):
            assert leaves(run + flag) == cli.FAILED
            out = capfd.readouterr().out
            assert "0 of 1 cells done (0 run now), 0 failed, 0 skipped, 1 stale." in out
            assert "heart/fedavg: stale: made with version 1 of fedavg, now 2" in out
            assert "--redo-stale" in out
        assert leaves(["status", *run[1:7], "--out", str(results)]) == cli.FAILED
        assert "made with version 1 of fedavg, now 2" in " ".join(capfd.readouterr().out.split())
        assert leaves([*run, "--redo-stale"]) == cli.COMPLETE
        assert "1 of 1 cells done (1 run now), 0 failed, 0 skipped." in capfd.readouterr().out


def leaves(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code


def test_the_harness_has_a_version_as_well(results, monkeypatch):
    monkeypatch.setattr(cells, "HARNESS_VERSION", 2)
    assert verbs.status(CHOSEN, results)[0].reason == "made with version 1 of the harness, now 2"


@pytest.mark.parametrize(("answer", "state"), [("", "done"), ("n", "stale")])
@pytest.mark.long
def test_a_terminal_is_asked_once(results, tmp_path, answer, state):
    program = (
        "from fedbench import cli, registry; registry.methods.get('fedavg').version = 2; "
        "cli.main(['run', '--task', 'heart', '--method', 'fedavg', '--seed', '1', '--executor', 'serial', "
        f"'--out', {str(results)!r}, '--reports', {str(tmp_path / 'reports')!r}])"
    )
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    with subprocess.Popen([sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end was closed
            pass
    os.close(ours)
    assert shown.count(b"1 cell was made with an earlier version. Run it again? [Y/n]") == 1
    assert b"stale: made with version 1 of fedavg, now 2" in shown
    assert process.returncode == (cli.COMPLETE if state == "done" else cli.FAILED)


class TestTheBoard:
    @pytest.fixture(autouse=True)
    def planned(self, results):
        """The plan asks for version 2 of FedAvg, and everything else as it is."""
        path = results / "plans" / "kept.json"
        plan = records.read_plan(path)
        cells = [asked(method=2) if cell.method == "fedavg" else cell for cell in plan.cells]
        path.write_text(plan.model_copy(update={"cells": tuple(cells)}).model_dump_json())

    def test_it_is_a_state_of_its_own_and_never_ranked(self, results):
        board = load_board(results, "kept")
        rows = {row.label: row for row in board.tasks[0].all_rows}
        assert rows["fedavg"].hole == "stale: made with version 1 of fedavg, now 2"
        assert (rows["fedavg"].rank, rows["fedkper"].rank) == (None, 1)
        assert not rows["fedavg"].valued
        assert board.count("stale") == 1

    def test_each_way_to_show_a_board_says_it(self, results, tmp_path):
        leaderboard.render(results, "kept", tmp_path / "site")
        shown = {path.name: path.read_text() for path in (tmp_path / "site").rglob("*.*ml")}
        shown["leaderboard.md"] = (tmp_path / "site" / "leaderboard.md").read_text()
        console = Console(file=io.StringIO(), width=100)
        terminal(load_board(results, "kept"), console)
        shown["terminal"] = " ".join(console.file.getvalue().split())
        for name in ("leaderboard.md", "index.html", "heart.html", "fedavg.html", "terminal"):
            assert "made with version 1 of fedavg, now 2" in shown[name], name
        for name in ("leaderboard.md", "index.html", "terminal"):
            assert "2 of 3 cells done (1 stale)" in shown[name], name
            assert "75.4" not in shown[name], name  # the global accuracy of the stale record

    def test_tables_for_programs_say_it(self, results):
        _, text = verbs.table("kept", "csv", results)
        lines = [line for line in csv.DictReader(io.StringIO(text)) if line["method"] == "fedavg"]
        assert {(line["state"], line["reason"], line["value"]) for line in lines} == {
            ("stale", "made with version 1 of fedavg, now 2", "")
        }

    def test_a_skipped_cell_is_skipped(self, results):
        path = results / "plans" / "kept.json"
        path.write_text(path.read_text().replace('"skipped":null', '"skipped":"no data"'))
        assert load_board(results, "kept").tasks[0].rows[1].hole == "skipped: no data"

    def test_a_name_that_leads_out_of_the_folder_leads_nowhere(self, results, tmp_path):
        shutil.copytree(results / "heart", tmp_path / "heart")
        plan = Plan(
            schema_version=1, suite="kept", title="", track="faithful", cells=(asked(method=2, task_="../heart"),)
        )
        (results / "plans" / "kept.json").write_text(plan.model_dump_json())
        assert load_board(results, "kept").cells[0].state == "corrupt"

    def test_joined_plans_keep_the_versions(self, results, tmp_path):
        other = Path(shutil.copytree(results, tmp_path / "other"))
        path = other / "plans" / "kept.json"
        plan = records.read_plan(path)
        without = (cell.model_copy(update={"versions": {}}) for cell in plan.cells)
        path.write_text(plan.model_copy(update={"cells": tuple(without)}).model_dump_json())
        merge([other, results], tmp_path / "merged")
        assert load_board(tmp_path / "merged", "kept").count("stale") == 1
