"""Our numbers beside those that a paper reports, cell by cell.

What is reported stands in ``reported/*.csv`` (task, method, metric, value, origin). It is second hand: taken from a
public note on the paper, not from the paper or its authors; ``derived`` was worked out from other reported numbers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fedbench.leaderboard.board import Board, Row, TaskBoard

from fedbench.metrics import METRICS, Metric
from fedbench.statistics import Interval

PAPER = "Fowler, AlRegib, “FedKPer”, ICIP 2026, arXiv:2605.00698, Table 1"

READINGS = {
    "global_accuracy_mean_over_rounds": ("global_accuracy_mean", "global_accuracy_last"),
    "bwt": ("bwt",),
    "global_consistency": ("consistency_peak", "consistency_step"),
    "local_accuracy_mean_over_rounds": ("local_accuracy_mean",),
    "worst_client_accuracy": ("worst_sampled_accuracy",),
    "balance": ("balance",),
}
"""Our metrics for each of the paper's columns; the first is the likely reading."""


@dataclass(frozen=True)
class Reported:
    """One number of a paper.

    Parameters
    ----------
    task, method, column : str
        Where it stands; the column is the paper's.
    value : float
        Fraction.
    derived : bool
        Whether it was worked out from other reported numbers.
    """

    task: str
    method: str
    column: str
    value: float
    derived: bool


@dataclass(frozen=True)
class Match:
    """One reading of one reported number.

    Parameters
    ----------
    reported : Reported
        What the paper says.
    metric : Metric
        Our reading of the paper's column.
    likely : bool
        Whether it is the likely reading, where a column has two.
    ours : Interval or None
        Mean over seeds with its interval; None where there is no record, or the metric is not defined.
    missing : str
        Why there is none of ours, or that seeds are missing; empty otherwise.
    """

    reported: Reported
    metric: Metric
    likely: bool
    ours: Interval | None
    missing: str

    @property
    def gap(self) -> Interval | None:
        """Ours less reported. Its interval is that of ours alone: how certain the reported number is, is not known."""
        if self.ours is None:
            return None
        at = self.reported.value
        low, high = (None if end is None else end - at for end in (self.ours.low, self.ours.high))
        return Interval(self.ours.mean - at, low, high, self.ours.n)


@cache
def reported() -> tuple[Reported, ...]:
    """Return all reported numbers that are known."""
    found = []
    folder = resources.files("fedbench.leaderboard") / "reported"
    for path in sorted(folder.iterdir(), key=lambda item: item.name):
        if path.name.endswith(".csv"):
            for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
                value, derived = float(row["value"]), row["origin"] == "derived"
                found.append(Reported(row["task"], row["method"], row["metric"], value, derived))
    return tuple(found)


def matches(board: Board) -> dict[str, tuple[Match, ...]]:
    """Return every reported number of the board's tasks beside ours, by task; a number without ours is there too.

    Empty where no task of the board is in a paper, and on the robust track, which is another protocol.
    """
    if board.track != "faithful":
        return {}
    found = {task.name: tuple(_of_task(task)) for task in board.tasks}
    return {task: rows for task, rows in found.items() if rows}


def _of_task(task: TaskBoard) -> list[Match]:
    # At the defaults alone: those are the paper's settings.
    rows = {row.method: row for row in task.rows if row.label == row.method}
    return [
        _match(item, METRICS[name], position == 0, rows.get(item.method))
        for item in reported()
        if item.task == task.name
        for position, name in enumerate(READINGS[item.column])
    ]


def _match(item: Reported, metric: Metric, likely: bool, row: Row | None) -> Match:
    if row is None:
        return Match(item, metric, likely, None, "not in this suite at its defaults")
    return Match(item, metric, likely, row.scores[metric.name].interval, row.hole)
