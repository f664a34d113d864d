"""Which charts stand on which page, and the files that each of them needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedbench.leaderboard.board import TaskBoard
from fedbench.leaderboard.charts import (
    Chart,
    accuracy_curves,
    forest,
    gains,
    heat_map,
    javascript,
    rank_ranges,
    retrogress,
    strips,
    theme,
    tradeoffs,
)
from fedbench.leaderboard.charts.chart import identifier
from fedbench.leaderboard.comparison import REFERENCE
from fedbench.leaderboard.runs import MethodSeries, method_series
from fedbench.leaderboard.verdicts import Verdict

from fedbench.statistics import NotComputed

Drawn = tuple[Chart | str, ...]


@dataclass(frozen=True)
class FigurePage:
    """A page of charts.

    Parameters
    ----------
    path, title, lead : str
        Of the page; the lead says what question it answers.
    sections : tuple of (TaskBoard, charts)
        The charts of each task; a sentence where one cannot be drawn.
    """

    path: str
    title: str
    lead: str
    sections: tuple[tuple[TaskBoard, Drawn], ...]

    @property
    def first(self) -> int:
        """The section to open with: the first that has a chart."""
        return next(at for at, (_, drawn) in enumerate(self.sections) if any(map(_is_chart, drawn)))


def figure_pages(verdicts: Mapping[str, Verdict]) -> list[FigurePage]:
    """Return all pages of charts; a page without any chart is left out.

    Parameters
    ----------
    verdicts : mapping of str to Verdict
        What is known of each table, by its task's name, which is empty for all tasks together; of a board with series.
    """
    front, curves, clients = [], [], []
    for task in (verdict.table for name, verdict in verdicts.items() if name):
        methods = method_series(task)
        front.append((task, tradeoffs(task)))
        curves.append((task, tuple(_curves(task, methods))))
        clients.append((task, tuple(_clients(task, methods))))
    pages = [
        FigurePage("tradeoff.html", "Trade-off", _TRADEOFF, tuple(front)),
        FigurePage("curves.html", "Curves", _CURVES, tuple(curves)),
        FigurePage("clients.html", "Clients", _CLIENTS, tuple(clients)),
        FigurePage("ranks.html", "Ranks", _RANKS, tuple((v.table, tuple(_ranks(v))) for v in verdicts.values())),
    ]
    return [page for page in pages if any(_is_chart(drawn) for _, found in page.sections for drawn in found)]


def files(pages: list[FigurePage]) -> dict[str, str]:
    """Return what the charts of some pages need, by path: a picture each, and the library once.

    No script holds anything from a record: what a chart shows stands in its page, as data.
    """
    charts = {chart.name: chart for page in pages for _, drawn in page.sections for chart in _only(drawn)}
    found = {f"charts/{name}.svg": chart.svg() for name, chart in sorted(charts.items())}
    if charts:
        themes = json.dumps({"light": theme(False), "dark": theme(True)}, separators=(",", ":"), sort_keys=True)
        found["assets/vega.js"] = f"{javascript()}site.themes = {themes};\n"
    return found


def _curves(task: TaskBoard, methods: tuple[MethodSeries, ...]) -> Iterator[Chart | str]:
    yield accuracy_curves(methods, task.name)
    yield accuracy_curves(methods, task.name, model="local")
    yield accuracy_curves(methods, task.name, over="bytes")
    yield accuracy_curves(methods, task.name, over="seconds")
    yield retrogress(methods, task.name)
    first = [row.label for row in task.rows if row.rank == 1]
    for method in methods:
        if method.runs and method.label in dict.fromkeys([*first[:1], REFERENCE]):
            yield heat_map(method.runs[0], method.label, task.name)


def _clients(task: TaskBoard, methods: tuple[MethodSeries, ...]) -> Iterator[Chart | str]:
    yield strips(methods, task.name)
    for baseline in ("local", REFERENCE):
        yield gains(methods, task.name, baseline)


def _ranks(verdict: Verdict) -> Iterator[Chart | str]:
    table, standing = verdict.table, verdict.standing
    title, of = (f"on {table.name}", [table.name]) if table.name else ("over all tasks", [])
    if standing.metric is None:
        yield f"Ranks {title} cannot be drawn: no record says what ranks."
        return
    by = standing.metric.title
    if isinstance(standing.ranks, NotComputed):
        yield f"Rank intervals {title}: {standing.ranks}."
    else:
        yield rank_ranges(standing.ranks, identifier("ranks", *of), f"Rank by {by} {title}, with bootstrap interval")
    if isinstance(standing.against, NotComputed):
        yield f"Differences from {REFERENCE} {title}: {standing.against}."
    else:
        yield forest(
            sorted(
                ((found.method, found.difference) for found in standing.against),
                key=lambda row: (-row[1].mean, row[0]),
            ),
            margin=standing.margin,
            reference=standing.reference,
            name=identifier("differences", *of),
            title=f"Difference from {REFERENCE} in {by} {title}",
        )


def _is_chart(drawn: Chart | str) -> bool:
    return isinstance(drawn, Chart)


def _only(drawn: Drawn) -> list[Chart]:
    return [chart for chart in drawn if isinstance(chart, Chart)]


_TRADEOFF = (
    "How good is the global model, how good are the clients' own, and what does it cost? A method on the line is "
    "beaten by no other on both axes; reference points are drawn, and never on the line."
)
_CURVES = (
    "How fast does a method learn, and what does it forget on the way? Bands are 95 % t intervals over seeds. Seconds "
    "mean something only where nothing else ran on the machine."
)
_CLIENTS = "Whom does a method serve? Every client's accuracy, and who gains or loses against a baseline."
_RANKS = "How sure is the order? Ranks with bootstrap intervals over seeds, and paired differences from one reference."
