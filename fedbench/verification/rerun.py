"""Training cells again and comparing what comes of it: the only check that no forger passes. It runs methods' code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedbench import registry
from fedbench.cell import Cell
from fedbench.errors import FedBenchError, SpecError
from fedbench.executors import Event, Options
from fedbench.metrics import METRICS
from fedbench.records import Record
from fedbench.schema import Environment
from fedbench.seeds import Streams
from fedbench.verification import CHECKS, Finding, NotApplicable, Result
from fedbench.verification.checks import REPLACE
from fedbench.verification.subject import Entry, Subject

NUMBER, NAME = 19, "rerun"
TITLE = "a cell that is trained again gives the same record"
TOLERANCE = 0.05
"""How far the primary metric of a re-run on another platform may be, or the personal accuracy where there is none.

A fraction. Another processor or library rounds otherwise, and training makes of a last bit what another order of the
batches would: the re-run is another draw of the same cell. docs/verify.md has what was measured: up to 0.028.
"""
_DECIDING = ("python", "packages", "processor", "threads", "device", "training")
"""What of an environment can change a bit."""

Run = Callable[[Sequence[Cell], Options], Iterable[Event]]


@dataclass(frozen=True)
class Drawn:
    """The records that are trained again.

    Parameters
    ----------
    entries : tuple of Entry
        Those that can be, in order of their places.
    others : tuple of Finding
        Those that were drawn and cannot be, each with its reason.
    """

    entries: tuple[Entry, ...]
    others: tuple[Finding, ...]

    @property
    def methods(self) -> dict[str, str]:
        """Each method whose code will run, and the distribution that it comes from."""
        names = {entry.cell.method_name for entry in self.entries}
        return {name: registry.methods.origin(name) for name in sorted(names)}


def draw(subject: Subject, n: int, seed: int) -> Drawn:
    """Draw n records to be trained again; the same seed draws the same ones of the same folder.

    Raises
    ------
    SpecError
        There are not that many, or fewer than one is asked for.
    """
    if not 1 <= n <= len(subject.entries):
        raise SpecError(f"rerun: between 1 and all {len(subject.entries)} records can be drawn, not {n}.")
    chosen = Streams(seed).rng("verify rerun").choice(len(subject.entries), n, replace=False)
    entries, others = [], []
    for entry in (subject.entries[index] for index in sorted(chosen.tolist())):
        try:
            for check in ("identity", "spec"):
                if entry.place not in subject.passed[check]:
                    raise NotApplicable(f"check {CHECKS[check].number} ({check}) comes first")
            entry.cell.task.data.locate(subject.data_dir)
            entries.append(entry)
        except (NotApplicable, FedBenchError) as reason:
            others.append(Finding(entry.place, "not applicable", str(reason)))
    return Drawn(tuple(entries), tuple(others))


def rerun(drawn: Drawn, run: Run, options: Callable[[Path], Options]) -> Result:
    """Train the drawn cells again in a folder that is deleted afterwards, and compare.

    Parameters
    ----------
    drawn : Drawn
        What `draw` returned.
    run : callable
        Runs cells, as an executor does.
    options : callable
        Returns the options of a run whose records go to a folder.
    """
    findings = list(drawn.others)
    with tempfile.TemporaryDirectory(prefix="fedbench-verify-") as scratch:
        by_cell = {(entry.cell.hash, entry.cell.seed): entry for entry in drawn.entries}
        cells = [entry.cell for entry in drawn.entries]
        for event in run(cells, options(Path(scratch))) if cells else ():
            if event.is_last:
                entry = by_cell[event.cell.hash, event.cell.seed]
                findings.append(_finding(entry, event, Path(scratch)))
    findings.sort(key=lambda finding: finding.where)
    return Result(NUMBER, NAME, TITLE, tuple(findings))


def _finding(entry: Entry, event: Event, scratch: Path) -> Finding:
    if event.state != "done":
        return Finding(entry.place, "not applicable", f"the cell was not trained: {event.reason or event.state}")
    made, stored = Record.open(event.cell.folder(scratch)), entry.contents.record
    if made.digest == stored.digest:
        return Finding(entry.place, "passed", f"the same digest, {made.digest}")
    digests = f"digest {made.digest[:12]}, the record has {stored.digest[:12]!r}"
    metric = METRICS[event.cell.task.primary]
    if metric.compute(stored.outcome) is None:  # no global model, say
        metric = METRICS["personal_accuracy"]
    ours, theirs = metric.compute(made.outcome), metric.compute(stored.outcome)
    told = f"{digests}; {metric.name} {_figure(ours)}, the record has {_figure(theirs)}"
    other = differing(stored.info.environment, made.info.environment)
    if not other:
        mend = f"{REPLACE}; a processor of the same name may round otherwise: try on the machine of the record"
        return Finding(entry.place, "failed", f"{told}, on the same platform", mend)
    told = f"{told}; tolerance {TOLERANCE}, as other are {', '.join(other)}"
    if ours is None and theirs is None:
        return Finding(entry.place, "not applicable", told)
    if ours is None or theirs is None or (metric.unit == "fraction" and abs(ours - theirs) > TOLERANCE):
        return Finding(entry.place, "failed", told, f"train it again on the platform of the record, or {REPLACE}")
    return Finding(entry.place, "passed", told)


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def differing(first: Environment, second: Environment) -> list[str]:
    """Return what of two environments differs and can change a bit."""
    return [name for name in _DECIDING if getattr(first, name) != getattr(second, name)]
