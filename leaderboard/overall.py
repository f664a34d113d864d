"""All tasks of a board in one table: every value is a mean over tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from fedbench.leaderboard.board import Board, Row, Score, TaskBoard, ranked, score
from fedbench.leaderboard.comparison import name_of

from fedbench.metrics import METRICS


@dataclass(frozen=True)
class WideRow(Row):
    """One method over all tasks of a board: every value is a mean over tasks, of one seed at a time.

    A method with a hole on any task has no value here, and its hole says where to look.

    Parameters
    ----------
    absent : tuple of str
        Tasks for which the suite does not plan it.
    """

    absent: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every cell of every task is done."""
        return not self.absent and len(self.done) == len(self.cells)

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Every metric: the mean over tasks at each seed, then over seeds; not defined unless it is on every task."""
        if not self.complete:
            return dict.fromkeys(METRICS, Score(None))
        return {name: score(list(self._by_seed(name).items())) for name in METRICS}

    def _by_seed(self, name: str) -> dict[int, float | None]:
        tasks = {cell.planned.task for cell in self.done}
        values: dict[int, list[float | None]] = {}
        for cell in self.done:
            values.setdefault(cell.seed, []).append(cell.values.get(name))
        return {  # a seed that was planned for some tasks only says nothing about all of them
            seed: None if None in found else math.fsum(value for value in found if value is not None) / len(found)
            for seed, found in sorted(values.items())
            if len(found) == len(tasks)
        }

    @property
    def hole(self) -> str:
        """On which tasks something is missing; empty where nothing is."""
        if self.standing is not None and self.standing.out:
            return super().hole
        tasks = sorted({cell.planned.task for cell in self.cells if cell.state != "done"})
        parts = [f"incomplete on {', '.join(tasks)}"] if tasks else []
        return "; ".join([*parts, *([f"not planned on {', '.join(self.absent)}"] if self.absent else [])])


def overall(board: Board) -> TaskBoard | None:
    """Return the table over all tasks; None where there is one task.

    Rows of several tasks are one method where `fedbench.leaderboard.comparison.name_of` calls them the same, so what
    was tuned for each task is one row.
    """
    if len(board.tasks) < 2:
        return None
    groups: dict[str, dict[str, Row]] = {}
    for task in board.tasks:
        for row in task.all_rows:
            groups.setdefault(name_of(row), {})[task.name] = row
    rows = [
        WideRow(
            label=name,
            family=next(iter(members.values())).family,
            cells=tuple(cell for row in members.values() for cell in row.cells),
            absent=tuple(task.name for task in board.tasks if task.name not in members),
        )
        for name, members in sorted(groups.items())
    ]
    primaries = {task.primary for task in board.tasks if task.primary}
    primary = primaries.pop() if len(primaries) == 1 else None
    return TaskBoard(
        name="",
        title="All tasks",
        description=(
            f"Each value is the mean over {len(board.tasks)} tasks ({', '.join(task.name for task in board.tasks)}); "
            "only methods that are complete on all of them."
        ),
        licence="",
        facts=(),
        primary=primary,
        rows=ranked([row for row in rows if row.family != "reference"], primary),
        references=tuple(row for row in rows if row.family == "reference"),
        warnings=tuple(f"{task.name}: {warning}" for task in board.tasks for warning in task.warnings),
    )
