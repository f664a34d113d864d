"""Curves: accuracy, or what a download costs, over the course of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fedbench.leaderboard.charts.chart import (
    DASHES,
    GREY,
    HUES,
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
from fedbench.leaderboard.runs import MethodSeries
from fedbench.leaderboard.series import Series

from fedbench.outcome import Values
from fedbench.statistics import t_interval

Over = Literal["rounds", "bytes", "seconds"]
Model = Literal["global", "local"]

HEIGHT = 340
POINTS = 60
"""The most points of one curve: rounds or moments, evenly spaced; nothing is averaged over rounds."""
HIGHLIGHTED = 12
BANDS = 4
"""How many of the highlighted show their band at once; the interactive chart shows the band of whichever is chosen."""
STRETCHES = 10
"""The stretches of a run over which retrogress is averaged."""
OTHER = -1
"""The look of all that is not highlighted."""
BAND = 3
"""Seeds that a t interval needs here; fewer are drawn one by one."""

_OVER = {
    "rounds": "rounds",
    "bytes": "bytes sent in both directions",
    "seconds": "seconds of training on the machine at hand",
}


@dataclass(frozen=True)
class Curve:
    """One line: mean over seeds with its interval, or a single seed.

    Parameters
    ----------
    method : str
        Whose.
    x, y : tuple of float
        Points.
    low, high : tuple of float
        Ends of the 95 % t interval of each point; empty for a single seed.
    """

    method: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def accuracy_curves(
    methods: Sequence[MethodSeries],
    task: str,
    over: Over = "rounds",
    model: Model = "global",
    highlight: Sequence[str] = (),
) -> Chart | str:
    """Return accuracy against rounds, bytes or seconds, or a sentence that says why it cannot be drawn.

    Reference points are drawn over rounds alone: what they spend is not what a federation spends.
    Per point the mean over seeds with its 95 % t interval from three seeds on; fewer seeds are drawn one by one. Bytes
    and seconds are those spent until a round was over, and the accuracy at a moment is that of the last round that was
    over; a curve spans the moments at which every seed of it had one.

    Parameters
    ----------
    methods : sequence of MethodSeries
        The rows of a task, see `fedbench.leaderboard.runs.method_series`.
    task : str
        Its name.
    over : {"rounds", "bytes", "seconds"}
        What runs to the right. Seconds mean something only where nothing else ran on the machines.
    model : {"global", "local"}
        Whose accuracy: of the global model, or the mean of the sampled clients' local models.
    highlight : sequence of str
        Labels to draw in colour, at most twelve; without, FedAvg and the first ones of the board.
    """
    title = f"{model.capitalize()} accuracy over {_OVER[over].partition(' ')[0]}"

    def values(run: Series) -> Values | None:
        return run.global_accuracy if model == "global" else run.local_accuracy

    lines: dict[str, list[Curve]] = {}
    for method in methods:
        if over != "rounds" and method.row.family == "reference":
            continue  # what it spends is not what a federation spends
        runs = [(axis(run, over), 100 * found) for run in method.runs if (found := values(run)) is not None]
        if runs and len(runs) == len(method.runs) and all(at[0] > 0 for at, _ in runs):
            lines[method.label] = _curves(named(method.label), runs, over)
    return _chart("curves", f"{over}-{model}", title, f"{model} accuracy, %", task, methods, lines, over, highlight)


def retrogress(methods: Sequence[MethodSeries], task: str, highlight: Sequence[str] = ()) -> Chart | str:
    """Return how much accuracy clients lose as they download, over the rounds, or a sentence that says why not.

    Each point is the mean over the downloads of one tenth of the run, in points of accuracy; a download is as in
    `fedbench.leaderboard.series.drop_after_download`. Above zero is lost. Seeds as in `accuracy_curves`.

    Parameters
    ----------
    methods, task, highlight
        As in `accuracy_curves`.
    """
    lines: dict[str, list[Curve]] = {}
    for method in methods:
        runs = [stretches(run.retrogress) for run in method.runs if run.retrogress is not None]
        runs = [run for run in runs if len(run[0])]
        if runs and len(runs) == len(method.runs):
            lines[method.label] = _curves(named(method.label), [(at, 100 * drop) for at, drop in runs], "rounds")
    title = "Retrogress: accuracy that clients lose as they download"
    return _chart("retrogress", "", title, "lost by a download, points", task, methods, lines, "rounds", highlight)


def stretches(drop: Values) -> tuple[Values, Values]:
    """Return the middle round and the mean drop of each tenth of a run that has one.

    Parameters
    ----------
    drop : float64 array (R,)
        Retrogress per round, NaN where there is none.
    """
    middles, means = [], []
    for part in np.array_split(np.arange(len(drop)), min(STRETCHES, len(drop))):
        found = drop[part][~np.isnan(drop[part])]
        if len(found):
            middles.append(float(np.mean(part)) + 1)
            means.append(float(np.mean(found)))
    return np.array(middles), np.array(means)


def axis(run: Series, over: Over) -> Values:
    """Return where each round of a run stands on the axis: its number from 1, or what was spent when it was over."""
    if over == "rounds":
        return np.arange(1, len(run.sampled) + 1, dtype=np.float64)
    return run.bytes if over == "bytes" else run.seconds


def common(runs: Sequence[tuple[Values, Values]], over: Over) -> tuple[Values, Values]:
    """Return points that all seeds have, and their values there, (seeds, points).

    For rounds, every so many rounds from the last one back. For bytes and seconds, evenly spaced moments from the first
    at which every seed is through a round to the last at which none is beyond its end.

    Parameters
    ----------
    runs : sequence of (float64 array (R,), float64 array (R,))
        Ends of the rounds, and values then; one pair a seed.
    over : {"rounds", "bytes", "seconds"}
        What the ends are.
    """
    if over == "rounds":
        shared = [at for at in runs[0][0] if all(at in other for other, _ in runs)]
        step = -(-len(shared) // POINTS)
        grid = np.array(shared[::-1][::step][::-1])
    else:
        first, last = max(at[0] for at, _ in runs), min(at[-1] for at, _ in runs)
        grid = np.linspace(first, max(first, last), min(POINTS, len(runs[0][0])))
    # The smallest number after a moment: rounding of the grid must not put its last point before the last round.
    found = [value[np.searchsorted(at, np.nextafter(grid, np.inf), side="right") - 1] for at, value in runs]
    return grid, np.array(found)


def _curves(method: str, runs: Sequence[tuple[Values, Values]], over: Over) -> list[Curve]:
    grid, values = common(runs, over)
    digits = 1 if over == "seconds" else 0 if over == "bytes" else 1
    x = tuple(round(float(at), digits) for at in grid)
    if len(values) < BAND:
        return [Curve(method, x, _rounded(row)) for row in values]
    intervals = [t_interval(column) for column in values.T]
    return [
        Curve(
            method,
            x,
            _rounded([interval.mean for interval in intervals]),
            _rounded([interval.low or 0.0 for interval in intervals]),
            _rounded([interval.high or 0.0 for interval in intervals]),
        )
    ]


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 1) for value in values)


def _chart(
    kind: str,
    what: str,
    title: str,
    y_title: str,
    task: str,
    methods: Sequence[MethodSeries],
    lines: dict[str, list[Curve]],
    over: Over,
    highlight: Sequence[str],
) -> Chart | str:
    if not lines:
        return f"{title} cannot be drawn: no finished run of {named(task)} has it."
    chosen = _chosen(methods, lines, highlight)
    ends = {label: _end(lines[label]) for label in chosen}
    best = sorted(ends, key=lambda label: -ends[label])
    n = len(lines)
    description = (
        f"{title} on {named(task)}, {n} method{'s' if n > 1 else ''}, {len(chosen)} of them in colour. "
        f"At the end: {listed([f'{named(label)} {ends[label]:.1f}' for label in best])}. {_seeds(methods, lines)}"
    )
    partial = reasons((m.label, m.row.hole) for m in methods if m.label in lines and m.row.hole)
    without = reasons((m.label, m.row.hole or _why(m, over)) for m in methods if m.label not in lines)
    description += (f" With missing seeds: {partial}." if partial else "") + (
        f" Not drawn: {without}." if without else ""
    )
    # Reference points are grey like all others, and named.
    look = {m.label: OTHER for m in methods if m.label in lines and m.row.family == "reference"}
    look |= {label: n for n, label in enumerate(chosen)}
    name = identifier(kind, task, what) if what else identifier(kind, task)
    return Chart(name, f"{title}", description, _spec(lines, look, y_title, over, description))


def _chosen(methods: Sequence[MethodSeries], lines: dict[str, list[Curve]], highlight: Sequence[str]) -> list[str]:
    """Return the labels to draw in colour: those asked for, or FedAvg and the first of the board."""
    wanted = [label for label in highlight if label in lines]
    if not wanted:
        first = [m.label for m in methods if m.label in lines and m.row.family != "reference"]
        wanted = [label for label in first if label == "fedavg"] + [label for label in first if label != "fedavg"]
    return (wanted or list(lines))[:HIGHLIGHTED]


def _why(method: MethodSeries, over: Over) -> str:
    return "reference point" if over != "rounds" and method.row.family == "reference" else "not defined"


def _end(curves: Sequence[Curve]) -> float:
    return sum(curve.y[-1] for curve in curves) / len(curves)


def _seeds(methods: Sequence[MethodSeries], lines: dict[str, list[Curve]]) -> str:
    counts = {len(m.runs) for m in methods if m.label in lines}
    band = f"Bands, for the first {BANDS}, are 95 % t intervals over the seeds"
    if min(counts) >= BAND:
        return f"{band}."
    if max(counts) == 1:
        return "One seed, no interval."
    return f"{band}, where there are {BAND} or more; fewer are drawn one by one."


def _spec(lines: dict[str, list[Curve]], look: dict[str, int], y_title: str, over: Over, description: str) -> Spec:
    rows = [_row(curve, look.get(label, OTHER), n) for label, found in lines.items() for n, curve in enumerate(found)]
    banded = [row for row in rows if 0 <= row["look"] < BANDS]
    seen = [value for row in banded for value in (*row["y"], *row.get("low", ()), *row.get("high", ()))]
    seen += [value for row in rows for value in row["y"]]
    accuracy = y_title.endswith("%")
    domain = between(seen, 5, (0, 100) if accuracy else None)
    last = [curve.x[-1] for found in lines.values() for curve in found]
    wide = over == "bytes" and max(last) > 5 * min(last)  # methods that send little would be a line at the edge
    x_scale: Spec = {"type": "log", "nice": False} if wide else {"nice": False, "zero": False}
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {**x_scale, "domain": [_start(lines, over, wide), max(last)]},
        "axis": {"title": _OVER[over], "tickCount": 5, "format": "~s" if over == "bytes" else ",d"},
    }
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False, "zero": False},
        "axis": {"title": y_title, "tickCount": 6},
    }
    scale = {"type": "ordinal", "domain": [OTHER, *range(HIGHLIGHTED)]}
    colour = {
        "field": "look",
        "type": "ordinal",
        "legend": None,
        "scale": {**scale, "range": [GREY, *(HUES[n % len(HUES)] for n in range(HIGHLIGHTED))]},
    }
    dash = {
        "field": "look",
        "type": "ordinal",
        "legend": None,
        "scale": {**scale, "range": [DASHES[0], *(DASHES[n // len(HUES)] for n in range(HIGHLIGHTED))]},
    }
    path = "linear" if over == "rounds" else "step-after"
    tooltip = [{"field": "method", "title": "method"}]
    single = {"detail": [{"field": "method"}, {"field": "n"}]}
    names = _names(lines, look, domain)
    labels = {"x": {"value": "width"}, "y": {**y, "field": "at"}, "text": {"field": "method"}, "color": colour}
    zero = (
        []
        if accuracy
        else [{"data": {"values": [{"y": 0}]}, "mark": {"type": "rule", "style": "zero"}, "encoding": {"y": y}}]
    )
    options = list(dict.fromkeys(curve.method for found in lines.values() for curve in found))
    return embedded(
        {
            "params": [
                {
                    "name": "shown",
                    "value": None,
                    "bind": {
                        "input": "select",
                        "name": "Bring to the front: ",
                        "options": [None, *options],
                        "labels": ["none", *options],
                    },
                }
            ],
            "data": {"values": rows},
            "layer": [
                {
                    "transform": [{"filter": "datum.look < 0"}, {"flatten": ["x", "y"]}],
                    "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.55, "color": GREY, "interpolate": path},
                    "encoding": {"x": x, "y": y, **single, "tooltip": tooltip},
                },
                {
                    "transform": [
                        {"filter": f"datum.low && (datum.look >= 0 && datum.look < {BANDS} || datum.method === shown)"},
                        {"flatten": ["x", "low", "high"]},
                    ],
                    "mark": {"type": "area", "opacity": 0.14, "interpolate": path, "clip": True},
                    "encoding": {
                        "x": x,
                        "y": {**y, "field": "low"},
                        "y2": {"field": "high"},
                        "color": colour,
                        "detail": {"field": "method"},
                    },
                },
                *zero,
                {
                    "transform": [{"filter": "datum.look >= 0"}, {"flatten": ["x", "y"]}],
                    "mark": {"type": "line", "interpolate": path},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "color": colour,
                        "strokeDash": dash,
                        "strokeWidth": {"condition": {"test": "datum.low", "value": 2}, "value": 1.3},
                        **single,
                        "tooltip": tooltip,
                    },
                },
                {
                    "transform": [{"filter": "datum.method === shown"}, {"flatten": ["x", "y"]}],
                    "mark": {"type": "line", "style": "ink", "strokeWidth": 3.5, "interpolate": path},
                    "encoding": {"x": x, "y": y, **single, "tooltip": tooltip},
                },
                # From where a line ends to its name, in its colour and dash: what tells lines apart beside the colour.
                {
                    "data": {"values": names},
                    "mark": {"type": "rule", "x2Offset": 16, "strokeWidth": 2},
                    "encoding": {
                        "x": {"value": "width"},
                        "x2": {"value": "width"},
                        "y": {**y, "field": "end"},
                        "y2": {"field": "at"},
                        "color": colour,
                        "strokeDash": dash,
                    },
                },
                {
                    "data": {"values": names},
                    "mark": {"type": "text", "align": "left", "baseline": "middle", "dx": 20, "limit": 90},
                    "encoding": labels,
                },
            ],
        },
        description,
        HEIGHT,
    )


def _start(lines: dict[str, list[Curve]], over: Over, log: bool) -> float:
    """Return where the axis begins: at nothing spent where it can, otherwise with the first round."""
    return min(curve.x[0] for found in lines.values() for curve in found) if log or over == "rounds" else 0


def _row(curve: Curve, look: int, n: int) -> dict[str, Any]:
    band = {"low": curve.low, "high": curve.high} if curve.low else {}
    return {"method": curve.method, "look": look, "n": n, "x": curve.x, "y": curve.y, **band}


def _names(lines: dict[str, list[Curve]], look: dict[str, int], domain: list[float]) -> list[dict[str, Any]]:
    """Return the names at the right, each as near to the end of its line as the others let it."""
    per_pixel = (domain[1] - domain[0]) / HEIGHT
    ends = [_end(lines[label]) for label in look]
    places = spread(ends, 14 * per_pixel, domain[0] + 6 * per_pixel, domain[1] - 6 * per_pixel)
    return [
        {"method": named(label), "look": n, "end": round(end, 1), "at": round(at, 2)}
        for (label, n), end, at in zip(look.items(), ends, places, strict=True)
    ]
