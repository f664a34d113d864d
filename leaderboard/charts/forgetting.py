"""Forgetting: which client lost what, and when, as a heat map of one run."""

from __future__ import annotations

import numpy as np
from fedbench.leaderboard.charts.chart import Chart, embedded, identifier, named
from fedbench.leaderboard.series import Series

from fedbench.outcome import Bits, Values

STEP = 16
"""Pixels of a client's row."""
LIMIT = 100
"""Points of accuracy at which the colour is full: all that there is."""


def heat_map(run: Series, label: str, task: str) -> Chart | str:
    """Return the change since each client's last visit as a client × round heat map, or a sentence that says why not.

    The colour of client k in round t is `fedbench.metrics.change_since_visit`: the accuracy of the global
    model on k's local test samples after round t minus that after the round in which k last took part before t, in
    points. The mean of a column is the backward transfer of its round. A dot marks the rounds in which the client
    takes part; before its first visit is over it has no colour. At the right stands the change in the last round.

    Parameters
    ----------
    run : Series
        One seed of one method.
    label, task : str
        Whose.
    """
    title = f"Forgetting of {named(label)}, seed {run.seed}"
    change = run.forgetting
    if change is None:
        return f"{title} cannot be drawn: the method has no global model, or no client takes part."
    seen = ~np.isnan(change)
    if not seen.any():
        return f"{title} cannot be drawn: no round comes after a client's first visit."
    clients = [k for k in range(change.shape[1]) if not run.held_out[k]]
    rows = [
        {"client": _client(k, run), **_stretches(change[:, k]), "visits": _rounds(run.sampled[:, k])} for k in clients
    ]
    last = [
        {"client": _client(k, run), "text": _signed(100 * change[-1, k])}
        for k in clients
        if not np.isnan(change[-1, k])
    ]
    ends = {k: 100 * float(change[-1, k]) for k in clients if not np.isnan(change[-1, k])}
    description = (
        f"{title}, on {named(task)}: {len(clients)} clients by {len(change)} rounds, change of the global model's "
        f"accuracy since the client last took part, in points. Over all clients and rounds the mean is "
        f"{_signed(100 * float(np.nanmean(change)))}, the largest loss {_signed(100 * float(np.nanmin(change)))}."
    )
    if ends:
        worst = min(ends, key=lambda k: ends[k])
        description += (
            f" In the last round {sum(v < 0 for v in ends.values())} clients are below their last visit; "
            f"client {worst} stands worst, at {_signed(ends[worst])}."
        )
    rounds = len(change)
    order = [row["client"] for row in rows]
    y = {
        "field": "client",
        "type": "ordinal",
        "scale": {"domain": order},
        "axis": {"title": "client (test samples)", "grid": False},
    }
    scale = {"domain": [0.5, rounds + 0.5], "nice": False, "zero": False}
    x = {
        "type": "quantitative",
        "scale": scale,
        "axis": {"title": "rounds", "grid": False, "tickCount": 5, "format": "d"},
    }
    colour = {
        "field": "change",
        "type": "quantitative",
        "scale": {"domain": [-LIMIT, LIMIT], "domainMid": 0, "range": "diverging", "interpolate": "lab"},
        "legend": {
            "title": "change since the last visit, points",
            "orient": "top",
            "gradientLength": 200,
            "gradientThickness": 10,
            "tickCount": 5,
            "format": "+d",
        },
    }
    spec = embedded(
        {
            "data": {"values": rows},
            "layer": [
                {
                    "transform": [
                        {"flatten": ["t", "n", "change"]},
                        {"calculate": "datum.t - 0.5", "as": "from"},
                        {"calculate": "datum.t + datum.n - 0.5", "as": "to"},
                    ],
                    "mark": {"type": "rect"},
                    "encoding": {
                        "x": {**x, "field": "from"},
                        "x2": {"field": "to"},
                        "y": y,
                        "color": colour,
                        "tooltip": [
                            {"field": "client", "title": "client"},
                            {"field": "t", "title": "from round", "type": "quantitative"},
                            {"field": "change", "title": "change, points", "type": "quantitative", "format": "+d"},
                        ],
                    },
                },
                {
                    "transform": [{"flatten": ["visits"]}],
                    "mark": {
                        "type": "point",
                        "style": "visit",
                        "shape": "circle",
                        "filled": True,
                        "size": 9 if rounds <= 120 else 4,
                    },
                    "encoding": {"x": {**x, "field": "visits"}, "y": y},
                },
                {
                    "data": {"values": last},
                    "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11},
                    "encoding": {"x": {"value": "width"}, "y": y, "text": {"field": "text"}},
                },
            ],
        },
        description,
        STEP * len(rows),
    )
    return Chart(identifier("forgetting", task, label, f"seed-{run.seed}"), title, description, spec)


def _stretches(change: Values) -> dict[str, list[int]]:
    """Return one client's changes in whole points, equal neighbours as one: first round, how many, and value."""
    found: dict[str, list[int]] = {"t": [], "n": [], "change": []}
    for t in np.flatnonzero(~np.isnan(change)):
        points = round(100 * float(change[t]))
        if found["t"] and found["t"][-1] + found["n"][-1] == t + 1 and found["change"][-1] == points:
            found["n"][-1] += 1
        else:
            for name, entry in (("t", int(t) + 1), ("n", 1), ("change", points)):
                found[name].append(entry)
    return found


def _rounds(sampled: Bits) -> list[int]:
    return [int(t) + 1 for t in np.flatnonzero(sampled)]


def _client(k: int, run: Series) -> str:
    return f"{k} ({run.sizes[k]})"


def _signed(points: float) -> str:
    text = f"{points:+.0f}".replace("-", "−")
    return "0" if text in ("+0", "−0") else text
