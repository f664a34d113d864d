"""What the command line does, as functions that return values."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedbench import records, registry
from fedbench.cell import Cell, Suite, load_suite, suite_names
from fedbench.errors import DataError, DataMissingError, FedBenchError, PluginError, SpecError, unknown
from fedbench.executors import Event, Options, run_cells, run_serially
from fedbench.metrics import METRICS
from fedbench.schema import SCHEMA_VERSION, Plan, PlannedCell
from fedbench.task import Data, Task, Track
from fedbench.taskfile import load_task_file

RESULTS, REPORTS = Path("results"), Path("reports")
SUITE = "quick"
EXECUTORS = ("processes", "serial", "ray")


@dataclass(frozen=True)
class CellState:
    """A cell of a selection and where it stands.

    Parameters
    ----------
    cell : Cell
        Which cell.
    state : {"done", "missing", "failed", "corrupt", "skipped"}
        ``corrupt``: there is a record, but its files are not what its manifest says.
    reason : str
        Why, for the last three.
    seconds : float
        Estimated seconds of one core, for a cell that is still to be run.
    """

    cell: Cell
    state: str
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Selection:
    """Which cells of a suite are meant.

    Parameters
    ----------
    suite : str
        Name of a suite, or path of a TOML file.
    tasks, methods, seeds : sequences
        Only these; all of the suite, where empty.
    overrides : mapping of method name to hyperparameters
        Hyperparameters that differ from the suite's.
    task_files : sequence of paths
        Tasks over a user's own data; they replace the suite's tasks.
    """

    suite: str = SUITE
    tasks: Sequence[str] = ()
    methods: Sequence[str] = ()
    seeds: Sequence[int] = ()
    overrides: Mapping[str, Mapping[str, Any]] | None = None
    task_files: Sequence[Path] = ()

    def load(self) -> tuple[Suite, list[Cell]]:
        """Return the suite and the chosen cells.

        Raises
        ------
        SpecError
            A name, a seed or a hyperparameter is wrong.
        """
        suite = load_suite(self.suite)
        own = [load_task_file(path) for path in self.task_files]
        for task in own:
            registry.tasks.forget(task.name)
            registry.tasks.add(task.name, task)
        if own and not self.tasks:  # a board of its own, with the suite's methods and seeds
            names = tuple(task.name for task in own)
            suite = suite.model_copy(update={"name": names[0], "title": own[0].title, "tasks": names})
        overrides = {name: dict(values) for name, values in (self.overrides or {}).items()}
        tasks = [*self.tasks, *(task.name for task in own)]
        return suite, suite.cells(tasks, self.methods, self.seeds, overrides)


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Parameters
    ----------
    suite : str
        Name of the suite.
    cells : tuple of CellState
        Every selected cell and where it stands now.
    ran : int
        Cells that were run this time.
    pages : tuple of Path
        What was rendered.
    """

    suite: str
    cells: tuple[CellState, ...]
    ran: int
    pages: tuple[Path, ...]

    def count(self, state: str) -> int:
        """Return how many cells are in a state."""
        return sum(item.state == state for item in self.cells)


def ls(what: str) -> list[dict[str, str]]:
    """Return a row of facts for each task, method, suite or metric.

    A plug-in that cannot be imported has a row with the reason, and hides nothing else.

    Raises
    ------
    SpecError
        ``what`` is none of the four.
    """
    if what == "suites":
        suites = (load_suite(name) for name in suite_names())
        return [
            {
                "name": suite.name,
                "track": suite.track,
                "tasks": ", ".join(suite.tasks),
                "methods": ", ".join(suite.methods),
                "seeds": str(len(suite.seeds)),
            }
            for suite in suites
        ]
    if what == "metrics":
        return [
            {"name": m.name, "unit": m.unit, "better": m.direction, "model": m.model or "", "title": m.title}
            for m in METRICS.values()
        ]
    if what == "tasks":
        return [_described(registry.tasks, name, _task_row) for name in registry.tasks.names()]
    if what == "methods":
        return [_described(registry.methods, name, _method_row) for name in registry.methods.names()]
    raise unknown("list", what, ("tasks", "methods", "suites", "metrics"))


def _described(group: registry.Registry, name: str, row: Callable[[Any], dict[str, str]]) -> dict[str, str]:
    try:
        return {"name": name, **row(group.get(name)), "from": group.origin(name)}
    except FedBenchError as error:
        return {"name": name, "title": f"broken: {error}", "from": group.origin(name)}


def _task_row(task: Task) -> dict[str, str]:
    return {
        "clients": _clients(task),
        "classes": str(task.n_classes),
        "rounds": str(task.protocol.rounds),
        "data": task.data.license,
        "title": task.title,
    }


def _clients(task: Task) -> str:
    return str(getattr(task.partitioner, "clients", "by site"))


def _method_row(method: Any) -> dict[str, str]:
    defaults = ", ".join(f"{key}={value}" for key, value in method.defaults().items())
    return {
        "family": method.family,
        "mechanism": method.mechanism,
        "defaults": defaults,
        "title": first_line(method),
    }


def first_line(method: type) -> str:
    """Return the first line of what a method's file says of itself."""
    text = inspect.getmodule(method).__doc__ or method.__doc__ or ""
    return text.strip().splitlines()[0] if text.strip() else ""


def show(name: str, data_dir: Path | None = None, width: int = 80) -> tuple[str, str]:
    """Return what something is (``"task"``, ``"method"``, ``"suite"`` or ``"metric"``) and its card as text.

    A task's card ends with its split, drawn within so many columns, if its data is on this machine.

    Raises
    ------
    SpecError
        Nothing has this name; the message suggests the nearest.
    """
    if name in registry.tasks.names():
        return "task", _task_card(registry.tasks.get(name), data_dir, width)
    if name in registry.methods.names():
        method = registry.methods.get(name)
        module = inspect.getdoc(inspect.getmodule(method)) or ""
        head = f"version {method.version}, {method.family}, from {registry.methods.origin(name)}"
        return "method", f"{module}\n\n{inspect.getdoc(method) or ''}\n\n{head}"
    if name in suite_names():
        suite = load_suite(name)
        lines = [suite.title, f"track: {suite.track}", f"tasks: {', '.join(suite.tasks)}"]
        lines += [f"methods: {', '.join(suite.methods)}", f"seeds: {', '.join(map(str, suite.seeds))}"]
        return "suite", "\n".join(lines)
    if name in METRICS:
        m = METRICS[name]
        return (
            "metric",
            f"{m.title}\n\n{m.description}\n\nunit: {m.unit}; better: {m.direction}; model: {m.model}",
        )
    known = {*registry.tasks.names(), *registry.methods.names(), *suite_names(), *METRICS}
    raise unknown("task, method, suite or metric", name, known)


def _task_card(task: Task, data_dir: Path | None, width: int) -> str:
    from fedbench.splitcard import split_card  # which needs scipy, and no other card does

    p = task.protocol
    samples = ", ".join(f"{split} {count:,}" for split, count in task.data.counts.items())
    facts = {
        "samples": samples,
        "input": " x ".join(map(str, task.data.shape)),
        "classes": ", ".join(task.data.classes),
        "split": repr(task.partitioner),
        **({"styles": repr(task.styles)} if task.styles is not None else {}),
        **({"held out": f"{task.held_out:.0%} of the clients never train"} if task.held_out else {}),
        "model": task.model,
        "protocol": f"{p.rounds} rounds, {p.participation:.0%} of the clients a round, {p.local_epochs} local epochs, "
        f"batch {p.batch_size}",
        "optimiser": f"SGD, lr {p.lr:g} (times {p.lr_decay:g} a round), momentum {p.momentum:g}, "
        f"weight decay {p.weight_decay:g}",
        "ranked by": task.primary,
        "licence": task.data.license,
        "source": f"{task.source} (tasks of one source count once in claims about new tasks)",
        "version": str(task.version),
    }
    longest = max(map(len, facts))
    table = "\n".join(f"{key:<{longest}}  {value}" for key, value in facts.items())
    split = split_card(task, data_dir, width)
    return "\n\n".join(part for part in (task.title, task.description.strip(), table, split) if part)


def cite(names: Sequence[str]) -> str:
    """Return BibTeX for the methods named.

    Raises
    ------
    SpecError
        A method is unknown.
    """
    entries = []
    for name in names:
        method = registry.methods.get(name)
        what = "a reference point without a paper" if method.family == "reference" else "declares no BibTeX"
        entries.append(method.bibtex.strip() or f"% {name}: {what}")
    return "\n\n".join(entries)


def status(selection: Selection, results: Path = RESULTS, data_dir: Path | None = None) -> list[CellState]:
    """Return where every cell of a selection stands, with an estimate for what is still to be run.

    Raises
    ------
    SpecError, RecordError
        The selection is wrong, or the results folder is of a newer schema.
    """
    _, cells = selection.load()
    return _states(cells, results, {task: _unavailable(task, data_dir, fetch=False) for task in _tasks(cells)})


def run(
    selection: Selection,
    results: Path = RESULTS,
    *,
    reports: Path | None = REPORTS,
    executor: str = "processes",
    jobs: int | None = None,
    address: str | None = None,
    storage: str | None = None,
    device: str = "cpu",
    time_limit: float | None = None,
    data_dir: Path | None = None,
    keep_weights: bool = False,
    checkpoint_seconds: float = 20.0,
    watch: Callable[[Event], None] = lambda event: None,
    begin: Callable[[Sequence[CellState]], None] = lambda states: None,
) -> RunSummary:
    """Run what is missing of a selection and render its report.

    Records that are there stay; a failed or corrupt cell is run again; a task without data is skipped. A cell that
    fails does not stop the others.

    Parameters
    ----------
    selection : Selection
        Which cells.
    results, reports : Path
        Where records and boards go; no report if ``reports`` is None.
    executor : {"processes", "serial", "ray"}
        What runs the cells: worker processes, this process, or a Ray cluster (see `fedbench.cluster`).
    jobs : int, optional
        Workers at a time. If not given: as many as cores, or as the cluster has; one on a GPU, which its cells fill.
    address, storage : str, optional
        Of a Ray cluster, and of the folder or object store that all its nodes reach.
    device : {"cpu", "cuda", "mps"}
        Where cells compute.
    time_limit : float, optional
        Minutes after which no further round is begun; what is not whole goes on from its checkpoint another time.
    data_dir, keep_weights, checkpoint_seconds
        See `fedbench.simulation.run_cell`.
    begin, watch : callable
        Called with the cells once before the first starts, and with each event.

    Raises
    ------
    SpecError, RecordError
        The selection or what is to run it is wrong, the results folder cannot be written, or it is of a newer schema.
    """
    _check_workers(executor, jobs, address, storage, device)
    stop_at = math.inf if time_limit is None else time.time() + 60 * time_limit
    suite, cells = selection.load()
    missing = {task: _unavailable(task, data_dir, fetch=True) for task in _tasks(cells)}
    states = _states(cells, results, missing)
    try:
        _write_plan(results, suite, states)
    except OSError as error:
        raise SpecError(
            f"results folder {results} cannot be written ({error.strerror}); choose another one with --out."
        ) from None
    begin(states)
    todo = [item for item in states if item.state in ("missing", "failed", "corrupt")]
    options = Options(results.resolve(), data_dir, keep_weights, checkpoint_seconds, device, stop_at)
    current = {item.cell: item for item in states}
    for event in _events(executor, [item.cell for item in todo], options, jobs, address, storage):
        if event.is_last:
            state = "missing" if event.state == "stopped" else event.state
            current[event.cell] = CellState(event.cell, state, event.reason)
        watch(event)
    pages = report(suite.name, results, reports) if reports is not None else []
    return RunSummary(suite.name, tuple(current.values()), len(todo), tuple(pages))


def _check_workers(executor: str, jobs: int | None, address: str | None, storage: str | None, device: str) -> None:
    if executor not in EXECUTORS:
        raise unknown("executor", executor, EXECUTORS)
    if jobs is not None and jobs < 1:
        raise SpecError(f"jobs: must be at least 1, got {jobs}")
    if executor == "ray" and not storage:
        raise SpecError("ray: the nodes need a place that all of them reach; name a folder or a URL with --storage.")
    if executor != "ray" and (address or storage):
        raise SpecError("address and storage are those of a cluster; add --executor ray, or leave them out.")
    if executor != "ray" and device != "cpu":  # what drives a cluster need not have the devices of its nodes
        from fedbench.environment import check_device

        check_device(device)


def _events(
    executor: str, cells: Sequence[Cell], options: Options, jobs: int | None, address: str | None, storage: str | None
) -> Iterator[Event]:
    if executor == "serial":
        return run_serially(cells, options)
    if executor == "ray":
        from fedbench.cluster import run_on_ray

        return run_on_ray(cells, options, address=address, storage=storage or "", workers=jobs)
    return run_cells(cells, options, jobs or (os.cpu_count() or 1 if options.device == "cpu" else 1))


def report(suite: str, results: Path = RESULTS, reports: Path = REPORTS) -> list[Path]:
    """Render a suite's board from the records in a results folder, and return the pages.

    Raises
    ------
    RecordError
        Nothing of this suite was run in that folder.
    SpecError
        The reports folder cannot be written.
    """
    from fedbench import leaderboard

    try:
        return leaderboard.render(results, suite, reports / suite)
    except OSError as error:
        raise SpecError(
            f"reports folder {reports / suite} cannot be written ({error.strerror}); the records are whole: run "
            f"`fedbench report --suite {suite} --out {results} --reports OTHER`."
        ) from None


def data_ls(data_dir: Path | None = None) -> list[dict[str, str]]:
    """Return a row for each task: its files, or where they were looked for."""
    rows = []
    for name in registry.tasks.names():
        try:
            files = ", ".join(str(path) for path in registry.tasks.get(name).data.locate(data_dir))
            rows.append({"task": name, "state": "here", "files": files})
        except FedBenchError as error:
            state = "missing" if isinstance(error, DataMissingError) else "broken"
            rows.append({"task": name, "state": state, "files": str(error)})
    return rows


def data_fetch(names: Sequence[str], data_dir: Path | None = None) -> dict[str, tuple[Path, ...]]:
    """Download what is not here of the named tasks or data sets, and return the files.

    Raises
    ------
    SpecError, DataMissingError, DataError
        A name is unknown, or a file cannot be downloaded or is not the official one.
    """
    return {name: _data(name).fetch(data_dir) for name in names}


def data_verify(names: Sequence[str] = (), data_dir: Path | None = None) -> list[dict[str, str]]:
    """Read and check the data of the named tasks or data sets, or of all tasks, and return a row for each."""
    rows = []
    for name in names or registry.tasks.names():
        try:
            state, detail = "good", f"{len(_data(name).load(data_dir).targets):,} samples"
        except DataMissingError as error:
            state, detail = "missing", str(error)
        except (DataError, PluginError) as error:
            state, detail = "damaged", str(error)
        rows.append({"name": name, "state": state, "detail": detail})
    return rows


def _data(name: str) -> Data:
    """Return the data of a task, or of a data set such as ``bloodmnist`` that a task uses."""
    if name in registry.tasks.names():
        data: Data = registry.tasks.get(name).data
        return data
    sets: dict[str, Data] = {}
    for task in registry.tasks.names():
        with contextlib.suppress(PluginError):  # a broken plug-in hides no other; `ls` names it
            data = registry.tasks.get(task).data
            sets |= {data.flag: data} if hasattr(data, "flag") else {}
    if name not in sets:
        raise unknown("task or data set", name, {*sets, *registry.tasks.names()})
    return sets[name]


def estimate(cell: Cell) -> float:
    """Return a rough estimate of one cell's seconds on one core, from its arithmetic alone.

    It assumes 80 GFLOP/s and a millisecond of overhead a step, as measured on one 2.5 GHz core; expect a factor of two.
    """
    from fedbench.kinds import KINDS
    from fedbench.models import Model

    task, p = cell.task, cell.task.protocol
    flops = Model(task.model, task.data.shape, KINDS[task.kind].outputs(task.n_classes)).flops()
    train = task.data.counts.get("train", sum(task.data.counts.values()))
    held_out = sum(task.data.counts.values()) - train + p.local_test * train
    passes = p.rounds * p.participation * train * (1 - p.local_test) * p.local_epochs
    return (3 * passes + p.rounds * held_out) * flops / 80e9 + passes / p.batch_size * 1e-3


def _tasks(cells: Iterable[Cell]) -> list[Task]:
    return list(dict.fromkeys(cell.task for cell in cells))


def _unavailable(task: Task, data_dir: Path | None, *, fetch: bool) -> str:
    """Return why a task's data cannot be had (missing, or damaged), or nothing."""
    try:
        task.data.fetch(data_dir) if fetch else task.data.locate(data_dir)
    except DataError as error:
        return str(error)
    return ""


def _states(cells: Sequence[Cell], results: Path, missing: Mapping[Task, str]) -> list[CellState]:
    costs: dict[Task, float] = {}  # estimated only where something is left to run, as that needs torch
    states = []
    for cell in cells:
        state, reason = records.state(cell.folder(results))
        if state == "done":
            states.append(CellState(cell, state))
        elif missing[cell.task]:
            states.append(CellState(cell, "skipped", missing[cell.task]))
        else:
            if cell.task not in costs:
                costs[cell.task] = estimate(cell)
            states.append(CellState(cell, state, reason, costs[cell.task]))
    return states


def _write_plan(results: Path, suite: Suite, states: Sequence[CellState]) -> None:
    """Leave what the suite asks for beside the records, so that a board can show what is missing."""
    path = results / "plans" / f"{suite.name}.json"
    earlier = records.read_plan(path).cells if path.is_file() else ()
    cells: dict[str, PlannedCell] = {}
    chosen = {(item.cell.task, item.cell.label): item.cell for item in states}.values()
    for cell in (
        *(_planned(cell) for cell in suite.cells()),
        # A method that is not the suite's still owes all of the suite's seeds: no seed can be picked.
        *(_planned(replace(cell, seed=seed)) for cell in chosen for seed in suite.seeds),
        *(cell for cell in earlier if (results / cell.path).exists() and _is_current(cell, suite.track)),
        *(_planned(item.cell, item.reason if item.state == "skipped" else None) for item in states),
    ):
        cells[cell.path] = cell
    plan = Plan(
        schema_version=SCHEMA_VERSION,
        suite=suite.name,
        title=suite.title,
        track=suite.track,
        cells=tuple(cells.values()),
    )
    records.write_atomic(path, plan.model_dump_json(indent=1) + "\n")


def _is_current(planned: PlannedCell, track: Track) -> bool:
    """Say whether a cell planned earlier is still the same: no version or setting behind it has changed since."""
    try:
        method = registry.methods.get(planned.method).configure(planned.method, planned.hyperparameters)
        cell = Cell(registry.tasks.get(planned.task), planned.method, method, track, planned.seed)
    except FedBenchError:
        return False
    return cell.hash == planned.hash


def _planned(cell: Cell, skipped: str | None = None) -> PlannedCell:
    return PlannedCell(
        task=cell.task.name,
        method=cell.method_name,
        label=cell.label,
        family=cell.method.family,
        hash=cell.hash,
        seed=cell.seed,
        hyperparameters=cell.identity()["method"]["hyperparameters"],
        skipped=skipped,
    )
