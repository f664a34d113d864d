"""From somebody's results folder to a row of a board, and what becomes of it there."""

import json
import shutil
import zipfile

import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.markdown import markdown
from fedbench.leaderboard.page import render
from fedbench.leaderboard.tables import as_csv, as_json, as_latex

from fedbench import registry, verbs
from fedbench.submissions import SubmissionError, decisions
from fedbench.submissions.packing import pack

from .conftest import ABOUT
from .test_archive import tree
from .test_checking import report_of, rows

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.mark.long
def test_the_board_needs_no_method_and_is_rebuilt_byte_for_byte(packed, board, tmp_path, monkeypatch):
    archive = packed()
    verbs.submit_add(archive, board)
    monkeypatch.setattr(registry.methods, "_points", {})
    monkeypatch.setattr(registry.methods, "_loaded", {})
    reports = tmp_path / "reports"
    shutil.copytree(board, reports / "records")
    render(reports / "records", "demo", reports / "demo")
    (row,) = [row for row in load_board(board, "demo").tasks[0].rows if row.label == "steady"]
    assert (row.family, row.mechanisms) == ("global", ("patience",))
    index = (reports / "demo" / "index.html").read_text()
    assert '<span class="origin">self-reported · fedbench-steady 1.2</span>' in index
    assert "“Self-reported”" in index
    assert verbs.check_reports(reports)["demo"] == []
    verbs.submit_withdraw("steady", reports / "records", reason="gone")
    assert verbs.check_reports(reports)["demo"]  # the site shows it until it is rendered again


def test_what_the_owner_ran_has_no_mark(board):
    shown = load_board(board, "demo")
    assert all(row.standing is None for task in shown.tasks for row in task.all_rows)
    for text in (markdown(shown), as_latex(shown)):
        assert "self-reported" not in text


def test_tables_say_where_a_row_stands(packed, board):
    verbs.submit_add(packed(), board)
    shown = load_board(board, "demo")
    stands = {(row["method"], row["standing"], row["provider"]) for row in json.loads(as_json(shown))["rows"]}
    assert stands == {("fedavg", "", ""), ("steady", "self-reported", "fedbench-steady 1.2")}
    assert "self-reported,fedbench-steady 1.2" in as_csv(shown).replace('"', "")
    assert "steady (self-reported) &" in as_latex(shown)


def test_a_submitted_row_stays_when_the_owner_runs_the_suite_again(packed, made, board):
    verbs.submit_add(packed(), board)
    before = (board / "plans" / "demo.json").read_bytes()
    for task in made.tasks:
        registry.tasks.add(task.name, task)
    try:
        registry.methods.points().pop("steady")
        verbs.run(verbs.Selection(str(made.board.parent / "demo.toml")), board, reports=None, executor="serial")
    finally:
        for task in made.tasks:
            registry.tasks.forget(task.name)
    assert json.loads((board / "plans" / "demo.json").read_bytes()) == json.loads(before)
    assert rows(board)["steady"] == ("self-reported", True, 2)


def test_a_withdrawn_row_is_no_hole_and_in_no_test(packed, board):
    before = load_board(board, "demo")
    verbs.submit_add(packed(), board)
    verbs.submit_withdraw("steady", board, reason="gone")
    after = load_board(board, "demo")
    assert after.count("done") == len(after.cells) == len(before.cells)
    assert after.labels(references=False) == before.labels(references=False)
    assert all(not cell.values for task in after.tasks for row in task.rows if row.standing for cell in row.cells)


def test_a_record_changed_after_it_was_added_is_not_shown(packed, board, forge):
    verbs.submit_add(packed(), board)
    (place,) = [str(p.parent.relative_to(board)) for p in board.glob("tiny/steady/*/seed-1/manifest.json")]
    forge(board / place, train_class_counts=lambda counts: counts + 1)
    (cell,) = [cell for cell in load_board(board, "demo").cells if cell.planned.path == place]
    assert (cell.state, "not the one that was submitted" in cell.reason) == ("corrupt", True)


# --- packing ----------------------------------------------------------------------------------------------------------


def test_a_pack_is_the_same_each_time_and_says_what_is_in_it(made, released, fedbench, tmp_path, monkeypatch):
    released("1.2")
    first = pack("steady", "demo", made.first, path=tmp_path / "first.zip", **ABOUT).path.read_bytes()
    released("1.2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    arguments = ("--licence", "MIT", "--url", "https://example.org/steady", "--author", "A. Author")
    status, out, _ = fedbench(
        "submit", "pack", "steady", "--suite", "demo", "--out", made.first, "--notes", "notes.txt", *arguments
    )
    assert status == 0
    assert (tmp_path / "steady-1.2.fedbench.zip").read_bytes() == first
    assert "4 cells" in out
    assert "next: " in out
    with zipfile.ZipFile(tmp_path / "steady-1.2.fedbench.zip") as archive:
        form = json.loads(archive.read("submission.json"))
        assert archive.namelist()[0] == "submission.json"
        assert len(archive.namelist()) == 1 + 1 + 4 * 5
        plan = json.loads(archive.read("plans/demo.json"))
    assert {cell["method"] for cell in plan["cells"]} == {"steady"}
    assert (form["distribution"], form["version"], form["entry_point"]) == (
        "fedbench-steady", "1.2", "fedbench_steady:Steady",
    )  # fmt: skip
    assert any(name.startswith("numpy==") for name in form["environment"])


def test_a_pack_takes_what_the_package_says_of_itself(made, released, tmp_path):
    released("1.2")
    info = tmp_path / "installed" / "fedbench-steady" / "fedbench_steady-1.2.dist-info"
    about = [
        "License-Expression: Apache-2.0",
        "Project-URL: Homepage, https://example.org/home",
        "Project-URL: Source, https://example.org/source",
        'Author-email: "A. Author" <a@example.org>, B. Author <b@example.org>',
    ]
    with (info / "METADATA").open("a") as file:
        file.write("\n".join(about) + "\n")
    form = pack("steady", "demo", made.first, path=tmp_path / "a.zip").checked.submission
    assert (form.licence, form.url) == ("Apache-2.0", "https://example.org/source")
    assert form.authors == ("A. Author", "B. Author")


def test_nothing_is_packed_with_a_hole(made, released, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(made.first, results)
    shutil.rmtree(next(results.glob("tinier/steady/*/seed-2")))
    released()
    with pytest.raises(SubmissionError, match=r"1 of 4 cells have no record: tinier/steady/seed-2 is missing"):
        pack("steady", "demo", results, path=tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_nothing_is_packed_that_does_not_verify(made, released, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(made.first, results)
    place = next(results.glob("tinier/steady/*/seed-2"))
    shutil.rmtree(place)
    shutil.copytree(next(made.first.glob("tinier/steady/*/seed-1")), place)  # its files are whole, its place is wrong
    released()
    with pytest.raises(SubmissionError, match=r"nothing was packed: .*seed-2"):
        pack("steady", "demo", results, path=tmp_path / "a.zip", **ABOUT)
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize(
    ("method", "suite", "told"),
    [
        ("fedavg", "demo", "fedavg is built in"),
        ("steedy", "demo", "did you mean steady"),
        ("steady", "other", "no suite 'other' was run"),
    ],
)
def test_what_cannot_be_packed(made, released, tmp_path, method, suite, told):
    from fedbench import FedBenchError

    released()
    with pytest.raises(FedBenchError, match=told):
        pack(method, suite, made.first, path=tmp_path / "a.zip")


def test_an_unreleased_version_or_a_silent_package_is_told(made, released, tmp_path):
    released("1.3.dev1+g123")
    with pytest.raises(SubmissionError, match=r"1\.3\.dev1\+g123 is no release"):
        pack("steady", "demo", made.first, path=tmp_path / "a.zip")
    released("1.3")
    with pytest.raises(SubmissionError, match=r"does not say its licence, url, authors; .* --licence, --url, --author"):
        pack("steady", "demo", made.first, path=tmp_path / "a.zip")


def test_another_archive_is_not_written_over(packed, made):
    path = packed()
    path.write_bytes(b"mine")
    with pytest.raises(SubmissionError, match="is there already, and is another archive"):
        pack("steady", "demo", made.first, path=path, **ABOUT)
    assert path.read_bytes() == b"mine"


# --- the rules of a board ---------------------------------------------------------------------------------------------


def findings(added):
    """Return what was found, after a look that nothing was decided."""
    assert not added.decisions
    return " ".join(finding.what for finding in added.checked.findings)


def test_the_same_archive_twice_is_refused(packed, board):
    archive = packed()
    verbs.submit_add(archive, board)
    before = tree(board)
    assert "was added already, at " in findings(verbs.submit_add(archive, board))
    assert tree(board) == before


@pytest.mark.parametrize("version", ["1.2", "1.1", "1.2.0", "0.9"])
def test_the_same_or_an_older_version_is_refused(packed, board, version):
    verbs.submit_add(packed(), board)
    other = packed("second", version, contact="me@example.org")
    assert "is not newer than 1.2" in findings(verbs.submit_add(other, board))


def test_a_name_of_another_distribution_is_refused(packed, board, tmp_path):
    verbs.submit_add(packed(), board)
    verbs.submit_withdraw("steady", board, reason="gone")
    shutil.rmtree(tmp_path / "installed" / "fedbench-steady")
    other = packed("second", "2.0", "fedbench-other")
    assert "is taken by the distribution fedbench-steady" in findings(verbs.submit_add(other, board))


def test_a_name_that_differs_in_case_and_hyphens_is_the_same_distribution(packed, board, rewritten):
    verbs.submit_add(packed(), board)
    other = rewritten(packed("second", "2.0"), lambda form, files: form.update(distribution="FedBench_Steady"))
    assert verbs.submit_add(other, board).decisions


def test_a_name_that_the_owner_runs_is_refused(packed, made, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(made.second, own)
    assert "the board's owner runs a method of this name" in findings(verbs.submit_add(packed(), own))


def test_a_withdrawn_method_can_come_back_as_a_newer_version(packed, board):
    verbs.submit_add(packed(), board)
    verbs.submit_withdraw("steady", board, reason="gone")
    verbs.submit_add(packed("second", "1.3"), board)
    assert rows(board)["steady"][0] == "self-reported"
    assert rows(board)["steady 1.2"][0] == "withdrawn"


def test_a_newer_release_with_the_same_cells_takes_their_rows_over(packed, board, report):
    first = packed()
    verbs.submit_add(first, board, rerun=report(first))
    assert [decision.action for decision in decisions.read(board)] == ["added", "verified"]
    verbs.submit_add(packed("first", "1.3"), board)
    assert rows(board) == {"fedavg": ("", True, 2), "steady": ("self-reported", True, 2)}


def test_another_result_of_a_cell_is_refused_and_nothing_is_written_over(packed, made, board):
    verbs.submit_add(packed(), board)
    (there,) = board.glob("tiny/steady/*/seed-1")
    shutil.rmtree(there)
    shutil.copytree(next(made.second.glob("tiny/steady/*/seed-1")), there)
    before = tree(board)
    told = findings(verbs.submit_add(packed("first", "1.3"), board))
    assert f"{there.relative_to(board)}: the board has another result of this cell" in told
    assert tree(board) == before


def test_fewer_seeds_than_the_board_has_are_refused(packed, board):
    archive = packed()
    plan = json.loads((board / "plans" / "demo.json").read_text())
    plan["cells"].append(plan["cells"][0] | {"seed": 3})
    (board / "plans" / "demo.json").write_text(json.dumps(plan))
    assert "its seeds are not those of the board" in findings(verbs.submit_add(archive, board))


def test_a_board_that_is_none(packed, board, tmp_path):
    archive = packed()
    with pytest.raises(SubmissionError, match="is no results folder with plans"):
        verbs.submit_add(archive, tmp_path / "absent")
    for decide in (
        lambda folder: verbs.submit_refuse(archive, folder, reason="no"),
        lambda folder: verbs.submit_withdraw("steady", folder, reason="no"),
        verbs.submit_log,
    ):
        with pytest.raises(SubmissionError, match="is no results folder with plans; name the results folder"):
            decide(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    (board / "plans" / "demo.json").rename(board / "plans" / "other.json")
    assert "has no board of the suite demo" in findings(verbs.submit_add(archive, board))


def test_a_refused_archive_cannot_be_added(packed, board):
    archive = packed()
    verbs.submit_refuse(archive, board, reason="The re-run gave other numbers.", by="Maintainer")
    assert "was refused already, at " in findings(verbs.submit_add(archive, board))
    assert verbs.submit_add(packed("second", "1.3"), board).decisions


def test_only_what_stands_can_be_withdrawn(packed, board):
    with pytest.raises(SubmissionError, match="there: none"):
        verbs.submit_withdraw("fedavg", board, reason="gone")
    verbs.submit_add(packed(), board)
    with pytest.raises(SubmissionError, match="'fedavg' stands on that board; there: steady"):
        verbs.submit_withdraw("fedavg", board, reason="gone")
    with pytest.raises(SubmissionError, match="stands on other"):
        verbs.submit_withdraw("steady", board, reason="gone", suite="other")
    verbs.submit_withdraw("steady", board, reason="gone", suite="demo")
    with pytest.raises(SubmissionError, match="there: none"):
        verbs.submit_withdraw("steady", board, reason="gone")


# --- verified ---------------------------------------------------------------------------------------------------------


def test_verified_needs_a_report_about_these_records(packed, board, report, made, tmp_path):
    first = packed()
    before = tree(board)
    with pytest.raises(SubmissionError, match="no cell of these records was trained again"):
        verbs.submit_add(first, board, rerun=report_of(made.first, tmp_path / "none.json"))
    with pytest.raises(SubmissionError, match="the report is not about tiny"):
        verbs.submit_add(first, board, rerun=report_of(made.board, tmp_path / "others.json"))
    with pytest.raises(SubmissionError, match=r"failed in the report \(rerun\): another digest"):
        verbs.submit_add(first, board, rerun=report(first, "failed.json", "failed", "another digest"))
    with pytest.raises(SubmissionError, match="no cell of these records was trained again"):
        verbs.submit_add(first, board, rerun=report(first, "na.json", "not applicable", "not installed"))
    changed = json.loads((tmp_path / "none.json").read_text())
    for check in changed["checks"]:
        for finding in check["findings"]:
            finding["evidence"] = "f" * 12 if check["name"] == "digest" else finding["evidence"]
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    with pytest.raises(SubmissionError, match="but about digest ffffffffffff"):
        verbs.submit_add(first, board, rerun=tmp_path / "changed.json")
    for content in ("{}", "[]", "", '{"schema": "fedbench-verification-1", "checks": [{}]}'):
        (tmp_path / "no.json").write_text(content)
        with pytest.raises(SubmissionError, match="report"):
            verbs.submit_add(first, board, rerun=tmp_path / "no.json")
    assert tree(board) == before


def test_verified_at_once_and_not_twice(packed, board, report):
    first = packed()
    proof = report(first)
    verbs.submit_add(first, board, rerun=proof)
    assert rows(board)["steady"][0] == "verified"
    assert "was added already" in findings(verbs.submit_add(first, board, rerun=proof))


# --- whole or not at all ----------------------------------------------------------------------------------------------


def test_an_addition_that_fails_changes_nothing(packed, board, monkeypatch):
    archive = packed()
    before = tree(board)

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decisions, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        verbs.submit_add(archive, board)
    after = tree(board)
    after.pop("submissions", None)
    assert after == before


def test_an_addition_that_was_interrupted_is_completed(packed, board):
    archive = packed()
    plan = (board / "plans" / "demo.json").read_bytes()
    verbs.submit_add(archive, board)
    whole = tree(board)
    (board / "plans" / "demo.json").write_bytes(plan)  # as if killed before the last step
    assert rows(board) == {"fedavg": ("", True, 2)}
    added = verbs.submit_add(archive, board)
    assert (added.checked.good, added.decisions) == (True, ())
    assert tree(board) == whole


# --- really, from a package to a board and back -----------------------------------------------------------------------

CODE = """from fedbench import Method


class Steady(Method):
    version = VERSION

    def loss(self, client, batch):
        return (1 - 0.1 * self.version) * super().loss(client, batch)
"""


@pytest.mark.long
def test_a_package_its_run_and_a_report_that_was_really_made(plugged, fedbench, tmp_path):
    """Nothing is played here: the method is installed, trained, sent, trained again by a maintainer, and replaced."""
    suite, board = tmp_path / "demo.toml", tmp_path / "board"
    suite.write_text(
        'name = "demo"\ntitle = "Demo"\ntrack = "faithful"\ntasks = ["heart"]\nmethods = ["fedavg"]\nseeds = [1]\n'
    )
    assert fedbench("run", "--all", "--suite", suite, "--out", board, "--reports", tmp_path / "reports")[0] == 0

    def released(version, code_version):
        """Release, run, pack and check; return the archive and the folder of checked records."""
        shutil.rmtree(tmp_path / "installed", ignore_errors=True)
        registry.methods.forget("steady")
        plugged("fedbench-steady", CODE.replace("VERSION", str(code_version)), methods={"steady": "Steady"})
        metadata = next((tmp_path / "installed").rglob("METADATA"))
        metadata.write_text(
            f"Metadata-Version: 2.1\nName: fedbench-steady\nVersion: {version}\nLicense-Expression: MIT\n"
            "Project-URL: Source, https://example.org/steady\nAuthor: A. Author\n"
        )
        results, archive, kept = (tmp_path / f"{what}-{version}" for what in ("results", "archive.zip", "kept"))
        arguments = ("--suite", suite, "--method", "steady", "--out", results, "--reports", tmp_path / "own")
        assert fedbench("run", *arguments)[0] == 0
        packing = fedbench("submit", "pack", "steady", "--suite", "demo", "--out", results, "--archive", archive)
        assert packing[0] == 0, packing
        checking = fedbench("submit", "check", archive, "--to", board, "--keep", kept)
        assert checking[0] == 0, checking
        return archive, kept

    first, kept = released("1.2", 1)
    assert fedbench("submit", "add", first, "--to", board)[0] == 0
    assert rows(board, "heart")["steady"] == ("self-reported", True, 1)

    status, out, err = fedbench("verify", kept, "--rerun", "1", "--seed", "3", "--yes", "--json")
    assert status == 0, out + err
    (tmp_path / "rerun.json").write_text(out)
    status, out, err = fedbench(
        "submit", "add", first, "--to", board, "--verified", "--rerun-report", tmp_path / "rerun.json"
    )
    assert status == 0, out + err
    assert "1 of 1 cells trained again: 1 with the same digest" in " ".join(out.split())
    assert rows(board, "heart")["steady"] == ("verified", True, 1)

    second, newer = released("1.10", 2)
    status, out, err = fedbench(
        "submit", "add", second, "--to", board, "--verified", "--rerun-report", tmp_path / "rerun.json"
    )
    assert status == 2  # the report is about the earlier records
    assert "the report is not about heart/steady/" in err
    assert fedbench("submit", "add", second, "--to", board)[0] == 0
    found = rows(board, "heart")
    assert (found["steady"], found["steady 1.2"]) == (("self-reported", True, 1), ("superseded", False, 0))
    assert fedbench("verify", newer)[0] == 0

    status, out, _ = fedbench("submit", "withdraw", "steady", "--to", board, "--reason", "A defect was found.")
    assert (status, out.splitlines()[-1]) == (0, f"next: fedbench report --suite demo --out {board}")
    assert rows(board, "heart")["steady 1.10"] == ("withdrawn", False, 0)
    assert fedbench("verify", board)[0] == 0
