"""A board as files that other programs read: CSV and JSON, one row a cell and metric; LaTeX, the table of a paper."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, CellResult, Row, TaskBoard

from fedbench.errors import unknown
from fedbench.metrics import METRICS, Metric

PAPER = ("global_accuracy_mean", "local_accuracy_mean")
"""The columns of a LaTeX table, if none are named: what the paper trades off."""

FIELDS = (
    "suite", "track", "task", "method", "name", "family", "hash", "seed", "state", "reason", "metric", "value", "unit",
    "better", "digest", "hyperparameters", "tuned", "device", "fedbench", "standing", "provider",
)  # fmt: skip
"""The columns of CSV and JSON: ``method`` is the label of the board, ``name`` the registered name."""

# What a spreadsheet runs, where a cell begins: it takes the wide signs as well, and some split cells at semicolons.
_FORMULA = re.compile(r"(\A|;)(?=\s*[-=+@＝＋－＠'])")
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "⟨": r"\textless{}", "⟩": r"\textgreater{}",
}  # fmt: skip


def rows(board: Board) -> Iterator[dict[str, Any]]:
    """Return a row for each planned cell and metric, in the order of the board.

    A cell that is not done has its rows as well, without a value: a hole is data. Values are as metrics give them, in
    the unit beside them: fractions, not percent.
    """
    for task in board.tasks:
        for row in task.all_rows:
            for cell in row.cells:
                facts = _facts(board, row, cell)
                for metric in METRICS.values():
                    own = {
                        "metric": metric.name,
                        "value": None if (value := cell.values.get(metric.name)) is None else float(value),
                        "unit": metric.unit,
                        "better": metric.direction,
                    }
                    yield {name: {**facts, **own}[name] for name in FIELDS}


def as_csv(board: Board) -> str:
    """Return the rows as CSV (RFC 4180, UTF-8, lines end in a line feed).

    Numbers are printed so that they read back to the same bits; what is not defined or missing is empty. Texts are
    `text.printable`; before what a spreadsheet would run as a formula (=, +, - or @ at the start, or after a semicolon)
    stands an apostrophe. JSON has them as they are.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([_cell(value) for value in row.values()] for row in rows(board))
    return stream.getvalue()


def as_json(board: Board) -> str:
    """Return the rows as one JSON object with what they share; what is not defined or missing is null."""
    shared = {"suite": board.suite, "title": board.title, "track": board.track, "margin": board.margin}
    # ASCII alone: what is hidden in a name, or turns it round, is seen in the file as well.
    return json.dumps({**shared, "rows": list(rows(board))}, indent=1, allow_nan=False) + "\n"


def as_latex(board: Board, metrics: Sequence[str] = PAPER) -> str:
    r"""Return a table for a paper: methods in rows, tasks × metrics in columns; needs the package ``booktabs``.

    A value is the mean over seeds with half its 95 % t interval. Of the methods that are complete on a task the best
    mean is bold and the second underlined, also where they tie; reference points stand below a rule and are never
    marked. A hole, and what is not defined, is ``--``; holes are named in comments above the table.

    Parameters
    ----------
    board : Board
        Of any track, with any holes.
    metrics : sequence of str
        One or more.

    Raises
    ------
    SpecError
        A metric is unknown.
    """
    for name in metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    chosen = [METRICS[name] for name in dict.fromkeys(metrics)]
    columns = [(task, metric) for task in board.tasks for metric in chosen]
    marks = {(task.name, metric.name): _marks(task, metric) for task, metric in columns}
    wide = len(chosen)
    spans = [f"\\multicolumn{{{wide}}}{{c}}{{{tex(task.name)}}}" for task in board.tasks]
    rules = [f"\\cmidrule(lr){{{2 + i * wide}-{1 + (i + 1) * wide}}}" for i in range(len(board.tasks))]
    heads = [_heading(metric) for _, metric in columns]
    lines = [
        *(f"% {line}" for line in _holes(board)),
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_caption(board)}}}",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        f" & {' & '.join(spans)} \\\\",
        "".join(rules),
        f"Method & {' & '.join(heads)} \\\\",
        "\\midrule",
    ]
    for references in (False, True):
        labels = board.labels(references=references)
        lines += ["\\midrule"] if references and labels else []
        for label in labels:
            figures = [_figure(task, label, metric, marks[task.name, metric.name]) for task, metric in columns]
            lines.append(f"{tex(_named(board, label))} & {' & '.join(figures)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"


FORMATS: Mapping[str, tuple[str, Callable[[Board], str]]] = {
    "csv": ("leaderboard.csv", as_csv),
    "json": ("leaderboard.json", as_json),
    "latex": ("leaderboard.tex", as_latex),
}
"""What `fedbench report --format` knows: the file's name, and what writes it."""


def tex(value: str) -> str:
    """Return text that LaTeX prints as it is: no command, comment, option of a line break or dash can come of it."""
    shown = "".join(_TEX.get(char, char) for char in " ".join(text.printable(value).split()))
    return re.sub("-(?=-)", "-{}", shown)


def _facts(board: Board, row: Row, cell: CellResult) -> dict[str, Any]:
    planned, info = cell.planned, cell.info
    return {
        "suite": board.suite,
        "track": board.track,
        "task": planned.task,
        "method": row.label,
        "name": planned.method,
        "family": row.family,
        "hash": planned.hash,
        "seed": cell.seed,
        "state": cell.state,
        "reason": cell.reason,
        "digest": cell.digest,
        "hyperparameters": planned.hyperparameters,
        "tuned": planned.tuning.budget if planned.tuning else None,
        "device": info.environment.device if info else "",
        "fedbench": info.fedbench if info else "",
        "standing": row.standing.state if row.standing else "",
        "provider": row.standing.provider if row.standing else "",
    }


def _cell(value: Any) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value  # written by its repr: the shortest text that reads back to the same bits
    shown = text.printable(value if isinstance(value, str) else json.dumps(value, sort_keys=True))
    return _FORMULA.sub(r"\1'", shown)


def _heading(metric: Metric) -> str:
    lines = [*metric.title.split(", "), f"({text.unit(metric)})"]
    stacked = " \\\\ ".join(map(tex, lines))
    return f"\\shortstack{{{stacked}}}"


def _marks(task: TaskBoard, metric: Metric) -> dict[str, str]:
    """Return the LaTeX command of the best and of the second-best methods; none where there is nothing to compare."""
    means = {row.label: row.mean(metric.name) for row in task.rows if row.complete}
    known = {label: mean for label, mean in means.items() if mean is not None}
    levels = sorted(set(known.values()), reverse=metric.direction == "higher")
    if metric.direction == "none" or len(levels) < 2:
        return {}
    commands = dict(zip(levels[:2], ("\\textbf", "\\underline"), strict=True))
    return {label: commands[mean] for label, mean in known.items() if mean in commands}


def _figure(task: TaskBoard, label: str, metric: Metric, marks: Mapping[str, str]) -> str:
    found = [row for row in task.all_rows if row.label == label]
    if len(found) != 1 or not found[0].complete:
        return "--"
    score = found[0].scores[metric.name]
    if score.interval is None:
        return "--"
    mean = text.mean(score, metric).replace("−", "-")
    half = text.margin(score, metric) if metric.unit == "fraction" else ""
    shown = f"${mean}$" if metric.unit == "fraction" else tex(mean)
    # \underline and \textbf around a formula mark its digits only where the formula itself is bold.
    if label in marks:
        bold = marks[label] == "\\textbf" and metric.unit == "fraction"
        shown = f"$\\mathbf{{{mean}}}$" if bold else f"{marks[label]}{{{shown}}}"
    return f"{shown} {{\\scriptsize$\\pm${half}}}" if half else shown


def _named(board: Board, label: str) -> str:
    """Return a label, with its standing where somebody submitted it."""
    rows = (row for task in board.tasks for row in task.all_rows if row.label == label)
    states = {row.standing.state for row in rows if row.standing}
    return f"{label} ({', '.join(sorted(states))})" if states else label


def _caption(board: Board) -> str:
    n = len(board.seeds)
    what = f"{tex(board.title)} ({tex(board.suite)}, {board.track} track)."
    values = f"Mean over {n} seeds with half its 95\\,\\% $t$ interval" if n > 1 else "One seed, so no interval"
    track = "; descriptive, as all seeds share one split" if board.track == "faithful" and n > 1 else ""
    return f"{what} {values}{track}. Best in bold, second underlined, by the mean alone; -- is missing or not defined."


def _holes(board: Board) -> list[str]:
    """Return in words what is missing; `text.printable` leaves no line break to end a comment with."""
    found = []
    for task in board.tasks:
        for row in task.all_rows:
            if row.hole:
                found.append(text.printable(f"{row.label} on {task.name}: {row.hole}"))
    return found
