"""Who beats whom, cell by cell (Q2): win rates, and Bradley–Terry ratings where they exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from fedbench.statistics.grid import DIGITS, Floats, Grid
from fedbench.statistics.result import NotComputed, Result

ANCHOR = 1000.0
"""Rating of the reference."""

_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Ratings(Result):
    """Bradley–Terry ratings; n counts cells.

    Parameters
    ----------
    ratings : mapping of method to float
        On the scale of Elo: 400 points are odds of ten to one; the reference stands at 1000.
    """

    ratings: Mapping[str, float]


def wins(grid: Grid) -> Floats:
    """Return in how many cells the row's method beats the column's, float64 (k, k); a tie is half a win."""
    cells = grid.values.reshape(len(grid.methods), -1)
    signs = np.sign(np.round(cells[:, None] - cells[None], DIGITS)) * (1 if grid.direction == "higher" else -1)
    table: Floats = ((signs + 1) / 2).sum(axis=2)
    np.fill_diagonal(table, 0)
    return table


def bradley_terry(grid: Grid, reference: str) -> Ratings | NotComputed:
    """Return Bradley–Terry ratings, anchored at a reference.

    On a full table that is a monotone transform of the win rate with a scale; it ignores by how much a cell was won.
    Not computed where a group of methods wins every cell against all others: their estimate is infinite.

    Parameters
    ----------
    grid : Grid
        The board's primary metric.
    reference : str
        The method whose rating is 1000.
    """
    table = wins(grid)
    groups, labels = connected_components(table > 0, connection="strong")
    if groups > 1:
        # A group whose members never lost a point to the others: nobody outside it has an edge into it.
        top = next(g for g in range(groups) if not (table[labels != g][:, labels == g] > 0).any())
        names = ", ".join(name for name, label in zip(grid.methods, labels, strict=True) if label == top)
        reason = f"not computed: {names} won every cell against all others, so their rating has no upper bound"
        return NotComputed(question="Q2", n=grid.cells, unit="cells", reason=reason)
    strengths = log_strengths(table)
    points = 400 / np.log(10) * (strengths - strengths[grid.methods.index(reference)]) + ANCHOR
    ratings = dict(zip(grid.methods, points.tolist(), strict=True))
    return Ratings(question="Q2", n=grid.cells, unit="cells", ratings=ratings)


def log_strengths(table: npt.ArrayLike) -> Floats:
    """Return the maximum-likelihood log-strengths of a table of wins, mean zero.

    P(i beats j) = s_i / (s_i + s_j); Newton's method on the concave log-likelihood, no step longer than one, until
    every method's expected wins are its wins to 10⁻⁹. The table must be strongly connected.

    Parameters
    ----------
    table : array of shape (k, k)
        Wins of the row over the column.

    Raises
    ------
    ValueError
        There is no maximum: some group of methods won everything.

    Examples
    --------
    >>> strengths = log_strengths([[0, 3], [1, 0]])
    >>> round(float(strengths[0] - strengths[1]), 6)  # ln 3
    1.098612
    """
    won = np.asarray(table, dtype=np.float64)
    if connected_components(won > 0, connection="strong")[0] > 1:
        raise ValueError("some group of methods won everything against all others; it has no rating")
    met = won + won.T
    logs: Floats = np.zeros(len(won))
    for _ in range(_STEPS):
        chance = expit(logs[:, None] - logs[None])
        missing = won.sum(axis=1) - (met * chance).sum(axis=1)
        if np.abs(missing).max() < 1e-9:
            return logs
        weights = met * chance * chance.T
        curvature = np.diag(weights.sum(axis=1)) - weights
        step = np.linalg.lstsq(curvature, missing, rcond=1e-14)[0]
        logs = logs + step / max(1.0, float(np.abs(step).max()))
        logs -= logs.mean()
    raise ValueError("the ratings do not converge; the table of wins is hardly connected")
