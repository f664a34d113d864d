"""The log of a board's decisions on submissions, which only grows, and where each row stands by it.

``submissions/decisions.jsonl`` in the board's results folder has a line for each decision, and every line the SHA-256
of the one before; ``decisions.head`` has that of the last. So a line that was changed, taken out or put in between is
found. What was submitted is known by its archive's SHA-256, its rows by the places of their cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedbench.durable import write_atomic
from fedbench.submissions import SubmissionError
from fedbench.submissions.form import Distribution, Line, Release, Sha256, Time, explained
from fedbench.task import Name

FOLDER = "submissions"
LOG, HEAD = f"{FOLDER}/decisions.jsonl", f"{FOLDER}/decisions.head"
START = "0" * 64
"""What stands for the line before the first."""

Action = Literal["added", "verified", "superseded", "withdrawn", "refused"]
State = Literal["self-reported", "verified", "superseded", "withdrawn"]
Place = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}/[0-9a-f]{12}/seed-[0-9]+$")]


class Decision(BaseModel):
    """One line of the log.

    Parameters
    ----------
    previous : str
        SHA-256 of the line before.
    action : {"added", "verified", "superseded", "withdrawn", "refused"}
        What was decided.
    method, distribution, version, suite : str
        On which submission.
    archive : str
        SHA-256 of its archive.
    by, at : str
        Who decided, and when (UTC).
    reason : str
        Why, or what stands behind it.
    cells : mapping of str to str
        Of what was added: the digest of each record, by its place below the results folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    previous: Sha256 = START
    action: Action
    method: Name
    distribution: Distribution
    version: Release
    suite: Name
    archive: Sha256
    by: Line
    at: Time
    reason: Line
    cells: dict[Place, Sha256] = {}

    @property
    def line(self) -> str:
        """How it stands in the log."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Submitted:
    """A submission that was added, and what became of it.

    Parameters
    ----------
    added : Decision
        The line that added it.
    state : {"self-reported", "verified", "superseded", "withdrawn"}
        Where it stands now.
    reason : str
        What the line that brought it there says.
    """

    added: Decision
    state: State
    reason: str


@dataclass(frozen=True)
class Standing:
    """Where a row of a board stands.

    Parameters
    ----------
    state : {"self-reported", "verified", "superseded", "withdrawn"}
        ``superseded`` and ``withdrawn`` rows have no values and no rank.
    provider : str
        Distribution and version.
    version : str
        The version alone.
    reason : str
        Why it is superseded or withdrawn, or what verified it.
    digest : str
        Of the record that was submitted.
    """

    state: State
    provider: str
    version: str
    reason: str
    digest: str

    @property
    def out(self) -> bool:
        """Whether the row is a line of the board without values."""
        return self.state in ("superseded", "withdrawn")


def read(results: Path) -> tuple[Decision, ...]:
    """Return the log of a results folder, checked; empty where there is none.

    Raises
    ------
    SubmissionError
        A line was changed, taken out or put in; the message names the first that does not fit.
    """
    log, head = results / LOG, results / HEAD
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    decisions, hashes, added = [], [START], set()
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        where = f"line {number} of {LOG}"
        mend = "take the log from the history of the repository, and repeat what was decided since"
        try:
            decision = Decision.model_validate_json(line)
        except ValidationError as error:
            raise SubmissionError(f"{where} cannot be read: {explained(error)}", mend) from None
        if decision.previous != hashes[-1]:
            raise SubmissionError(
                f"{where} does not follow the line before: line {number - 1} was changed, or one was taken out or put "
                "in between",
                mend,
            )
        if decision.line != line:
            raise SubmissionError(f"{where} was changed: it is not written as the log writes", mend)
        if decision.action == "added":
            added.add(decision.archive)
        elif decision.action != "refused" and decision.archive not in added:
            raise SubmissionError(f"{where} is about an archive that no line before it added", mend)
        decisions.append(decision)
        hashes.append(_hash(line))
    last = head.read_text(encoding="ascii", errors="replace").strip() if head.is_file() else START
    # An append that was interrupted leaves the head at an earlier line; a line taken out leaves it at none.
    if last not in hashes or (last == START and len(hashes) > 1 and head.is_file()):
        raise SubmissionError(
            f"{LOG} ends after line {len(decisions)}, and {HEAD} names a later line or a changed one",
            "take both files from the history of the repository",
        )
    return tuple(decisions)


def append(results: Path, decisions: Iterable[Decision]) -> tuple[Decision, ...]:
    """Add lines to the log, all or none, and return them as they stand there."""
    before = read(results)
    previous = _hash(before[-1].line) if before else START
    lines = [decision.line for decision in before]
    added = []
    for decision in decisions:
        chained = decision.model_copy(update={"previous": previous})
        added.append(chained)
        lines.append(chained.line)
        previous = _hash(chained.line)
    head = results / f"{HEAD}.new"  # made first, so that nothing is left to fail once the log is longer
    try:
        write_atomic(head, previous + "\n")
        write_atomic(results / LOG, "".join(f"{line}\n" for line in lines))
        head.replace(results / HEAD)
    finally:
        head.unlink(missing_ok=True)
    return tuple(added)


def grown(results: Path, earlier: Path) -> tuple[Decision, ...]:
    """Return what was decided since an earlier copy of the log.

    Raises
    ------
    SubmissionError
        The log does not begin with that copy.
    """
    now = [decision.line for decision in read(results)]
    then = earlier.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(then, start=1):
        if number > len(now) or now[number - 1] != line:
            raise SubmissionError(
                f"line {number} of the earlier log was {'taken out' if number > len(now) else 'changed'}",
                "the log only grows: put the line back, and decide anew in a line of its own",
            )
    return read(results)[len(then) :]


def submitted(decisions: Sequence[Decision]) -> tuple[Submitted, ...]:
    """Return every submission that was added, in that order, and where it stands."""
    found: dict[str, Submitted] = {}
    for decision in decisions:
        if decision.action == "added":
            found[decision.archive] = Submitted(decision, "self-reported", decision.reason)
        elif decision.action != "refused":
            found[decision.archive] = replace(found[decision.archive], state=decision.action, reason=decision.reason)
    return tuple(found.values())


def standings(results: Path, suite: str) -> dict[str, Standing]:
    """Return where the submitted rows of a suite stand, by the place of each cell; the last to bring a cell counts.

    Raises
    ------
    SubmissionError
        The log was changed.
    """
    return {
        place: Standing(item.state, f"{of.distribution} {of.version}", of.version, item.reason, digest)
        for item in submitted(read(results))
        if (of := item.added).suite == suite
        for place, digest in of.cells.items()
    }


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
