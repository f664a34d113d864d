"""What a check is, what it answers, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedbench.errors import FedBenchError
from fedbench.reading import shown

if TYPE_CHECKING:
    from fedbench.verification.subject import Subject

State = Literal["passed", "failed", "not applicable"]
Units = Callable[["Subject"], Iterable[tuple[str, Any]]]

REPLACE = "run the cell again; if somebody else sent the record, ask for it again"
_SHOWN = 3  # problems of one record that are told; the others are counted


class Failed(Exception):
    """A check failed, with what was found and how to mend it."""

    def __init__(self, evidence: str, mend: str = REPLACE) -> None:
        super().__init__(evidence)
        self.evidence, self.mend = evidence, mend


class NotApplicable(Exception):
    """A check cannot be made, and why."""


@dataclass(frozen=True)
class Finding:
    """What a check found in one place.

    Parameters
    ----------
    where : str
        A record, as ``task/method/hash/seed-1``; a plan; or what several records share.
    state : {"passed", "failed", "not applicable"}
        What came of it.
    evidence : str
        What was found: counts, values, names; or why the check was not made.
    mend : str
        What to do; empty unless it failed.
    """

    where: str
    state: State
    evidence: str
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """A numbered check.

    Parameters
    ----------
    number : int
        Stable: what a report or a decision refers to.
    name : str
        Stable name, that of its function.
    title : str
        What is so where it passes.
    units : callable
        Returns what it looks at, each with its name.
    needs : tuple of str
        Checks that a record must have passed, or this one says nothing about it.
    look : callable
        Looks at one unit and returns the evidence. Raises `Failed` or `NotApplicable`.
    """

    number: int
    name: str
    title: str
    units: Units
    needs: tuple[str, ...]
    look: Callable[[Any], str]

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Yield what is found in each place; whatever the contents are, a finding comes of it."""
        for where, unit in self.units(subject):
            yield self._finding(where, unit, subject)

    def _finding(self, where: str, unit: Any, subject: Subject) -> Finding:
        if lacking := [name for name in self.needs if where not in subject.passed[name]]:
            first = CHECKS[lacking[0]]
            return Finding(where, "not applicable", f"check {first.number} ({first.name}) comes first")
        try:
            return Finding(where, "passed", self.look(unit))
        except Failed as failed:
            return Finding(where, "failed", failed.evidence, failed.mend)
        except NotApplicable as reason:
            return Finding(where, "not applicable", str(reason))
        except FedBenchError as error:
            return Finding(where, "failed", str(error), REPLACE)
        except Exception as error:  # contents that contradict each other can fail anywhere in numpy or a metric
            told = f"cannot be checked: {type(error).__name__}: {shown(str(error))}"
            return Finding(where, "failed", told, REPLACE)


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order of their numbers."""


def records(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Return each record as a unit."""
    return ((entry.place, entry) for entry in subject.entries)


def check(
    number: int, title: str, *, over: Units = records, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
    """Enter a function into `CHECKS` under its own name; see `Check`."""

    def enter(look: Callable[[Any], str]) -> Callable[[Any], str]:
        CHECKS[look.__name__] = Check(number, look.__name__, title, over, needs, look)
        return look

    return enter


def fail_if(problems: Iterable[str], mend: str = REPLACE) -> None:
    """Raise `Failed` with the first of some problems and the number of the others, if there is one."""
    found = list(problems)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise Failed("; ".join(found[:_SHOWN]) + more, mend)
