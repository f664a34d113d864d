"""A board in the terminal: one compact table over all tasks and one a task, 80 columns wide or more."""

from __future__ import annotations

from dataclasses import dataclass

from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, Row
from fedbench.leaderboard.verdicts import Verdict, Verdicts
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedbench.metrics import METRICS

# Only the first has its interval: eight columns have to fit into 80 characters.
COLUMNS = {
    "global_accuracy_mean": "Global ↑",
    "local_accuracy_mean": "Local ↑",
    "worst_sampled_accuracy": "Worst ↑",
    "bwt": "BwT ↑",
    "consistency_peak": "Cons. ↑",
    "balance": "Bal. ↑",
}
_ROOMY = 100


@dataclass(frozen=True)
class SummaryRow:
    """One line of the compact table, ready to print.

    Parameters
    ----------
    task, rank, method : str
        What the line is about; no name of a task stands for all, the rank is ``1=`` where the first place is shared by
        test, and empty where there is none.
    values : tuple of str
        One a column of `COLUMNS`, then the traffic of the whole run; a dash is "not defined".
    note : str
        Why the method is not ranked, or which seeds are missing and why; empty if all is well.
    reference : bool
        Whether it is a reference point.
    origin : str
        Where its hyperparameters came from.
    standing : str
        Where it stands, if it was submitted by somebody; else empty.
    """

    task: str
    rank: str
    method: str
    values: tuple[str, ...]
    note: str
    reference: bool
    origin: str
    standing: str


def summary(board: Board) -> list[SummaryRow]:
    """Return the compact tables, the one over all tasks first: methods by rank, then reference points."""
    return [row for verdict in Verdicts(board).tables for row in _summary_rows(verdict)]


def terminal(board: Board, console: Console) -> None:
    """Print a table over all tasks and one a task, with holes and warnings below it; and name the tasks not begun."""
    waiting = []
    for verdict in Verdicts(board).tables:
        rows = _summary_rows(verdict)
        if not verdict.table.name:
            if any(row.valued for row in verdict.table.rows):
                _print_table(verdict, rows, console)
        elif any(row.note != "missing" for row in rows):
            _print_table(verdict, rows, console)
        else:
            waiting.append(text.printable(verdict.table.name))
    if waiting:
        rest = ", ".join(waiting)
        console.print(Text(f"Not run yet: {rest}.", style="yellow"))
    units = "Accuracies, consistency and balance in %, BwT in points; mean over seeds ± half its 95 % t interval."
    descriptive = " Descriptive: all seeds share one split." if board.track == "faithful" else ""
    console.print(Text(f"{units}{descriptive} – is not defined. {text.progress(board)}."), style="dim")


def _summary_rows(verdict: Verdict) -> list[SummaryRow]:
    return [_summary_row(verdict, row) for row in verdict.table.all_rows]


def _summary_row(verdict: Verdict, row: Row) -> SummaryRow:
    task = verdict.table
    values = []
    for number, name in enumerate(COLUMNS):
        score, metric = row.scores[name], METRICS[name]
        shown = text.estimate(score, metric).replace("± ", "±") if number == 0 else text.mean(score, metric)
        values.append("–" if score.interval is None else shown)
    traffic = [row.mean(name) for name in ("bytes_up", "bytes_down")]
    known = [value for value in traffic if value is not None]
    values.append(text.figure(sum(known), METRICS["bytes_up"]) if len(known) == len(traffic) else "–")
    return SummaryRow(
        task=task.name,
        rank="" if row.rank is None else verdict.place(row),
        method=text.printable(row.label),
        values=tuple(values),
        note=text.printable(text.note(row, task.primary)),
        reference=row.family == "reference",
        origin=row.origin,
        standing=row.standing.state if row.standing else "",
    )


def _print_table(verdict: Verdict, rows: list[SummaryRow], console: Console) -> None:
    task = verdict.table
    # Text, not str: square brackets of a label such as fedkper[distil=False] are no markup.
    heading = Text(text.printable(task.title), style="bold")
    if task.name and task.title != task.name:
        heading.append(f" ({task.name})", style="not bold dim")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1 if console.width >= _ROOMY else 0), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("Method", overflow="fold", min_width=10)
    for name in (*COLUMNS.values(), "Traffic ↓"):
        table.add_column(name, justify="right", no_wrap=True)
    for before, row in zip([None, *rows], rows, strict=False):
        if row.reference and before and not before.reference:
            table.add_section()
        style = "dim" if row.reference else "bold" if row.rank in ("1", "1=") else ""
        table.add_row(
            Text(row.rank),
            Text(text.shared((row.method, row.standing))),
            *(Text(value) for value in row.values),
            style=style,
        )
    console.print(heading)
    console.print(table)
    console.print(Text(text.printable(verdict.sentence)))
    for warning in task.warnings:
        console.print(Text(f"! {text.printable(warning)}", style="yellow"))
    origins: dict[str, list[str]] = {}
    for row in rows:
        if not row.reference:
            origins.setdefault(row.origin, []).append(row.method)
    shown = "; ".join(f"{origin}: {', '.join(methods)}" for origin, methods in origins.items())
    console.print(Text(f"Hyperparameters: {shown if len(origins) > 1 else ''.join(origins)}."), style="dim")
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, []).append(row.method)
    for note, methods in notes.items():
        console.print(Text(f"! {', '.join(methods)}: {note}", style="yellow"))
    if task.warnings or notes:
        console.print()
