"""Ranks: the critical-difference diagram, and rank intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedbench.leaderboard.charts.chart import BLUE, Chart, Spec, embedded, listed, named

from fedbench.statistics.standings import RankInterval

ROW = 18
"""Pixels of one name in the critical-difference diagram."""
BAR = 9
"""Pixels between two of its bars."""


def critical_difference(
    mean_ranks: Mapping[str, float], groups: Sequence[Sequence[str]], difference: float | None, name: str, title: str
) -> Chart | str:
    """Return Demšar's diagram: mean ranks on a line, methods that cannot be told apart joined by bars.

    The best method stands at the left. A sentence in its place where there are fewer than two methods.

    Parameters
    ----------
    mean_ranks : mapping of label to float, >= 1
        Mean rank of each method; 1 is best.
    groups : sequence of sequences of str
        Labels of each set of methods that the test does not tell apart.
    difference : float or None
        The critical difference, drawn as a scale above the line; None where the groups come from another test.
    name, title : str
        Of the chart.

    Raises
    ------
    KeyError
        A group has a label without a mean rank.
    """
    if len(mean_ranks) < 2:
        return f"{title} cannot be drawn: it needs two methods or more, there are {len(mean_ranks)}."
    order = sorted(mean_ranks, key=lambda label: (mean_ranks[label], label))
    bars = sorted(
        (min(mean_ranks[label] for label in group), max(mean_ranks[label] for label in group))
        for group in groups
        if len(group) > 1
    )
    k = len(order)
    left = order[: (k + 1) // 2]
    top = 34 if difference else 12  # pixels above the line
    first = top + 14 + BAR * len(bars) + 8
    height = first + ROW * len(left)
    leaders = []
    for side, names in (("left", left), ("right", order[len(left) :][::-1])):
        for n, label in enumerate(names):
            # The number first: a name that is cut, or reads from right to left, leaves it whole.
            text = f"{mean_ranks[label]:.2f} {named(label)}"
            leaders.append(
                {
                    "rank": round(mean_ranks[label], 3),
                    "side": side,
                    "y": first + ROW * n,
                    "top": top,
                    "method": text,
                }
            )
    spans = [
        {"from": round(low - 0.04, 3), "to": round(high + 0.04, 3), "y": top + 14 + BAR * n}
        for n, (low, high) in enumerate(bars)
    ]
    ticks = [{"rank": rank, "text": str(rank)} for rank in _whole(k)]
    x: Spec = {
        "field": "rank",
        "type": "quantitative",
        "scale": {"domain": [1, k], "nice": False, "zero": False},
        "axis": None,
    }
    y: Spec = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": [0, height], "nice": False, "zero": False, "reverse": True},
        "axis": None,
    }
    at = {"y": {"value": top}}
    layers: list[Spec] = [
        {
            "data": {"values": [{"a": 1, "b": k}]},
            "mark": {"type": "rule", "style": "zero"},
            "encoding": {"x": {**x, "field": "a"}, "x2": {"field": "b"}, **at},
        },
        {
            "data": {"values": ticks},
            "mark": {"type": "rule", "style": "zero"},
            "encoding": {"x": x, "y": {"value": top - 5}, "y2": {"value": top}},
        },
        {
            "data": {"values": ticks},
            "mark": {"type": "text", "dy": -12, "style": "soft"},
            "encoding": {"x": x, "text": {"field": "text"}, **at},
        },
        {
            "data": {"values": spans},
            "mark": {"type": "rule", "strokeWidth": 5, "color": BLUE, "strokeCap": "round"},
            "encoding": {"x": {**x, "field": "from"}, "x2": {"field": "to"}, "y": y},
        },
    ]
    for side, edge in (("left", 0), ("right", "width")):
        rows = {"values": [row for row in leaders if row["side"] == side]}
        out = -1 if side == "left" else 1
        layers += [
            {
                "data": rows,
                "mark": {"type": "rule", "style": "thin"},
                "encoding": {"x": x, "y": {**y, "field": "top"}, "y2": {"field": "y"}},
            },
            {
                "data": rows,
                "mark": {"type": "rule", "style": "thin"},
                "encoding": {"x": x, "x2": {"value": edge}, "y": y},
            },
            {
                "data": rows,
                "mark": {"type": "text", "align": "right" if out < 0 else "left", "dx": 6 * out, "limit": 110},
                "encoding": {"x": {"value": edge}, "y": y, "text": {"field": "method"}},
            },
        ]
    if difference:
        layers += [
            {
                "data": {"values": [{"a": 1, "b": round(min(1 + difference, k), 3)}]},
                "mark": {"type": "rule", "strokeWidth": 3, "style": "zero"},
                "encoding": {"x": {**x, "field": "a"}, "x2": {"field": "b"}, "y": {"value": 6}},
            },
            {
                "data": {"values": [{"rank": 1, "text": f"critical difference {difference:.2f}"}]},
                "mark": {"type": "text", "align": "left", "dy": -6, "baseline": "bottom", "style": "name"},
                "encoding": {"x": x, "y": {"value": 6}, "text": {"field": "text"}},
            },
        ]
    joined = [
        listed([named(label) for label in sorted(group, key=order.index)], 50) for group in groups if len(group) > 1
    ]
    description = (
        f"{title}. Mean ranks, best first: "
        + listed([f"{named(label)} {mean_ranks[label]:.2f}" for label in order], 50)
        + "."
    )
    if difference:
        description += f" Critical difference {difference:.2f}."
    description += f" Not told apart: {'; '.join(joined)}." if joined else " All are told apart."
    return Chart(name, title, description, embedded({"layer": layers}, description, height))


def rank_ranges(ranges: Sequence[RankInterval], name: str, title: str) -> Chart | str:
    """Return rank intervals, best place first; a sentence in their place where there are fewer than two.

    Parameters
    ----------
    ranges : sequence of RankInterval
        One a method, see `fedbench.statistics.rank_intervals`.
    name, title : str
        Of the chart.
    """
    if len(ranges) < 2:
        return f"{title} cannot be drawn: it needs two methods or more, there are {len(ranges)}."
    order = sorted(ranges, key=lambda r: (r.rank, r.low, r.high, r.method))
    rows = [
        {"method": named(r.method), "rank": r.rank, "low": r.low, "high": r.high, "text": f"{r.low}–{r.high}"}
        for r in order
    ]
    top = max(r.high for r in order)
    x: Spec = {
        "field": "rank",
        "type": "quantitative",
        "scale": {"domain": [0.5, top + 0.5], "nice": False, "zero": False},
        "axis": {"title": "rank (1 is best)", "values": _whole(top), "format": "d"},
    }
    y: Spec = {
        "field": "method",
        "type": "nominal",
        "scale": {"domain": [row["method"] for row in rows]},
        "axis": {"title": None, "grid": True},
    }
    told = [f"{row['method']} {row['rank']} ({row['low']} to {row['high']})" for row in rows]
    how = "Descriptive, too few seeds for intervals: rank" if any(r.descriptive for r in order) else "Rank"
    description = f"{title}. {how} with the places that resampled seeds give: {listed(told, 50)}."
    spec = embedded(
        {
            "data": {"values": rows},
            "layer": [
                {
                    "mark": {"type": "rule", "strokeWidth": 3, "color": BLUE, "strokeCap": "round"},
                    "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y},
                },
                {"mark": {"type": "point", "filled": True, "size": 60, "style": "ink"}, "encoding": {"x": x, "y": y}},
                {
                    "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 11},
                    "encoding": {"x": {"value": "width"}, "y": y, "text": {"field": "text"}},
                },
            ],
        },
        description,
        20 * len(rows),
    )
    return Chart(name, title, description, spec)


def _whole(k: int) -> list[int]:
    """Return the ranks that an axis shows: all, or every so many with the first and the last."""
    step = max(1, -(-k // 12))
    return sorted({1, *(at for at in range(step, k, step) if min(at - 1, k - at) >= 0.75 * step), k})
