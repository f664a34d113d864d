"""Executors: what runs cells, in this process or in worker processes. A cell that fails costs only itself.

A worker process computes on one thread and runs one group of cells at a time: a single cell on a CPU, the seeds of one
task and method on a GPU, where they are trained together. Workers are spawned, not forked, so they are safe under any
parent. The parent prepares each data set once, as files that all workers map, and learns of progress through pipes. A
worker that dies is replaced, and the cells that it left are tried once more, each alone, from their checkpoints.

Whoever computes a cell holds its lock meanwhile, so several runs on one results folder share the work: a cell that
another run holds is put off, and taken as done or taken over when it is free. `fedbench.cluster` runs the same cells on
many machines.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fedbench.cell import Cell
from fedbench.errors import DataError, FedBenchError, RecordError, of_machine
from fedbench.locks import BusyError, LockError, held, locked
from fedbench.records import NewerSchemaError, Record, write_failure
from fedbench.resident import load_data, mapped, store
from fedbench.schema import MANIFEST, Failure, checkpoint_folder
from fedbench.task import Data, Dataset

_spawn = multiprocessing.get_context("spawn")

Group = tuple[Cell, ...]
"""Cells that one worker runs together; they differ by seed alone."""

Tell = Callable[[Cell, dict[str, Any]], None]

POLL = 1.0
"""Seconds between two looks at cells that another run holds."""


@dataclass(frozen=True)
class Options:
    """What is common to all cells of a run and changes no result; see `fedbench.simulation.run_cell`."""

    results: Path
    data_dir: Path | None = None
    keep_weights: bool = False
    checkpoint_seconds: float = 20.0
    checkpoint_rounds: int = 25
    device: str = "cpu"
    stop_at: float = math.inf


@dataclass(frozen=True)
class Event:
    """What happened to a cell.

    Parameters
    ----------
    cell : Cell
        Which cell.
    state : {"running", "waiting", "done", "failed", "stopped"}
        Where it is now; ``waiting``: it is put off, as another run holds it or its worker died; ``stopped``: the time
        was up, it goes on from its checkpoint another time.
    round, rounds : int
        Rounds done, and all.
    reason : str
        Why it failed or waits; of a running cell, from whom it was taken over.
    digest : str
        Digest of its record, once done.
    machine : bool
        Whether it failed for want of the machine (data, disk, memory, a worker that died) and not by what was run.
    """

    cell: Cell
    state: str
    round: int = 0
    rounds: int = 0
    reason: str = ""
    digest: str = ""
    machine: bool = False

    @property
    def is_last(self) -> bool:
        """Whether nothing more will happen to the cell in this run."""
        return self.state not in ("running", "waiting")


def grouped(cells: Sequence[Cell], device: str) -> list[Group]:
    """Return the cells as groups, in the order in which they are started."""
    if device == "cpu":
        return [(cell,) for cell in cells]
    alike = groupby(cells, key=lambda cell: (cell.task, cell.method_name, cell.hash, cell.track))
    return [tuple(group) for _, group in alike]


def run_group(
    group: Group,
    dataset: Dataset,
    options: Options,
    tell: Tell,
    saved: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Run the cells of a group in this process; never raises because of a cell.

    Parameters
    ----------
    group : tuple of Cell
        What to run.
    dataset : Dataset
        The samples of their task.
    options : Options
        Common to all cells.
    tell : callable
        Told of each cell what happens to it: the fields of an `Event`.
    saved : callable
        Called with a checkpoint's folder after each save.
    """
    from fedbench.simulation import one_thread, run_cell
    from fedbench.training import OneByOne, Trainer

    trainer: Trainer = OneByOne()
    if options.device != "cpu":
        from fedbench.together import Together, deterministic

        deterministic(options.device)
        trainer = Together(device=options.device)

    def attempt(cell: Cell) -> None:
        last = 0.0

        def watch(done: int, rounds: int) -> None:
            nonlocal last
            if time.monotonic() - last > 0.2:  # a fast cell must not flood the pipe
                last = time.monotonic()
                tell(cell, {"state": "running", "round": done, "rounds": rounds})

        try:
            with locked(lock_of(cell, options.results)) as dead:
                if dead is not None:
                    reason = f"taken over from {dead}, which died; it had begun {dead.age} ago"
                    tell(cell, {"state": "running", "reason": reason, "rounds": cell.task.protocol.rounds})
                _clear_up(cell, options.results)
                if digest := done(cell, options.results):  # another run was faster
                    tell(cell, {"state": "done", "digest": digest})
                    return
                try:
                    record = run_cell(
                        cell,
                        options.results,
                        dataset=dataset,
                        device=options.device,
                        trainer=trainer,
                        keep_weights=options.keep_weights,
                        checkpoint_seconds=options.checkpoint_seconds,
                        checkpoint_rounds=options.checkpoint_rounds,
                        stop_at=options.stop_at,
                        watch=watch,
                        saved=saved,
                    )
                except Exception as error:
                    tell(cell, failed(cell, options.results, error))  # with the lock: nobody else's note or record
                else:
                    tell(cell, {"state": "done", "digest": record.digest} if record else {"state": "stopped"})
        except BusyError as busy:
            tell(cell, {"state": "waiting", "reason": str(busy)})
        except Exception as error:
            tell(cell, failed(cell, options.results, error))

    with one_thread():  # around all cells, as those of a group do not end in the order in which they begin
        trainer.each([lambda cell=cell: attempt(cell) for cell in group])  # type: ignore[misc]


def run_serially(cells: Sequence[Cell], options: Options) -> Iterator[Event]:
    """Run cells one group after the other in this process, for debuggers and profilers."""
    queue = _Queue(cells, options)
    while not queue.is_empty:
        group, events = queue.next()
        yield from events
        if not group:
            time.sleep(POLL)
            continue
        yield from (Event(cell, "running", rounds=cell.task.protocol.rounds) for cell in group)
        try:
            dataset = load_data(group[0].task.data, options.data_dir)
        except FedBenchError as error:
            yield from (Event(cell, **failed(cell, options.results, error)) for cell in group)
            continue
        told: list[Event] = []
        run_group(group, dataset, options, lambda cell, values, told=told: told.append(Event(cell, **values)))  # type: ignore[misc]
        for event in told:
            if event.state == "waiting":
                queue.put_off(event.cell)
            elif event.is_last or event.reason:
                yield event


def run_cells(cells: Sequence[Cell], options: Options, jobs: int) -> Iterator[Event]:
    """Run cells side by side in worker processes and yield what happens, as it happens.

    The number of workers changes no bit of any record.

    Parameters
    ----------
    cells : sequence of Cell
        In the order in which they are started.
    options : Options
        Common to all.
    jobs : int, >= 1
        Worker processes.
    """
    queue = _Queue(cells, options)
    workers = [_Worker(options, queue) for _ in range(min(jobs, len(queue)))]
    resident = _Resident(options.data_dir)
    try:
        while True:
            for worker in workers:
                while worker.is_free:
                    group, events = queue.next()
                    yield from events
                    if not group:
                        break
                    yield from worker.start(group, resident)
            busy = [worker for worker in workers if not worker.is_free]
            if not busy and queue.is_empty:
                return
            resident.keep(group[0].task.data for group in (*queue.ahead, *(worker.group for worker in busy)))
            idle = len(busy) < len(workers) and not queue.is_empty
            ready = wait([worker.pipe for worker in busy], timeout=POLL if idle else None)
            for worker in busy:
                if worker.pipe in ready:
                    yield from worker.receive()
    finally:
        before = _ignore_interrupts()
        for worker in workers:
            worker.stop()
        resident.keep(())
        _handle_interrupts(before)


class _Queue:
    """What is still to be started: first all groups in their order, then the cells that were put off.

    Those are cells that another run held, looked at again about once a second, and cells whose worker died.
    """

    def __init__(self, cells: Sequence[Cell], options: Options) -> None:
        self.options = options
        self._groups = deque(grouped(cells, options.device))
        self._held: dict[Cell, str] = {}  # and what was told of who holds it
        self._tried: set[Cell] = set()  # cells whose worker died
        self._looked = -math.inf

    def __len__(self) -> int:
        return len(self._groups) + len(self._held)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to be started."""
        return not len(self)

    @property
    def ahead(self) -> Sequence[Group]:
        """The group that comes next, if that is known."""
        return [self._groups[0]] if self._groups else []

    def put_off(self, cell: Cell) -> None:
        """Try a cell again when it is free."""
        self._held[cell] = ""

    def again(self, cell: Cell, reason: str) -> Iterator[Event]:
        """Try a cell whose worker died once more, alone and after all others; the second time it has failed.

        Alone, so that what takes its worker down takes no other cell along.
        """
        if cell not in self._tried:
            self._tried.add(cell)
            self._groups.append((cell,))
            yield Event(cell, "waiting", reason=f"{reason}; it is tried once more, from its checkpoint")
            return
        results, reason = self.options.results, f"{reason}, and that twice"
        try:
            with locked(lock_of(cell, results)):
                _note(cell, results, reason, "")
        except BusyError:  # another run has taken it over
            self.put_off(cell)
            return
        except (LockError, OSError):
            pass  # no note then; the reason is told all the same
        yield Event(cell, "failed", reason=reason, machine=True)

    def next(self) -> tuple[Group, list[Event]]:
        """Return what is to be started now, if anything is, and what happened to cells that are waited for."""
        events: list[Event] = []
        if not self._groups and time.monotonic() - self._looked >= POLL:
            events += self._look()
            self._looked = time.monotonic()
        while self._groups:
            group: Group = ()
            for cell in self._groups.popleft():
                made = list(self._made(cell))
                events += made
                group += () if made else (cell,)
            if group:
                return group, events
        return (), events

    def _look(self) -> Iterator[Event]:
        """Look who still holds what was put off, and queue what nobody does."""
        for cell, told in list(self._held.items()):
            if time.time() >= self.options.stop_at:
                del self._held[cell]
                yield Event(cell, "stopped")
            elif who := held(lock_of(cell, self.options.results)):
                if not told:
                    self._held[cell] = who
                    yield Event(cell, "waiting", reason=who)
            else:
                del self._held[cell]
                self._groups.append((cell,))

    def _made(self, cell: Cell) -> Iterator[Event]:
        """Yield the end of a cell that has a record: another run made it, or a worker that died right afterwards.

        It is not over while another run holds it, which may die before it has cleared up.
        """
        digest = done(cell, self.options.results)
        if digest and clear_up(cell, self.options.results):
            yield Event(cell, "done", digest=digest)


# --- what stands in a results folder --------------------------------------------------------------------------------


def lock_of(cell: Cell, results: Path) -> Path:
    """Return the lock of a cell, which whoever computes it holds."""
    folder = cell.folder(results)
    return folder.with_name(f".{folder.name}.lock")


def done(cell: Cell, results: Path) -> str:
    """Return the digest of a cell's record, or nothing where there is none that is whole."""
    folder = cell.folder(results)
    if not (folder / MANIFEST).is_file():
        return ""
    try:
        return Record.open(folder).digest
    except NewerSchemaError:
        raise
    except RecordError:
        return ""


def clear_up(cell: Cell, results: Path) -> bool:
    """Delete what a run that was killed at the very end left beside a whole record: its checkpoint, its lock.

    Returns
    -------
    bool
        Whether nothing is left; a run that holds the cell clears up itself.
    """
    lock = lock_of(cell, results)
    if lock.exists() or checkpoint_folder(cell.folder(results)).exists():
        try:
            with locked(lock):
                _clear_up(cell, results)
        except BusyError:
            return False
    return True


def _clear_up(cell: Cell, results: Path) -> None:
    """Delete what a killed run left of a cell whose lock is held: half a record, a checkpoint beside a whole one."""
    folder, checkpoint = cell.folder(results), checkpoint_folder(cell.folder(results))
    for staging in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(staging, ignore_errors=True)
    if checkpoint.is_dir() and done(cell, results):
        shutil.rmtree(checkpoint, ignore_errors=True)


class _Resident:
    """Data sets as files that workers map, each made when it is first needed."""

    def __init__(self, data_dir: Path | None) -> None:
        self.data_dir = data_dir
        self.folders: dict[Data, Path] = {}

    def folder(self, data: Data) -> Path:
        """Return where a data set stands.

        Raises
        ------
        DataError
            A file is missing, damaged or not what is declared, or there is no room to lay the data out.
        """
        if data not in self.folders:
            dataset = load_data(data, self.data_dir)
            try:
                folder = self.folders[data] = Path(tempfile.mkdtemp(prefix="fedbench-data-"))
                store(dataset, folder / "arrays")
            except OSError as error:
                self.keep(self.folders.keys() - {data})
                raise DataError(
                    f"{tempfile.gettempdir()} has no room for the {dataset.inputs.nbytes >> 20} MiB of data that all "
                    f"workers share ({error.strerror or error}); name another folder by setting TMPDIR."
                ) from None
            load_data.cache_clear()  # the workers have it; this process needs it no more
        return self.folders[data] / "arrays"

    def keep(self, data: Iterable[Data]) -> None:
        """Delete what is not among the data sets still needed; what workers map stays theirs until they let go."""
        needed = set(data)
        for other in [key for key in self.folders if key not in needed]:
            shutil.rmtree(self.folders.pop(other), ignore_errors=True)


def _ignore_interrupts() -> Any:
    """Let a second Ctrl-C not break the stopping of workers; signals are the main thread's alone."""
    if threading.current_thread() is threading.main_thread():
        return signal.signal(signal.SIGINT, signal.SIG_IGN)
    return None


def _handle_interrupts(handler: Any) -> None:
    if handler is not None:
        signal.signal(signal.SIGINT, handler)


class _Worker:
    """A worker process as the parent sees it."""

    def __init__(self, options: Options, queue: _Queue) -> None:
        self.options, self.queue = options, queue
        self.group: Group = ()
        self.left: set[Cell] = set()
        self._launch()

    def _launch(self) -> None:
        self.pipe, far = _spawn.Pipe()
        self.process = _spawn.Process(target=_work, args=(far, self.options), daemon=True)
        self.process.start()
        far.close()  # so that the pipe reads as closed when the worker dies

    @property
    def is_free(self) -> bool:
        return not self.left

    def start(self, group: Group, resident: _Resident) -> Iterator[Event]:
        """Give the worker a group; yield the failures where its data cannot be had."""
        try:
            folder = resident.folder(group[0].task.data)
        except Exception as error:
            yield from (Event(cell, **failed(cell, self.options.results, error)) for cell in group)
            return
        self.group, self.left = group, set(group)
        if not self.process.is_alive():
            self._launch()
        with suppress(OSError):  # it died just now, as `receive` will see
            self.pipe.send((group, folder))

    def receive(self) -> Iterator[Event]:
        try:
            index, values = self.pipe.recv()
        except (EOFError, OSError):
            yield from self._died()
            return
        event = Event(self.group[index], **values)
        if event.state == "waiting":
            self.queue.put_off(event.cell)
        else:
            yield event
        if event.state != "running":
            self.left.discard(event.cell)

    def _died(self) -> Iterator[Event]:
        """Queue what the worker left once more, or give it up if that was done before."""
        self.process.join(5)
        reason = _death(self.process.exitcode)
        for cell in [cell for cell in self.group if cell in self.left]:
            yield from self.queue.again(cell, reason)
        self.left.clear()
        self._launch()

    def stop(self) -> None:
        self.pipe.close()
        if self.left:
            self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (it may have run out of memory, try fewer --jobs)" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process exited with status {code}"


def _work(pipe: Connection, options: Options) -> None:
    """Run cells until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-written files are cleaned up
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a cell computes on one thread, start no more
    last: tuple[Path, Dataset] | None = None
    while True:
        try:
            group, folder = pipe.recv()
        except EOFError:
            return
        if last is None or last[0] != folder:
            last = folder, mapped(folder)
        run_group(group, last[1], options, partial(_tell, pipe, group))


def _tell(pipe: Connection, group: Group, cell: Cell, values: dict[str, Any]) -> None:
    try:
        pipe.send((group.index(cell), values))
    except OSError:  # the parent is gone: stop here, the cell goes on from its checkpoint another time
        sys.exit(1)


def failed(cell: Cell, results: Path, error: Exception) -> dict[str, Any]:
    """Leave a note of a failure in place of the record, and return what to tell of it."""
    reason = _reason(error, results)
    _note(cell, results, reason, "".join(traceback.format_exception(error)))
    return {"state": "failed", "reason": reason, "machine": of_machine(error) or isinstance(error, LockError)}


def _reason(error: Exception, results: Path) -> str:
    if isinstance(error, FedBenchError):
        return str(error)
    if isinstance(error, OSError):
        where = error.filename or results
        return f"{error.strerror or error}: {where}; mend that and run again, what is finished stays"
    frames = traceback.extract_tb(error.__traceback__)
    # The last line outside the harness and the libraries is the method's own, which its author can mend.
    theirs = [frame for frame in frames if not _is_ours(Path(frame.filename))] or frames
    return f"{type(error).__name__}: {error} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})"


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(Path(__file__).parent) or "torch" in path.parts


def _note(cell: Cell, results: Path, reason: str, trace: str) -> None:
    """Leave the reason on disk; where even that fails (a full disk), the parent still shows it."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        write_failure(cell.folder(results), Failure(reason=reason, traceback=trace, at=at))
    except OSError:
        return
