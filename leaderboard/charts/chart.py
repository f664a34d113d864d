"""A chart as a declarative Vega-Lite spec, and how it becomes a static picture or an interactive one.

Specs are plain dictionaries, not Altair objects: Altair numbers its views and parameters over the life of the process,
so the same chart would have other bytes when another was made before it.

Nothing from a record stands in an expression, a field name or an address: names and numbers are data, and data are text
on the page. All charts are single views of ``width: container``, so one spec is right for a phone and for a desktop;
data colours keep a contrast of 3 on both backgrounds, and text, grid and paper come from `theme`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert
from fedbench.leaderboard import text
from fedbench.leaderboard.charts.picture import picture

Spec = dict[str, Any]

WIDTH = 720
"""Pixels of a static picture where nothing else is asked for."""

VEGA_LITE = "6.4"
"""The version that draws, in pictures and in pages; vl-convert carries it."""

# After Okabe and Ito, blue a shade lighter and purple a shade darker: told apart by colour-blind readers, and of a
# contrast of at least 3 against white and against the dark page. Never used without a shape, a dash or a name.
BLUE, VERMILION, GREEN, PURPLE = HUES = ("#2a84c6", "#d55e00", "#009e73", "#c2649a")
GREY = "#808891"
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2])
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first one comes with vl-convert
_FILE = re.compile(r"[a-z0-9_-]{1,250}")
_HASHED = re.compile(r".*-[0-9a-f]{16}")  # looks like what stands for another name
_LONGEST = 80  # characters of a name that are drawn or read out; the tables have the whole

_INKS = {  # paper, ink, soft ink, grid
    False: ("#ffffff", "#1c2126", "#545d68", "#e4e7eb"),
    True: ("#181c21", "#e8eaed", "#a6afba", "#323941"),
}
# Loss, nothing, gain: the middle is the page.
_DIVERGING = {
    False: ["#b34700", "#e8a673", "#eceef0", "#7db4d8", "#00588f"],
    True: ["#ff9d5c", "#a85a1f", "#333b44", "#2a6d9c", "#6cc0ff"],
}


@dataclass(frozen=True)
class Chart:
    """One chart.

    Parameters
    ----------
    name : str
        What its file and its element are called, see `identifier`; any other name is made one.
    title : str
        One line.
    description : str
        What is seen, with the numbers that matter: the alternative for those who do not see it.
    spec : dict
        Vega-Lite, data included; no colours of the page, which `theme` has.
    """

    name: str
    title: str
    description: str
    spec: Spec

    def __post_init__(self) -> None:
        for name in ("title", "description"):  # whatever a caller wove in, a control character breaks the picture
            object.__setattr__(self, name, text.printable(getattr(self, name)))
        if not _FILE.fullmatch(self.name):
            object.__setattr__(self, "name", identifier(self.name))

    def svg(self, width: int = WIDTH) -> str:
        """Return the chart as a picture: the same bytes for the same chart and the same version of vl-convert.

        It follows the colours of the page it stands in, light or dark; the paper itself is transparent.

        Parameters
        ----------
        width : int, pixels
            Of the whole picture; texts keep their size.
        """
        light, dark = (
            vl_convert.vegalite_to_svg(
                {**self.spec, "width": width, "config": theme(night)}, vl_version=VEGA_LITE, allowed_base_urls=[]
            )
            for night in (False, True)
        )
        return picture(light, dark, label=f"{self.title}. {self.description}", name=f"{self.name}-{width}")


def theme(dark: bool) -> Spec:
    """Return the Vega-Lite config of a light or a dark page: what a page gives vegaEmbed as ``config``."""
    paper, ink, soft, grid = _INKS[dark]
    return {
        "background": None,
        "font": FONT,
        "aria": False,  # one description for the whole chart; not one for each of a thousand marks
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft,
            "titleColor": ink,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "gridColor": grid,
            "domainColor": soft,
            "tickColor": soft,
            "labelLimit": {"expr": "width < 420 ? 110 : 230"},  # names at the left leave room for what they name
            "labelFlush": False,
            "titlePadding": 8,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "labelColor": ink,
            "titleColor": soft,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 160,
            "titleLimit": 280,
            "symbolStrokeColor": soft,
        },
        "point": {"opacity": 1},
        "range": {"diverging": _DIVERGING[dark]},
        "text": {"color": ink, "fontSize": 12, "font": FONT},
        "style": {
            "halo": {"color": paper, "stroke": paper, "strokeWidth": 3, "strokeJoin": "round"},
            "soft": {"color": soft},
            "ink": {"color": ink, "opacity": 1},
            "zero": {"color": ink, "strokeWidth": 1},
            "thin": {"color": soft, "strokeWidth": 1},
            "visit": {"color": ink, "opacity": 0.6},
        },
    }


def embedded(view: Spec, description: str, height: int) -> Spec:
    """Return a view as a whole spec: as wide as its container, with the texts inside that width."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": text.printable(description),
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 4,
        **view,
    }


def identifier(*parts: str) -> str:
    """Return a file-safe name: other parts never give the same, though one may be named after two others.

    Examples
    --------
    >>> identifier("curves", "blood-mini", "rounds")
    'curves_blood-mini_rounds'
    >>> identifier("../a b")
    'a-b-2c2c791a0618990c'
    """
    return "_".join(map(_safe, parts))


def _safe(part: str) -> str:
    safe = re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")[:60]
    return safe if safe == part and not _HASHED.fullmatch(part) else f"{safe or 'x'}-{digest(part)}"


def digest(name: str) -> str:
    """Return 16 hexadecimal digits that stand for a name: enough that nobody finds another with the same."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]


def named(label: str) -> str:
    """Return a name as charts print it: `text.printable`, cut where it is long."""
    label = " ".join(text.printable(label).split())
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names in a sentence, the first ones and how many more."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def reasons(pairs: Iterable[tuple[str, str]]) -> str:
    """Return in a sentence what is missing and why, as pairs of name and reason: equal reasons once, after their names.

    Examples
    --------
    >>> reasons([("a", "missing"), ("b", "failed: loss is NaN"), ("c", "missing")])
    'a, c (missing); b (failed: loss is NaN)'
    """
    groups: dict[str, list[str]] = {}
    for name, reason in pairs:
        groups.setdefault(reason, []).append(named(name))
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in groups.items())


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions moved as little as it takes to stand at least ``gap`` apart between ``low`` and ``high``.

    In the order given; where there is no room for all, they stand evenly.

    Examples
    --------
    >>> spread([0, 50, 52], 10, 0, 100)
    [0.0, 46.0, 56.0]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    if len(order) > 1 and gap * (len(order) - 1) > high - low:
        gap = (high - low) / (len(order) - 1)
    # Blocks of touching labels, each centred on what its members ask for.
    blocks: list[tuple[float, list[int]]] = []
    for i in order:
        block = [i]
        while True:
            start = sum(positions[j] - gap * at for at, j in enumerate(block)) / len(block)
            start = min(max(start, low), high - gap * (len(block) - 1))
            if not blocks or blocks[-1][0] + gap * len(blocks[-1][1]) <= start:
                break
            block = blocks.pop()[1] + block
        blocks.append((start, block))
    placed = {j: start + gap * at for start, block in blocks for at, j in enumerate(block)}
    return [placed[i] for i in range(len(positions))]


def between(values: Iterable[float], step: float, bounds: tuple[float, float] | None = None) -> list[float]:
    """Return the ends of an axis: whole steps around the values, within the bounds."""
    found = list(values)
    low, high = step * (min(found) // step), -step * (-max(found) // step)
    if bounds:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return [low, high] if low < high else [low - step, high + step]
