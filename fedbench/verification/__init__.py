"""Verification: numbered checks of records, each with what was found and how to mend it.

`verify` looks at a results folder or at the folder of one record. It trusts nothing in it, changes nothing, and runs no
code of a method. Each check is a small function, found by its name: `whole` has those about files and identity,
`series` and `answers` those about what is in them, `draws` those about what must be equal or can be drawn again, and
`plausible` those about what is too good. docs/verify.md says what they find and what they cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbench.reading import MOST_VALUES
from fedbench.verification import answers, draws, plausible, series, whole  # noqa: F401 - they enter their checks
from fedbench.verification.checks import CHECKS, Check, Failed, Finding, NotApplicable, State
from fedbench.verification.subject import Entry, Subject

__all__ = [
    "CHECKS",
    "Check",
    "Entry",
    "Failed",
    "Finding",
    "NotApplicable",
    "Report",
    "Result",
    "Subject",
    "examine",
    "verify",
]

SCHEMA = "fedbench-verification-1"


@dataclass(frozen=True)
class Result:
    """What one check found.

    Parameters
    ----------
    number, name, title
        See `Check`.
    findings : tuple of Finding
        One a place, in order of the places.
    """

    number: int
    name: str
    title: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """Failed if it failed anywhere, passed if it passed anywhere, else not applicable."""
        states = {finding.state for finding in self.findings}
        return "failed" if "failed" in states else "passed" if "passed" in states else "not applicable"

    def of(self, state: State) -> tuple[Finding, ...]:
        """Return the findings of a state."""
        return tuple(finding for finding in self.findings if finding.state == state)


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Parameters
    ----------
    path : str
        What was looked at, as it was named.
    records : int
        How many records are there.
    results : tuple of Result
        One a check, in order of their numbers.
    """

    path: str
    records: int
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not any(result.state == "failed" for result in self.results)

    def plain(self) -> dict[str, Any]:
        """Return the report as plain JSON types, in a stable order; see docs/verify.md."""
        return {
            "schema": SCHEMA,
            "path": self.path,
            "records": self.records,
            "passed": self.passed,
            "checks": [
                {
                    "number": result.number,
                    "name": result.name,
                    "title": result.title,
                    "state": result.state,
                    "findings": [
                        {"where": item.where, "state": item.state, "evidence": item.evidence, "mend": item.mend}
                        for item in result.findings
                    ],
                }
                for result in self.results
            ],
        }


def verify(
    path: Path,
    *,
    data_dir: Path | None = None,
    most_values: int = MOST_VALUES,
    watch: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Make every check of a results folder, or of the folder of one record.

    Parameters
    ----------
    path : Path
        The folder.
    data_dir : Path, optional
        Where to look for the tasks' data first.
    most_values : int
        Numbers and bits that are read of a record; see `fedbench.records.Record`.
    watch : callable
        Called with what each check found.

    Raises
    ------
    SpecError
        There is no record. Whatever is wrong with a record is a finding.
    """
    return examine(Subject.of(Path(path), data_dir, most_values), watch)


def examine(subject: Subject, watch: Callable[[Result], None] = lambda result: None) -> Report:
    """Make every check of what was found at a path; see `verify`."""
    results = []
    for item in sorted(CHECKS.values(), key=lambda item: item.number):
        result = Result(item.number, item.name, item.title, tuple(item.findings(subject)))
        subject.passed[item.name] |= {finding.where for finding in result.of("passed")}
        watch(result)
        results.append(result)
    return Report(str(subject.path), len(subject.entries), tuple(results))
