"""What a maintainer runs on an archive: opened as hostile, everything in it verified, nothing of it executed."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbench import registry
from fedbench.cell import load_suite, suite_names
from fedbench.characters import shown, unfit
from fedbench.errors import FedBenchError
from fedbench.records import read_plan, write_plan
from fedbench.schema import MANIFEST, Plan, PlannedCell
from fedbench.submissions import SubmissionError, confined, form
from fedbench.submissions.archive import PLANS, RECORDS, Unpacked, unpack
from fedbench.submissions.confined import Finding
from fedbench.submissions.form import FORM, LINE, Submission
from fedbench.submissions.rules import Incoming, of_board, own_places

_SHOWN = 20  # findings of one check that are told
_HYPERPARAMETERS = 100


@dataclass(frozen=True)
class Check:
    """One check and what it found.

    Parameters
    ----------
    number : int
        Its place, from 1.
    title : str
        What was looked at.
    evidence : str
        What was seen where nothing is wrong.
    findings : tuple of Finding
        What is wrong; empty where nothing is.
    applicable : bool
        Whether it could be made at all; the evidence says why not.
    """

    number: int
    title: str
    evidence: str
    findings: tuple[Finding, ...]
    applicable: bool = True


@dataclass(frozen=True)
class Checked:
    """What came of an archive.

    Parameters
    ----------
    archive : str
        Its file.
    sha256 : str
        Of the file; empty where it could not be opened.
    submission : Submission or None
        Its form, where that can be read.
    checks : tuple of Check
        In order; those after one that found something may be missing, as they rest on it.
    """

    archive: str
    sha256: str
    submission: Submission | None
    checks: tuple[Check, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them."""
        return tuple(finding for check in self.checks for finding in check.findings)

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "archive": self.archive,
            "sha256": self.sha256,
            "good": self.good,
            "submission": None if self.submission is None else self.submission.model_dump(mode="json"),
            "checks": [
                {
                    "number": check.number,
                    "title": check.title,
                    "passed": not check.findings,
                    "applicable": check.applicable,
                    "evidence": check.evidence,
                    "findings": [{"what": found.what, "mend": found.mend} for found in check.findings],
                }
                for check in self.checks
            ],
        }


@dataclass(frozen=True)
class Examined:
    """An archive that was checked, while its files still lie in a temporary folder.

    Parameters
    ----------
    checked : Checked
        What came of it.
    incoming : Incoming or None
        What it would bring to a board; None where anything was found.
    """

    checked: Checked
    incoming: Incoming | None


def check(archive: Path, board: Path | None = None, keep: Path | None = None, *, rules: bool = True) -> Checked:
    """Check an archive; nothing is written but, where nothing is wrong with it, what is asked for.

    Parameters
    ----------
    archive : Path
        The file.
    board : Path, optional
        A board's results folder: its records of the same tasks and seeds must have the same split, labels and draws.
    keep : Path, optional
        A new folder for the checked records and their plan, such as `fedbench verify --rerun` reads.
    rules : bool
        Whether the rules of that board are checked as well; see `fedbench.submissions.rules`.

    Raises
    ------
    SubmissionError
        There is something at ``keep`` already.
    """
    if keep is not None and keep.exists():
        raise SubmissionError(f"{keep} is there already", "name a new folder")
    with examined(archive, board, rules=rules) as found:
        if keep is not None and found.incoming is not None:
            shutil.copytree(found.incoming.folder, keep)
        return found.checked


@contextmanager
def examined(archive: Path, board: Path | None = None, *, rules: bool = True) -> Iterator[Examined]:
    """Check an archive and lend its unpacked files for as long as the context lasts; see `check`."""
    with tempfile.TemporaryDirectory(prefix="fedbench-submission-") as scratch:
        yield _Examination(archive, board, Path(scratch), rules).run()


class _Examination:
    """The checks in order; each rests on those before, so one that finds something is often the last."""

    def __init__(self, archive: Path, board: Path | None, scratch: Path, rules: bool) -> None:
        self.archive, self.board, self.scratch, self.rules = archive, board, scratch, rules
        self.checks: list[Check] = []
        self.sha256 = ""
        self.form: Submission | None = None

    def run(self) -> Examined:
        incoming = self._look()
        name = shown(self.archive.name)
        checked = Checked(name, self.sha256, self.form, tuple(self.checks))
        return Examined(checked, incoming if checked.good else None)

    def _look(self) -> Incoming | None:
        raw, folder = self.scratch / "raw", self.scratch / "results"
        content = self._check("archive: one plain zip, within its limits", lambda: self._unpacked(raw))
        if content is None:
            return None
        self.form = self._check(f"form: {FORM}", lambda: self._read_form(raw, content))
        if self.form is None:
            return None
        plan = self._check("files: those of the list, each with its SHA-256", lambda: self._read_files(raw, content))
        if plan is None or not self._check("plan: every cell of the method, none missing", lambda: self._plan(plan)):
            return None
        self._check("name: it is none of FedBench's own", self._name)
        shutil.move(raw / RECORDS, folder)
        write_plan(folder / PLANS / f"{plan.suite}.json", plan)
        self._records(folder, plan)
        if any(check.findings for check in self.checks):
            return None
        incoming = Incoming(self.form, self.sha256, plan, folder)
        if self.board is not None and self.rules:
            self._add("board: its rules", "they allow it", tuple(of_board(incoming, self.board)))
        return incoming

    def _check(self, title: str, look: Callable[[], tuple[Any, str]]) -> Any:
        """Return what a check gives, or None where it found something."""
        try:
            value, evidence = look()
        except SubmissionError as error:
            self._add(title, "", (Finding(error.what, error.mend),))
            return None
        except _Several as several:
            self._add(title, "", several.findings)
            return None
        except (FedBenchError, RecursionError) as error:
            self._add(title, "", (Finding(shown(self._here(str(error)), 300), _AGAIN),))
            return None
        self._add(title, evidence, ())
        return value

    def _add(self, title: str, evidence: str, findings: Sequence[Finding], applicable: bool = True) -> None:
        told = tuple(findings[:_SHOWN])
        if len(findings) > _SHOWN:
            told += (Finding(f"and {len(findings) - _SHOWN} more", told[-1].mend),)
        self.checks.append(Check(len(self.checks) + 1, title, evidence if not told else "", told, applicable))

    def _here(self, message: str) -> str:
        """Return a message without the temporary folder, which is gone when it is read."""
        return re.sub(rf"{re.escape(str(self.scratch))}/[^/ ]+/", "", message)

    def _unpacked(self, raw: Path) -> tuple[Unpacked, str]:
        content = unpack(self.archive, raw)
        self.sha256 = content.sha256
        members = len(content.members)
        return content, f"{members} members, {content.packed:,} bytes, {content.unpacked:,} unpacked"

    def _read_form(self, raw: Path, content: Unpacked) -> tuple[Submission, str]:
        if FORM not in content.members:
            raise SubmissionError(f"there is no {FORM}", "make the archive with `fedbench submit pack`")
        found = form.read((raw / FORM).read_bytes())
        return found, f"{found.method} of {found.provider} on {found.suite}"

    def _read_files(self, raw: Path, content: Unpacked) -> tuple[Plan, str]:
        assert self.form is not None
        listed, there = set(self.form.files), set(content.members) - {FORM}
        findings = [
            *(Finding(f"{shown(name)}: it is listed and not there", _AGAIN) for name in sorted(listed - there)),
            *(Finding(f"{name}: it is there and not listed", _AGAIN) for name in sorted(there - listed)),
        ]
        for name in sorted(listed & there):
            if hashlib.sha256((raw / name).read_bytes()).hexdigest() != self.form.files[name]:
                findings.append(Finding(f"{name}: its SHA-256 is not the one of the list", _AGAIN))
        expected = f"{PLANS}/{self.form.suite}.json"
        if {name for name in there if name.startswith(f"{PLANS}/")} != {expected}:
            findings.append(Finding(f"there is not one plan, {expected}, and no other", _AGAIN))
        _raise(findings)
        return read_plan(raw / expected), f"{len(there)} files"

    def _plan(self, plan: Plan) -> tuple[bool, str]:
        assert self.form is not None
        findings = [*_of_plan(plan, self.form), *_of_suite(plan)]
        places = {cell.path for cell in plan.cells}
        kept = {name.split("/", 1)[1].rpartition("/")[0] for name in self.form.files if name.startswith(f"{RECORDS}/")}
        whole = {
            place for place in kept if f"{RECORDS}/{place}/{MANIFEST}" in self.form.files
        }  # the record itself is read later
        findings += [Finding(f"{place}: it is planned and has no record", _HOLE) for place in sorted(places - whole)]
        findings += [Finding(f"{place}: it has files and is not planned", _AGAIN) for place in sorted(kept - places)]
        _raise(findings)
        rows = {(cell.task, cell.label) for cell in plan.cells}
        tasks = {cell.task for cell in plan.cells}
        return True, f"{len(plan.cells)} cells: {len(rows)} rows on {len(tasks)} tasks"

    def _name(self) -> tuple[bool, str]:
        assert self.form is not None
        points = registry.methods.points().get(self.form.method, ())
        if any(point.dist is not None and point.dist.name == registry.OWN for point in points):
            raise SubmissionError(
                f"the method {self.form.method} is built in, and its rows are made by whoever runs the board",
                "register yours under a name of its own",
            )
        if form.same_distribution(self.form.distribution, registry.OWN):
            raise SubmissionError("the distribution is called fedbench, as the benchmark itself", "name it otherwise")
        return True, self.form.method

    def _records(self, folder: Path, plan: Plan) -> None:
        """Verify the records of one task after the other, as all that is compared is compared within a task.

        Beside them lies one of the board's own for each seed.
        """
        found: dict[str, list[dict[str, str]]] = {}
        board = self.board or self.scratch  # which is none, and has no records
        beside = own_places(board, plan)
        for task in sorted({cell.task for cell in plan.cells}):
            part = self.scratch / f"of-{task}"
            part.mkdir()
            (folder / task).rename(part / task)
            for place in beside:
                if place.startswith(f"{task}/"):
                    shutil.copytree(board / place, part / place)
            cells = tuple(cell for cell in plan.cells if cell.task == task)
            write_plan(part / PLANS / f"{plan.suite}.json", plan.model_copy(update={"cells": cells}))
            report, failed = confined.verified(part)
            if failed:
                self._add(f"records: those of {task}, verified in a process with limits", "", failed)
                return
            for item in report["checks"]:
                found.setdefault(item["title"], []).extend(item["findings"])
            for place in beside:
                shutil.rmtree(part / place, ignore_errors=True)
            (part / task).rename(folder / task)
        for title, findings in found.items():
            wrong = [_told(finding, self._here) for finding in findings if finding["state"] == "failed"]
            passed = sum(finding["state"] == "passed" for finding in findings)
            reasons = {finding["evidence"] for finding in findings if finding["state"] == "not applicable"}
            applicable = bool(passed or wrong or not reasons)
            evidence = f"{passed} of {len(findings)}" if applicable else shown(self._here(min(reasons)), 200)
            self._add(f"records: {shown(title)}", evidence, wrong, applicable)


def _told(finding: dict[str, str], here: Callable[[str], str]) -> Finding:
    return Finding(
        f"{shown(finding['where'], 160)}: {shown(here(finding['evidence']), 300)}", shown(here(finding["mend"]), 300)
    )


class _Several(Exception):
    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__()
        self.findings = tuple(findings)


def _raise(findings: Sequence[Finding]) -> None:
    if findings:
        raise _Several(findings)


def _of_plan(plan: Plan, submission: Submission) -> Iterator[Finding]:
    """Look for what a plan must not say: all of it is shown on the board."""
    if plan.suite != submission.suite:
        yield Finding(f"the plan is of suite {shown(plan.suite)}, the form of {submission.suite}", _AGAIN)
    if not plan.cells:
        yield Finding("the plan has no cells", _AGAIN)
    if len({cell.path for cell in plan.cells}) < len(plan.cells):
        yield Finding("a cell stands twice in the plan", _AGAIN)
    for cell in plan.cells:
        where = shown(f"{cell.task}/{cell.label}/seed-{cell.seed}")
        if cell.method != submission.method:
            yield Finding(f"{where}: the cell is of {shown(cell.method)}, not of {submission.method}", _AGAIN)
        if cell.family == "reference":
            yield Finding(f"{where}: reference points are the board's own", "submit a global or personalised method")
        if cell.skipped is not None:
            yield Finding(f"{where}: it was skipped", _HOLE)
        yield from (Finding(f"{where}: {reason}", _AGAIN) for reason in _words(cell))
    if name := unfit(plan.title):
        yield Finding(f"the title of the plan has {name}", _AGAIN)
    if len({cell.seed for cell in plan.cells}) * len({(c.task, c.label) for c in plan.cells}) != len(plan.cells):
        yield Finding("not every row of the plan has every seed", _HOLE)


def _words(cell: PlannedCell) -> Iterator[str]:
    own = cell.label == cell.method or (cell.label.startswith(f"{cell.method}[") and cell.label.endswith("]"))
    if not own:
        yield "its label is not the method's name, with hyperparameters in brackets or without"
    texts = {"label": cell.label, "mechanism": cell.mechanism}
    texts |= {f"hyperparameter {shown(name, 30)}": f"{name}{value}" for name, value in cell.hyperparameters.items()}
    if cell.tuning is not None:
        texts |= {f"tuning, {name}": str(value) for name, value in cell.tuning.model_dump().items()}
    for what, value in texts.items():
        if name := unfit(value):
            yield f"{what} has {name}"
        if len(value) > LINE:
            yield f"{what} has more than {LINE} characters"
    if len(cell.hyperparameters) > _HYPERPARAMETERS:
        yield f"it has more than {_HYPERPARAMETERS} hyperparameters"


def _of_suite(plan: Plan) -> Iterator[Finding]:
    """Compare a plan with the suite of its name, where that comes with FedBench; others are compared with the board."""
    if plan.suite not in suite_names():
        return
    suite = load_suite(plan.suite)
    if plan.track != suite.track:
        yield Finding(f"the plan is of the {plan.track} track, the suite {suite.name} of the {suite.track} one", _AGAIN)
    tasks, seeds = {cell.task for cell in plan.cells}, {cell.seed for cell in plan.cells}
    for what, own, asked in (("tasks", tasks, set(suite.tasks)), ("seeds", seeds, set(suite.seeds))):
        if own != asked:
            yield Finding(
                f"the suite {suite.name} has the {what} {', '.join(map(str, sorted(asked)))}; the plan has "
                f"{', '.join(shown(str(item), 70) for item in sorted(own))}",
                "run the whole suite, and nothing else",
            )


_AGAIN = "pack the records again with `fedbench submit pack`"
_HOLE = "run what is missing with `fedbench run`, then pack again"
