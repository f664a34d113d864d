"""What a maintainer sees of an archive: real checks in a process of their own, hostile contents, limits."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.markdown import markdown

from fedbench import verbs
from fedbench.submissions import SubmissionError, confined, decisions
from fedbench.submissions.packing import pack

from .conftest import ABOUT
from .test_archive import Member, crafted, tree


def rows(board, task="tiny"):
    """Return the rows of a task: label, state of the submission, rank, seeds that are done."""
    (table,) = [table for table in load_board(board, "demo").tasks if table.name == task]
    return {
        row.label: (row.standing.state if row.standing else "", row.rank is not None, len(row.done))
        for row in table.rows
    }


def report_of(folder, path, *, rerun=None):
    """Write the report of a verification, with a re-run of one cell as it would be told."""
    report = verbs.verify(folder).plain()
    assert report["passed"], [check for check in report["checks"] if check["state"] == "failed"]
    if rerun is not None:
        report["checks"].append({"number": 19, "name": "rerun", "title": "again", "state": "passed", "findings": rerun})
    path.write_text(json.dumps(report))
    return path


@pytest.mark.long
def test_all_the_way(packed, board, report, tmp_path, fedbench):
    first = packed("first", "1.2")
    status, out, _ = fedbench("submit", "check", first, "--to", board)
    assert (status, out.splitlines()[-1]) == (0, "sound.")

    status, out, _ = fedbench("submit", "add", first, "--to", board, "--by", "Maintainer")
    assert status == 0
    assert rows(board) == {"fedavg": ("", True, 2), "steady": ("self-reported", True, 2)}
    assert rows(board, "tinier")["steady"] == ("self-reported", True, 2)
    made = markdown(load_board(board, "demo"))
    assert "| steady (self-reported · fedbench-steady 1.2) |" in made

    proof = report(first)
    status, out, _ = fedbench("submit", "add", first, "--to", board, "--verified", "--rerun-report", proof)
    assert status == 0
    assert "1 of 4 cells trained again: 1 with the same digest" in out
    assert rows(board)["steady"] == ("verified", True, 2)

    second = packed("second", "1.10")  # newer than 1.2, as versions are numbers and no text
    assert fedbench("submit", "add", second, "--to", board)[0] == 0
    found = rows(board)
    assert found["steady"] == ("self-reported", True, 2)
    assert found["steady 1.2"] == ("superseded", False, 0)

    assert fedbench("submit", "withdraw", "steady", "--to", board, "--reason", "A defect was found.")[0] == 0
    found = rows(board)
    assert found["steady 1.10"] == ("withdrawn", False, 0)
    assert found["steady 1.2"] == ("superseded", False, 0)
    assert "withdrawn: A defect was found." in markdown(load_board(board, "demo"))

    status, out, _ = fedbench("submit", "log", "--to", board)
    actions = [decision.action for decision in decisions.read(board)]
    assert actions == ["added", "verified", "superseded", "added", "withdrawn"]
    assert all(action in out for action in actions)


# --- hostile contents -------------------------------------------------------------------------------------------------


def checked(archive, **more):
    """Return what a check finds, after a look that it wrote nothing and left nothing behind."""
    before, around = tree(archive.parent), {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    found = verbs.submit_check(archive, **more)
    assert tree(archive.parent) == before
    left = {path.name for path in Path(tempfile.gettempdir()).iterdir()} - around
    assert not [name for name in left if name.startswith("fedbench-submission-")]
    for finding in found.findings:
        assert finding.what.isprintable()
        assert finding.mend
    return found


def told(archive, **more):
    found = checked(archive, **more)
    assert not found.good
    return " ".join(finding.what for finding in found.findings)


def change_plan(**changes):
    def change(form, files):
        plan = json.loads(files["plans/demo.json"])
        plan["cells"][0] |= changes
        files["plans/demo.json"] = json.dumps(plan).encode()

    return change


def change_form(**changes):
    return lambda form, files: form.update(changes)


UNFIT = {
    "\x1b": "a control character (U+001B)",
    "\x07": "a control character (U+0007)",
    "\r": "a control character (U+000D)",
    "\x9b": "a control character (U+009B)",
    "\u202e": "RIGHT-TO-LEFT OVERRIDE (U+202E)",
    "\u2066": "LEFT-TO-RIGHT ISOLATE (U+2066)",
    "\u200b": "ZERO WIDTH SPACE (U+200B)",
    "\u200d": "ZERO WIDTH JOINER (U+200D)",
    "\ufeff": "ZERO WIDTH NO-BREAK SPACE (U+FEFF)",
    "\xad": "SOFT HYPHEN (U+00AD)",
    "\u3164": "HANGUL FILLER (U+3164)",
    "\u2028": "LINE SEPARATOR (U+2028)",
    "\ufe0f": "VARIATION SELECTOR-16 (U+FE0F)",
    "\U000e0041": "TAG LATIN CAPITAL LETTER A (U+E0041)",
    "\ue000": "a character of private use (U+E000)",
}


@pytest.mark.reliability
@pytest.mark.parametrize("char", UNFIT)
def test_a_character_that_hides_or_turns_text_is_refused_by_its_name(packed, rewritten, in_process, tally, char):
    archive = packed()
    for field in ("licence", "contact", "platform", "notes"):
        assert f"{field}: {UNFIT[char]} has no place in it" in told(
            rewritten(archive, change_form(**{field: f"a{char}b"}))
        )
    assert f"authors.0: {UNFIT[char]}" in told(rewritten(archive, change_form(authors=[f"a{char}b"])))
    assert f"mechanism has {UNFIT[char]}" in told(rewritten(archive, change_plan(mechanism=f"a{char}b")))
    assert f"label has {UNFIT[char]}" in told(rewritten(archive, change_plan(label=f"steady[a={char}]")))
    tally("hostile archives", 7)


FIELDS = {
    "a name that is no name": ({"method": "../steady"}, "method: String should match pattern"),
    "an address that runs": ({"url": "javascript:alert(1)"}, "url: it is not an address that begins with https://"),
    "an address of a file": ({"url": "file:///etc/passwd"}, "url: it is not an address that begins with https://"),
    "an address with markup": (
        {"url": 'https://example.org/"><script>'},
        "url: it is not an address that begins with https://",
    ),
    "an address that pretends": (
        {"url": "https://example.org@evil.org/"},
        "url: it is not an address that begins with https://",
    ),
    "no version": ({"version": "latest"}, "version: it is not a released version"),
    "a version with a line": ({"version": "1.2\n"}, "version: it is not a released version"),
    "an entry point that is code": ({"entry_point": "os:system('id')"}, "entry_point: it is not module:Class"),
    "a huge licence": ({"licence": "x" * 201}, "licence: String should have at most 200"),
    "gigantic notes": ({"notes": "x" * 10_001}, "notes: String should have at most 10000"),
    "a crowd": ({"authors": ["a"] * 51}, "authors: Tuple should have at most 50"),
    "nobody": ({"authors": []}, "authors: Tuple should have at least 1"),
    "an unknown field": ({"__class__": "x"}, "__class__: Extra inputs are not permitted"),
    "an unknown field with a hostile name": ({"\x1b[2J": "x"}, "⟨U+001B⟩[2J: Extra inputs"),
    "another schema": ({"schema_version": 2}, "schema_version: Input should be 1"),
    "a number for a text": ({"licence": 1}, "licence: Input should be a valid string"),
    "nothing for a text": ({"licence": None}, "licence: Input should be a valid string"),
    "a package with a path": (
        {"environment": ["numpy @ file:///home/me"]},
        "environment.0: it is not an installed NAME==VERSION",
    ),
    "a built-in name": ({"method": "fedavg"}, "steady, not of fedavg"),
    "another suite": ({"suite": "quick"}, "there is not one plan, plans/quick.json"),
}


@pytest.mark.reliability
@pytest.mark.parametrize("case", FIELDS)
def test_a_hostile_form_is_refused_by_field(packed, rewritten, in_process, tally, case):
    changes, message = FIELDS[case]
    assert message in told(rewritten(packed(), change_form(**changes)))
    tally("hostile archives")


@pytest.mark.reliability
@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"schema_version": 1e999}', b"NaN"],
    ids=["empty", "null", "list", "no text", "deep list", "deep object", "infinite", "NaN"],
)
def test_a_form_or_plan_that_is_no_such_json_is_refused(packed, rewritten, in_process, tally, tmp_path, content):
    from fedbench.submissions import archive

    good = packed()
    with zipfile.ZipFile(good) as source:
        files = {name: source.read(name) for name in source.namelist()}
    archive.write(tmp_path / "form.zip", files | {"submission.json": content + b" " * (1 + len(content) // 50)})
    assert "submission.json" in told(tmp_path / "form.zip")
    assert "plans/demo.json" in told(rewritten(good, lambda form, files: files.update({"plans/demo.json": content})))
    tally("hostile archives", 2)


def change_label(label):
    def change(form, files):
        plan = json.loads(files["plans/demo.json"])
        plan["cells"] = [cell | {"label": label} for cell in plan["cells"]]
        files["plans/demo.json"] = json.dumps(plan).encode()

    return change


PLANS = {
    "a cell of another method": (change_plan(method="fedavg"), "the cell is of fedavg, not of steady"),
    "a reference point": (change_plan(family="reference"), "reference points are the board's own"),
    "a skipped cell": (change_plan(skipped="no data"), "it was skipped"),
    "a cell elsewhere": (change_plan(task="../../etc"), "it is planned and has no record"),
    "another seed": (change_plan(seed=7), "seed-7: it is planned and has no record"),
    "somebody's label": (change_plan(label="fedavg"), "its label is not the method's name"),
    "a long label": (change_plan(label=f"steady[{'x' * 300}]"), "label has more than 200 characters"),
    "a hidden hyperparameter": (change_plan(hyperparameters={"\u200bmu": 1}), "ZERO WIDTH SPACE"),
    "a long hyperparameter": (change_plan(hyperparameters={"mu": "x" * 300}), "more than 200 characters"),
    "a row without all its seeds": (change_plan(label="steady[mu=1]"), "not every row of the plan has every seed"),
    "another hyperparameter": (change_plan(hyperparameters={"mu": 1}), "planned with hyperparameters"),
    "another label": (change_label("steady[mu=1]"), "planned with label"),
}


@pytest.mark.reliability
@pytest.mark.parametrize("case", PLANS)
def test_a_hostile_plan_is_refused(packed, rewritten, in_process, tally, case):
    change, message = PLANS[case]
    assert message in told(rewritten(packed(), change))
    tally("hostile archives")


@pytest.mark.reliability
def test_files_that_are_not_those_of_the_list_are_refused(packed, rewritten, in_process, tally):
    archive = packed()

    def first(files, name):
        return next(key for key in sorted(files) if key.endswith(name))

    def swapped(form, files):
        name = first(files, "rounds.parquet")
        files[name] += b"!"

    def dropped(form, files):
        files.pop(first(files, "clients.parquet"))

    assert "its SHA-256 is not the one of the list" in told(rewritten(archive, swapped, listed=False))
    assert "it is listed and not there" in told(rewritten(archive, dropped, listed=False))
    assert "rounds.parquet has " in told(rewritten(archive, swapped))  # the manifest of the record knows as well
    assert "missing" in told(rewritten(archive, dropped))

    def extra(form, files):
        files["plans/other.json"] = files["plans/demo.json"]

    assert "it is there and not listed" in told(rewritten(archive, extra, listed=False))
    assert "there is not one plan" in told(rewritten(archive, extra))
    tally("hostile archives", 6)


def measured(*arguments):
    """Run Python and return its status, and the most memory (MB) that it or a process of its had.

    A process in between measures: what this one has would count as that of a process which it starts.
    """
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    command = [sys.executable, "-c", code, sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, megabytes = done.stdout.split()
    return int(status), int(megabytes)


def npz_bomb(form, files):
    """Put a gigabyte of zeros, which a megabyte packs, in the place of predictions, and renew the hashes."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (2, 500_000_000)})
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("global_test_predictions.npy", "w", force_zip64=True) as member,
    ):
        member.write(head.getvalue())
        for _ in range(1000):
            member.write(bytes(1_000_000))
    name = next(key for key in sorted(files) if key.endswith("predictions.npz"))
    manifest = name.replace("predictions.npz", "manifest.json")
    files[name] = out.getvalue()
    listed = json.loads(files[manifest])
    listed["files"]["predictions.npz"] = hashlib.sha256(files[name]).hexdigest()
    files[manifest] = json.dumps(listed).encode()


@pytest.mark.reliability
@pytest.mark.long
def test_a_bomb_within_a_record_stays_below_512_mb(packed, rewritten, tally):
    bomb = rewritten(packed(), npz_bomb)
    assert "predictions.npz: " in told(bomb)  # the archive around it packs it once more, beyond any ratio
    with zipfile.ZipFile(bomb) as source:
        members = [Member(name, source.read(name), method=0) for name in source.namelist()]
    bomb.write_bytes(crafted(*members))  # stored, it gets as far as the process that verifies
    found = checked(bomb)
    (schema,) = [check for check in found.checks if "can be read" in check.title]
    assert "predictions.npz" in schema.findings[0].what
    status, megabytes = measured("-m", "fedbench.cli", "submit", "check", bomb)
    assert (status, megabytes < 512) == (1, True)
    tally("hostile archives")


# --- in a process of its own ------------------------------------------------------------------------------------------


def in_place_of_python(monkeypatch, tmp_path, script):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "it was stopped by SIGSEGV, as by a crash in a library"),
        ("kill -KILL $$", "it was stopped by SIGKILL"),
        ("kill -XCPU $$", "it took more than 600 seconds"),
        ("echo MemoryError >&2; exit 1", "it asked for more than 384 MB"),
        ("printf 'something\\033[2J odd' >&2; exit 3", "something⟨U+001B⟩[2J odd"),
        ("exit 3", "exit status 3"),
        ("echo '{half'", "its report cannot be read"),
        ("head -c 5000000 /dev/zero", "exit status 0"),
    ],
)
def test_a_process_that_ends_without_an_answer_is_a_finding(packed, monkeypatch, tmp_path, script, message):
    archive = packed()
    in_place_of_python(monkeypatch, tmp_path, script)
    assert message in told(archive)


def confined_code(code):
    """Run code as the process that verifies begins, and return its status and last line of errors."""
    whole = f"from fedbench.submissions import confined; confined._limit(); {code}"
    done = subprocess.run([sys.executable, "-I", "-c", whole], capture_output=True, text=True, cwd="/")
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def test_the_limits_are_those_of_the_system(tmp_path):
    assert confined_code("bytearray(300 << 20)") == (0, "")
    assert confined_code("bytearray(400 << 20)") == (1, "MemoryError")
    assert confined_code(f"open({str(tmp_path / 'f')!r}, 'wb').write(bytes(5_000_000))")[0] != 0
    assert (tmp_path / "f").stat().st_size <= 4_000_000
    assert confined_code("import resource; assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)") == (0, "")
    assert confined_code("import resource; assert resource.getrlimit(resource.RLIMIT_CPU) == (600, 600)") == (0, "")


def test_no_module_beside_an_archive_is_imported(packed, tmp_path, monkeypatch):
    archive = packed()
    place = tmp_path / "clone"
    place.mkdir()
    for name in ("numpy", "pyarrow", "fedbench", "json"):
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nraise SystemExit\n")
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHONPATH", str(place))
    assert verbs.submit_check(archive).good
    assert not (tmp_path / "imported").exists()


def test_a_plug_in_is_not_imported_by_the_process(packed, tmp_path, monkeypatch):
    """Even where the submitted package is installed for good, which PYTHONPATH stands for without -I."""
    archive = packed()
    code = (
        "import sys; from fedbench import registry; from fedbench.submissions import confined;"
        f"sys.path.insert(0, {str(tmp_path / 'installed' / 'fedbench-steady')!r});"
        "assert 'steady' in registry.methods.names(); confined._hide_plugins();"
        "assert not registry.methods.names(); assert 'heart' in registry.tasks.names();"
        "assert 'torch' not in sys.modules"
    )
    assert confined_code(code) == (0, "")
    assert verbs.submit_check(archive).good


@pytest.mark.long
def test_a_whole_suite_is_checked_below_512_mb(tmp_path):
    """Every published record at once: more than a method of three tasks and ten seeds has."""
    records = Path(__file__).parents[2] / "reports" / "records"
    assert len(list(records.rglob("manifest.json"))) >= 60
    code = f"from pathlib import Path; print(confined.verified(Path({str(records)!r}))[1])"
    status, megabytes = measured("-c", f"from fedbench.submissions import confined; {code}; assert confined")
    assert (status, megabytes < 512) == (0, True)


# --- text that is meant for somebody else -----------------------------------------------------------------------------

INJECTIONS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "[click](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "| a | b |",
    "\\input{/etc/passwd}",
    "$\\write18{id}$",
    '=HYPERLINK("https://example.org")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "-2+3",
    "{{ 7*7 }}",
    "{% import os %}",
    "%(name)s {0} ${HOME} `id`",
    "[bold red]text[/]",
)


@pytest.mark.reliability
@pytest.mark.parametrize("text", INJECTIONS)
def test_text_of_all_kinds_is_text_on_every_way(packed, board, fedbench, in_process, tally, text):
    archive = packed(notes=f"{text}\n{text}", licence=text, authors=(text,), contact=text)
    status, out, _ = fedbench("submit", "check", archive)
    assert status == 0
    assert out.count(text) == 5  # as it was written, and nothing else came of it
    found = json.loads(fedbench("submit", "check", archive, "--json")[1])
    assert found["submission"]["authors"] == [text]
    assert fedbench("submit", "add", archive, "--to", board, "--reason", text, "--by", text)[0] == 0
    assert fedbench("submit", "withdraw", "steady", "--to", board, "--reason", text)[0] == 0
    assert fedbench("submit", "log", "--to", board)[1].count(text) >= 3
    assert [decision.reason for decision in decisions.read(board)] == [text, text]
    shown = markdown(load_board(board, "demo"))
    assert "<script" not in shown
    assert "<img" not in shown
    assert "](" not in shown.replace("\\](", "")
    tally("hostile archives")


def test_what_would_speak_to_a_terminal_is_shown_and_not_sent(packed, rewritten, fedbench, in_process):
    for change in (
        change_form(method="\x1b]0;title\x07"),
        change_form(**{"\x1b[2J": 1}),
        change_plan(label="steady[\x1b[31m]"),
        change_plan(task="\x1b[2J"),
        lambda form, files: form["files"].update({"\x1b[2Jx": "0" * 64}),
    ):
        archive = rewritten(packed(), change, listed=False)
        for arguments in ((), ("--json",)):
            status, out, err = fedbench("submit", "check", archive, *arguments)
            assert status == 1
            assert all(char.isprintable() or char == "\n" for char in out + err)


def test_a_report_for_programs_says_the_same(packed, fedbench, rewritten, in_process):
    good = json.loads(fedbench("submit", "check", packed(), "--json")[1])
    assert good["good"]
    assert [check["number"] for check in good["checks"]] == list(range(1, len(good["checks"]) + 1))
    status, out, _ = fedbench("submit", "check", rewritten(packed(), change_form(licence="")), "--json")
    bad = json.loads(out)
    assert (status, bad["good"]) == (1, False)
    (finding,) = bad["checks"][-1]["findings"]
    assert "licence" in finding["what"]


def test_records_are_kept_where_they_are_asked_for(packed, tmp_path, fedbench):
    keep = tmp_path / "kept"
    assert fedbench("submit", "check", packed(), "--keep", keep)[0] == 0
    assert len(list(keep.glob("*/steady/*/seed-*/manifest.json"))) == 4
    assert verbs.verify(keep).passed
    status, _, err = fedbench("submit", "check", packed(), "--keep", keep)
    assert (status, "is there already" in err) == (2, True)


def test_a_forged_split_is_found_beside_the_boards_own_records(made, board, forge, released, tmp_path):
    """One training sample more of a class: no record alone can tell, any other of the task does."""
    forged = tmp_path / "forged"
    shutil.copytree(made.first, forged)
    for folder in sorted(forged.glob("tiny/steady/*/seed-*")):
        forge(folder, train_class_counts=lambda counts: counts + np.eye(*counts.shape, dtype=counts.dtype))
    released()
    with pytest.raises(SubmissionError, match="has another train_class_counts than tiny/fedavg"):
        pack("steady", "demo", forged, path=tmp_path / "a.zip", **ABOUT)


def test_the_limits_are_those_of_the_documentation():
    from fedbench.submissions import archive, form

    text = (Path(__file__).parents[2] / "docs" / "submit.md").read_text(encoding="utf-8")
    told = dict(line.strip("| ").split(" | ") for line in text.splitlines() if line.count(" | ") == 1)
    limits = {
        "bytes of the archive": archive.LARGEST,
        "bytes of a member, unpacked": archive.LARGEST_MEMBER,
        "bytes of all members, unpacked": archive.LARGEST_TOTAL,
        f"unpacked over packed, of a member of more than {archive.SMALL:,} bytes": archive.LARGEST_RATIO,
        "members": archive.MOST_MEMBERS,
        "characters of a member's name": archive.LONGEST_NAME,
        "bytes of `submission.json`": form.LARGEST_FORM,
        "characters of the notes": form.NOTES,
        "characters of any other text": form.LINE,
        "authors": form.AUTHORS,
        "packages of the environment": form.PACKAGES,
    }
    assert {what: told.get(what) for what in limits} == {what: f"{value:,}" for what, value in limits.items()}
    assert told["memory of the process that verifies"].startswith(f"{confined.MEMORY >> 20} MB")
    assert told["processor time of that process"] == f"{confined.SECONDS} s"
