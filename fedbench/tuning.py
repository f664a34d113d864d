"""Tuning: a method's hyperparameters are searched with a budget that is the same for all, on validation data alone.

A trial is an ordinary cell, of the task as `Task.evaluated_on` ``"validation"`` makes it. So no test sample is trained
on or evaluated, and records, checkpoints and worker processes are those of any run. The first trial is the method's
defaults. The search is deterministic: trials are proposed in batches of fixed sizes, and scores are told in the order
of the proposals. To resume is to search again, with the records that are there.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbench import __version__, durable, records, registry
from fedbench.cell import Cell, TrialScore, Tuned, load_suite, suite_names
from fedbench.errors import FedBenchError, SpecError, unknown
from fedbench.executors import Event
from fedbench.method import Range
from fedbench.metrics import METRICS, Metric
from fedbench.schema import identity_hash
from fedbench.seeds import Streams
from fedbench.task import Task, Track

STARTUP = 10
"""Trials of the first batch: the defaults, and random ones from which the sampler learns."""
BATCH = 5
"""Trials of each later batch, proposed at once. It is no option: the result must not depend on the number of jobs."""
DIGITS = 3
"""Significant digits of a proposed number: more would promise what a search of this size cannot know."""

Values = dict[str, Any]
Run = Callable[[Sequence[Cell]], Iterable[Event]]


@dataclass(frozen=True)
class Search:
    """What is searched, and by what; made by `search`.

    Parameters
    ----------
    task : Task
        The task, as it is evaluated on test data.
    method : str
        Registered name.
    track : {"faithful", "robust"}
        What a seed redraws.
    seed : int
        Base seed of the cells and of the search.
    budget : int
        Trials.
    metric : Metric
        What is optimised.
    """

    task: Task
    method: str
    track: Track
    seed: int
    budget: int
    metric: Metric

    @property
    def space(self) -> tuple[Range, ...]:
        """The ranges that the method declares."""
        ranges: tuple[Range, ...] = registry.methods.get(self.method).space
        return ranges

    @property
    def defaults(self) -> Values:
        """The method's hyperparameters, none of them changed."""
        values: Values = registry.methods.get(self.method)().hyperparameters()
        return values

    @property
    def worst(self) -> float:
        """What a failed trial counts as: the worst value that the metric can have."""
        bound = self.metric.bounds[0 if self.metric.direction == "higher" else 1]
        return math.inf if bound is None else bound

    def cell(self, values: Values) -> Cell:
        """Return the cell that tries some values of the searched hyperparameters."""
        method = registry.methods.get(self.method).configure(self.method, values)
        return Cell(self.task.but(evaluated_on="validation"), self.method, method, self.track, self.seed)

    def better(self, score: float, other: float) -> bool:
        """Say whether a score is better than another."""
        return score > other if self.metric.direction == "higher" else score < other


@dataclass(frozen=True)
class Trial:
    """One trial, once it is known what it gave.

    Parameters
    ----------
    number : int
        Counted from 0, the defaults.
    values : mapping of str to value
        The searched hyperparameters.
    score : float
        Of the metric; the worst possible, if it failed.
    reason : str
        Why it failed; empty if it did not.
    """

    number: int
    values: Values
    score: float
    reason: str = ""


def search(
    task: Task, method: str, *, budget: int, seed: int = 0, metric: str | None = None, track: Track = "faithful"
) -> Search:
    """Return a search, checked.

    Parameters
    ----------
    task : Task
        What to tune for.
    method : str
        Registered name.
    budget : int, >= 2
        Trials, the defaults among them.
    seed : int, >= 0
        One that no built-in suite evaluates, so that no board shows the draws that chose the hyperparameters.
    metric : str, optional
        What to optimise. If not given: the mean accuracy of personal models for a personalised method, otherwise what
        ranks the task.
    track : {"faithful", "robust"}
        On the faithful track the seed draws the initial weights and the order of the batches alone.

    Raises
    ------
    SpecError
        A name is unknown, a number is out of range, or the method has nothing to tune.
    """
    kind = registry.methods.get(method)
    if not kind.space:
        raise SpecError(f"{method} has nothing to tune: it declares no search space (Method.space).")
    if track not in ("faithful", "robust"):
        raise unknown("track", track, ("faithful", "robust"))
    if budget < 2:
        raise SpecError(f"budget: must be at least 2, as the first trial is the defaults, got {budget}")
    if seed < 0:
        raise SpecError(f"seed: must not be negative, got {seed}")
    if using := [name for name in suite_names() if seed in load_suite(name).seeds]:
        raise SpecError(
            f"seed: {seed} is one that the suite {using[0]} evaluates; tune with one that no suite has, such as 0."
        )
    name = metric or ("personal_accuracy" if kind.family == "personalised" else task.primary)
    fit = [m.name for m in METRICS.values() if m.unit == "fraction" and m.direction != "none" and None not in m.bounds]
    if name not in fit:
        raise unknown("metric to tune for", name, fit)
    found = Search(task, method, track, seed, budget, METRICS[name])
    for item in found.space:
        _check(item, found)
    return found


def _check(item: Range, search: Search) -> None:
    """Refuse a range that cannot be searched; it is the method's author who has to mend it."""
    where = f"{search.method}: the range of {item.name!r} in Method.space"
    if item.name not in search.defaults:
        raise unknown(f"hyperparameter of {search.method} in Method.space:", item.name, search.defaults)
    ends = item.values or (item.low, item.high)
    if None in ends or not all(isinstance(end, str | int | float) for end in ends):
        raise SpecError(f"{where} needs low and high, or values that are text, numbers or truth values.")
    low, high = item.low or 0, item.high or 0
    if not item.values and low >= high:
        raise SpecError(f"{where} goes from {low} to {high}; low must be below high.")
    if not item.values and item.log and low <= 0:
        raise SpecError(f"{where} is searched by its logarithm, so low must be positive, got {low}.")
    for end in ends:
        search.cell({item.name: end})  # out of the range that the hyperparameter itself allows: this says so


def tune(search: Search, results: Path, run: Run, *, watch: Callable[[Trial], None] = lambda trial: None) -> Tuned:
    """Run a search and return what it found.

    Parameters
    ----------
    search : Search
        What to search.
    results : Path
        Where the cells' records stand; what is there is not run again.
    run : callable
        Runs cells and yields what happens to them, such as `fedbench.executors.run_cells`.
    watch : callable
        Called with each trial as soon as it is known.

    Raises
    ------
    SpecError
        The metric is not defined for this method and task, or optuna is needed and not installed.
    FedBenchError
        The machine failed, or every trial did.
    """
    whole = _configurations(search)
    sampler: _Whole | _TPE = _TPE(search) if whole is None else _Whole(whole)
    granted = search.budget if whole is None else len(whole)
    known: dict[Cell, tuple[float, str]] = {}
    trials: list[Trial] = []
    while left := granted - len(trials):
        proposals = sampler.ask(left)
        batch = _batch(search, results, run, watch, known, proposals, len(trials))
        sampler.tell([trial.score for trial in batch])
        trials += batch
    done = [trial for trial in trials if not trial.reason]
    if not done:
        raise FedBenchError(
            f"{search.method} on {search.task.name}: all {len(trials)} trials failed, so there is nothing to choose "
            f"from; the defaults: {trials[0].reason}"
        )
    best = done[0]
    for trial in done:
        best = trial if search.better(trial.score, best.score) else best
    return _tuned(search, sampler.name, trials, best, len(known))


def _batch(
    search: Search,
    results: Path,
    run: Run,
    watch: Callable[[Trial], None],
    known: dict[Cell, tuple[float, str]],
    proposals: Sequence[Values],
    first: int,
) -> list[Trial]:
    """Return the trials of some proposals, in their order; what is not known yet is run."""
    cells = [search.cell(values) for values in proposals]
    numbers = range(first, first + len(cells))

    def told(which: Iterable[int]) -> list[Trial]:
        return [Trial(numbers[i], proposals[i], *known[cells[i]]) for i in which]

    def tell(cell: Cell) -> None:
        for trial in told(i for i, other in enumerate(cells) if other == cell):
            watch(trial)

    new = [cell for cell in dict.fromkeys(cells) if cell not in known]
    for cell in (cell for cell in dict.fromkeys(cells) if cell in known):
        tell(cell)  # proposed before: the record of then answers
    for cell, score, reason in _scores(search, new, results, run):
        known[cell] = score, reason
        tell(cell)
    return told(range(len(cells)))


def _scores(search: Search, cells: Sequence[Cell], results: Path, run: Run) -> Iterator[tuple[Cell, float, str]]:
    """Yield for each cell its score, and the reason where it failed, as soon as it is known."""
    done = {cell for cell in cells if records.state(cell.folder(results))[0] == "done"}
    for cell in (cell for cell in cells if cell in done):
        yield cell, _score(search, cell, results), ""
    for event in run([cell for cell in cells if cell not in done]):
        if event.state == "failed" and event.machine:
            raise FedBenchError(f"{event.cell}: {event.reason}; the search goes on where it was when it is run again.")
        if event.state == "failed":
            yield event.cell, search.worst, event.reason or "no reason given"
        elif event.state == "done":
            yield event.cell, _score(search, event.cell, results), ""


def _score(search: Search, cell: Cell, results: Path) -> float:
    score = search.metric.compute(records.Record.open(cell.folder(results)).outcome)
    if score is None:
        raise SpecError(
            f"{search.metric.name} is not defined for {search.method} on validation data of {search.task.name}; "
            "name another metric with --metric."
        )
    return score


def _tuned(search: Search, sampler: str, trials: Sequence[Trial], best: Trial, configurations: int) -> Tuned:
    method = search.cell(best.values).method
    return Tuned(
        fedbench=__version__,
        sampler=sampler,
        method=search.method,
        method_version=method.version,
        task=search.task.name,
        task_hash=identity_hash(search.task.identity()),
        track=search.track,
        seed=search.seed,
        metric=search.metric.name,
        budget=search.budget,
        trials=len(trials),
        configurations=configurations,
        failed=sum(bool(trial.reason) for trial in trials),
        default_score=trials[0].score,
        best_score=best.score,
        # TOML has no null; what is None was not searched, so it is None by default and may be left out.
        hyperparameters={name: value for name, value in method.hyperparameters().items() if value is not None},
        searched={item.name: _described(item) for item in search.space},
        trial=tuple(
            TrialScore(hyperparameters=trial.values, score=trial.score, failed=bool(trial.reason)) for trial in trials
        ),
    )


def _described(item: Range) -> dict[str, Any]:
    where = {"values": item.values} if item.values else {"low": item.low, "high": item.high, "log": item.log}
    return {**where, "source": item.source}


# --- who proposes -----------------------------------------------------------------------------------------------------


def _start(search: Search) -> Values:
    """Return the first trial: the defaults of what is searched."""
    return {item.name: search.defaults[item.name] for item in search.space}


def _configurations(search: Search) -> list[Values] | None:
    """Return the defaults and every other configuration of a space; None where they are more than the budget."""
    start, axes = _start(search), {item.name: _axis(item, search) for item in search.space}
    if None in axes.values() or math.prod(len(axis or ()) for axis in axes.values()) > search.budget:
        return None
    every = (
        dict(zip(axes, values, strict=True)) for values in itertools.product(*(axis or () for axis in axes.values()))
    )
    found = [start, *(values for values in every if values != start)]
    return found if len(found) <= search.budget else None


def _axis(item: Range, search: Search) -> Sequence[Any] | None:
    """Return all values of a range; None for a continuous one."""
    if item.values:
        return item.values
    if _is_whole(search.defaults[item.name]):
        return range(int(item.low or 0), int(item.high or 0) + 1)
    return None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Whole:
    """Proposes every configuration of a space that has no more of them than the budget allows."""

    name = "every configuration of the space"

    def __init__(self, configurations: list[Values]) -> None:
        self._configurations = configurations

    def ask(self, left: int) -> list[Values]:
        return self._configurations

    def tell(self, scores: Sequence[float]) -> None:
        """Nothing is learned: all is tried."""


class _TPE:
    """Proposes by a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), as optuna has it."""

    def __init__(self, search: Search) -> None:
        try:
            import optuna
        except ImportError:
            raise SpecError('tuning needs optuna, which is not installed; `pip install "fedbench[tune]"`.') from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # what becomes of a trial, the caller tells
        self.name = f"optuna {optuna.__version__}, TPE"
        self._search, self._start = search, _start(search)
        stream = Streams(search.seed).rng("tuning", task=search.task.name, method=search.method)
        sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=int(stream.integers(2**32)))
        self._study = optuna.create_study(
            sampler=sampler, direction="maximize" if search.metric.direction == "higher" else "minimize"
        )
        self._distributions = {item.name: self._distribution(item) for item in search.space}
        self._asked: list[Any] = []
        self._begun = False

    def _distribution(self, item: Range) -> Any:
        from optuna import distributions

        if item.values:
            return distributions.CategoricalDistribution(item.values)
        low, high = item.low or 0, item.high or 0
        if _is_whole(self._start[item.name]):
            return distributions.IntDistribution(int(low), int(high), log=item.log)
        return distributions.FloatDistribution(low, high, log=item.log)

    def ask(self, left: int) -> list[Values]:
        """Return the next batch, of ``left`` proposals at most."""
        size = min(left, BATCH if self._begun else STARTUP)
        proposals: list[Values] = []
        if not self._begun:
            self._begun = True
            proposals.append(self._start)
            if all(_within(item, self._start[item.name]) for item in self._search.space):
                self._study.enqueue_trial(self._start)  # so that the sampler learns from it, too
                self._asked.append(self._study.ask(self._distributions))
            else:
                self._asked.append(None)
        while len(proposals) < size:
            trial = self._study.ask(self._distributions)
            self._asked.append(trial)
            proposals.append({item.name: _rounded(trial.params[item.name], item) for item in self._search.space})
        return proposals

    def tell(self, scores: Sequence[float]) -> None:
        """Take in the scores of the batch, in the order of its proposals."""
        for trial, score in zip(self._asked, scores, strict=True):
            if trial is not None:
                self._study.tell(trial, score)
        self._asked = []


def _within(item: Range, value: Any) -> bool:
    if item.values:
        return value in item.values
    return bool((item.low or 0) <= value <= (item.high or 0))


def _rounded(value: Any, item: Range) -> Any:
    """Return a number with `DIGITS` significant digits, not beyond an end of its range; anything else as it is.

    Examples
    --------
    >>> _rounded(0.0123456, Range("mu", 0.001, 1.0)), _rounded(0.99999, Range("mu", 0.0, 0.9999))
    (0.0123, 0.9999)
    """
    if not isinstance(value, float) or item.values:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), float(item.low or 0)), float(item.high or 0))


# --- the file ---------------------------------------------------------------------------------------------------------


def write(tuned: Tuned, path: Path) -> None:
    """Write what a search found as a file that a suite can name; equal searches give equal bytes."""
    durable.write_atomic(path, as_toml(tuned))


def as_toml(tuned: Tuned) -> str:
    """Return what a search found as TOML."""
    values = tuned.model_dump()
    tables = {name: values.pop(name) for name in ("hyperparameters", "searched", "trial")}
    lines = [f"# Found by `{tuned.command}`, on validation data alone."]
    lines += [f"{_key(name)} = {_value(value)}" for name, value in values.items()]
    for table in ("hyperparameters", "searched"):
        lines += ["", f"[{table}]", *(f"{_key(name)} = {_value(value)}" for name, value in tables[table].items())]
    for trial in tables["trial"]:
        lines += ["", "[[trial]]", *(f"{_key(name)} = {_value(value)}" for name, value in trial.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else _value(name)


def _value(value: Any) -> str:
    """Return a value as TOML writes it on one line.

    Examples
    --------
    >>> _value({"log": True, "values": (0.1, "head")})
    '{ log = true, values = [0.1, "head"] }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # strings of JSON, which leaves one control character as it is
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items()) + " }"
    return "[" + ", ".join(_value(item) for item in value) + "]"
