"""A board as one self-contained page: no script, no request, the same bytes for the same records."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, Row, TaskBoard, load_board
from fedbench.leaderboard.markdown import markdown

from fedbench.metrics import METRICS
from fedbench.records import write_atomic
from fedbench.schema import Environment


def render(results: Path, suite: str, out: Path) -> list[Path]:
    """Write ``index.html`` and ``leaderboard.md`` of a suite, from records alone, and return their paths.

    Parameters
    ----------
    results : Path
        The results folder.
    suite : str
        Name of a suite that was run there.
    out : Path
        Where the two files will stand; each is replaced whole or not at all.

    Raises
    ------
    RecordError
        That suite was never run in this folder, or its plan cannot be read, or is of a newer schema.
    OSError
        The folder is not writable.
    """
    board = load_board(results, suite)
    pages = {"index.html": page(board), "leaderboard.md": markdown(board)}
    for name, content in pages.items():
        write_atomic(out / name, content)
    return [out / name for name in pages]


def page(board: Board) -> str:
    """Return a board as a self-contained HTML page."""
    found = {_canonical(cell.info.environment): cell.info.environment for cell in board.cells if cell.info}
    environments = {key: (f"E{n}", found[key]) for n, key in enumerate(sorted(found), start=1)}
    return (
        _environment()
        .get_template("index.html")
        .render(
            board=board,
            environments=list(environments.values()),
            environment_of=lambda cell: environments[_canonical(cell.info.environment)][0],
        )
    )


@dataclass(frozen=True)
class Axis:
    """The common scale of the small drawings of one task, in the unit of the metric.

    Parameters
    ----------
    low, high : float
        Its ends.
    """

    low: float
    high: float

    def at(self, value: float) -> str:
        """Return where a value lies, in percent of the width; values beyond an end lie on it."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}"


def axis(task: TaskBoard) -> Axis | None:
    """Return a scale that holds all intervals of the primary metric; None where there is nothing to draw."""
    if task.primary is None:
        return None
    metric = METRICS[task.primary]
    intervals = [interval for row in task.all_rows if (interval := row.scores[metric.name].interval)]
    ends = [end for i in intervals for end in (i.mean, i.low, i.high) if end is not None]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    if metric.unit == "fraction":  # whole five points: ends that are easy to read
        low, high = math.floor(low * 20) / 20, math.ceil(high * 20) / 20
    lowest, highest = metric.bounds
    low = low if lowest is None else max(low, lowest)
    high = high if highest is None else min(high, highest)
    return Axis(low, high) if low < high else Axis(low - 0.5, high + 0.5)


def _best(task: TaskBoard, row: Row, metric: str) -> bool:
    return row.family != "reference" and row.label in task.best(metric)


def _canonical(environment: Environment) -> str:
    return json.dumps(environment.model_dump(mode="json"), sort_keys=True)


def _clean(value: Any) -> Any:
    """Return text without control characters; what is already safe markup stays as it is."""
    return text.printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedbench.leaderboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(text=text, METRICS=METRICS, axis=axis, is_best=_best)
    environment.filters["paragraphs"] = text.paragraphs
    return environment
