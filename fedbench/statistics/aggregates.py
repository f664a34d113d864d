"""One number for many tasks: mean, interquartile mean, optimality gap, performance profile; all for fixed tasks (Q2).

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021. They trim
or count cells, so with few tasks they would tell which task is which: they are computed from eight independent sources
on. Intervals resample seeds within tasks and need ten seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import trim_mean

from fedbench.statistics.grid import DIGITS, Floats, Grid, Key, PairingError
from fedbench.statistics.result import NotComputed, Result
from fedbench.statistics.sources import by_source
from fedbench.statistics.standings import ENOUGH_SEEDS, resampled_seeds

Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Aggregate(Result):
    """One aggregate of one method; n counts cells.

    Parameters
    ----------
    method, name : str
        Whose, and which: "mean", "iqm" or "optimality gap".
    value : float
        In the unit of the metric.
    interval : (float, float) or NotComputed
        95 % stratified percentile bootstrap over seeds, the tasks fixed.
    """

    method: str
    name: str
    value: float
    interval: Ends | NotComputed


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile(Result):
    """Performance profile of one method; n counts cells.

    Parameters
    ----------
    method : str
        Whose.
    thresholds : float64 (P,)
        τ, in the unit of the metric.
    shares : float64 (P,)
        Share of cells with a value above τ, or below where lower is better.
    band : float64 (2, P) or NotComputed
        Pointwise 95 % interval, as for `Aggregate`.
    """

    method: str
    thresholds: Floats
    shares: Floats
    band: Floats | NotComputed


@dataclass(frozen=True, kw_only=True)
class ImputedMean(Result):
    """A mean for reading only, with what was filled in; n counts cells that were measured.

    Parameters
    ----------
    value : float
        Mean over tasks of the mean over seeds.
    imputed : tuple of (task, seed)
        The cells that stand at the fill value: shown with the number, always.
    """

    value: float
    imputed: tuple[Key, ...]


def iqm(values: npt.ArrayLike) -> float:
    """Return the interquartile mean: the mean of the middle half, floor(n / 4) values being cut at each end.

    Examples
    --------
    >>> round(iqm([0, 0, 0.4, 0.5, 0.6, 1, 1, 1]), 9)
    0.625
    """
    return float(trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=None))


def optimality_gap(values: npt.ArrayLike, target: float = 1.0) -> float:
    """Return the mean of max(target − value, 0): how much is missing, with nothing for being beyond the target."""
    return float(np.maximum(target - np.asarray(values, dtype=np.float64), 0).mean())


def aggregate(grid: Grid, sources: Mapping[str, str], target: float = 1.0) -> tuple[Aggregate, ...] | NotComputed:
    """Return mean, interquartile mean and optimality gap of every method.

    Parameters
    ----------
    grid : Grid
        One metric. The gap is left out where lower is better.
    sources : mapping of task to str
        As in `by_source`.
    target : float
        Of the optimality gap, in the unit of the metric.
    """
    if (refused := _too_few(grid, sources)) is not None:
        return refused
    measures: dict[str, Callable[[Floats], Floats]] = {
        "mean": lambda cells: cells.mean(axis=-1),
        "iqm": lambda cells: np.asarray(trim_mean(cells, 0.25, axis=-1), dtype=np.float64),
    }
    if grid.direction == "higher":
        measures["optimality gap"] = lambda cells: np.maximum(target - cells, 0).mean(axis=-1)
    found = []
    for index, method in enumerate(grid.methods):
        for name, measure in measures.items():
            interval: Ends | NotComputed | None = _too_few_seeds(grid)
            if interval is None:
                low, high = np.quantile(measure(_resampled(grid, index)), [0.025, 0.975])
                interval = float(low), float(high)
            value = float(measure(grid.values[index].ravel()))
            found.append(
                Aggregate(
                    question="Q2",
                    n=grid.cells,
                    unit="cells",
                    method=method,
                    name=name,
                    value=value,
                    interval=interval,
                )
            )
    return tuple(found)


def performance_profiles(
    grid: Grid, sources: Mapping[str, str], thresholds: Sequence[float]
) -> tuple[Profile, ...] | NotComputed:
    """Return the share of cells beyond each threshold, for every method.

    Parameters
    ----------
    grid : Grid
        One metric.
    sources : mapping of task to str
        As in `by_source`.
    thresholds : sequence of float
        τ, ascending, in the unit of the metric.
    """
    if (refused := _too_few(grid, sources)) is not None:
        return refused
    levels = np.asarray(thresholds, dtype=np.float64)
    found = []
    for index, method in enumerate(grid.methods):
        cells = np.round(grid.values[index], DIGITS)[:, :, None]
        beyond = (cells > levels if grid.direction == "higher" else cells < levels).astype(np.float64)
        band: Floats | NotComputed | None = _too_few_seeds(grid)
        if band is None:
            times = [(chosen[:, :, None] == np.arange(len(grid.seeds))).sum(axis=1) for chosen in resampled_seeds(grid)]
            drawn = np.stack([taken @ on_task for taken, on_task in zip(times, beyond, strict=True)]).sum(axis=0)
            band = np.quantile(drawn / grid.cells, [0.025, 0.975], axis=0)
        found.append(
            Profile(
                question="Q2",
                n=grid.cells,
                unit="cells",
                method=method,
                thresholds=levels,
                shares=beyond.mean(axis=(0, 1)),
                band=band,
            )
        )
    return tuple(found)


def imputed_mean(values: Mapping[Key, float | None], fill: Mapping[str, float]) -> ImputedMean:
    """Return a method's mean over tasks with holes at a fill value: descriptive, and in no test.

    AMLB fills a failure with the score of a constant predictor; here that is the reference point ``majority``.

    Parameters
    ----------
    values : mapping of (task, seed) to float or None
        All planned cells; None is a hole.
    fill : mapping of task to float
        The value of a hole.

    Raises
    ------
    PairingError
        A task with a hole has no fill value, or nothing was measured.
    """
    holes = tuple(sorted(key for key, value in values.items() if value is None))
    if len(holes) == len(values):
        raise PairingError("no cell was measured; a mean of nothing but fill values is none.")
    if lacking := sorted({task for task, _ in holes} - fill.keys()):
        raise PairingError(f"no fill value for {', '.join(lacking)}, where a cell is missing; run `majority` there.")
    by_task: dict[str, list[float]] = {}
    for (task, _), value in sorted(values.items()):
        by_task.setdefault(task, []).append(fill[task] if value is None else value)
    mean = float(np.mean([np.mean(cells) for cells in by_task.values()]))
    return ImputedMean(question="Q2", n=len(values) - len(holes), unit="cells", value=mean, imputed=holes)


def _too_few(grid: Grid, sources: Mapping[str, str]) -> NotComputed | None:
    found = by_source(grid, sources)
    if not isinstance(found, NotComputed):
        return None
    return NotComputed(question="Q2", n=found.n, unit=found.unit, reason=found.reason)


def _too_few_seeds(grid: Grid) -> NotComputed | None:
    n = len(grid.seeds)
    if n >= ENOUGH_SEEDS:
        return None
    reason = f"not computed: {n} {'seed' if n == 1 else 'seeds'}; {ENOUGH_SEEDS} are needed"
    return NotComputed(question="Q2", n=n, unit="seeds", reason=reason)


def _resampled(grid: Grid, index: int) -> Floats:
    """Return the cells of a method in each bootstrap resample, float64 (9,999, T · S)."""
    drawn = [row[chosen] for row, chosen in zip(grid.values[index], resampled_seeds(grid), strict=True)]
    return np.round(np.concatenate(drawn, axis=1), DIGITS)
