"""A board as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, CellResult, Row, TaskBoard
from fedbench.leaderboard.text import COST, MORE, SCORES, Group
from fedbench.leaderboard.verdicts import Verdict, Verdicts

from fedbench.metrics import METRICS

# Signs of Markdown; of formulas ($) and templates ({) that some sites run over it; what makes a bare address a link.
_SPECIAL = re.compile(r"([\\`*_\[\]|~#$!{}@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_BLOCK = re.compile(r"\A(?:(?=[-+=])|\d+(?=[.)](?:\s|\Z)))")  # a line that begins so is a list, a rule or a heading


def markdown(board: Board) -> str:
    """Return a board as GitHub-flavoured Markdown; equal boards give equal text."""
    lines = [
        f"# {escape(board.title)}",
        "",
        text.shared(
            (
                f"Suite {escape(board.suite)}",
                f"{board.track} track",
                text.count(len(board.tasks), "task"),
                text.count(len(board.labels(references=False)), "method"),
                text.count(len(board.labels(references=True)), "reference point"),
                text.count(len(board.seeds), "seed"),
                text.progress(board),
            )
        ),
        "",
        *(f"- {escape(caveat)}" for caveat in text.caveats(board)),
        f"- ↑: higher is better, ↓: lower is better, {text.BEST}: best mean among complete methods.",
        "",
    ]
    verdicts = Verdicts(board)
    for task in board.tasks:
        lines += _task(task, verdicts.of(task))
    lines += ["## Where each number came from", ""]
    lines += table(
        ("Record", "Method", "State", "Digest", "Started", "Commit"),
        (_provenance(row, cell) for task in board.tasks for row in task.all_rows for cell in row.cells),
    )
    tuned = [(task, row) for task in board.tasks for row in task.all_rows if row.tunings]
    lines += [f"- **{escape(row.label)}** on {escape(task.name)}: {escape(text.tuning(row))}" for task, row in tuned]
    lines += [""] if tuned else []
    lines += ["## What each metric means", ""]
    lines += table(
        ("Metric", "Symbol", "Unit", "Better", "Definition"),
        ((m.title, m.symbol, text.unit(m), text.direction(m), m.description) for m in METRICS.values()),
    )
    return "\n".join(lines).rstrip() + "\n"


def escape(value: str) -> str:
    """Return text that Markdown shows as it is: no cell, tag, link, image or code can be made or broken out of."""
    line = " ".join(text.printable(value).split())
    line = _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return _BLOCK.sub(r"\g<0>\\", line)


def _task(task: TaskBoard, verdict: Verdict) -> list[str]:
    lines = [f"## {escape(task.title)}", ""]
    if task.description:
        lines += [escape(text.paragraphs(task.description)[0]), ""]
    lines += [escape(text.headline(task)), ""]
    if task.facts:
        lines += [" · ".join(f"**{escape(name)}** {escape(value)}" for name, value in task.facts), ""]
    if task.primary:
        lines += [f"Ranked by {escape(METRICS[task.primary].title)}. {escape(verdict.sentence)}", ""]
    lines += [f"> **Warning:** {escape(warning)}.\n" for warning in task.warnings]
    lines += _scores(task, task.rows, SCORES, ranked=True, origin=True)
    notes = [(row.label, text.note(row, task.primary)) for row in task.all_rows if row.done]
    if any(note for _, note in notes):
        lines += [*(f"- **{escape(label)}**: {escape(note)}" for label, note in notes if note), ""]
    if task.references:
        lines += ["Reference points, shown and never ranked:", ""]
        lines += _scores(task, task.references, SCORES, origin=True)
    if not any(row.done for row in task.all_rows):
        return lines
    lines += ["Other readings of the same records:", ""]
    lines += _scores(task, task.all_rows, MORE)
    lines += ["Cost of the whole run, mean over seeds; seconds depend on the machine and on what shared it:", ""]
    lines += _scores(task, task.all_rows, COST)
    return lines


def _scores(
    task: TaskBoard, rows: Sequence[Row], groups: Sequence[Group], *, ranked: bool = False, origin: bool = False
) -> list[str]:
    names = [column.metric for group in groups for column in group.columns]
    best = {name: task.best(name) if groups is not COST else frozenset() for name in names}

    def cell(row: Row, name: str) -> str:
        if not row.done:
            return "–"
        shown = text.estimate(row.scores[name], METRICS[name])
        return f"**{shown}** {text.BEST}" if row.family != "reference" and row.label in best[name] else shown

    header = ["Rank"] if ranked else []
    header += ["Method", *(["Hyperparameters"] if origin else []), "Seeds", *(_heading(name) for name in names)]
    body = []
    for row in rows:
        rank = ["–" if row.rank is None else str(row.rank)] if ranked else []
        seeds = text.seeds(row) if row.done else escape(row.hole)
        came = [escape(row.origin)] if origin else []
        whose = f" ({escape(text.standing(row))})" if row.standing else ""
        body.append([*rank, escape(row.label) + whose, *came, seeds, *(cell(row, name) for name in names)])
    return table(header, body, escaped=True, numeric=len(names))


def _heading(name: str) -> str:
    metric = METRICS[name]
    unit = f" ({text.unit(metric)})" if metric.unit == "fraction" else ""
    return f"{metric.title} {text.arrow(metric)}".rstrip() + unit


def _provenance(row: Row, cell: CellResult) -> tuple[str, ...]:
    info = cell.info
    started, commit = (info.started, info.environment.commit or "") if info else ("", "")
    return (cell.planned.path, row.label, cell.verdict, cell.digest[:16], started, commit[:12])


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, escaped: bool = False, numeric: int = 0
) -> list[str]:
    """Return the lines of a table, with an empty one behind it.

    Parameters
    ----------
    header, rows : sequences of str
        The cells.
    escaped : bool
        Whether the cells of the rows are Markdown already.
    numeric : int
        How many columns at the right are numbers.
    """
    rule = ["---"] * (len(header) - numeric) + ["---:"] * numeric
    body = [row if escaped else [escape(value) for value in row] for row in rows]
    return [*(f"| {' | '.join(line)} |" for line in (header, rule, *body)), ""]
