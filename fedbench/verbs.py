"""What the command line does, as functions that return values."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedbench import records, registry
from fedbench.cell import Cell, Suite, Tuned, load_suite, suite_names
from fedbench.errors import DataError, DataMissingError, FedBenchError, PluginError, SpecError, unknown
from fedbench.executors import Event, Options, clear_up, run_cells, run_serially
from fedbench.locks import locked
from fedbench.method import Method, Size
from fedbench.metrics import METRICS
from fedbench.schema import SCHEMA_VERSION, Plan, PlannedCell, versions_of
from fedbench.submissions.decisions import standings
from fedbench.task import Data, Task, Track
from fedbench.taskfile import load_task_file

if TYPE_CHECKING:
    from fedbench.leaderboard.comparison import Contrast, Models
    from fedbench.leaderboard.resolution import Resolution
    from fedbench.merging import Merged
    from fedbench.submissions.adding import Added
    from fedbench.submissions.checking import Checked
    from fedbench.submissions.decisions import Decision, Submitted
    from fedbench.submissions.packing import Packed
    from fedbench.testing import Verdict
    from fedbench.tuning import Search, Trial
    from fedbench.verification import Report
    from fedbench.verification.rerun import Drawn

RESULTS, BOARDS, TUNING = Path("results"), Path("boards"), Path("tuning")
SUITE = "quick"
EXECUTORS = ("processes", "serial", "ray")


@dataclass(frozen=True)
class CellState:
    """A cell of a selection and where it stands.

    Parameters
    ----------
    cell : Cell
        Which cell.
    state : {"done", "missing", "failed", "corrupt", "skipped", "stale"}
        ``corrupt``: there is a record, but its files are not what its manifest says. ``stale``: an earlier version of
        the task, the method or the harness made a record, which stays; see `fedbench.records.stale`.
    reason : str
        Why, for the last four.
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
    with_plugins : bool
        Add the methods of all other distributions that are installed.
    """

    suite: str = SUITE
    tasks: Sequence[str] = ()
    methods: Sequence[str] = ()
    seeds: Sequence[int] = ()
    overrides: Mapping[str, Mapping[str, Any]] | None = None
    task_files: Sequence[Path] = ()
    with_plugins: bool = False

    def load(self) -> tuple[Suite, list[Cell]]:
        """Return the suite and the chosen cells, both without the plug-ins that are broken.

        Raises
        ------
        SpecError
            A name, a seed or a hyperparameter is wrong.
        PluginError
            All tasks or all methods chosen are broken.
        """
        suite, tasks, methods = self._chosen
        good_tasks, good_methods = _working(registry.tasks, tasks), _working(registry.methods, methods)
        if not (good_tasks and good_methods):
            raise PluginError(" ".join(self.broken().values()))
        kept = {"tasks": _working(registry.tasks, suite.tasks), "methods": _working(registry.methods, suite.methods)}
        overrides = {
            name: dict(values)
            for name, values in (self.overrides or {}).items()
            if name in good_methods or name not in methods
        }
        suite = suite.model_copy(update=kept)
        return suite, suite.cells(good_tasks, good_methods, self.seeds, overrides)

    def broken(self) -> dict[str, str]:
        """Return what is wrong with the chosen plug-ins that do not work, by ``"task NAME"`` or ``"method NAME"``."""
        _, tasks, methods = self._chosen
        chosen = [*((registry.tasks, name) for name in tasks), *((registry.methods, name) for name in methods)]
        faults = {f"{group.what} {name}": _fault(group, name) for group, name in chosen}
        return {what: fault for what, fault in faults.items() if fault}

    @cached_property
    def _chosen(self) -> tuple[Suite, tuple[str, ...], tuple[str, ...]]:
        """The suite, and the names of the tasks and methods that are meant; files are read once."""
        suite = load_suite(self.suite)
        own = [load_task_file(path) for path in self.task_files]
        for task in own:
            registry.tasks.forget(task.name)
            registry.tasks.add(task.name, task)
        if own and not self.tasks:  # a board of its own, with the suite's methods and seeds
            names = tuple(task.name for task in own)
            suite = suite.model_copy(update={"name": names[0], "title": own[0].title, "tasks": names})
        tasks = tuple(dict.fromkeys([*self.tasks, *(task.name for task in own)])) or suite.tasks
        added = registry.methods.installed() if self.with_plugins else []
        methods = tuple(dict.fromkeys([*(self.methods or suite.methods), *added]))
        if added:
            suite = suite.model_copy(update={"methods": tuple(dict.fromkeys([*suite.methods, *added]))})
        return suite, tasks, methods


def _fault(group: registry.Registry, name: str) -> str:
    """Return what is wrong with a plug-in, or nothing."""
    try:
        group.get(name)
    except PluginError as error:
        return str(error)
    return ""


def _working(group: registry.Registry, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not _fault(group, name))


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
    broken : mapping of str to str
        What is wrong with the chosen plug-ins that do not work; see `Selection.broken`.
    """

    suite: str
    cells: tuple[CellState, ...]
    ran: int
    pages: tuple[Path, ...]
    broken: Mapping[str, str]

    def count(self, state: str) -> int:
        """Return how many cells are in a state."""
        return sum(item.state == state for item in self.cells)


def ls(what: str) -> list[dict[str, str]]:
    """Return a row of facts for each task, method, suite or metric.

    A plug-in that is broken has a row with the reason, and hides nothing else.

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


def _described(group: registry.Registry, name: str, row: Callable[[str, Any], dict[str, str]]) -> dict[str, str]:
    try:
        return {"name": name, **row(name, group.get(name)), "from": group.origin(name)}
    except Exception as error:  # a plug-in's own traffic(), say, may raise anything
        told = str(error) if isinstance(error, FedBenchError) else f"{type(error).__name__}: {error}"
        return {"name": name, "title": f"broken: {told}", "from": group.origin(name)}


def _task_row(name: str, task: Task) -> dict[str, str]:
    return {
        "clients": _clients(task),
        "classes": str(task.n_classes),
        "rounds": str(task.protocol.rounds),
        "data": task.data.license,
        "title": task.title,
    }


def _clients(task: Task) -> str:
    return str(getattr(task.partitioner, "clients", "by site"))


def _method_row(name: str, method: type[Method]) -> dict[str, str]:
    defaults = ", ".join(f"{key}={value}" for key, value in method.defaults().items())
    down, up = _relative_traffic(method())
    return {
        "family": method.family,
        "down": down,
        "up": up,
        "time": _time_of_round(name, method),
        "mechanism": method.mechanism,
        "defaults": defaults,
        "title": first_line(method),
    }


def _relative_traffic(method: Method) -> tuple[str, str]:
    """Return what one sampled client is sent in a round, and sends, in sizes of the paper's model."""
    if method.pooled:
        return "", ""
    sizes, size = _paper_model()
    shared = sum(n for name, n in sizes.items() if method.shared(name))
    down, up = (_times(n, size.model) for n in method.traffic(replace(size, shared=shared)))
    return down, up


@cache
def _costs() -> dict[str, dict[str, Any]]:
    """Return what `benchmarks/report.py` wrote of each method that was measured."""
    text = resources.files("fedbench.methods").joinpath("costs.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def _time_of_round(name: str, method: type[Method]) -> str:
    """Return what a round was measured to take, over FedAvg's; nothing for a version that was not measured."""
    found = _costs().get(name, {})
    return f"{found['time']:.2f}x" if found.get("version") == method.version else ""


def _times(n: int | None, model: int) -> str:
    if n is None:
        return "varies"
    return "<0.01x" if 0 < n / model < 0.005 else f"{round(n / model, 2):g}x"


@cache
def _paper_model() -> tuple[dict[str, int], Size]:
    """Return the bytes of each tensor of the four-layer CNN of FedKPer on BloodMNIST, and of all it is made of."""
    from fedbench.models import Model
    from fedbench.seeds import Streams

    tensors = Model("cnn4", (28, 28, 3), 8).initial(Streams(0))
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    model = sum(sizes.values())
    return sizes, Size(shared=model, model=model, classes=8, features=tensors["head.weight"].shape[1])


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


def new(kind: str, name: str, folder: Path | None = None) -> list[Path]:
    """Write a package with a method or a task to start from, and return its files; see `fedbench.scaffold`.

    Parameters
    ----------
    kind : {"method", "task"}
        Which.
    name : str
        Name under which it is registered.
    folder : Path, optional
        Where it will stand; a folder of its name in the current one, if not given.

    Raises
    ------
    SpecError
        The kind is neither, the name is not valid or taken, or the folder is not empty; nothing was written.
    """
    from fedbench import scaffold

    writers = {"method": scaffold.new_method, "task": scaffold.new_task}
    if kind not in writers:
        raise unknown("kind of plug-in", kind, writers)
    return writers[kind](name, Path(name) if folder is None else folder)


def check(name: str) -> Iterator[Verdict]:
    """Try a registered method by every rule of the conformance suite; yield what came of each; see `fedbench.testing`.

    Raises
    ------
    SpecError
        No method has this name; the message suggests the nearest.
    PluginError
        It cannot be imported, shares its name with another, or is no method.
    """
    method = registry.methods.get(name)
    from fedbench import testing

    return testing.check(method, name=name)


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
    reports: Path | None = BOARDS,
    executor: str = "processes",
    jobs: int | None = None,
    address: str | None = None,
    storage: str | None = None,
    device: str = "cpu",
    time_limit: float | None = None,
    data_dir: Path | None = None,
    keep_weights: bool = False,
    checkpoint_seconds: float = 20.0,
    checkpoint_rounds: int = 25,
    watch: Callable[[Event], None] = lambda event: None,
    begin: Callable[[Sequence[CellState]], None] = lambda states: None,
    redo_stale: Callable[[Sequence[CellState]], bool] = lambda stale: False,
) -> RunSummary:
    """Run what is missing of a selection and render its report.

    Records that are there stay; a failed or corrupt cell is run again; a task without data is skipped. A cell that
    fails does not stop the others. A stale cell is run if that is wanted; the record of the earlier version stays.
    Several runs on one results folder share the work.

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
    data_dir, keep_weights, checkpoint_seconds, checkpoint_rounds
        See `fedbench.simulation.run_cell`.
    begin, watch : callable
        Called with the cells once before the first starts, and with each event.
    redo_stale : callable
        Called with the stale cells, if there are any, before ``begin``: whether they are run.

    Raises
    ------
    SpecError, RecordError
        The selection or what is to run it is wrong, the results folder cannot be written, or it is of a newer schema.
    LockError
        The file system of the results folder has no locks.
    PluginError
        All tasks or all methods chosen are broken.
    """
    _check_workers(executor, jobs, address, storage, device)
    stop_at = math.inf if time_limit is None else time.time() + 60 * time_limit
    suite, cells = selection.load()
    missing = {task: _unavailable(task, data_dir, fetch=True) for task in _tasks(cells)}
    states = _states(cells, results, missing)
    try:
        with locked(results / "plans" / f".{suite.name}.lock", wait=True):  # another run may write there as well
            _write_plan(results, suite, states)
    except OSError as error:
        raise SpecError(
            f"results folder {results} cannot be written ({error.strerror}); choose another one with --out."
        ) from None
    stale = [item for item in states if item.state == "stale"]
    redone = bool(stale) and redo_stale(stale)
    states = [replace(item, seconds=0.0) if item.state == "stale" and not redone else item for item in states]
    begin(states)
    todo = [item for item in states if item.state in ("missing", "failed", "corrupt", *(["stale"] if redone else []))]
    for item in states:
        if item.state == "done":
            clear_up(item.cell, results)
    options = Options(results.resolve(), data_dir, keep_weights, checkpoint_seconds, checkpoint_rounds, device, stop_at)
    current = {item.cell: item for item in states}
    for event in _events(executor, [item.cell for item in todo], options, jobs, address, storage):
        if event.is_last:
            state = "missing" if event.state == "stopped" else event.state
            current[event.cell] = CellState(event.cell, state, event.reason)
        watch(event)
    pages = report(suite.name, results, reports) if reports is not None else []
    return RunSummary(suite.name, tuple(current.values()), len(todo), tuple(pages), selection.broken())


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


def tune(
    method: str,
    task: str,
    *,
    budget: int = 20,
    seed: int = 0,
    metric: str | None = None,
    track: Track = "faithful",
    out: Path = TUNING,
    jobs: int | None = None,
    data_dir: Path | None = None,
    begin: Callable[[Search], None] = lambda search: None,
    watch: Callable[[Trial], None] = lambda trial: None,
) -> tuple[Tuned, Path]:
    """Search a method's hyperparameters for one task, on validation data alone, and write what was found.

    What is interrupted goes on when called again: trials whose records are there are not run again.

    Parameters
    ----------
    method : str
        Registered name.
    task : str
        Registered name, or path of a TOML file over a user's own data.
    budget, seed, metric, track
        See `fedbench.tuning.search`.
    out : Path
        Where the records of the trials go, and what was found as ``TASK/METHOD.toml``.
    jobs : int, optional
        Workers at a time; as many as cores if not given. It changes no bit of what is found.
    data_dir : Path, optional
        Where to look for data first.
    begin, watch : callable
        Called with the search once before the first trial, and with each trial.

    Raises
    ------
    SpecError
        What is asked for is wrong, or optuna is not installed.
    DataError, PartitionError
        The data is missing or damaged, or too small to be split once more.
    FedBenchError
        The machine failed, or every trial did.
    """
    from fedbench.federation import federate
    from fedbench.resident import load_data
    from fedbench.tuning import search, tune, write

    _check_workers("processes", jobs, None, None, "cpu")
    of = load_task_file(task) if task.endswith(".toml") else registry.tasks.get(task)
    found = search(of, method, budget=budget, seed=seed, metric=metric, track=track)
    of.data.fetch(data_dir)
    federate(of.but(evaluated_on="validation"), load_data(of.data, data_dir), track, seed)  # it can be split
    begin(found)
    options = Options(out.resolve(), data_dir)
    tuned = tune(found, out, lambda cells: _events("processes", cells, options, jobs, None, None), watch=watch)
    path = out / of.name / f"{method}.toml"
    write(tuned, path)
    return tuned, path


def report(suite: str, results: Path = RESULTS, reports: Path = BOARDS, *, with_records: bool = False) -> list[Path]:
    """Render a suite's board from the records in a results folder, and the page over all boards; return the pages.

    Parameters
    ----------
    suite : str
        Its name.
    results, reports : Path
        A results folder, and the folder that holds one for each board.
    with_records : bool
        Put the records beside the board as well, in one file; see `fedbench.release`.

    Raises
    ------
    RecordError
        Nothing of this suite was run in that folder.
    SpecError
        The reports folder cannot be written.
    """
    from fedbench import leaderboard, release

    try:
        pages = [*leaderboard.render(results, suite, reports / suite), *leaderboard.index(reports)]
        if with_records:
            release.pack(results, suite, reports / suite / release.NAME)
        return pages
    except OSError as error:
        raise SpecError(
            f"reports folder {reports / suite} cannot be written ({error.strerror}); the records are whole: run "
            f"`fedbench report --suite {suite} --out {results} --reports OTHER`."
        ) from None


def check_reports(folder: Path) -> dict[str, list[str]]:
    """Render every published site again, and return for each suite the files that are not what the records give.

    The page over all of them is checked as well, under its name, ``index.html``.

    Parameters
    ----------
    folder : Path
        Holds the records as ``records/``, and beside them a folder for each suite whose site is published. A site that
        has its records in one file beside it (see `fedbench.release`) is made from these.

    Raises
    ------
    SpecError
        There are no records, or no site is published.
    RecordError
        A published suite was never run in these records.
    """
    import tempfile

    from fedbench import leaderboard, release

    results = folder / "records"
    if not (results / "plans").is_dir():
        raise SpecError(f"{folder} has no records/plans; name a folder with records/ and the sites of its suites.")
    published = sorted(path.parent for path in folder.glob("*/index.html"))
    if not published:
        raise SpecError(f"{folder} has no site; render one with `fedbench report --out {results} --reports {folder}`.")
    differing: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="fedbench-check-") as scratch:
        for site in published:
            again, own = Path(scratch) / site.name, site / release.NAME
            with release.opened(own if own.is_file() else results) as folder_of_site:
                leaderboard.render(folder_of_site, site.name, again)
            made, there = _files(again), _files(site)
            there.pop(release.NAME, None)
            differing[site.name] = sorted(name for name in {*made, *there} if made.get(name) != there.get(name))
        names = [path.relative_to(scratch) for path in leaderboard.index(Path(scratch))]
        differing["index.html"] = [
            name.as_posix()
            for name in names
            if not (folder / name).is_file() or (folder / name).read_bytes() != (scratch / name).read_bytes()
        ]
    return differing


def _files(folder: Path) -> dict[str, str]:
    """Return the digest of each file below a folder, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def table(suite: str, form: str, results: Path = RESULTS) -> tuple[str, str]:
    """Return the name of a file and its text: a suite's board as CSV, JSON or LaTeX; see `fedbench.leaderboard.tables`.

    Raises
    ------
    SpecError
        The form is none of these.
    RecordError
        Nothing of this suite was run in that folder.
    """
    from fedbench.leaderboard import load_board
    from fedbench.leaderboard.tables import FORMATS

    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    name, write = FORMATS[form]
    return name, write(load_board(results, suite))


def compare(
    methods: Sequence[str],
    reference: str,
    *,
    suite: str = SUITE,
    task: str | None = None,
    metric: str | None = None,
    results: Path = RESULTS,
) -> Contrast:
    """Return methods of one results folder compared with another; see `fedbench.leaderboard.comparison.contrast`.

    Raises
    ------
    SpecError, RecordError
        A name is wrong, or nothing of this suite was run there.
    PairingError
        A cell is missing, or cells are not paired; the message names them.
    """
    from fedbench.leaderboard import load_board
    from fedbench.leaderboard.comparison import contrast

    return contrast(load_board(results, suite), methods, reference, task, metric)


def compare_models(
    first: str, second: str, task: str, seed: int, *, suite: str = SUITE, results: Path = RESULTS
) -> Models:
    """Return two concrete models compared on one task; see `fedbench.leaderboard.comparison.models`.

    Raises
    ------
    SpecError, RecordError, PairingError
        A name is wrong, a record is missing, or the models were not tested on the same samples.
    """
    from fedbench.leaderboard import load_board
    from fedbench.leaderboard.comparison import models

    return models(results, load_board(results, suite), first, second, task, seed)


@dataclass(frozen=True)
class Work:
    """What tasks can resolve, and what it takes to resolve more.

    Parameters
    ----------
    resolution : Resolution
        Spread, detectable difference now, seeds needed.
    cells : int
        Cells that are still to be run for so many seeds.
    seconds : float
        Rough estimate for them, on so many workers.
    """

    resolution: Resolution
    cells: int
    seconds: float


@dataclass(frozen=True)
class Design:
    """What `plan` found.

    Parameters
    ----------
    suite : str
        Its name.
    track : {"faithful", "robust"}
        What a seed redraws there.
    effect, power : float
        The difference to be found, a fraction, and with which probability.
    comparisons : int
        m, which share alpha.
    workers : int
        Cells at a time.
    work : tuple of Work
        All tasks together first, where there are several and they were run.
    """

    suite: str
    track: Track
    effect: float
    power: float
    comparisons: int
    workers: int
    work: tuple[Work, ...]


def plan(
    effect: float,
    *,
    suite: str = SUITE,
    methods: int | None = None,
    power: float = 0.8,
    sd: float | None = None,
    metric: str | None = None,
    results: Path = RESULTS,
    jobs: int | None = None,
) -> Design:
    """Return how many seeds a difference asks for, how long they take here, and what the seeds at hand resolve.

    Parameters
    ----------
    effect : float, > 0
        A fraction.
    suite : str
        Name of a suite, or path of a TOML file.
    methods : int, >= 2, optional
        How many are compared, the reference among them; those of the suite, without reference points, if not given.
        Then the time is that of so many methods from nothing, else that of what is missing of the suite.
    power : float, between 0.05 and 1
        Probability that a difference of this size is found.
    sd : float, optional
        Standard deviation over seeds of a paired difference, a fraction; from the results folder, if not given.
    metric : str, optional
        The metric that ranks, if not given.
    jobs : int, optional
        Workers at a time; as many as cores, if not given.

    Raises
    ------
    SpecError, RecordError
        A value is out of range, or there are no records to take a spread from and none was given.
    """
    from fedbench.leaderboard import load_board
    from fedbench.leaderboard.resolution import resolution, resolutions

    _check_workers("processes", jobs, None, None, "cpu")
    if methods is not None and methods < 2:
        raise SpecError(f"methods: two or more are compared, got {methods}")
    of = load_suite(suite)
    cells = of.cells()
    compared = {cell.method_name for cell in cells if cell.method.family != "reference"}
    comparisons = (len(compared) if methods is None else methods) - 1
    if sd is None:
        board = load_board(results, of.name)
        found = resolutions(board, effect, comparisons, power=power, metric=metric)
    else:
        found = (resolution(of.tasks, len(of.seeds), effect, comparisons, sd=sd, power=power),)
    costs = {task: estimate(Cell(task, "", Method(), of.track, 0)) for task in _tasks(cells)}
    workers = jobs or os.cpu_count() or 1
    work = []
    for item in found:
        cost = {task.name: seconds for task, seconds in costs.items() if task.name in item.tasks}
        if methods is None:
            chosen = [cell for cell in cells if cell.task.name in cost and cell.seed in of.seeds[: item.seeds]]
            left = [cell for cell in chosen if records.state(cell.folder(results))[0] != "done"]
            beyond = max(0, item.seeds - len(of.seeds))
            every = len(of.methods)
        else:
            left, beyond, every = [], item.seeds, methods
        count = len(left) + beyond * every * len(cost)
        total = sum(cost[cell.task.name] for cell in left) + beyond * every * sum(cost.values())
        work.append(Work(item, count, total / max(1, min(workers, count))))
    return Design(of.name, of.track, effect, power, comparisons, workers, tuple(work))


def export(suite: str, folder: Path, results: Path = RESULTS) -> int:
    """Write a suite's finished cells for MLflow and return how many were new; see `fedbench.leaderboard.tracking`.

    Raises
    ------
    SpecError
        MLflow is not installed.
    RecordError
        Nothing of this suite was run in that folder.
    """
    from fedbench.leaderboard import load_board
    from fedbench.leaderboard.tracking import to_mlflow

    return to_mlflow(results, load_board(results, suite), folder)


def merge(folders: Sequence[Path], into: Path, *, leave_damaged: bool = False) -> Merged:
    """Join results folders into a new one, whole or not at all; see `fedbench.merging.merge`.

    Raises
    ------
    SpecError, RecordError
        A folder is wrong, a cell has two results, or a record is damaged; nothing was changed.
    """
    from fedbench import merging

    return merging.merge(folders, into, leave_damaged=leave_damaged)


def submit_pack(method: str, suite: str, results: Path = RESULTS, **about: Any) -> Packed:
    """Pack a method's records of a suite into one archive; see `fedbench.submissions.packing.pack`.

    Raises
    ------
    SubmissionError, SpecError, RecordError
        The method cannot be submitted, or a record is missing or not as it should be; nothing was written.
    """
    from fedbench.submissions.packing import pack

    return pack(method, suite, results, **about)


def submit_check(archive: Path, board: Path | None = None, keep: Path | None = None) -> Checked:
    """Check an archive as hostile, executing nothing of it; see `fedbench.submissions.checking.check`.

    Raises
    ------
    SubmissionError
        There is something where the records shall be kept.
    """
    from fedbench.submissions.checking import check

    return check(archive, board, keep)


def submit_add(archive: Path, board: Path, *, rerun: Path | None = None, by: str = "", reason: str = "") -> Added:
    """Check an archive and join it to a board; see `fedbench.submissions.adding.add`.

    Raises
    ------
    SubmissionError, RecordError
        The report of a re-run does not prove it, or the board's own files are damaged; nothing was changed.
    """
    from fedbench.submissions.adding import add

    return add(archive, board, rerun=rerun, by=by, reason=reason)


def submit_refuse(archive: Path, board: Path, *, reason: str, by: str = "") -> Decision:
    """Write down that an archive was refused; see `fedbench.submissions.adding.refuse`.

    Raises
    ------
    SubmissionError
        It is no sound submission, or it was decided upon already.
    """
    from fedbench.submissions.adding import refuse

    return refuse(archive, board, reason=reason, by=by)


def submit_withdraw(
    method: str, board: Path, *, reason: str, suite: str | None = None, by: str = ""
) -> tuple[Decision, ...]:
    """Take a submitted method's values off a board; see `fedbench.submissions.adding.withdraw`.

    Raises
    ------
    SubmissionError
        No submission of that name stands there.
    """
    from fedbench.submissions.adding import withdraw

    return withdraw(method, board, reason=reason, suite=suite, by=by)


def submit_log(board: Path, since: Path | None = None) -> tuple[tuple[Submitted, ...], tuple[Decision, ...]]:
    """Return the submissions of a board with their states, and its decisions, or those since an earlier log.

    Raises
    ------
    SubmissionError
        A line of the log was changed, taken out or put in.
    """
    from fedbench.submissions import decisions
    from fedbench.submissions.rules import check_folder

    check_folder(board)
    log = decisions.read(board)
    return decisions.submitted(log), log if since is None else decisions.grown(board, since)


def verify(
    path: Path,
    *,
    data_dir: Path | None = None,
    rerun: int = 0,
    seed: int = 0,
    executor: str = "processes",
    jobs: int | None = None,
    device: str = "cpu",
    agree: Callable[[Drawn], bool] = lambda drawn: False,
) -> Report:
    """Check every number of a results folder, or of one record; see `fedbench.verification`.

    Parameters
    ----------
    path : Path
        The folder.
    data_dir : Path, optional
        Where to look for data first.
    rerun : int, >= 0
        How many records are drawn, and their cells trained again: this runs the code of their methods.
    seed : int, >= 0
        Of the draw.
    executor : {"processes", "serial"}
        What trains them: worker processes, or this process.
    jobs, device
        See `run`.
    agree : callable
        Called with what was drawn, before any of it is trained; nothing is, unless it returns True.

    Raises
    ------
    SpecError
        There is no record, not as many as are to be drawn, or nobody agreed.
    """
    from fedbench.verification import Subject, examine
    from fedbench.verification import rerun as again

    _check_workers(executor, jobs, None, None, device)
    subject = Subject.of(path, data_dir)
    if rerun and not 1 <= rerun <= len(subject.entries):
        raise SpecError(f"rerun: between 1 and all {len(subject.entries)} records can be drawn, not {rerun}.")
    report = examine(subject)
    if not rerun:
        return report
    drawn = again.draw(subject, rerun, seed)
    if drawn.entries and not agree(drawn):
        raise SpecError("rerun: nobody agreed to run the code of these methods; nothing was run. Say so with --yes.")
    result = again.rerun(
        drawn,
        lambda cells, options: _events(executor, cells, options, jobs, None, None),
        lambda folder: Options(folder, data_dir, device=device),
    )
    return replace(report, results=(*report.results, result))


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
            older = records.stale(results, _planned(cell), cell.track) if state == "missing" else ""
            states.append(CellState(cell, "stale" if older else state, older or reason, costs[cell.task]))
    return states


def _write_plan(results: Path, suite: Suite, states: Sequence[CellState]) -> None:
    """Leave what the suite asks for beside the records, so that a board can show what is missing."""
    path = results / "plans" / f"{suite.name}.json"
    earlier = records.read_plan(path).cells if path.is_file() else ()
    cells: dict[str, PlannedCell] = {}
    chosen = {(item.cell.task, item.cell.label): item.cell for item in states}.values()
    asked = [
        *(_planned(cell) for cell in suite.cells()),
        # A method that is not the suite's still owes all of the suite's seeds: no seed can be picked.
        *(_planned(replace(cell, seed=seed)) for cell in chosen for seed in suite.seeds),
    ]
    known = {cell.path for cell in asked}  # where its hyperparameters come from may have changed since
    submitted = standings(results, suite.name)  # whose methods need not be installed here
    for cell in (
        *asked,
        *(
            cell
            for cell in earlier
            if cell.path not in known
            and (cell.path in submitted or ((results / cell.path).exists() and _is_current(cell, suite.track)))
        ),
        *(_planned(item.cell, item.reason if item.state == "skipped" else None) for item in states),
    ):
        cells[cell.path] = cell
    plan = Plan(
        schema_version=SCHEMA_VERSION,
        suite=suite.name,
        title=suite.title,
        track=suite.track,
        margin=suite.margin,
        cells=tuple(cells.values()),
    )
    records.write_plan(path, plan)


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
        mechanism=cell.method.mechanism,
        versions=versions_of(cell.identity()),
        skipped=skipped,
        tuning=cell.tuning,
    )
