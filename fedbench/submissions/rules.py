"""What a board asks of a submission beyond being sound: whose name it is, which version, and equal conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedbench.characters import shown
from fedbench.errors import RecordError
from fedbench.records import Record, read_plan, state
from fedbench.schema import MANIFEST, Plan
from fedbench.submissions import SubmissionError, decisions
from fedbench.submissions.archive import PLANS
from fedbench.submissions.confined import Finding
from fedbench.submissions.decisions import Decision, Submitted
from fedbench.submissions.form import Submission, release, same_distribution


@dataclass(frozen=True)
class Incoming:
    """A submission that was checked, unpacked.

    Parameters
    ----------
    submission : Submission
        Its form.
    sha256 : str
        Of its archive.
    plan : Plan
        Its cells.
    folder : Path
        A results folder with its records.
    """

    submission: Submission
    sha256: str
    plan: Plan
    folder: Path

    @cached_property
    def records(self) -> dict[str, Record]:
        """Its records by their place."""
        return {cell.path: Record.open(self.folder / cell.path) for cell in self.plan.cells}

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each record by its place."""
        return {place: record.digest for place, record in self.records.items()}


def check_folder(board: Path) -> None:
    """Refuse a folder that is no board's, where a decision would stand for nothing.

    Raises
    ------
    SubmissionError
        It is no results folder in which a suite was run.
    """
    if not (board / PLANS).is_dir():
        raise SubmissionError(f"{board} is no results folder with plans", "name the results folder of a board")


def of_board(incoming: Incoming, board: Path) -> Iterator[Finding]:
    """Return what a board has against a submission.

    Parameters
    ----------
    incoming : Incoming
        The submission.
    board : Path
        The board's results folder.

    Raises
    ------
    SubmissionError, RecordError
        The board's own log or plan is not as it should be.
    """
    path = board / PLANS / f"{incoming.submission.suite}.json"
    if not path.is_file():
        yield Finding(
            f"the results folder {board} has no board of the suite {incoming.submission.suite}",
            "name the results folder of a board, or run the suite there first",
        )
        return
    log = decisions.read(board)
    found = [*of_name(incoming, log, read_plan(path)), *of_version(incoming, log)]
    yield from found
    if not found:
        yield from _of_conditions(incoming, log, read_plan(path), board)


def of_name(incoming: Incoming, log: Sequence[Decision], plan: Plan) -> Iterator[Finding]:
    """Look whether the method's name belongs to somebody else; once it was added, it is its distribution's for good."""
    form, owners = incoming.submission, [d for d in log if d.action == "added"]
    taken = [decision for decision in owners if decision.method == form.method]
    if taken and not same_distribution(taken[0].distribution, form.distribution):
        yield Finding(
            f"the name {form.method} is taken by the distribution {taken[0].distribution}",
            "register the method under another name",
        )
    if not taken and any(cell.method == form.method for cell in plan.cells):
        yield Finding(
            f"the name {form.method} is taken: the board's owner runs a method of this name",
            "register the method under another name",
        )


def of_version(incoming: Incoming, log: Sequence[Decision]) -> Iterator[Finding]:
    """Look whether this archive was decided upon already, and whether its version is newer than what is there."""
    form = incoming.submission
    for decision in log:
        if decision.archive == incoming.sha256 and decision.action in ("added", "refused"):
            yield Finding(
                f"{form.file_name} was {decision.action} already, at {decision.at} by {decision.by}",
                "submit a newer version, or nothing",
            )
            return
    earlier = [d for d in log if d.action == "added" and (d.method, d.suite) == (form.method, form.suite)]
    if earlier and release(form.version) <= release(earlier[-1].version):
        yield Finding(
            f"{form.method} of {form.provider} is not newer than {earlier[-1].version}, which {form.suite} has",
            "submit a newer version of the distribution",
        )


def current(log: Sequence[Decision], method: str, suite: str) -> Submitted | None:
    """Return the submission of a method that stands on a suite's board with values, if one does."""
    standing = [
        item
        for item in decisions.submitted(log)
        if (item.added.method, item.added.suite) == (method, suite) and item.state in ("self-reported", "verified")
    ]
    return standing[-1] if standing else None


def _of_conditions(incoming: Incoming, log: Sequence[Decision], plan: Plan, board: Path) -> Iterator[Finding]:
    """Look whether it was run under the board's conditions, and to the same result where both have a cell."""
    for what in ("track", "margin"):
        if getattr(plan, what) != getattr(incoming.plan, what):
            yield Finding(
                f"{what} is {getattr(incoming.plan, what)}, that of the board {getattr(plan, what)}",
                f"run the suite {plan.suite} of the board",
            )
    submitted = {decision.method for decision in log if decision.action == "added"}
    own = [cell for cell in plan.cells if cell.method not in submitted]
    asked = {(cell.task, cell.seed) for cell in own}
    for label, pairs in _rows(incoming.plan).items():
        if pairs != {pair for pair in asked if pair[0] in {task for task, _ in pairs}}:
            yield Finding(f"{shown(label)}: its seeds are not those of the board", "run all seeds of the board")
    if {cell.task for cell in incoming.plan.cells} != {task for task, _ in asked}:
        yield Finding(
            f"its tasks are not those of the board, which are {', '.join(sorted({task for task, _ in asked}))}",
            "run all tasks of the board, and no other",
        )
        return
    theirs = {
        (place.split("/")[0], int(place.rpartition("-")[2])): _conditions(Record.open(board / place))
        for place in own_places(board, incoming.plan)
    }
    for place, record in incoming.records.items():
        key = (place.split("/")[0], record.info.seed)
        for what, value in _conditions(record).items():
            if key in theirs and theirs[key][what] != value:
                yield Finding(
                    f"{place}: its {what} is not that of the board's records",
                    "run the same version of the same task as the board, with the same FedBench",
                )
    for place, record in incoming.records.items():
        there = board / place
        if not there.exists():
            continue
        try:
            digest = Record.open(there).digest if (there / MANIFEST).is_file() else ""
        except RecordError:
            digest = ""
        if digest != record.digest:
            yield Finding(
                f"{place}: the board has another result of this cell"
                + (f" (digest {digest[:12]}, submitted {record.digest[:12]})" if digest else ", which is not whole"),
                "raise the method's `version` where its code changed, and run it again",
            )


def _rows(plan: Plan) -> Mapping[str, set[tuple[str, int]]]:
    rows: dict[str, set[tuple[str, int]]] = {}
    for cell in plan.cells:
        rows.setdefault(cell.label, set()).add((cell.task, cell.seed))
    return rows


def _conditions(record: Record) -> dict[str, Any]:
    """Return what must be the same for all methods of a task and seed."""
    info = record.info
    return {
        "task": info.identity.get("task"),
        "classes": info.classes,
        "primary metric": info.primary,
        "split, schedule, order or first weights": info.seed_ids,
    }


def own_places(board: Path, incoming: Plan) -> list[str]:
    """Return where a record of the board's own stands for each task and seed of a plan; nothing where none is whole."""
    path = board / PLANS / f"{incoming.suite}.json"
    if not path.is_file():
        return []
    submitted = {decision.method for decision in decisions.read(board) if decision.action == "added"}
    submitted |= {cell.method for cell in incoming.cells}
    asked = {(cell.task, cell.seed) for cell in incoming.cells}
    found: dict[tuple[str, int], str] = {}
    for cell in read_plan(path).cells:
        key = (cell.task, cell.seed)
        if key not in asked or key in found or cell.method in submitted or cell.family == "reference":
            continue
        if state(board / cell.path)[0] == "done":
            found[key] = cell.path
    return sorted(found.values())
