"""What changes a board: adding a submission to it, verified or not, and taking one back. Whole or not at all."""

from __future__ import annotations

import getpass
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from fedbench.locks import locked
from fedbench.records import copy, read_plan, write_plan
from fedbench.submissions import SubmissionError, decisions
from fedbench.submissions.archive import PLANS
from fedbench.submissions.checking import Check, Checked, examined
from fedbench.submissions.decisions import Action, Decision, Submitted
from fedbench.submissions.form import explained
from fedbench.submissions.rerun import of_report
from fedbench.submissions.rules import Incoming, check_folder, current, of_board

_LOCK = ".submissions.lock"


@dataclass(frozen=True)
class Added:
    """What came of adding an archive.

    Parameters
    ----------
    checked : Checked
        Its checks, those of the board among them.
    decisions : tuple of Decision
        The lines that the log has now besides; none where anything was found.
    """

    checked: Checked
    decisions: tuple[Decision, ...]


def add(archive: Path, board: Path, *, rerun: Path | None = None, by: str = "", reason: str = "") -> Added:
    """Check an archive and join it to a board; where anything is found, nothing is changed.

    Records that are there are never written over. An earlier version of the method is superseded. A submission that
    was added as self-reported becomes verified when it is added again with the report of a re-run; one whose addition
    was interrupted is completed.

    Parameters
    ----------
    archive : Path
        The archive.
    board : Path
        The board's results folder.
    rerun : Path, optional
        What ``fedbench verify --rerun N --json`` printed for these records.
    by, reason : str
        Who decides, and why; the user's name, and what was done, if empty.

    Raises
    ------
    SubmissionError
        The report of the re-run is not about these records, or did not come out right, or the log was changed.
    RecordError
        The board's plan cannot be read.
    """
    check_folder(board)
    with locked(board / _LOCK), examined(archive, board, rules=False) as found:
        incoming, checked = found.incoming, found.checked
        if incoming is None:
            return Added(checked, ())
        log = decisions.read(board)
        mine = [item for item in decisions.submitted(log) if item.added.archive == incoming.sha256]
        known = mine[0] if mine and mine[0].state in ("self-reported", "verified") else None
        begun = known is not None and not _is_whole(incoming, board)
        once_more = known is not None and known.state == "self-reported" and rerun is not None
        if not (begun or once_more):
            findings = tuple(of_board(incoming, board))
            last = Check(len(checked.checks) + 1, "board: its rules", "" if findings else "they allow it", findings)
            checked = replace(checked, checks=(*checked.checks, last))
            if findings:
                return Added(checked, ())
        proof = "" if rerun is None else of_report(rerun, incoming)
        lines = [] if known else _additions(incoming, log, by, reason)
        if rerun is not None and not (known and known.state == "verified"):
            lines.append(_decision(incoming, "verified", by, reason or proof))
        if known is None or begun:
            return Added(checked, _join(incoming, board, lines))
        return Added(checked, decisions.append(board, lines))


def refuse(archive: Path, board: Path, *, reason: str, by: str = "") -> Decision:
    """Write down that an archive was refused; it cannot be added afterwards.

    Raises
    ------
    SubmissionError
        It is no sound submission, which needs no decision, or it was decided upon already.
    """
    check_folder(board)
    with locked(board / _LOCK), examined(archive) as found:
        if found.incoming is None:
            first = found.checked.findings[0]
            raise SubmissionError(f"{first.what}; so it cannot be added, and needs no decision", first.mend)
        for decision in decisions.read(board):
            if decision.archive == found.incoming.sha256:
                raise SubmissionError(
                    f"it was {decision.action} already, at {decision.at} by {decision.by}",
                    "withdraw it, if it was added",
                )
        return decisions.append(board, [_decision(found.incoming, "refused", by, reason)])[0]


def withdraw(method: str, board: Path, *, reason: str, suite: str | None = None, by: str = "") -> tuple[Decision, ...]:
    """Take a method's values off a board; its row stays as a line without values, its name stays taken.

    Parameters
    ----------
    method : str
        Its name.
    board : Path
        The board's results folder.
    reason : str
        Shown on the board.
    suite : str, optional
        From this suite's board alone.
    by : str
        Who decides; the user's name, if empty.

    Raises
    ------
    SubmissionError
        No submission of that name stands there.
    """
    check_folder(board)
    with locked(board / _LOCK):
        log = decisions.read(board)
        standing = [item for item in decisions.submitted(log) if item.state in ("self-reported", "verified")]
        chosen = [item for item in standing if item.added.method == method and suite in (None, item.added.suite)]
        if not chosen:
            names = sorted({item.added.method for item in standing})
            raise SubmissionError(
                f"no submission of {method!r} stands on {'that board' if suite is None else suite}; "
                f"there: {', '.join(names) or 'none'}",
                "see `fedbench submit log`",
            )
        return decisions.append(board, [_about(item, "withdrawn", by, reason) for item in chosen])


def _is_whole(incoming: Incoming, board: Path) -> bool:
    """Say whether the plan of a board has all cells of a submission; it is what an addition writes last."""
    path = board / PLANS / f"{incoming.plan.suite}.json"
    return path.is_file() and {c.path for c in incoming.plan.cells} <= {c.path for c in read_plan(path).cells}


def _additions(incoming: Incoming, log: Sequence[Decision], by: str, reason: str) -> list[Decision]:
    form = incoming.submission
    added = _decision(incoming, "added", by, reason or "all checks passed", incoming.digests)
    earlier = current(log, form.method, form.suite)
    if earlier is None:
        return [added]
    return [_about(earlier, "superseded", by, f"version {form.version} stands in its place"), added]


def _join(incoming: Incoming, board: Path, lines: Sequence[Decision]) -> tuple[Decision, ...]:
    """Put records, log and plan in place, in this order: without the log, rows of a plan would be the board's own."""
    path = board / PLANS / f"{incoming.plan.suite}.json"
    plan = read_plan(path)
    cells = {cell.path: cell for cell in plan.cells}
    cells = cells | {cell.path: cell for cell in incoming.plan.cells if cell.path not in cells}
    joined = plan.model_copy(update={"cells": tuple(cells.values())})
    staging = Path(tempfile.mkdtemp(prefix=".submission-", dir=board))
    placed: list[Path] = []
    try:
        for place, record in incoming.records.items():
            copy(record, staging / place)
        write_plan(staging / "plan.json", joined)
        for place in incoming.records:
            target = board / place
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                (staging / place).replace(target)
                placed.append(target)
        added = decisions.append(board, lines) if lines else ()
        placed.clear()
        (staging / "plan.json").replace(path)
    except BaseException:
        for folder in placed:
            _take_back(folder, board)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return added


def _take_back(folder: Path, board: Path) -> None:
    """Delete a record that was put in place, and the folders above that it leaves empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.parents:
        if parent == board or any(parent.iterdir()):
            return
        parent.rmdir()


def _decision(
    incoming: Incoming, action: Action, by: str, reason: str, cells: dict[str, str] | None = None
) -> Decision:
    form = incoming.submission
    return _made(action, form.method, form.distribution, form.version, form.suite, incoming.sha256, by, reason, cells)


def _about(item: Submitted, action: Action, by: str, reason: str) -> Decision:
    of = item.added
    return _made(action, of.method, of.distribution, of.version, of.suite, of.archive, by, reason)


def _made(
    action: Action,
    method: str,
    distribution: str,
    version: str,
    suite: str,
    archive: str,
    by: str,
    reason: str,
    cells: dict[str, str] | None = None,
) -> Decision:
    try:
        return Decision(
            action=action,
            method=method,
            distribution=distribution,
            version=version,
            suite=suite,
            archive=archive,
            by=by or getpass.getuser(),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            reason=reason,
            cells=cells or {},
        )
    except ValidationError as error:
        raise SubmissionError(explained(error), "say it in one line of plain text") from None
