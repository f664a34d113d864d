"""From a board to statistics: who can be told from whom, by how much, and where that is not known, one sentence.

Two ways in, both on one metric (the one that ranks, if none is named):

* `standings`: all methods of a board, on each task and across them, for a page. Nothing is refused: what cannot take
  part is in `Standing.left_out` with a sentence, and what cannot be computed is a `NotComputed` with its reason.
  Everything is computed when it is asked for: `Standing.grid`, `.against` (differences from the reference, Holm),
  `.top` (the methods that share rank 1), `.ranks` (rank intervals), `.agreement` (stability of the order),
  `.sources` (what says something about new tasks, or why nothing does).
* `contrast`: a few methods that somebody named, against another. It refuses holes and cells that are not paired.

`models` compares two concrete models, which says nothing about their methods. Sentences for all results are in
`fedbench.leaderboard.sentences`.

A method is known by `name_of` its row: its label, or ``fedprox[tuned]`` where its hyperparameters were tuned and so
differ between tasks. On the faithful track every test is a `NotComputed`: all seeds share one partition and one
schedule. Differences are fractions, not points; a lower-is-better metric keeps its sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from fedbench.leaderboard.board import Board, CellResult, Row, TaskBoard

from fedbench.errors import RecordError, SpecError, unknown
from fedbench.metrics import METRICS, Metric, global_right
from fedbench.records import Record
from fedbench.schema import identity_hash
from fedbench.statistics import (
    Answers,
    Grid,
    NotComputed,
    PairingError,
    Sources,
    Value,
    against_reference,
    by_source,
    crossed_bootstrap,
    holm,
    mcnemar,
    rank_intervals,
    split_half,
    top_group,
)
from fedbench.statistics.comparisons import Comparison, SignFlip
from fedbench.statistics.grid import Direction, Key
from fedbench.statistics.result import Unit
from fedbench.statistics.standings import Agreement, RankInterval, TopGroup
from fedbench.statistics.two_models import CrossedBootstrap, McNemar

REFERENCE = "fedavg"
"""The method that all others are compared with, fixed before anything was run."""

FAITHFUL = "not computed: on the faithful track all seeds share one partition and one client schedule"
"""Why nothing is tested there."""

_SHOWN = 5  # cells that a sentence lists
_WITHOUT = "without"
_RUN = "run the suite again (only missing cells are made)"


@dataclass(frozen=True, eq=False, kw_only=True)
class Standing:
    """All methods of a board by one metric, on one task or across several; each statistic is computed when asked for.

    Parameters
    ----------
    tasks : tuple of str
        What it is about: one task, or all.
    metric : Metric or None
        By what; None where no metric is known to rank, and then nothing is computed.
    track : {"faithful", "robust"}
        What a seed redraws.
    margin : float
        Largest difference that counts as none, a fraction.
    reference : str
        The method that all others are compared with.
    grid : Grid or NotComputed
        The methods without a hole, paired.
    left_out : mapping of method to str
        Why a method takes part in nothing here: ``in no test: heart/fedprox/seed-3 failed: loss is NaN``.
    notes : tuple of str
        What a reader must know besides, such as seeds that were left out.
    source_of : mapping of task to str
        The independent source of its data.
    """

    tasks: tuple[str, ...]
    metric: Metric | None
    track: Literal["faithful", "robust"]
    margin: float
    reference: str
    grid: Grid | NotComputed
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptive(self) -> bool:
        """Whether intervals describe these runs only, and nothing is tested."""
        return self.track == "faithful"

    @cached_property
    def against(self) -> tuple[Comparison, ...] | NotComputed:
        """Every other method against the reference, Holm over them; by name."""
        if isinstance(self.grid, NotComputed):
            return self.grid
        if self.reference not in self.grid.methods:
            why = self.left_out.get(self.reference, f"{self.reference} is not on this board")
            return _none("cells", self.grid.cells, f"not computed: no difference from {self.reference}: {why}")
        if len(self.grid.methods) < 2:
            return _none("cells", self.grid.cells, "not computed: 1 method; 2 are needed")
        return _told(against_reference(self.grid, self.reference, self.margin), self.track)

    @cached_property
    def top(self) -> TopGroup | NotComputed:
        """The methods that no test separates from the one with the best mean."""
        if isinstance(self.grid, NotComputed):
            return self.grid
        return _none("cells", self.grid.cells, FAITHFUL) if self.descriptive else top_group(self.grid)

    @cached_property
    def ranks(self) -> tuple[RankInterval, ...] | NotComputed:
        """Each method's place and its bootstrap interval, best first; marked where only descriptive."""
        if isinstance(self.grid, NotComputed):
            return self.grid
        found = rank_intervals(self.grid)
        if isinstance(found, NotComputed) or not self.descriptive:
            return found
        return tuple(replace(place, descriptive=True) for place in found)

    @cached_property
    def agreement(self) -> Agreement | NotComputed:
        """How far two halves of the seeds order the methods alike."""
        return self.grid if isinstance(self.grid, NotComputed) else split_half(self.grid)

    @cached_property
    def sources(self) -> Sources | NotComputed:
        """The scores by independent source of data, where there are enough to speak of a new task (Q3)."""
        if isinstance(self.grid, NotComputed):
            return replace(self.grid, question="Q3")
        return by_source(self.grid, self.source_of)


@dataclass(frozen=True, eq=False)
class Standings:
    """A board's `Standing` on each task, and across all of them.

    Parameters
    ----------
    tasks : mapping of task to Standing
        In the order of the board, each by the metric that ranks it or by the one named.
    across : Standing
        All tasks together; nothing is computed where they are ranked by different metrics and none was named.
    """

    tasks: Mapping[str, Standing]
    across: Standing


@dataclass(frozen=True, eq=False, kw_only=True)
class Contrast:
    """Methods that somebody named against another; made by `contrast`.

    Parameters
    ----------
    metric : Metric
        By what.
    track : {"faithful", "robust"}
        On the faithful track every test is a `NotComputed`.
    margin : float
        Largest difference that counts as none, a fraction.
    grid : Grid
        Their cells.
    comparisons : tuple of Comparison
        Each against the reference, in the order named, Holm over them.
    sources : Sources or NotComputed
        The condition for a claim about a new task.
    notes : tuple of str
        What was left out.
    """

    metric: Metric
    track: Literal["faithful", "robust"]
    margin: float
    grid: Grid
    comparisons: tuple[Comparison, ...]
    sources: Sources | NotComputed
    notes: tuple[str, ...]


def standings(board: Board, metric: str | None = None, reference: str = REFERENCE) -> Standings:
    """Return what can be said of a board's methods, on each task and across them. Reference points take no part.

    Parameters
    ----------
    board : Board
        Of any track, with any holes.
    metric : str, optional
        A fraction with a better direction; the metric that ranks, if not given.
    reference : str
        The method that all others are compared with.

    Raises
    ------
    SpecError
        The metric is unknown, or one that is not compared.
    """
    chosen = None if metric is None else _comparable(metric)
    tasks = {task.name: _standing(board, [task], chosen, reference) for task in board.tasks}
    return Standings(tasks, _standing(board, board.tasks, chosen, reference))


def contrast(
    board: Board, methods: Sequence[str], reference: str, task: str | None = None, metric: str | None = None
) -> Contrast:
    """Return methods compared with another on the board's tasks, or on one of them.

    Parameters
    ----------
    board : Board
        Reference points may take part here.
    methods, reference : str
        As `name_of` gives them, or labels as the board shows them.
    task : str, optional
        One task; all of the board, if not given.
    metric : str, optional
        A fraction with a better direction; the metric that ranks, if not given.

    Raises
    ------
    SpecError
        A name is unknown, or the metric is not one that is compared.
    PairingError
        A cell is missing, failed or without the metric, or cells are not paired; the message names them.
    """
    tasks = _tasks(board, task)
    names = list(dict.fromkeys([*methods, reference]))
    if len(names) <= len(methods):
        raise SpecError(f"{reference} cannot be compared with itself, nor twice; name different methods.")
    gathered = _gather(tasks, chosen := _shared_metric(tasks, metric), names, references=True)
    if missing := [name for name in names if name not in gathered.rows]:
        raise unknown(f"method on the board of {board.suite}", missing[0], _names(tasks))
    if faults := [fault for name in names for fault in gathered.faults.get(name, ())]:
        mend = "choose another metric" if all(f" {_WITHOUT} " in fault for fault in faults) else _RUN
        other = ", or one task that is whole" if len(tasks) > 1 else ""
        raise PairingError(f"nothing is compared where values are missing: {_listed(faults)}. Mend: {mend}{other}.")
    grid = Grid.of(gathered.values, gathered.planned, gathered.direction)
    found = {c.method: c for c in against_reference(grid, reference, board.margin, list(dict.fromkeys(methods)))}
    return Contrast(
        metric=chosen,
        track=board.track,
        margin=board.margin,
        grid=grid,
        comparisons=_told((found[name] for name in dict.fromkeys(methods)), board.track),
        sources=by_source(grid, _sources(tasks)),
        notes=gathered.notes,
    )


def holm_over_tasks(comparison: Comparison) -> dict[str, float]:
    """Return p of each task's own test, adjusted over the tasks on which it was computed."""
    tested = {item.task: item.sign_flip.p for item in comparison.tasks if isinstance(item.sign_flip, SignFlip)}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def ranking_metric(board: Board, tasks: Sequence[str], metric: str | None = None) -> Metric | None:
    """Return the metric named, or the one that ranks these tasks; None where their records name none, or several.

    Raises
    ------
    SpecError
        A task is unknown, or the metric named is not one that is compared.
    """
    if metric is not None:
        return _comparable(metric)
    try:
        return _shared_metric([table for name in tasks for table in _tasks(board, name)], None)
    except SpecError:
        return None


def paired_by_seed(board: Board, tasks: Sequence[str], metric: Metric, reference: str) -> dict[str, dict[int, float]]:
    """Return for each other method its difference from the reference by seed, averaged over tasks: for planning.

    Only seeds that both have on all these tasks; cells that are not paired are left out. No claim rests on it.
    """
    values: dict[str, dict[Key, Value]] = {}
    for table in (table for name in tasks for table in _tasks(board, name)):
        for row in table.rows:
            values.setdefault(name_of(row), {}).update(_values(table.name, row, metric))
    base, found = values.pop(reference, {}), {}
    for name, own in sorted(values.items()):
        both = {key for key in own.keys() & base.keys() if own[key].ids == base[key].ids}
        seeds = sorted({seed for _, seed in both if all((task, seed) in both for task in tasks)})
        found[name] = {
            seed: sum(own[task, seed].value - base[task, seed].value for task in tasks) / len(tasks) for seed in seeds
        }
    return found


@dataclass(frozen=True, kw_only=True)
class Models:
    """Two concrete models on one test set; made by `models`.

    Parameters
    ----------
    first, second : str
        Their methods.
    task : str
        Where.
    seed : int
        Which of their models.
    test : McNemar
        At that seed.
    here : CrossedBootstrap
        The difference of accuracy at that seed, over test samples.
    over_seeds : CrossedBootstrap or NotComputed
        The same over all seeds that both have, where all of them have one test set.
    """

    first: str
    second: str
    task: str
    seed: int
    test: McNemar
    here: CrossedBootstrap
    over_seeds: CrossedBootstrap | NotComputed


def models(results: Path, board: Board, first: str, second: str, task: str, seed: int) -> Models:
    """Return how the global models of two methods compare on a task's global test set after the last round.

    Parameters
    ----------
    results : Path
        The folder that the board was read from.
    board : Board
        Of a suite that was run there.
    first, second, task : str
        As in `contrast`.
    seed : int
        Whose models.

    Raises
    ------
    SpecError
        A name is unknown, both are one, or a method has no global model there.
    RecordError
        One of them has no record at that seed.
    PairingError
        They were not tested on the same samples.
    """
    if first == second:
        raise SpecError(f"{first} cannot be compared with itself; name two methods.")
    sides = [answers(results, board, name, task) for name in (first, second)]
    for name, found in zip((first, second), sides, strict=True):
        if seed not in found:
            there = ", ".join(map(str, found)) or "none"
            raise RecordError(f"{task}/{name}/seed-{seed} has no record; seeds that have one: {there}.")
    ours, theirs = sides
    seeds = sorted(ours.keys() & theirs.keys())
    over: CrossedBootstrap | NotComputed
    if len(seeds) < 2:
        over = NotComputed(question="Q1", n=1, unit="seeds", reason="not computed: 1 seed; 2 are needed")
    else:
        try:
            over = crossed_bootstrap([ours[at] for at in seeds], [theirs[at] for at in seeds])
        except PairingError:
            reason = "not computed: every seed has another test set"
            over = NotComputed(question="Q1", n=len(seeds), unit="seeds", reason=reason)
    return Models(
        first=first,
        second=second,
        task=task,
        seed=seed,
        test=mcnemar(ours[seed], theirs[seed]),
        here=crossed_bootstrap([ours[seed]], [theirs[seed]]),
        over_seeds=over,
    )


def answers(results: Path, board: Board, method: str, task: str) -> dict[int, Answers]:
    """Return what the global models of a method got right on a task's global test set after the last round, by seed.

    Parameters
    ----------
    results : Path
        The folder that the board was read from.
    board : Board
        Of a suite that was run there.
    method, task : str
        As in `contrast`.

    Raises
    ------
    SpecError
        A name is unknown, or the method has no global model there.
    RecordError
        A record cannot be read any more.
    """
    (table,) = _tasks(board, task)
    rows = [row for row in table.all_rows if method in (name_of(row), row.label)]
    if not rows:
        raise unknown(f"method on {table.name}", method, _names([table]))
    found = {}
    for cell in rows[0].done:
        record = Record.open(results / cell.planned.path)
        right = global_right(record.outcome)
        if right is None:
            raise SpecError(
                f"{method} has no global model on {task}, or the task no global test set; nothing to compare."
            )
        found[cell.seed] = Answers(record.arrays["test_ids"], right[-1])
    return found


def name_of(row: Row) -> str:
    """Return what a row's method is called across tasks: its label, or ``fedprox[tuned]`` where it was tuned.

    What was tuned has other hyperparameters, and so another label, on every task.
    """
    tuned = all(cell.planned.tuning and not (cell.standing and cell.standing.out) for cell in row.cells)
    return f"{row.cells[0].planned.method}[tuned]" if tuned else row.label


# --- from the board to values -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gathered:
    """Values by method and (task, seed), and for each method that lacks some, which."""

    rows: dict[str, dict[str, Row]]
    values: dict[str, dict[Key, Value]]
    faults: dict[str, list[str]]
    planned: set[Key]
    notes: tuple[str, ...]
    direction: Direction


def _gather(
    tasks: Sequence[TaskBoard], metric: Metric, names: Iterable[str] | None = None, *, references: bool = False
) -> _Gathered:
    wanted = None if names is None else set(names)
    rows: dict[str, dict[str, Row]] = {}
    faults: dict[str, list[str]] = {}
    for task in tasks:
        for row in task.all_rows if references else task.rows:
            # A label that is not the row's name across tasks still finds it, on the task where it is the label.
            name = row.label if wanted and row.label in wanted else name_of(row)
            if wanted is not None and name not in wanted:
                continue
            if task.name in rows.setdefault(name, {}):
                faults.setdefault(name, []).append(f"{task.name} has two rows named {name}")
            rows[name][task.name] = row
    owed = _owed_seeds(tasks)
    notes: tuple[str, ...] = ()
    if others := sorted({cell.seed for of in rows.values() for row in of.values() for cell in row.cells} - owed):
        plural = "seed" if len(others) == 1 else "seeds"
        notes = (f"left out: {plural} {', '.join(map(str, others))}, planned for some methods and tasks only",)
    values: dict[str, dict[Key, Value]] = {name: {} for name in rows}
    for name, of in rows.items():
        lacking = [f"{name} is not planned on {task.name}" for task in tasks if task.name not in of]
        for where, row in of.items():
            cells = [cell for cell in row.cells if cell.seed in owed]
            wanting = {cell.seed: fault for cell in cells if (fault := _fault(cell, metric))}
            wanting |= dict.fromkeys(owed - {cell.seed for cell in cells}, "not planned")
            lacking += _grouped(f"{where}/{row.label}", wanting)
            values[name] |= {key: value for key, value in _values(where, row, metric).items() if key[1] in owed}
        if lacking:
            faults.setdefault(name, []).extend(lacking)
    planned = {(task.name, seed) for task in tasks for seed in owed}
    direction: Direction = "lower" if metric.direction == "lower" else "higher"
    return _Gathered(rows, values, faults, planned, notes, direction)


def _owed_seeds(tasks: Iterable[TaskBoard]) -> set[int]:
    """Return the seeds that more than half of all rows were planned with.

    A plan asks every method for all seeds of its suite, so these are the suite's. A further seed that somebody ran of
    one method takes part in nothing, and a method that was planned with fewer has holes.
    """
    planned = [{cell.seed for cell in row.cells} for task in tasks for row in task.all_rows]
    return {seed for seed in set().union(*planned) if 2 * sum(seed in of for of in planned) > len(planned)}


def _fault(cell: CellResult, metric: Metric) -> str:
    if cell.state != "done":
        return cell.verdict
    return "" if cell.values.get(metric.name) is not None else f"{_WITHOUT} {metric.title}"


def _grouped(where: str, faults: Mapping[int, str]) -> list[str]:
    """Return one phrase for all seeds with one fault."""
    seeds: dict[str, list[int]] = {}
    for seed, fault in sorted(faults.items()):
        seeds.setdefault(fault, []).append(seed)
    return [
        f"{where}/seed-{of[0]} {fault}" if len(of) == 1 else f"{where} seeds {', '.join(map(str, of))} {fault}"
        for fault, of in seeds.items()
    ]


def _values(task: str, row: Row, metric: Metric) -> dict[Key, Value]:
    return {
        (task, cell.seed): Value(value, _ids(cell))
        for cell in row.done
        if (value := cell.values.get(metric.name)) is not None
    }


def _ids(cell: CellResult) -> dict[str, str]:
    """Return what must agree before two cells are compared: the draws, the task, and the kind of device."""
    if cell.info is None:
        return {}
    return {
        **cell.info.seed_ids.model_dump(),
        "task definition": identity_hash({"task": cell.info.identity.get("task")}),
        "kind of device": cell.info.environment.device.partition(":")[0],
    }


def _standing(board: Board, tasks: Sequence[TaskBoard], metric: Metric | None, reference: str) -> Standing:
    left_out: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    grid: Grid | NotComputed
    try:
        metric = metric or _shared_metric(tasks, None)
    except SpecError as error:
        grid = _none("cells", 0, f"not computed: {error}".rstrip("."))
    else:
        gathered = _gather(tasks, metric)
        left_out = {name: f"in no test: {_listed(faults)}" for name, faults in gathered.faults.items() if faults}
        whole = {name: values for name, values in gathered.values.items() if name not in left_out}
        first = reference if reference in whole else min(whole, default="")
        for name in sorted(whole):
            try:
                Grid.of({first: whole[first], name: whole[name]}, gathered.planned)
            except PairingError as error:
                left_out[name] = f"in no test: {error}".rstrip(".")
        whole = {name: values for name, values in whole.items() if name not in left_out}
        grid = (
            Grid.of(whole, gathered.planned, gathered.direction)
            if whole
            else _none("cells", 0, "not computed: no method has all its cells")
        )
        notes = gathered.notes
    return Standing(
        tasks=tuple(task.name for task in tasks),
        metric=metric,
        track=board.track,
        margin=board.margin,
        reference=reference,
        grid=grid,
        left_out=dict(sorted(left_out.items())),
        notes=notes,
        source_of=_sources(tasks),
    )


def _tasks(board: Board, task: str | None) -> list[TaskBoard]:
    if task is None:
        return list(board.tasks)
    found = [item for item in board.tasks if item.name == task]
    if not found:
        raise unknown(f"task on the board of {board.suite}", task, [item.name for item in board.tasks])
    return found


def _names(tasks: Iterable[TaskBoard]) -> list[str]:
    return sorted({name for task in tasks for row in task.all_rows for name in (name_of(row), row.label)})


def _shared_metric(tasks: Sequence[TaskBoard], name: str | None) -> Metric:
    if name is not None:
        return _comparable(name)
    ranking = {task.primary for task in tasks if task.primary}
    if len(ranking) > 1:
        raise SpecError(f"the tasks are ranked by different metrics ({', '.join(sorted(ranking))}); name one.")
    if not ranking:
        raise SpecError("no record says by which metric it is ranked; run the suite first, or name one.")
    return _comparable(ranking.pop())


def _comparable(name: str) -> Metric:
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    metric = METRICS[name]
    if metric.unit != "fraction" or metric.direction == "none":
        known = ", ".join(item.name for item in METRICS.values() if item.unit == "fraction")
        raise SpecError(f"{name} is measured in {metric.unit} and hardly depends on the seed; compare one of: {known}.")
    return metric


def _sources(tasks: Iterable[TaskBoard]) -> dict[str, str]:
    """Return where each task's data comes from, as its records say; a task that says nothing is its own source."""
    found = {}
    for task in tasks:
        infos = (cell.info for row in task.all_rows for cell in row.done if cell.info)
        identity = next((info.identity.get("task") for info in infos), None)
        found[task.name] = str((identity or {}).get("source") or task.name)
    return found


def _told(comparisons: Iterable[Comparison], track: str) -> tuple[Comparison, ...]:
    """Return comparisons as they may be told on a track: on the faithful one without any test."""
    if track != "faithful":
        return tuple(comparisons)
    told = []
    for item in comparisons:
        cells, seeds = _none("cells", item.n, FAITHFUL), _none("seeds", item.difference.n, FAITHFUL)
        tasks = tuple(replace(task, sign_flip=seeds, detectable=seeds) for task in item.tasks)
        told.append(
            replace(
                item,
                sign_flip=cells,
                p_holm=cells,
                equivalence=seeds,
                p_equivalence_holm=seeds,
                detectable=seeds,
                tasks=tasks,
            )
        )
    return tuple(told)


def _listed(faults: Sequence[str]) -> str:
    more = len(faults) - _SHOWN
    return "; ".join(faults[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _none(unit: Unit, n: int, reason: str) -> NotComputed:
    return NotComputed(question="Q2", n=n, unit=unit, reason=reason)
