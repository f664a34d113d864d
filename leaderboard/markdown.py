"""A board as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, CellResult, Row, TaskBoard
from fedbench.leaderboard.text import BOARD, COST, MORE, SCORES, Group
from fedbench.leaderboard.verdicts import Verdict, Verdicts

from fedbench.metrics import METRICS

# Signs of Markdown; of formulas ($) and templates ({) that some sites run over it; what makes a bare address a link.
_SPECIAL = re.compile(r"([\\`*_\[\]|~#$!{}@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_BLOCK = re.compile(r"\A(?:(?=[-+=])|\d+(?=[.)](?:\s|\Z)))")  # a line that begins so is a list, a rule or a heading


def markdown(board: Board, verdicts: Verdicts | None = None) -> str:
    """Return a board as GitHub-flavoured Markdown; equal boards give equal text.

    The table over all tasks is first, if there are several. The statistics are computed where none are given.
    """
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
        f"- ↑: higher is better, ↓: lower is better, {text.BEST}: best mean among complete methods, "
        f"{text.TIED}: not separated from it by a paired test.",
        "",
    ]
    for verdict in (verdicts or Verdicts(board)).tables:
        lines += _task(verdict) if verdict.table.name else _all_tasks(verdict)
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


def _all_tasks(verdict: Verdict) -> list[str]:
    wide = verdict.table
    lines = [f"## {escape(wide.title)}", "", escape(wide.description), "", *_ranking(verdict)]
    if any(row.valued for row in wide.all_rows):
        lines += ["Cost of a whole run, mean over tasks and seeds:", ""]
        lines += _scores(wide, wide.all_rows, [group for group in BOARD if group in COST])
    return lines


def _task(verdict: Verdict) -> list[str]:
    task = verdict.table
    lines = [f"## {escape(task.title)}", ""]
    if task.description:
        lines += [escape(text.paragraphs(task.description)[0]), ""]
    lines += [escape(text.headline(task)), ""]
    if task.facts:
        lines += [" · ".join(f"**{escape(name)}** {escape(value)}" for name, value in task.facts), ""]
    lines += _ranking(verdict)
    if not any(row.done for row in task.all_rows):
        return lines
    lines += ["Other readings of the same records:", ""]
    lines += _scores(task, task.all_rows, MORE)
    lines += ["Cost of the whole run, mean over seeds; seconds depend on the machine and on what shared it:", ""]
    lines += _scores(task, task.all_rows, COST)
    return lines


def _ranking(verdict: Verdict) -> list[str]:
    """Return who is first and how sure that is, which method for what, and the table with its notes."""
    shown = verdict.table
    by = f"Ranked by {METRICS[shown.primary].title}. " if shown.primary else ""
    lines = [escape(by + verdict.sentence), ""]
    lines += [f"> **Warning:** {escape(warning)}.\n" for warning in shown.warnings]
    if verdict.choices:
        lines += ["Which method for what:", ""]
        lines += table(
            ("For", "Metric", "Method", "Value", "How sure"),
            ((one.purpose, METRICS[one.metric].title, one.best, one.value, one.sure) for one in verdict.choices),
        )
        lines += [escape(verdict.basis), ""]
    lines += _scores(shown, shown.rows, SCORES, verdict, origin=True)
    if verdict.notes:
        lines += [*(f"- **{escape(label)}**: {escape(note)}" for label, note in verdict.notes), ""]
    for note in verdict.standing.notes:
        lines += [f"Tests: {escape(note)}.", ""]
    if shown.references:
        lines += ["Reference points, shown and never ranked:", ""]
        lines += _scores(shown, shown.references, SCORES, origin=True)
    return lines


def _scores(
    task: TaskBoard,
    rows: Sequence[Row],
    groups: Sequence[Group],
    verdict: Verdict | None = None,
    *,
    origin: bool = False,
) -> list[str]:
    """Return a table of some columns; with ranks and ties where there is a verdict."""
    names = [column.metric for group in groups for column in group.columns]
    best = {name: task.best(name) if METRICS[name].level != "cost" else frozenset() for name in names}

    def cell(row: Row, name: str) -> str:
        if not row.valued:
            return "–"
        shown = text.estimate(row.scores[name], METRICS[name])
        if row.family != "reference" and row.label in best[name]:
            return f"**{shown}** {text.BEST}"
        return f"*{shown}* {text.TIED}" if verdict and row.label in verdict.tied(name) else shown

    header = ["Rank"] if verdict else []
    header += ["Method", *(["Hyperparameters"] if origin else []), "Seeds", *(_heading(name) for name in names)]
    body = []
    for row in rows:
        seeds = text.seeds(row) if row.valued else escape(row.hole or "no metric is defined")
        came = [escape(row.origin)] if origin else []
        whose = f" ({escape(text.standing(row))})" if row.standing else ""
        rank = [_rank(row, verdict)] if verdict else []
        body.append([*rank, escape(row.label) + whose, *came, seeds, *(cell(row, name) for name in names)])
    return table(header, body, escaped=True, numeric=len(names))


def _rank(row: Row, verdict: Verdict) -> str:
    place = verdict.places.get(row.label)
    return verdict.place(row) + (f" ({place.low}–{place.high})" if place else "")


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
