"""The log of decisions: it only grows, and whatever else is done to it is found and named."""

import hashlib
import json
import re

import pytest

from fedbench.submissions import SubmissionError, decisions
from fedbench.submissions.decisions import HEAD, LOG, START, Decision, append, grown, read, standings, submitted

PLACE = "tiny/steady/0123456789ab/seed-1"


def decision(action, archive="a", version="1.0", **changes):
    values = {
        "action": action,
        "method": "steady",
        "distribution": "fedbench-steady",
        "version": version,
        "suite": "demo",
        "archive": archive * 64,
        "by": "Maintainer",
        "at": "2026-01-01T00:00:00+00:00",
        "reason": f"because {action}",
        "cells": {PLACE: "d" * 64} if action == "added" else {},
    }
    return Decision(**values | changes)


@pytest.fixture
def log(tmp_path):
    """Return a results folder with a log of five lines."""
    append(tmp_path, [decision("added")])
    append(tmp_path, [decision("verified")])
    append(tmp_path, [decision("superseded"), decision("added", "b", "1.1")])
    append(tmp_path, [decision("withdrawn", "b", "1.1")])
    return tmp_path


def test_every_line_has_the_hash_of_the_one_before(log):
    lines = (log / LOG).read_text().splitlines()
    before = "0" * 64
    for line in lines:
        assert json.loads(line)["previous"] == before
        before = hashlib.sha256(line.encode()).hexdigest()
    assert (log / HEAD).read_text().strip() == before
    assert len(lines) == 5
    assert [item.action for item in read(log)] == ["added", "verified", "superseded", "added", "withdrawn"]
    assert START == "0" * 64


def test_where_submissions_and_rows_stand(log, tmp_path):
    assert [(item.added.version, item.state, item.reason) for item in submitted(read(log))] == [
        ("1.0", "superseded", "because superseded"),
        ("1.1", "withdrawn", "because withdrawn"),
    ]
    found = standings(log, "demo")
    assert found[PLACE].state == "withdrawn"  # the last that brought the cell counts
    assert (found[PLACE].provider, found[PLACE].out) == ("fedbench-steady 1.1", True)
    assert standings(log, "other") == {}
    assert standings(tmp_path / "absent", "demo") == {}


@pytest.mark.reliability
def test_any_changed_byte_of_any_line_is_found(log, tally):
    whole = (log / LOG).read_bytes()
    tried = 0
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        (log / LOG).write_bytes(changed)
        line = whole[:at].count(b"\n") + 1
        with pytest.raises(SubmissionError) as found:
            read(log)
        named = {int(number) for number in re.findall(r"line (\d+)", str(found.value))}
        assert named & {line, line + 1}, (at, str(found.value))
        tried += 1
    tally("hostile archives", tried)


@pytest.mark.parametrize("gone", range(5))
def test_a_line_taken_out_is_found(log, gone):
    lines = (log / LOG).read_text().splitlines(keepends=True)
    (log / LOG).write_text("".join(lines[:gone] + lines[gone + 1 :]))
    named = f"line {gone + 1} of" if gone < 4 else "ends after line 4"
    with pytest.raises(SubmissionError, match=named):
        read(log)


def test_a_log_that_is_gone_is_found(log):
    (log / LOG).unlink()
    with pytest.raises(SubmissionError, match="ends after line 0"):
        read(log)


def test_lines_in_another_order_or_put_in_are_found(log):
    lines = (log / LOG).read_text().splitlines(keepends=True)
    (log / LOG).write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(SubmissionError, match="line 1 of"):
        read(log)
    (log / LOG).write_text("".join([*lines[:2], lines[1], *lines[2:]]))
    with pytest.raises(SubmissionError, match="line 3 of"):
        read(log)


def test_a_decision_about_what_was_never_added_is_found(tmp_path):
    append(tmp_path, [decision("refused", "c")])
    append(tmp_path, [decision("verified", "c")])
    with pytest.raises(SubmissionError, match=r"line 2 of .* that no line before it added"):
        read(tmp_path)


def test_an_append_that_was_interrupted_is_no_damage(log):
    head = (log / HEAD).read_text()
    append(log, [decision("refused", "c")])
    (log / HEAD).write_text(head)  # as if killed between the log and its head
    assert len(read(log)) == 6
    append(log, [decision("refused", "e")])
    assert len(read(log)) == 7


def test_a_full_disk_leaves_the_log_as_it_was(log, monkeypatch):
    before = {path.name: path.read_bytes() for path in (log / "submissions").iterdir()}
    real = decisions.write_atomic

    for failing in (1, 2):
        calls = []

        def full(path, text, failing=failing, calls=calls):
            calls.append(path)
            if len(calls) == failing:
                raise OSError(28, "No space left on device")
            real(path, text)

        monkeypatch.setattr(decisions, "write_atomic", full)
        with pytest.raises(OSError, match="No space"):
            append(log, [decision("refused", "c")])
        assert {path.name: path.read_bytes() for path in (log / "submissions").iterdir()} == before


def test_the_log_only_grows(log, tmp_path):
    earlier = tmp_path / "earlier.jsonl"
    lines = (log / LOG).read_text().splitlines(keepends=True)
    earlier.write_text("".join(lines[:3]))
    assert [item.action for item in grown(log, earlier)] == ["added", "withdrawn"]
    earlier.write_text("".join([*lines, lines[0]]))
    with pytest.raises(SubmissionError, match="line 6 of the earlier log was taken out"):
        grown(log, earlier)
    earlier.write_text(lines[0].replace("Maintainer", "Somebody"))
    with pytest.raises(SubmissionError, match="line 1 of the earlier log was changed"):
        grown(log, earlier)


def test_a_board_with_a_changed_log_is_not_shown(log):
    from fedbench.leaderboard import load_board

    from fedbench.durable import write_atomic
    from fedbench.schema import Plan

    plan = Plan(schema_version=1, suite="demo", title="t", track="faithful", cells=())
    write_atomic(log / "plans" / "demo.json", plan.model_dump_json())
    load_board(log, "demo")
    (log / LOG).write_text((log / LOG).read_text().replace("Maintainer", "Somebody"))
    with pytest.raises(SubmissionError, match="line 2 of"):
        load_board(log, "demo")
