"""What a board shows, as plain data: values with intervals, or the visible reason why there is none.

Nothing here knows how a board looks. A hole is never skipped over: a method with one is shown, named and not ranked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fedbench.leaderboard.series import Series, series

from fedbench.errors import RecordError
from fedbench.metrics import METRICS, evaluate
from fedbench.records import NewerSchemaError, Record, read_plan, stale, state
from fedbench.schema import Plan, PlannedCell, RunInfo, Tuning
from fedbench.statistics import Interval, t_interval
from fedbench.submissions.decisions import Standing, standings

State = Literal["done", "failed", "skipped", "corrupt", "missing", "stale", "superseded", "withdrawn"]
_PREDICTED = (
    "global_test_predictions",
    "global_test_probabilities",
    "global_validation_correct",
    "global_client_correct",
    "local_client_correct",
    "personal_client_correct",
    "final_test_predictions",
    "final_client_correct",
)
"""Arrays of a record that say what its models answered."""
_REASON = 300  # characters of a reason that are shown; the whole text stays in the record


@dataclass(frozen=True)
class Split:
    """How the samples of a federation lie with its clients, K, of C classes.

    Parameters
    ----------
    counts : K tuples of C int
        Training samples of each client and class.
    test_sizes : tuple of K int
        Local test samples of each client.
    held_out : tuple of K bool
        Which clients never train.
    """

    counts: tuple[tuple[int, ...], ...]
    test_sizes: tuple[int, ...]
    held_out: tuple[bool, ...]


@dataclass(frozen=True)
class CellResult:
    """One planned cell: where its numbers came from, or why there are none.

    Parameters
    ----------
    planned : PlannedCell
        What the suite asks for.
    state : {"done", "failed", "skipped", "corrupt", "missing", "stale"}
        What stands in its folder; ``stale``: nothing, but an earlier version of task, method or harness made a record.
        Or else ``superseded`` or ``withdrawn``: somebody's submission that the board shows no values of any more.
    reason : str
        Why it is not done; empty for ``done`` and ``missing``.
    info : RunInfo or None
        ``run.json`` of a record that is done.
    digest : str
        The record's digest.
    split : Split or None
        Who holds what, of a record that is done.
    values : mapping of metric name to float or None
        Every metric; None is "not defined".
    answers : str
        Digest of what its models answered in all rounds: equal for cells that no metric of accuracy can tell apart.
    series : Series or None
        What charts draw, of a record that is done, where `load_board` was asked for it.
    standing : Standing or None
        Where it stands, if it was submitted by somebody; see `fedbench.submissions`.
    """

    planned: PlannedCell
    state: State
    reason: str = ""
    info: RunInfo | None = None
    digest: str = ""
    split: Split | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    answers: str = ""
    series: Series | None = None
    standing: Standing | None = None

    @property
    def seed(self) -> int:
        """The base seed."""
        return self.planned.seed

    @property
    def verdict(self) -> str:
        """State and reason as one phrase: ``failed: loss is NaN``."""
        return f"{self.state}: {self.reason}" if self.reason else self.state


@dataclass(frozen=True)
class Score:
    """One metric of one row over the seeds that are done.

    Parameters
    ----------
    interval : Interval or None
        Mean over the seeds that have a value with its 95 % t interval; None where no seed has one.
    undefined : tuple of int
        Seeds that are done and have no value, as the method has no such model or the task no such data.
    """

    interval: Interval | None
    undefined: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One method of one task, or of all tasks (see `fedbench.leaderboard.overall`).

    Parameters
    ----------
    label : str
        The method's name with its changed hyperparameters.
    family : {"global", "personalised", "reference"}
        A reference point is shown and never ranked.
    cells : tuple of CellResult
        One a planned task and seed, by task, then by seed.
    rank : int or None
        Place by the primary metric, ties share one; None for reference points, for a row with a hole, and where the
        primary metric is not defined.
    """

    label: str
    family: Literal["global", "personalised", "reference"]
    cells: tuple[CellResult, ...]
    rank: int | None = None

    @cached_property
    def done(self) -> tuple[CellResult, ...]:
        """The cells that have a record."""
        return tuple(cell for cell in self.cells if cell.state == "done")

    @property
    def method(self) -> str:
        """The method's name."""
        return self.cells[0].planned.method

    @property
    def standing(self) -> Standing | None:
        """Where it stands, if it was submitted; None for what the board's owner ran."""
        return next((cell.standing for cell in self.cells if cell.standing), None)

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What the method does in a few words that several methods share; empty where the plan does not say it."""
        return tuple(part.strip() for part in self.cells[0].planned.mechanism.split(",") if part.strip())

    @property
    def origin(self) -> str:
        """Where its hyperparameters came from: ``defaults``, ``set by hand`` or ``tuned, budget 20``."""
        return " / ".join(dict.fromkeys(_origin(cell.planned) for cell in self.cells))

    @property
    def tunings(self) -> tuple[Tuning, ...]:
        """The searches that found its hyperparameters: one, or none where they were not tuned."""
        return tuple(dict.fromkeys(cell.planned.tuning for cell in self.cells if cell.planned.tuning))

    @property
    def complete(self) -> bool:
        """Whether every planned cell is done."""
        return len(self.done) == len(self.cells)

    @property
    def valued(self) -> bool:
        """Whether there is any value to show."""
        return any(score.interval for score in self.scores.values())

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Every metric over the seeds that are done."""
        return {name: score([(cell.seed, cell.values.get(name)) for cell in self.done]) for name in METRICS}

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over seeds, rounded so that equal counts compare equal; None if not defined."""
        interval = self.scores[metric].interval
        return None if interval is None else round(interval.mean, 12)

    @property
    def hole(self) -> str:
        """What is missing and why, in words; empty where nothing is."""
        if self.complete:
            return ""
        verdicts = {cell.verdict for cell in self.cells}
        if not self.done and len(verdicts) == 1:
            return verdicts.pop()
        missing = "; ".join(f"seed {cell.seed} {cell.verdict}" for cell in self.cells if cell.state != "done")
        return f"{len(self.done)} of {len(self.cells)} seeds: {missing}"


@dataclass(frozen=True)
class TaskBoard:
    """The table of one task.

    Parameters
    ----------
    name, title, description, licence : str
        What the task is, as its records say; only the name is known where there is no record.
    facts : tuple of (str, str)
        Data, split, model and protocol, ready to print.
    primary : str or None
        The metric that ranks.
    rows : tuple of Row
        Methods: the ranked ones by rank, then the others by label.
    references : tuple of Row
        Reference points by label.
    warnings : tuple of str
        What a reader must know before comparing rows.
    source : str
        The independent source of the data; empty where no record tells.
    classes : tuple of str
        Their names.
    split : Split or None
        Who holds what, at the first seed of which there is a record.
    """

    name: str
    title: str
    description: str
    licence: str
    facts: tuple[tuple[str, str], ...]
    primary: str | None
    rows: tuple[Row, ...]
    references: tuple[Row, ...]
    warnings: tuple[str, ...]
    source: str = ""
    classes: tuple[str, ...] = ()
    split: Split | None = None

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Methods, then reference points."""
        return self.rows + self.references

    def best(self, metric: str) -> frozenset[str]:
        """Return the labels of the complete methods with the best mean; none where there is nothing to compare."""
        direction = METRICS[metric].direction
        means = {row.label: row.mean(metric) for row in self.rows if row.complete}
        known = {label: mean for label, mean in means.items() if mean is not None}
        if direction == "none" or len(set(known.values())) < 2:
            return frozenset()
        top = max(known.values()) if direction == "higher" else min(known.values())
        return frozenset(label for label, mean in known.items() if mean == top)


@dataclass(frozen=True)
class Board:
    """Everything that a suite's report shows.

    Parameters
    ----------
    suite, title : str
        The suite's name and its one line.
    track : {"faithful", "robust"}
        What a seed redraws.
    tasks : tuple of TaskBoard
        In the order of the plan.
    margin : float
        Largest difference between methods that counts as none, a fraction; see `Suite`.
    """

    suite: str
    title: str
    track: Literal["faithful", "robust"]
    tasks: tuple[TaskBoard, ...]
    margin: float = 0.005

    @cached_property
    def cells(self) -> tuple[CellResult, ...]:
        """All planned cells, in the order of the tables, but for those that were superseded or withdrawn."""
        return tuple(cell for task in self.tasks for row in task.all_rows if not _is_out(row) for cell in row.cells)

    @property
    def seeds(self) -> tuple[int, ...]:
        """All planned seeds."""
        return tuple(sorted({cell.seed for cell in self.cells}))

    def labels(self, *, references: bool) -> tuple[str, ...]:
        """Return the labels of the methods, or those of the reference points."""
        rows = (row for task in self.tasks for row in (task.references if references else task.rows))
        return tuple(sorted({row.label for row in rows if not _is_out(row)}))

    def count(self, state: State) -> int:
        """Return how many cells are in a state."""
        return sum(cell.state == state for cell in self.cells)


def load_board(results: Path, suite: str, *, drawn: bool = False) -> Board:
    """Return the board of a suite from the plan and the records in a results folder.

    Parameters
    ----------
    results : Path
        The results folder.
    suite : str
        Name of a suite that was run there.
    drawn : bool
        With the series that charts draw, which take about 24 bytes a round and client of each cell.

    Raises
    ------
    RecordError
        That suite was never run in this folder, its plan cannot be read, or it or a record is of a newer schema.
    """
    plan = _read_plan(results, suite)
    standing = standings(results, suite)
    cells = [_submitted(results, planned, plan.track, standing.get(planned.path), drawn) for planned in plan.cells]
    names = dict.fromkeys(cell.planned.task for cell in cells)
    tasks = tuple(_task_board(name, [cell for cell in cells if cell.planned.task == name]) for name in names)
    return Board(plan.suite, plan.title, plan.track, tasks, plan.margin)


def _read_plan(results: Path, suite: str) -> Plan:
    known = sorted(path.stem for path in (results / "plans").glob("*.json"))
    if suite not in known:
        raise RecordError(
            f"no suite {suite!r} was run in the results folder {results}; there: {', '.join(known) or 'none'}. "
            f"Run `fedbench run --suite {suite}`, or choose another folder."
        )
    return read_plan(results / "plans" / f"{suite}.json")


def _submitted(results: Path, planned: PlannedCell, track: str, standing: Standing | None, drawn: bool) -> CellResult:
    """Look at one folder, and at where its submission stands, if it is one."""
    if standing is not None and standing.out:
        state_now: State = "withdrawn" if standing.state == "withdrawn" else "superseded"
        return CellResult(planned, state_now, _short(standing.reason, results), standing=standing)
    cell = _read_cell(results, planned, track, drawn)
    if standing is not None and cell.state == "done" and cell.digest != standing.digest:
        cell = CellResult(planned, "corrupt", "the record is not the one that was submitted: its digest is another")
    return replace(cell, standing=standing)


def _is_out(row: Row) -> bool:
    return row.standing is not None and row.standing.out


def _label(cell: CellResult) -> str:
    """Return a row's name; with its version where a newer one may stand on the board under the name alone."""
    out = cell.standing is not None and cell.standing.out
    return f"{cell.planned.label} {cell.standing.version}" if cell.standing and out else cell.planned.label


def _read_cell(results: Path, planned: PlannedCell, track: str, drawn: bool) -> CellResult:
    """Look at one folder. Whatever stands there, the answer is a state: one bad folder must not hide the others.

    A record of a newer schema alone is refused: it is good, and a board without it would be wrong.
    """
    if not all(_is_name(part) for part in (planned.task, planned.method, planned.hash)):
        return CellResult(planned, "corrupt", "its path leads out of the results folder")
    folder = results / planned.path
    try:
        record = _opened(folder)
        if record is not None:
            return _evaluated(planned, record, drawn)
        found, reason = state(folder)
        if found == "done":  # it was finished this very moment
            return _evaluated(planned, Record.open(folder), drawn)
    except NewerSchemaError:
        raise
    except RecordError as error:
        found, reason = "corrupt", str(error)
    except Exception as error:  # arrays that do not fit together can fail anywhere in numpy, pyarrow or a metric
        found, reason = "corrupt", f"metrics cannot be computed ({type(error).__name__}: {error})"
    if found == "missing" and planned.skipped is not None:
        return CellResult(planned, "skipped", _short(planned.skipped, results))
    if found == "missing" and (older := stale(results, planned, track)):
        return CellResult(planned, "stale", _short(older, results))
    return CellResult(planned, found, _short(reason, results))


def _opened(folder: Path) -> Record | None:
    """Return the record in a folder; None where there is none that can be read, and `state` has to say why."""
    try:
        return Record.open(folder)
    except NewerSchemaError:
        raise
    except RecordError:
        return None


def _evaluated(planned: PlannedCell, record: Record, drawn: bool) -> CellResult:
    info = record.info
    is_of = (_at(info.identity, "task", "name"), _at(info.identity, "method", "name"), info.hash, info.seed)
    if is_of != (planned.task, planned.method, planned.hash, planned.seed):
        raise RecordError("the record in this folder is of another cell; delete the folder and run the cell again.")
    values = evaluate(record.outcome)
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise RecordError(f"{name} is not a finite number")
    return CellResult(
        planned,
        "done",
        info=info,
        digest=record.digest,
        split=_split(record),
        values=values,
        answers=_answers(record),
        series=series(record.outcome, info.seed, info.seed_ids.partition) if drawn else None,
    )


def _split(record: Record) -> Split:
    counts, outcome = record.arrays["train_class_counts"], record.outcome
    held_out = outcome.held_out
    return Split(
        counts=tuple(tuple(int(n) for n in row) for row in counts),
        test_sizes=tuple(int(n) for n in outcome.offsets[1:] - outcome.offsets[:-1]),
        held_out=tuple(bool(out) for out in held_out) if held_out is not None else (False,) * len(counts),
    )


def _answers(record: Record) -> str:
    digest = hashlib.sha256()
    for name in _PREDICTED:
        if name in record.arrays:
            array = record.arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _task_board(name: str, cells: list[CellResult]) -> TaskBoard:
    groups: dict[tuple[str, str, str], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.planned.method, cell.planned.hash, _label(cell)), []).append(cell)
    rows = [
        Row(_label(members[0]), members[0].planned.family, tuple(sorted(members, key=lambda cell: cell.seed)))
        for members in groups.values()
    ]
    rows.sort(key=lambda row: (row.label, row.cells[0].planned.hash))
    methods = [row for row in rows if row.family != "reference"]
    references = tuple(row for row in rows if row.family == "reference")
    done = [cell for row in (*methods, *references) for cell in row.done]
    # Reference points come last: ``centralised`` may describe one client where the federation has many.
    # What the board says of a task is never a submission's word where there is another.
    told = sorted(done, key=lambda cell: cell.standing is not None)
    info, split = (told[0].info, told[0].split) if told else (None, None)
    primary = info.primary if info and info.primary in METRICS else None
    card = (info.cards.get("task", "") if info else "").strip().partition("\n")
    return TaskBoard(
        name=name,
        title=card[0].strip() or name,
        description=card[2].strip(),
        licence=str(_at(info.identity, "task", "data", "license") or "") if info else "",
        facts=_facts(info, split) if info and split else (),
        primary=primary,
        rows=ranked(methods, primary),
        references=references,
        warnings=tuple(_warnings(methods, done)),
        source=str(_at(info.identity, "task", "source") or "") if info else "",
        classes=info.classes if info else (),
        split=split,
    )


def _origin(planned: PlannedCell) -> str:
    if planned.tuning is not None:
        return f"tuned, budget {planned.tuning.budget}"
    return "defaults" if planned.label == planned.method else "set by hand"


def ranked(rows: Sequence[Row], primary: str | None) -> tuple[Row, ...]:
    """Return rows in the order of the board: ranked ones first; competition ranking, so ties share a rank."""
    if primary is None:
        return tuple(rows)
    sign = 1 if METRICS[primary].direction == "lower" else -1
    keys = [sign * mean for row in rows if row.complete and (mean := row.mean(primary)) is not None]
    placed, others = [], []
    for row in rows:
        mean = row.mean(primary) if row.complete else None
        if mean is None:
            others.append(row)
        else:
            placed.append(replace(row, rank=1 + sum(key < sign * mean for key in keys)))
    return (*sorted(placed, key=lambda row: row.rank or 0), *others)


def _warnings(methods: list[Row], done: list[CellResult]) -> Iterable[str]:
    primaries = sorted({cell.info.primary for cell in done if cell.info})
    if len(primaries) > 1 or any(name not in METRICS for name in primaries):
        yield f"no ranking can be trusted: the records name as primary metric {', '.join(primaries)}"
    if len({_canonical(_at(cell.info.identity, "task")) for cell in done if cell.info}) > 1:
        yield "not comparable: the records were made from different definitions of this task"
    if len({tuple(cell.seed for cell in row.cells) for row in methods}) > 1:
        yield "not paired: the methods were planned with different seeds"
    budgets = sorted({tuning.budget for row in methods for tuning in row.tunings})
    if len(budgets) > 1:
        yield f"unequal tuning: the methods were tuned with budgets of {' and '.join(map(str, budgets))} trials"
    yield from _same_answers(methods)
    pairs = [(row.label, cell.seed, cell.info) for row in methods for cell in row.done if cell.info]
    for seed in sorted({seed for _, seed, _ in pairs}):
        ids = {label: info.seed_ids.model_dump() for label, at, info in pairs if at == seed}
        differing = [
            part for part in ("partition", "init", "schedule", "order") if len({v[part] for v in ids.values()}) > 1
        ]
        if differing:
            yield f"not paired: at seed {seed} {', '.join(ids)} do not share {' and '.join(differing)}"
    devices = sorted({info.environment.device for _, _, info in pairs})
    if len(devices) > 1:
        yield f"mixed devices: the records come from {' and '.join(devices)}; small differences may be rounding"


def _same_answers(methods: list[Row]) -> Iterable[str]:
    """Name the methods that are one method here: a setting at its neutral point, a model without what it works on."""
    groups: dict[tuple[tuple[int, str], ...], list[str]] = {}
    for row in methods:
        if row.complete:
            groups.setdefault(tuple((cell.seed, cell.answers) for cell in row.done), []).append(row.label)
    for labels in groups.values():
        if len(labels) > 1:
            yield f"the same method here: {', '.join(labels)} gave the same answers, bit for bit, in every round"


def score(values: Sequence[tuple[int, float | None]]) -> Score:
    """Return mean and interval of a metric from its value at each seed, None where it is not defined."""
    known = [value for _, value in values if value is not None]
    undefined = tuple(seed for seed, value in values if value is None)
    return Score(t_interval(known) if known else None, undefined)


def _facts(info: RunInfo, split: Split) -> tuple[tuple[str, str], ...]:
    """Return what a reader wants to know of a task; what a record does not tell is left out."""
    task = _at(info.identity, "task")

    def text(*path: str) -> str:
        value = _at(task, *path)
        return "" if value is None else str(value)

    def listed(*path: str) -> str:
        values = _at(task, *path)
        return (
            ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in values.items()) if values else ""
        )

    def numbers(*path: str) -> dict[str, Any]:
        value = _at(task, *path)
        return {str(k): v for k, v in value.items() if isinstance(v, int | float)} if isinstance(value, Mapping) else {}

    shape, sites = _at(task, "data", "shape"), _at(task, "data", "sites")
    share = numbers("protocol").get("participation", 1)
    facts = {
        "Samples": ", ".join(f"{name} {n:,}" for name, n in numbers("data", "counts").items() if n),
        "Input": _input(shape) if isinstance(shape, list | tuple) else "",
        "Classes": f"{len(info.classes)}",
        "Clients": f"{len(split.test_sizes)}",
        "Local test sets": f"{min(tests):,} to {max(tests):,} samples" if (tests := split.test_sizes) else "",
        "Taking part in a round": f"{share:.0%}",
        "Split over clients": " ".join(
            [text("partitioner", "type"), *(f"{name}={value}" for name, value in numbers("partitioner").items())]
        ),
        "Model": f"{info.model.name}, {info.model.parameters:,} parameters",
        "Rounds": text("protocol", "rounds"),
        "Local training": f"{text('protocol', 'local_epochs')} epochs, batch {text('protocol', 'batch_size')}",
        "Optimiser": f"SGD, learning rate {text('protocol', 'lr')}, momentum {text('protocol', 'momentum')}",
        "Source of the data": text("source"),
        "Task version": text("version"),
        "Evaluated on": f"{text('evaluated_on')} data" if text("evaluated_on") else "",
        "Names of clients": ", ".join(map(str, sites)) if isinstance(sites, list | tuple) else "",
        "Names of classes": ", ".join(info.classes),
    }
    return tuple((name, value) for name, value in facts.items() if value.strip())


def _input(shape: Sequence[Any]) -> str:
    return f"{shape[0]} features" if len(shape) == 1 else " × ".join(str(side) for side in shape)


def _at(value: Any, *path: str) -> Any:
    """Return what stands at a path in nested JSON, or None: a third party's record may lack anything."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and not set(part) & set("/\\\0")


def _short(reason: str, results: Path) -> str:
    """Return a reason as one line, with paths below the results folder: where that folder stands is nobody's matter."""
    for root in (results, results.absolute()):
        reason = reason.replace(f"{root}/", "")
    line = " ".join(reason.split())
    return line if len(line) <= _REASON else line[: _REASON - 1] + "…"
