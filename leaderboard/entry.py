"""A board in one row: what the page over all boards knows of it, as JSON beside the site."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, TaskBoard
from fedbench.leaderboard.verdicts import Verdict

from fedbench.errors import RecordError
from fedbench.metrics import METRICS
from fedbench.statistics import NotComputed

ENTRY = "board.json"
"""The file's name."""


@dataclass(frozen=True)
class Entry:
    """A board in one row.

    Parameters
    ----------
    suite, title : str
        The suite's name and its one line.
    track : str
        ``robust`` or ``faithful``.
    tasks : tuple of str
        Their names.
    methods, references, seeds, done, cells : int
        How many methods, reference points and seeds there are; how many of the planned cells are done.
    finding : str
        Who leads, and how sure that is.
    """

    suite: str
    title: str
    track: str
    tasks: tuple[str, ...]
    methods: int
    references: int
    seeds: int
    done: int
    cells: int
    finding: str


def entry(board: Board, tables: Sequence[Verdict]) -> str:
    """Return a board's row as the file that stands beside its page.

    Parameters
    ----------
    board : Board
        The board.
    tables : sequence of Verdict
        What is known of each of its tables; the one over all tasks first, if there is one.
    """
    found = Entry(
        suite=board.suite,
        title=text.printable(board.title),
        track=board.track,
        tasks=tuple(text.printable(task.name) for task in board.tasks),
        methods=len(board.labels(references=False)),
        references=len(board.labels(references=True)),
        seeds=len(board.seeds),
        done=board.count("done"),
        cells=len(board.cells),
        finding=text.printable(finding(tables)),
    )
    return json.dumps(asdict(found), indent=1) + "\n"


def finding(tables: Sequence[Verdict]) -> str:
    """Return in a sentence or two who leads, and how sure that is: from the first table that has a test, or a leader.

    Where nothing is tested it begins with ``Descriptive``, and says who has the best mean.
    """
    for verdict in tables:
        if verdict.table.primary and not isinstance(verdict.standing.top, NotComputed):
            return f"{_where(verdict.table)}: {verdict.sentence}"
    for verdict in tables:
        first = sorted(row.label for row in verdict.table.rows if row.rank == 1)
        if verdict.table.primary and first and isinstance(verdict.standing.top, NotComputed):
            by, where = METRICS[verdict.table.primary].title, _where(verdict.table)
            reason = verdict.standing.top.reason.removeprefix("not computed: ")
            return f"Descriptive: {reason}. {where} best by {by}: {text.some(first, 3)}."
    return "Nothing to rank yet."


def read(path: Path) -> Entry:
    """Return what `entry` wrote.

    Raises
    ------
    RecordError
        It cannot be read.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Entry(**{**fields, "tasks": tuple(fields["tasks"])})
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{path} cannot be read ({error}); render it again with `fedbench report --suite {path.parent.name}`."
        ) from None


def _where(board: TaskBoard) -> str:
    return f"On {board.name}" if board.name else "Over all tasks"
