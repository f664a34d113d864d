"""Worker processes: one thread and one cell each, as many as cores. A cell that fails costs only itself.

Workers are spawned, not forked, so they are safe under any parent. The parent learns of progress through pipes; a
worker that dies leaves a failed cell behind and is replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fedbench.cell import Cell
from fedbench.errors import FedBenchError
from fedbench.records import write_failure
from fedbench.schema import Failure

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Options:
    """What is common to all cells of a run and changes no result; see `fedbench.simulation.run_cell`."""

    results: Path
    data_dir: Path | None = None
    keep_weights: bool = False
    checkpoint_seconds: float = 20.0


@dataclass(frozen=True)
class Event:
    """What happened to a cell.

    Parameters
    ----------
    cell : Cell
        Which cell.
    state : {"running", "done", "failed"}
        Where it is now.
    round, rounds : int
        Rounds done, and all.
    reason : str
        Why it failed.
    digest : str
        Digest of its record, once done.
    """

    cell: Cell
    state: str
    round: int = 0
    rounds: int = 0
    reason: str = ""
    digest: str = ""


def run_cells(cells: Sequence[Cell], options: Options, jobs: int) -> Iterator[Event]:
    """Run cells side by side and yield what happens, as it happens.

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
    waiting = list(reversed(cells))
    workers = [_Worker(options) for _ in range(min(jobs, len(cells)))]
    try:
        for worker in workers:
            worker.start(waiting.pop())
        while busy := [worker for worker in workers if worker.cell is not None]:
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                event = worker.receive()
                yield event
                if event.state != "running":
                    worker.cell = None
                    if waiting:
                        worker.start(waiting.pop())
    finally:
        before = _ignore_interrupts()
        for worker in workers:
            worker.stop()
        _handle_interrupts(before)


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

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cell: Cell | None = None
        self._launch()

    def _launch(self) -> None:
        self.pipe, far = _spawn.Pipe()
        self.process = _spawn.Process(target=_work, args=(far, self.options), daemon=True)
        self.process.start()
        far.close()  # so that the pipe reads as closed when the worker dies

    def start(self, cell: Cell) -> None:
        self.cell = cell
        if not self.process.is_alive():
            self._launch()
        self.pipe.send(cell)

    def receive(self) -> Event:
        assert self.cell is not None
        try:
            values: dict[str, Any] = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            values = {"state": "failed", "reason": _death(self.process.exitcode)}
            _note(self.cell, self.options.results, values["reason"], "")
            self._launch()
        return Event(self.cell, **values)

    def stop(self) -> None:
        self.pipe.close()
        if self.cell is not None:
            self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; it may have run out of memory, try fewer --jobs" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process exited with status {code}"


def _work(pipe: Connection, options: Options) -> None:
    """Run cells until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-written files are cleaned up
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a cell computes on one thread, start no more
    from fedbench.simulation import run_cell

    while True:
        try:
            cell: Cell = pipe.recv()
        except EOFError:
            return
        last = 0.0

        def watch(done: int, rounds: int) -> None:
            nonlocal last
            if time.monotonic() - last > 0.2:  # a fast cell must not flood the pipe
                last = time.monotonic()
                _tell(pipe, state="running", round=done, rounds=rounds)

        try:
            record = run_cell(
                cell,
                options.results,
                data_dir=options.data_dir,
                keep_weights=options.keep_weights,
                checkpoint_seconds=options.checkpoint_seconds,
                watch=watch,
            )
            _tell(pipe, state="done", digest=record.digest)
        except Exception as error:
            reason = _reason(error, options.results)
            _note(cell, options.results, reason, traceback.format_exc())
            _tell(pipe, state="failed", reason=reason)


def _tell(pipe: Connection, **event: Any) -> None:
    try:
        pipe.send(event)
    except OSError:  # the parent is gone: stop here, the cell goes on from its checkpoint another time
        sys.exit(1)


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
