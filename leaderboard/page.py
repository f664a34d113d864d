"""A board as a static site: pages that work from disk, without a server, a network or, for reading, a script.

The same records give the same bytes. Every name, note and reason that comes from a record is text, never markup: pages
are written with autoescape, what a chart shows stands in its page as data that no browser runs, no script holds a word
of a record, and the policy of every page allows the site's own files alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from fedbench.leaderboard import figures, text
from fedbench.leaderboard.board import Board, CellResult, Row, TaskBoard, load_board
from fedbench.leaderboard.charts.chart import digest
from fedbench.leaderboard.comparison import REFERENCE
from fedbench.leaderboard.entry import ENTRY, entry
from fedbench.leaderboard.fidelity import PAPER, matches
from fedbench.leaderboard.markdown import markdown
from fedbench.leaderboard.resolution import Resolution, resolutions
from fedbench.leaderboard.splits import STEP, picture
from fedbench.leaderboard.verdicts import Verdicts, decided

from fedbench.durable import write_atomic
from fedbench.errors import RecordError
from fedbench.metrics import METRICS
from fedbench.schema import Environment
from fedbench.statistics import NotComputed, minimum_detectable_effect, required_cells
from fedbench.statistics.sources import ENOUGH_SOURCES

ASSETS = ("style.css", "site.js", "icon.svg", "sortable.min.js", "sortable.LICENSE.txt")
MARK = '<meta name="generator" content="FedBench">'
_OURS = re.compile(rf'{re.escape(MARK)}|\A<svg ([^>]* )?role="img" aria-label="|\Asite\.specs\[')
"""What stands in each file that was written here, and may be deleted when nothing of its subject is left."""

_NAMED = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")
# Names that Windows does not allow, and those that look like what stands for another name.
_RESERVED = re.compile(r"(index|con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*-[0-9a-f]{16}")


def render(results: Path, suite: str, out: Path) -> list[Path]:
    """Write the site of a suite and ``leaderboard.md`` beside it, from records alone, and return their paths.

    Parameters
    ----------
    results : Path
        The results folder.
    suite : str
        Name of a suite that was run there.
    out : Path
        Where the site will stand; each file is replaced whole or not at all, and pages and pictures whose subject is
        no longer on the board are deleted.

    Returns
    -------
    list of Path
        ``index.html`` first, ``leaderboard.md`` second, then all other files by name.

    Raises
    ------
    RecordError
        That suite was never run in this folder, or its plan cannot be read, or is of a newer schema.
    OSError
        The folder is not writable.
    """
    board = load_board(results, suite, drawn=True)
    verdicts = Verdicts(board)
    files = site(board, verdicts)
    first = {"index.html": files.pop("index.html"), "leaderboard.md": markdown(board, verdicts)}
    files = first | {name: files[name] for name in sorted(files)}
    for name, content in files.items():
        write_atomic(out / name, content)
    for pattern in ("*.html", "methods/*.html", "tasks/*.html", "charts/*.svg", "charts/*.js"):
        for path in sorted(out.glob(pattern)):
            gone = path.relative_to(out).as_posix() not in files
            if gone and _OURS.search(path.read_text(encoding="utf-8", errors="replace")):
                path.unlink()
    return [out / name for name in files]


def site(board: Board, verdicts: Verdicts | None = None) -> dict[str, str]:
    """Return all files of the site of a board with series, but the Markdown, by their path below its folder.

    The statistics are computed where none are given.
    """
    shown = _Site(board, verdicts or Verdicts(board))
    files = {
        "index.html": shown.page("index.html", "Board"),
        "methods.html": shown.page("methods.html", "Methods"),
        "tasks.html": shown.page("tasks.html", "Tasks"),
        "about.html": shown.page("about.html", "About"),
    }
    if shown.fidelity:
        files["fidelity.html"] = shown.page("fidelity.html", "Fidelity")
    for page in shown.figures:
        files[page.path] = shown.page("figures.html", page.title, here=page.path, figures=page)
    files |= figures.files(shown.figures)
    for method in shown.methods:
        files[f"methods/{slug(method.name)}.html"] = shown.page("method.html", method.name, "../", method=method)
    for task in board.tasks:
        files[f"tasks/{slug(task.name)}.html"] = shown.page("task.html", task.name, "../", task=task)
    files[ENTRY] = entry(board, list(shown.verdicts.values()))
    return files | {f"assets/{name}": asset(name) for name in ASSETS}


def asset(name: str) -> str:
    """Return the text of one of `ASSETS`."""
    return (resources.files("fedbench.leaderboard") / "assets" / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Method:
    """All that a board has of one method.

    Parameters
    ----------
    name : str
        Its name.
    rows : tuple of (TaskBoard, Row)
        Its rows, by task.
    """

    name: str
    rows: tuple[tuple[TaskBoard, Row], ...]

    @property
    def row(self) -> Row:
        """Any of its rows: family and mechanism are the same in all."""
        return self.rows[0][1]

    @property
    def card(self) -> str:
        """Its docstring, from the first record; empty where there is none."""
        return next((cell.info.cards.get("method", "") for cell in self.cells if cell.info), "")

    @property
    def source(self) -> str:
        """Where it comes from, as the first record says; empty where none does."""
        return next((cell.info.cards.get("source", "") for cell in self.cells if cell.info), "")

    @property
    def cells(self) -> list[CellResult]:
        """All its cells."""
        return [cell for _, row in self.rows for cell in row.cells]

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Hyperparameters by label."""
        return {row.label: dict(row.cells[0].planned.hyperparameters) for _, row in self.rows}

    @property
    def versions(self) -> tuple[int, ...]:
        """Its versions in the records."""
        found = {cell.info.identity.get("method", {}).get("version") for cell in self.cells if cell.info}
        return tuple(sorted(version for version in found if isinstance(version, int)))


class _Site:
    """What the pages of one board share."""

    def __init__(self, board: Board, verdicts: Verdicts) -> None:
        self.board = board
        self.tables = [verdict.table for verdict in verdicts.tables]
        # The first table with something to compare.
        whole = [any(row.valued and row.complete for row in table.rows) for table in self.tables]
        self.first = whole.index(True) if any(whole) else 0
        self.verdicts = {verdict.table.name: verdict for verdict in verdicts.tables}
        self.fidelity = matches(board)
        self.figures = figures.figure_pages(self.verdicts)
        found = {_canonical(cell.info.environment): cell.info.environment for cell in board.cells if cell.info}
        self.environments = {key: (f"E{n}", found[key]) for n, key in enumerate(sorted(found), start=1)}
        self.names = names = sorted({row.method for task in board.tasks for row in task.all_rows})
        self.methods = [
            Method(name, tuple((task, row) for task in board.tasks for row in task.all_rows if row.method == name))
            for name in names
        ]
        self.nav = [
            ("index.html", "Board"),
            *((page.path, page.title) for page in self.figures),
            *([("fidelity.html", "Fidelity")] if self.fidelity else []),
            ("methods.html", "Methods"),
            ("tasks.html", "Tasks"),
            ("about.html", "About"),
        ]

    def page(self, template: str, title: str, root: str = "", here: str = "", **subject: object) -> str:
        """Return one page; ``root`` leads from it to the site's folder, ``here`` is its place in the navigation."""
        return (
            environment()
            .get_template(template)
            .render(site=self, board=self.board, title=title, here=here or template, root=root, **subject)
        )

    def environment_of(self, cell: CellResult) -> str:
        """Return the short name of the environment that a record was made in."""
        return self.environments[_canonical(cell.info.environment)][0] if cell.info else ""

    def resolutions(self) -> tuple[Resolution, ...]:
        """Return what the board can tell apart on all tasks and on each, where seeds redraw the federation."""
        methods = len(self.board.labels(references=False))
        if self.board.track == "faithful" or methods < 2:
            return ()
        try:
            return resolutions(self.board, EFFECT, methods - 1)
        except RecordError:  # no two seeds of any pair
            return ()

    def mechanisms(self) -> list[str]:
        """Return all mechanisms on the board."""
        rows = (row for task in self.board.tasks for row in task.all_rows)
        return sorted({part for row in rows for part in row.mechanisms})


EFFECT = 0.01
"""The difference, a fraction, for which the page about the board says how many seeds it needs."""


def slug(name: str) -> str:
    """Return the name of a file for whatever is called so: two names never share one, on any file system.

    Examples
    --------
    >>> slug("fedavg"), slug("../Evil"), slug("evil-c6e61ca2b894af70")
    ('fedavg', 'evil-c6e61ca2b894af70', 'evil-c6e61ca2b894af70-5faa0e87525b869a')
    """
    if _NAMED.fullmatch(name) and not _RESERVED.fullmatch(name) and not name.endswith("."):
        return name
    kept = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:40] or "x"
    return f"{kept}-{digest(name)}"


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


def _detectable(seeds: Iterable[int], comparisons: Iterable[int]) -> list[tuple[int, list[str]]]:
    """Return, for each number of seeds, the effect in deviations that so many comparisons can find."""
    columns = tuple(comparisons)
    return [(n, [f"{minimum_detectable_effect(n, m):.2f}" for m in columns]) for n in seeds]


@cache
def environment() -> jinja2.Environment:
    """Return what renders templates: whatever is not markup already is escaped, and made `text.printable`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedbench.leaderboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        text=text,
        METRICS=METRICS,
        MARK=MARK,
        PAPER=PAPER,
        REFERENCE=REFERENCE,
        ENOUGH_SOURCES=ENOUGH_SOURCES,
        STEP=STEP,
        axis=axis,
        detectable=_detectable,
        is_best=_best,
        picture=picture,
        required_cells=required_cells,
        decided=decided,
        slug=slug,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    environment.filters["paragraphs"] = text.paragraphs
    environment.tests["not_computed"] = lambda value: isinstance(value, NotComputed)
    return environment
