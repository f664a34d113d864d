"""A forest plot of differences in plain characters, for a terminal of 40 columns or more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedbench.statistics import Interval

_FIGURES = 24  # columns of "+1.15 [-0.40, +1.91]" and a gap
_PLOT = 16  # the fewest columns of the plot itself


def forest(rows: Sequence[tuple[str, Interval]], margin: float, width: int) -> list[str]:
    """Return lines: a scale in points, then a row for each difference.

    ``o`` is the mean, ``(---)`` its interval, ``|`` no difference, ``:`` the margin on both sides. A name that does not
    fit stands on a line of its own.

    Parameters
    ----------
    rows : sequence of (str, Interval)
        What it is about, and the difference as a fraction.
    margin : float
        Largest difference that counts as none, a fraction.
    width : int
        Columns.
    """
    longest = max(len(name) for name, _ in rows)
    indent = min(longest, max(6, width - _PLOT - _FIGURES - 1))
    columns = max(_PLOT, width - indent - _FIGURES - 1)
    ends = [end * 100 for _, of in rows for end in (of.mean, of.low, of.high) if end is not None]
    low, high = min(*ends, -100 * margin), max(*ends, 100 * margin)
    pad = 0.04 * (high - low)
    low, high = low - pad, high + pad

    def column(points: float) -> int:
        return min(columns - 1, max(0, round((points - low) / (high - low) * (columns - 1))))

    lines = [_scale(low, high, columns, indent, column)]
    for name, of in rows:
        plot = [" "] * columns
        for points, mark in ((-100 * margin, ":"), (100 * margin, ":"), (0.0, "|")):
            plot[column(points)] = mark
        figures = f"{of.mean * 100:+.2f}"
        if of.low is not None and of.high is not None:
            start, stop = column(of.low * 100), column(of.high * 100)
            plot[start : stop + 1] = "-" * (stop + 1 - start)
            plot[start], plot[stop] = "(", ")"
            figures += f" [{of.low * 100:+.2f}, {of.high * 100:+.2f}]"
        plot[column(of.mean * 100)] = "o"
        if len(name) > indent:
            lines.append(name)
        label = name if len(name) <= indent else ""
        lines.append(f"{label:<{indent}} {''.join(plot)}  {figures}")
    return lines


def _scale(low: float, high: float, columns: int, indent: int, column: object) -> str:
    """Return the line of round numbers above the plot, each centred over its column."""
    assert callable(column)
    step = _step((high - low) / max(2, columns // 10))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    line = [" "] * (indent + 1 + columns + _FIGURES)
    taken = -1
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        mark = f"{index * step:+.{digits}f}" if index else "0"
        start = max(0, indent + 1 + column(index * step) - len(mark) // 2)
        if start > taken:
            line[start : start + len(mark)] = mark
            taken = start + len(mark)
    text = "".join(line[: indent + 1 + columns]).rstrip()
    return f"{text:<{indent + 1 + columns}}  points"


def _step(at_least: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= at_least * (1 - 1e-9))
