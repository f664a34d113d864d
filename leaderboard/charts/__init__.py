"""Charts: plain data in, a `Chart` out, or a sentence that says why it cannot be drawn.

Where to find what: `tradeoff`, `curves`, `forgetting`, `clients`, `ranks`, `differences`. What all share is
`chart`, and `javascript` is the script that makes them interactive.
"""

from __future__ import annotations

from fedbench.leaderboard.charts.chart import Chart, theme
from fedbench.leaderboard.charts.clients import gains, strips
from fedbench.leaderboard.charts.curves import accuracy_curves, retrogress
from fedbench.leaderboard.charts.differences import forest
from fedbench.leaderboard.charts.forgetting import heat_map
from fedbench.leaderboard.charts.javascript import javascript
from fedbench.leaderboard.charts.ranks import critical_difference, rank_ranges
from fedbench.leaderboard.charts.tradeoff import tradeoff, tradeoffs

__all__ = [
    "Chart",
    "accuracy_curves",
    "critical_difference",
    "forest",
    "gains",
    "heat_map",
    "javascript",
    "rank_ranges",
    "retrogress",
    "strips",
    "theme",
    "tradeoff",
    "tradeoffs",
]
