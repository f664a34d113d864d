"""The runs of a task as charts read them, row by row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fedbench.leaderboard.board import CellResult, Row, TaskBoard
from fedbench.leaderboard.series import Series


@dataclass(frozen=True, eq=False)
class MethodSeries:
    """All finished runs of one row of a board.

    Parameters
    ----------
    label : str
        The row's label; two rows of one label are told apart by the hash of their cells.
    row : Row
        The row.
    runs : tuple of Series
        One a finished seed, by seed.
    """

    label: str
    row: Row
    runs: tuple[Series, ...]


def method_series(task: TaskBoard) -> tuple[MethodSeries, ...]:
    """Return the series of all finished cells of a task, by row, in the order of the board.

    Raises
    ------
    ValueError
        The board was loaded without them.
    """
    often = Counter(row.label for row in task.all_rows)
    return tuple(
        MethodSeries(
            row.label if often[row.label] == 1 else f"{row.label} ({row.cells[0].planned.hash})",
            row,
            tuple(map(_series, row.done)),
        )
        for row in task.all_rows
    )


def _series(cell: CellResult) -> Series:
    if cell.series is None:
        raise ValueError(f"{cell.planned.path} has no series; load the board with drawn=True.")
    return cell.series
