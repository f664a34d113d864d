"""A board in the terminal: one compact table a task, 80 columns wide or more."""

from __future__ import annotations

from dataclasses import dataclass

from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, Row, TaskBoard
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
        What the line is about; the rank is empty where there is none.
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
    """Return the compact table of all tasks: methods by rank, then reference points."""
    return [_summary_row(task, row) for task in board.tasks for row in task.all_rows]


def terminal(board: Board, console: Console) -> None:
    """Print one table a task, with every hole and warning named below it, and a line for tasks not begun."""
    rows = {task.name: [row for row in summary(board) if row.task == task.name] for task in board.tasks}
    begun = [task for task in board.tasks if any(row.note != "missing" for row in rows[task.name])]
    for task in begun:
        _print_task(task, rows[task.name], console)
    if len(begun) < len(board.tasks):
        rest = ", ".join(text.printable(task.name) for task in board.tasks if task not in begun)
        console.print(Text(f"Not run yet: {rest}.", style="yellow"))
    units = "Accuracies, consistency and balance in %, BwT in points; mean over seeds ± half its 95 % t interval."
    descriptive = " Descriptive: all seeds share one split." if board.track == "faithful" else ""
    console.print(Text(f"{units}{descriptive} – is not defined. {text.progress(board)}."), style="dim")


def _summary_row(task: TaskBoard, row: Row) -> SummaryRow:
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
        rank="" if row.rank is None else str(row.rank),
        method=text.printable(row.label),
        values=tuple(values),
        note=text.printable(text.note(row, task.primary)),
        reference=row.family == "reference",
        origin=row.origin,
        standing=row.standing.state if row.standing else "",
    )


def _print_task(task: TaskBoard, rows: list[SummaryRow], console: Console) -> None:
    # Text, not str: square brackets of a label such as fedkper[distil=False] are no markup.
    heading = Text(text.printable(task.title), style="bold")
    if task.title != task.name:
        heading.append(f" ({task.name})", style="not bold dim")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1 if console.width >= _ROOMY else 0), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("Method", overflow="fold", min_width=10)
    for name in (*COLUMNS.values(), "Traffic ↓"):
        table.add_column(name, justify="right", no_wrap=True)
    for before, row in zip([None, *rows], rows, strict=False):
        if row.reference and before and not before.reference:
            table.add_section()
        style = "dim" if row.reference else "bold" if row.rank == "1" else ""
        table.add_row(
            Text(row.rank),
            Text(text.shared((row.method, row.standing))),
            *(Text(value) for value in row.values),
            style=style,
        )
    console.print(heading)
    console.print(table)
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
