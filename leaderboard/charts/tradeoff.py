"""Trade-off: what a method gives on one axis for what it takes on the other, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fedbench.leaderboard.board import Row, TaskBoard
from fedbench.leaderboard.charts.chart import (
    BLUE,
    GREY,
    VERMILION,
    Chart,
    Spec,
    between,
    embedded,
    identifier,
    listed,
    named,
    reasons,
    spread,
)

from fedbench.statistics import Interval, t_interval

HEIGHT = 340
BASELINE = "fedavg"
"""Labelled on every trade-off, on the front or not."""


@dataclass(frozen=True)
class Axis:
    """What one axis shows: the sum of some metrics.

    Parameters
    ----------
    title : str
        With the unit.
    metrics : tuple of str
        Names in `fedbench.metrics.METRICS`; their values are added, seed by seed.
    cost : bool
        Lower is better, on a logarithmic scale; otherwise a fraction, drawn in percent, of which higher is better.
    """

    title: str
    metrics: tuple[str, ...]
    cost: bool = False

    def of(self, row: Row) -> Interval | None:
        """Return mean and interval over the seeds of a row, in the unit of the axis; None if one is not defined."""
        seeds = []
        for cell in row.cells:
            values = [cell.values.get(name) for name in self.metrics]
            if cell.state != "done" or any(value is None for value in values):
                return None
            seeds.append((1 if self.cost else 100) * math.fsum(value for value in values if value is not None))
        return t_interval(seeds) if seeds else None


AXES = {
    "global": Axis("global accuracy, %, mean over rounds", ("global_accuracy_mean",)),
    "local": Axis("local accuracy, %, mean over rounds", ("local_accuracy_mean",)),
    "personal": Axis("personal accuracy, %, last round", ("personal_accuracy",)),
    "bytes": Axis("bytes sent in both directions", ("bytes_up", "bytes_down"), cost=True),
    "samples": Axis("sample passes in training", ("train_samples", "forward_samples"), cost=True),
    "seconds": Axis("seconds of training on the machine at hand", ("seconds_train",), cost=True),
}
PAIRS = (
    ("global", "local"),
    ("global", "personal"),
    ("bytes", "global"),
    ("bytes", "personal"),
    ("samples", "global"),
    ("samples", "personal"),
)
TIMED = (("seconds", "global"), ("seconds", "personal"))


@dataclass(frozen=True)
class Point:
    """A row with both values."""

    label: str
    family: str
    x: Interval
    y: Interval


def tradeoffs(task: TaskBoard, *, seconds: bool = False) -> tuple[Chart | str, ...]:
    """Return all trade-offs of a task.

    Parameters
    ----------
    task : TaskBoard
        The task.
    seconds : bool
        With wall-clock seconds, which mean something only where nothing else ran on the machines.
    """
    return tuple(tradeoff(task, x, y) for x, y in (*PAIRS, *(TIMED if seconds else ())))


def tradeoff(task: TaskBoard, x: str, y: str) -> Chart | str:
    """Return one trade-off, or a sentence that says why there is none.

    A method is drawn where every planned seed is done and both values are defined at each; others are named in the
    description. Reference points are drawn and never on the front. Whiskers are 95 % t intervals over the seeds.

    Parameters
    ----------
    task : TaskBoard
        The task.
    x, y : str
        Names in `AXES`; y is an accuracy.
    """
    across, up = AXES[x], AXES[y]
    points, without = [], []
    for row in task.all_rows:
        at, height = across.of(row), up.of(row)
        if at is None or height is None or (across.cost and at.mean <= 0 and row.family != "reference"):
            without.append(row)
        else:
            points.append(Point(named(row.label), row.family, at, height))
    title = f"{_short(up).capitalize()} against {_short(across)}"
    ours = [point for point in points if point.family != "reference"]
    if not ours:
        return f"{title} cannot be drawn: no method of {named(task.name)} has both values at every planned seed."
    best = front(ours, cost=across.cost)
    far = [] if across.cost else [point for point in points if _far(point, ours)]
    points = [point for point in points if point not in far]
    description = _described(title, task, ours, best, without, far, across)
    return Chart(
        identifier("tradeoff", task.name, x, y), title, description, _spec(points, best, across, up, description)
    )


def front(points: Sequence[Point], *, cost: bool) -> list[Point]:
    """Return the Pareto front from left to right: points that no other beats on one axis and equals or beats on both.

    Parameters
    ----------
    points : sequence of Point
        Methods; no reference points.
    cost : bool
        Whether lower is better on the horizontal axis.
    """
    sign = -1 if cost else 1

    def beaten(point: Point) -> bool:
        mine = (sign * point.x.mean, point.y.mean)
        return any(
            other[0] >= mine[0] and other[1] >= mine[1] and other != mine
            for other in ((sign * rival.x.mean, rival.y.mean) for rival in points)
        )

    return sorted((p for p in points if not beaten(p)), key=lambda p: (p.x.mean, -sign * p.y.mean, p.label))


def _far(point: Point, ours: list[Point]) -> bool:
    """Return whether a reference point would leave the methods less than half of an axis."""
    if point.family != "reference":
        return False
    for mine, theirs in (
        (point.x.mean, [p.x.mean for p in ours]),
        (point.y.mean, [p.y.mean for p in ours]),
    ):
        room = max(max(theirs) - min(theirs), 5)
        if mine < min(theirs) - room or mine > max(theirs) + room:
            return True
    return False


def _spec(points: list[Point], best: list[Point], across: Axis, up: Axis, description: str) -> Spec:
    levels = [point for point in points if across.cost and point.family == "reference"]
    points = [point for point in points if point not in levels]
    rows = [_row(point, point in best, across) for point in points]
    y_domain = between((end for row in rows for end in (row["y"], row["y0"], row["y1"])), 5, (0, 100))
    if levels:
        y_domain = between((*y_domain, *(point.y.mean for point in levels)), 5, (0, 100))
    # Room above for the names of the front.
    y_domain[1] += 0.12 * (y_domain[1] - y_domain[0])
    ends = [end for row in rows for end in (row["x"], row["x0"], row["x1"])]
    if across.cost:
        low, high = min(ends), max(ends)
        margin = max((high / low) ** 0.06, 1.15)
        x_scale: Spec = {"type": "log", "domain": [round(low / margin), round(high * margin)], "nice": False}
        x_axis: Spec = {"format": "~s", "tickCount": 5, "labelOverlap": True, "title": across.title}
    else:
        x_domain = between(ends, 5, (0, 100))
        x_scale = {
            "domain": [x_domain[0], x_domain[1] + 0.06 * (x_domain[1] - x_domain[0])],
            "nice": False,
            "zero": False,
        }
        x_axis = {"tickCount": 6, "title": across.title}
    x = {"field": "x", "type": "quantitative", "scale": x_scale, "axis": x_axis}
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": y_domain, "nice": False, "zero": False},
        "axis": {"title": up.title, "tickCount": 6, "values": _ticks(y_domain)},
    }
    look = {
        "field": "family",
        "type": "nominal",
        "legend": {"title": None, "orient": "bottom", "symbolSize": 70},
    }
    families = ["global", "personalised", "reference"]
    shape = {**look, "scale": {"domain": families, "range": ["circle", "triangle-up", "diamond"]}}
    colour = {**look, "scale": {"domain": families, "range": [BLUE, VERMILION, GREY]}}
    strong = {"condition": {"test": "datum.front", "value": 0.75}, "value": 0.22}
    tooltip = [
        {"field": "method", "title": "method"},
        {"field": "family", "title": "family"},
        {"field": "tx", "title": across.title},
        {"field": "ty", "title": up.title},
    ]
    return embedded(
        {
            "data": {"values": rows},
            "layer": [
                {
                    "mark": {"type": "rule", "clip": True},
                    "encoding": {
                        "x": {**x, "field": "x0"},
                        "x2": {"field": "x1"},
                        "y": y,
                        "opacity": strong,
                        "color": colour,
                    },
                },
                {
                    "mark": {"type": "rule", "clip": True},
                    "encoding": {
                        "x": x,
                        "y": {**y, "field": "y0"},
                        "y2": {"field": "y1"},
                        "opacity": strong,
                        "color": colour,
                    },
                },
                {
                    "transform": [{"filter": "datum.front"}],
                    "mark": {
                        "type": "line",
                        "style": "thin",
                        "strokeDash": [4, 3],
                        "interpolate": "step-after" if across.cost else "step-before",
                    },
                    "encoding": {"x": x, "y": y},
                },
                {
                    "mark": {"type": "point", "size": 70, "strokeWidth": 1.6},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "shape": shape,
                        "color": colour,
                        "fill": colour,
                        "fillOpacity": {"condition": {"test": "datum.front", "value": 1}, "value": 0},
                        "opacity": {"value": 1},
                        "tooltip": tooltip,
                    },
                },
                *_levels(levels, y),
                *_names(points, best, across, x, y, y_domain),
            ],
        },
        description,
        HEIGHT,
    )


def _levels(levels: list[Point], y: Spec) -> list[Spec]:
    """Return reference points as lines: what they cost is not what a federation costs, so they have no place across."""
    if not levels:
        return []
    data = {"values": [{"y": round(level.y.mean, 2), "method": level.label} for level in levels]}
    base = {"type": "text", "align": "right", "dx": -4, "dy": -7, "limit": 110, "fontStyle": "italic"}
    text = {"x": {"value": "width"}, "y": y, "text": {"field": "method"}}
    return [
        {"data": data, "mark": {"type": "rule", "style": "thin", "strokeDash": [1, 3]}, "encoding": {"y": y}},
        {"data": data, "mark": {**base, "style": "halo"}, "encoding": text},
        {"data": data, "mark": {**base, "style": "soft"}, "encoding": text},
    ]


def _names(points: list[Point], best: list[Point], across: Axis, x: Spec, y: Spec, domain: list[float]) -> list[Spec]:
    """Return the names of the front, on its better side, where no other point can be; and those of the landmarks."""
    per_pixel = (domain[1] - domain[0]) / HEIGHT
    groups = [
        (at, [point.label for point in same])
        for at, same in groupby(best, key=lambda point: (round(point.x.mean, 6), round(point.y.mean, 6)))
    ]
    wanted = [at[1] + 9 * per_pixel for at, _ in groups]
    heights = spread(wanted, 14 * per_pixel, domain[0], domain[1] - 5 * per_pixel)
    found = [
        {"x": at[0], "y": round(height, 3), "method": labels[0] + (f" +{len(labels) - 1}" if len(labels) > 1 else "")}
        for (at, labels), height in zip(groups, heights, strict=True)
    ]
    marks = [
        {"x": point.x.mean, "y": point.y.mean, "method": point.label}
        for point in points
        if point not in best and (point.family == "reference" or point.label == BASELINE)
    ]
    side = {"align": "right", "dx": -7} if across.cost else {"align": "left", "dx": 7}

    def texts(rows: list[dict[str, Any]], **mark: Any) -> list[Spec]:
        encoding = {"x": x, "y": y, "text": {"field": "method"}}
        base = {"type": "text", "baseline": "middle", "limit": 110, **mark}
        return [
            {"data": {"values": rows}, "mark": {**base, "style": style}, "encoding": encoding}
            for style in ("halo", "soft" if mark.get("fontStyle") else "name")
        ]

    other = {"align": "left", "dx": 8} if across.cost else {"align": "center", "dy": 13}
    return [*texts(marks, **other, fontStyle="italic"), *texts(found, **side)]


def _row(point: Point, best: bool, across: Axis) -> dict[str, Any]:
    """Return the data of one point: rounded means, ends of the whiskers, and both as words."""

    def ends(interval: Interval, digits: int) -> tuple[float, float]:
        if interval.low is None or interval.high is None:
            return interval.mean, interval.mean
        return round(interval.low, digits), round(interval.high, digits)

    x0, x1 = ends(point.x, 0 if across.cost else 2)
    y0, y1 = ends(point.y, 2)
    if across.cost and x0 <= 0:  # a logarithmic scale has no place for it
        x0 = x1 = point.x.mean
    return {
        "method": point.label,
        "family": point.family,
        "front": best,
        "x": round(point.x.mean, 0 if across.cost else 2),
        "x0": x0,
        "x1": x1,
        "y": round(point.y.mean, 2),
        "y0": max(y0, 0),
        "y1": min(y1, 100),
        "tx": _words(point.x, across),
        "ty": _words(point.y, Axis("", ())),
    }


def _words(interval: Interval, axis: Axis) -> str:
    if axis.cost:
        return f"{interval.mean:,.0f}"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.1f} % (one seed)"
    return f"{interval.mean:.1f} % ({interval.low:.1f} to {interval.high:.1f}, {interval.n} seeds)"


def _ticks(domain: list[float]) -> list[int]:
    span = domain[1] - domain[0]
    step = next(step for step in (1, 2, 5, 10, 20, 25) if span / step <= 8)
    return [tick for tick in range(0, 101, step) if domain[0] <= tick <= domain[1]]


def _short(axis: Axis) -> str:
    return axis.title.partition(",")[0].partition(" on ")[0]


def _described(
    title: str,
    task: TaskBoard,
    ours: list[Point],
    best: list[Point],
    without: list[Row],
    far: list[Point],
    across: Axis,
) -> str:
    better = "to the left" if across.cost else "to the right"
    names = [f"{point.label} ({_words(point.x, across)}; {_words(point.y, Axis('', ()))})" for point in best]
    text = (
        f"{title} on {named(task.name)}, {len(ours)} methods; better is up and {better}. "
        f"On the Pareto front, from left to right: {listed(names)}."
    )
    baseline = next((point for point in ours if point.label == BASELINE and point not in best), None)
    if baseline:
        text += f" {BASELINE}: {_words(baseline.x, across)}; {_words(baseline.y, Axis('', ()))}."
    for point in far:
        text += f" Outside the picture: {point.label}, {_words(point.x, across)}; {_words(point.y, Axis('', ()))}."
    if without:
        missing = reasons((row.label, row.hole or "a value is not defined") for row in without)
        text += f" Not drawn: {missing}."
    return text
