"""Differences to a reference with their intervals, as a forest plot."""

from __future__ import annotations

from collections.abc import Sequence

from fedbench.leaderboard.charts.chart import (
    BLUE,
    GREY,
    VERMILION,
    Chart,
    Spec,
    between,
    embedded,
    listed,
    named,
)

from fedbench.statistics import Interval

STEP = 22
"""Pixels of a row."""


def forest(
    rows: Sequence[tuple[str, Interval]], *, margin: float, reference: str, name: str, title: str
) -> Chart | str:
    """Return intervals of differences against a reference, with the band of what counts as equal.

    Filled where the interval lies on one side of zero, hollow where it does not, a cross where there is none (one
    seed). One look says whether an interval leaves zero, and whether it leaves the band.

    Parameters
    ----------
    rows : sequence of (str, Interval)
        A method on one task, or a task of one method, with method minus reference as fractions; positive is better.
        Drawn in the order given.
    margin : float, >= 0, fraction
        Differences below it count as equal; the band is from minus to plus.
    reference : str
        What was subtracted.
    name, title : str
        Of the chart.
    """
    if not rows:
        return f"{title} cannot be drawn: nothing is paired with {named(reference)}."
    data = [_row(label, interval) for label, interval in rows]
    band = round(100 * margin, 2)
    ends = [value for row in data for value in (row["x"], row["low"], row["high"])]
    spread = max(abs(float(value)) for value in (*ends, band))
    domain = between([0.0, -1.2 * band, 1.2 * band, *(float(value) for value in ends)], 1 if spread <= 6 else 5)
    x: Spec = {
        "field": "x",
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False, "zero": False},
        "axis": {"title": f"difference to {named(reference)}, points", "tickCount": 6},
    }
    y: Spec = {
        "field": "label",
        "type": "nominal",
        "scale": {"domain": [row["label"] for row in data]},
        "axis": {"title": None, "grid": False},
    }
    kinds = ["better", "not told apart", "worse", "one seed"]
    colour: Spec = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": kinds, "range": [BLUE, GREY, VERMILION, GREY]},
        "legend": {
            "title": None,
            "orient": "top",
            "symbolSize": 70,
            "columns": 2,
            "values": [kind for kind in kinds if any(row["kind"] == kind for row in data)],
        },
    }
    shape = {**colour, "scale": {"domain": kinds, "range": ["triangle-right", "circle", "triangle-left", "cross"]}}
    filled = {"condition": {"test": "datum.kind === 'better' || datum.kind === 'worse'", "value": 1}, "value": 0}
    told = [f"{row['label']} {row['text']} ({row['kind']})" for row in data]
    description = (
        f"{title}: difference to {named(reference)} in points with its 95 % interval; "
        f"from −{band:g} to {band:g} counts as equal. {listed(told, 50)}."
    )
    spec = embedded(
        {
            "data": {"values": data},
            "layer": [
                {
                    "data": {"values": [{"a": -band, "b": band}]},
                    "mark": {"type": "rect", "color": GREY, "opacity": 0.22},
                    "encoding": {"x": {**x, "field": "a"}, "x2": {"field": "b"}},
                },
                {
                    "data": {"values": [{"x": 0}]},
                    "mark": {"type": "rule", "style": "zero"},
                    "encoding": {"x": x},
                },
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour},
                },
                {
                    "mark": {"type": "point", "size": 75, "strokeWidth": 1.6},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "color": colour,
                        "fill": colour,
                        "shape": shape,
                        "fillOpacity": filled,
                        "tooltip": [{"field": "label", "title": "row"}, {"field": "text", "title": "difference"}],
                    },
                },
                {
                    "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 11},
                    "encoding": {"x": {"value": "width"}, "y": y, "text": {"field": "short"}},
                },
            ],
        },
        description,
        STEP * len(rows),
    )
    return Chart(name, title, description, spec)


def _row(label: str, interval: Interval) -> dict[str, str | float]:
    mean = 100 * interval.mean
    if interval.low is None or interval.high is None:
        low = high = mean
        kind, text = "one seed", f"{_signed(mean)}, no interval"
    else:
        low, high = 100 * interval.low, 100 * interval.high
        kind = "better" if low > 0 else "worse" if high < 0 else "not told apart"
        text = f"{_signed(mean)} ({_signed(low)} to {_signed(high)})"
    return {
        "label": named(label),
        "x": round(mean, 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "kind": kind,
        "text": text,
        "short": _signed(mean),
    }


def _signed(points: float) -> str:
    text = f"{points:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text
