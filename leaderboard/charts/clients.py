"""Clients: what each of them has, and who gains and who loses against a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
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
)
from fedbench.leaderboard.runs import MethodSeries
from fedbench.leaderboard.series import Series

from fedbench.outcome import Values

STEP = 20
"""Pixels of a method's row."""


def strips(methods: Sequence[MethodSeries], task: str) -> Chart | str:
    """Return the personal accuracy of every client under every method, or a sentence that says why not.

    One mark a client and seed, as large as its local test set; the bar is their mean. Clients held out are left out.
    For a method without personal models of its own the personal model is the global one.

    Parameters
    ----------
    methods : sequence of MethodSeries
        The rows of a task.
    task : str
        Its name.
    """
    title = "Accuracy of every client"
    found = {m.label: _personal(m) for m in methods}
    drawn = [m for m in methods if found[m.label]]
    if not drawn:
        return f"{title} cannot be drawn: no finished run of {named(task)} has personal models."
    rows: list[dict[str, Any]] = []
    for m in drawn:
        values = [value for _, value in found[m.label]]
        rows.append(
            {
                "method": _name(m),
                "family": "reference" if m.row.family == "reference" else "method",
                "y": [round(100 * value, 1) for value in values],
                "size": [size for size, _ in found[m.label]],
                "mean": round(100 * float(np.mean(values)), 1),
                "low": round(100 * min(values), 1),
            }
        )
    rows.sort(key=lambda row: -row["mean"])
    sizes = [size for row in rows for size in row["size"]]
    told = [f"{row['method']} {row['mean']:.1f}, {row['low']:.1f}" for row in rows]
    description = (
        f"{title} on {named(task)}: personal accuracy at the last evaluation, one mark a client and seed, test sets of "
        f"{min(sizes)} to {max(sizes)} samples. Mean and lowest client, by mean: "
        f"{listed(told)}."
        f"{_missing(methods, drawn, 'not defined')}"
    )
    domain = between([value for row in rows for value in row["y"]], 10, (0, 100))
    x = _across(domain, "personal accuracy, %, last round", "y")
    y = _down([row["method"] for row in rows])
    spec = embedded(
        {
            "data": {"values": rows},
            "layer": [
                {
                    "transform": [{"flatten": ["y", "size"]}],
                    "mark": {"type": "point", "filled": True, "opacity": 0.45, "clip": False},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "size": {
                            "field": "size",
                            "type": "quantitative",
                            "scale": {"type": "sqrt", "domain": [0, max(sizes)], "range": [8, 120]},
                            "legend": {
                                "title": "test samples",
                                "orient": "top",
                                "direction": "horizontal",
                                "values": _steps(max(sizes)),
                                "symbolType": "circle",
                                "symbolFillColor": GREY,
                                "symbolStrokeWidth": 0,
                            },
                        },
                        "color": _family(),
                        "shape": {
                            **_family(),
                            "scale": {"domain": ["method", "reference"], "range": ["circle", "diamond"]},
                        },
                        "tooltip": [
                            {"field": "method", "title": "method"},
                            {"field": "y", "title": "accuracy, %", "type": "quantitative"},
                            {"field": "size", "title": "test samples", "type": "quantitative"},
                        ],
                    },
                },
                {
                    "mark": {"type": "tick", "style": "ink", "thickness": 2, "size": 15},
                    "encoding": {"x": {**x, "field": "mean"}, "y": y},
                },
                *_right([{"method": row["method"], "text": f"{row['mean']:.1f}"} for row in rows], y),
            ],
        },
        description,
        STEP * len(rows),
    )
    return Chart(identifier("clients", task), title, description, spec)


def gains(methods: Sequence[MethodSeries], task: str, baseline: str) -> Chart | str:
    """Return who gains and who loses against a baseline, client by client, or a sentence that says why not.

    One mark a client and seed: the client's personal accuracy under the method minus that under the baseline, same
    seed, in points. At the right stand how many gain (+) and how many lose (−); the others are as before.

    Parameters
    ----------
    methods : sequence of MethodSeries
        The rows of a task.
    task : str
        Its name.
    baseline : str
        Label of the row to compare with, such as ``local`` or ``fedavg``.
    """
    title = f"Gains and losses of every client against {named(baseline)}"
    base = {run.seed: run for m in methods if m.label == baseline for run in m.runs}
    if not any(_of(run) is not None for run in base.values()):
        return f"{title} cannot be drawn: {named(task)} has no finished run of {named(baseline)} with personal models."
    rows: list[dict[str, Any]] = []
    drawn: list[MethodSeries] = []
    for m in methods:
        differences = _differences(m, base) if m.label != baseline else None
        if differences is None or not len(differences):
            continue
        drawn.append(m)
        points = [round(100 * float(value), 1) + 0.0 for value in differences]
        rows.append(
            {
                "method": _name(m),
                "x": points,
                "mean": round(100 * float(np.mean(differences)), 1) + 0.0,
                "gain": sum(value > 0 for value in points),
                "lose": sum(value < 0 for value in points),
            }
        )
    if not drawn:
        return f"{title} cannot be drawn: no method of {named(task)} shares its clients and seeds."
    rows.sort(key=lambda row: -row["mean"])
    both = [m for m in methods if m in drawn or m.label == baseline]
    told = [f"{r['method']} {r['gain']} gain, {r['lose']} lose, mean {r['mean']:+.1f}" for r in rows]
    description = (
        f"{title} on {named(task)}: difference of personal accuracies in points, paired by client and seed. By mean: "
        f"{listed(told)}.{_missing(methods, both, 'not defined or not paired')}"
    )
    domain = between([0, *(value for row in rows for value in row["x"])], 10)
    x = _across(domain, f"difference to {named(baseline)}, points", "x")
    y = _down([row["method"] for row in rows])
    sign = "datum.x > 0 ? 'gains' : datum.x < 0 ? 'loses' : 'as before'"
    look = {"field": "sign", "type": "nominal", "legend": {"title": None, "orient": "top"}}
    kinds = ["loses", "as before", "gains"]
    spec = embedded(
        {
            "data": {"values": rows},
            "layer": [
                {
                    "data": {"values": [{"x": 0}]},
                    "mark": {"type": "rule", "style": "zero"},
                    "encoding": {"x": x},
                },
                {
                    "transform": [{"flatten": ["x"]}, {"calculate": sign, "as": "sign"}],
                    "mark": {"type": "point", "filled": True, "opacity": 0.75, "size": 46},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "color": {**look, "scale": {"domain": kinds, "range": [VERMILION, GREY, BLUE]}},
                        "shape": {
                            **look,
                            "scale": {"domain": kinds, "range": ["triangle-left", "circle", "triangle-right"]},
                        },
                        "tooltip": [
                            {"field": "method", "title": "method"},
                            {"field": "x", "title": "difference, points", "type": "quantitative", "format": "+.1f"},
                        ],
                    },
                },
                {
                    "mark": {"type": "tick", "style": "ink", "thickness": 2, "size": 15},
                    "encoding": {"x": {**x, "field": "mean"}, "y": y},
                },
                *_right([{"method": r["method"], "text": f"+{r['gain']} −{r['lose']}"} for r in rows], y),
            ],
        },
        description,
        STEP * len(rows),
    )
    return Chart(identifier("gains", task, baseline), title, description, spec)


def _of(run: Series) -> Values | None:
    """Return the personal accuracies of the clients that may train."""
    return None if run.personal_by_client is None else run.personal_by_client[~run.held_out]


def _personal(method: MethodSeries) -> list[tuple[int, float]]:
    """Return test-set size and personal accuracy of each client and seed; nothing if a seed has none."""
    found = []
    for run in method.runs:
        values = _of(run)
        if values is None:
            return []
        found += [(int(n), float(v)) for n, v in zip(run.sizes[~run.held_out], values, strict=True)]
    return found


def _differences(method: MethodSeries, base: dict[int, Series]) -> Values | None:
    parts = []
    for run in method.runs:
        other = base.get(run.seed)
        mine, theirs = _of(run), None if other is None else _of(other)
        if mine is None or theirs is None or other is None or run.partition != other.partition:
            return None  # the same number is then another client
        parts.append(mine - theirs)
    return np.concatenate(parts) if parts else None


def _name(method: MethodSeries) -> str:
    """Return the label, with how many seeds stand for it where not all do."""
    part = f" ({len(method.runs)} of {len(method.row.cells)} seeds)" if method.row.hole else ""
    return f"{named(method.label)}{part}"


def _missing(methods: Sequence[MethodSeries], drawn: Sequence[MethodSeries], why: str) -> str:
    partial = reasons((m.label, m.row.hole) for m in drawn if m.row.hole)
    without = reasons((m.label, m.row.hole or why) for m in methods if m not in drawn)
    text = f" With missing seeds: {partial}." if partial else ""
    return text + (f" Not drawn: {without}." if without else "")


def _across(domain: list[float], title: str, field: str) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False, "zero": False},
        "axis": {"title": title, "tickCount": 6},
    }


def _down(order: list[str]) -> Spec:
    return {
        "field": "method",
        "type": "nominal",
        "scale": {"domain": order},
        "axis": {"title": None, "grid": True},
    }


def _family() -> Spec:
    return {
        "field": "family",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": ["method", "reference"], "range": [BLUE, GREY]},
    }


def _right(rows: list[dict[str, Any]], y: Spec) -> list[Spec]:
    """Return a column of words at the right of the rows."""
    return [
        {
            "data": {"values": rows},
            "mark": {"type": "text", "align": "left", "dx": 10, "fontSize": 11},
            "encoding": {"x": {"value": "width"}, "y": y, "text": {"field": "text"}},
        }
    ]


def _steps(most: int) -> list[int]:
    """Return three round sizes for the legend."""
    size = 10 ** (len(str(most)) - 1)
    top = most // size * size
    return sorted({max(1, top // 10), max(1, top // 2), top})
