"""The same cells on a Ray cluster: workers on many machines, records and checkpoints on storage that all of them reach.

The driver, which is the process that calls `run_on_ray`, prepares each data set once and Ray brings it once to each
node. A task runs some cells one after another in a folder of its own, pushes what they leave to shared storage, and
answers for each. Ray starts a task again whose worker or node was lost: what has a record in storage is not run again,
the rest goes on from its last checkpoint there, to the same bits. The driver pulls the finished records.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedbench.cell import Cell
from fedbench.durable import write_atomic
from fedbench.errors import FedBenchError
from fedbench.executors import Event, Group, Options, failed, grouped, run_group
from fedbench.resident import load_data
from fedbench.schema import FAILURE, checkpoint_folder
from fedbench.storage import Storage, StorageError
from fedbench.task import Data, Dataset

RETRIES = 3
"""Times that a task is started again whose worker or node was lost."""

LARGEST_BATCH = 64
"""Groups of cells that a task runs at most, where no number is given: what starting a task costs is then lost in it."""

_log = logging.getLogger(__name__)

Run = Callable[..., None]
Told = dict[str, Any]


class ClusterError(FedBenchError):
    """A Ray cluster cannot be reached, or one of its nodes is not set up as this machine is."""


def run_on_ray(
    cells: Sequence[Cell],
    options: Options,
    *,
    storage: str,
    address: str | None = None,
    workers: int | None = None,
    batch: int | None = None,
    run: Run = run_group,
) -> Iterator[Event]:
    """Run cells on a Ray cluster and yield what happens.

    Records are those of `fedbench.executors.run_cells`, bit for bit, where the nodes have the same versions and kind of
    processor. They are pulled into ``options.results`` as they are finished.

    Parameters
    ----------
    cells : sequence of Cell
        In the order in which they are started.
    options : Options
        Common to all.
    storage : str
        A path that all nodes share, or a URL; see `fedbench.storage.Storage`.
    address : str, optional
        ``"HOST:PORT"`` of the cluster's head, or ``"auto"`` on one of its machines. If not given, a cluster is made of
        this machine, for as long as the run takes.
    workers : int, optional
        Tasks at once; as many as the cluster has CPUs (on ``"cuda"``, GPUs), if not given.
    batch : int, optional
        Groups of cells that a task runs. If not given, many at first and ever fewer, so that all tasks end together.
    run : callable
        What runs a group in a worker: `fedbench.executors.run_group` or one that takes the same.

    Raises
    ------
    ClusterError
        Ray is not installed here, there is no such cluster, or it is of another version.
    StorageError
        The storage cannot be written.
    """
    shared = Storage(storage, options.results)
    shared.check()
    with _connected(address):
        driver = _Driver(cells, options, shared, workers, batch, run)
        try:
            yield from driver.events()
        finally:
            driver.stop()


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect this process to a cluster; a connection that its user has made stays his."""
    try:
        import ray
    except ImportError:
        raise ClusterError('Ray is not installed; `pip install "fedbench[ray]"`, here and on every node.') from None
    if ray.is_initialized():
        yield
        return
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    mend = 'give HOST:PORT of the head as `ray start --head` prints it, or "auto" on one of its machines.'
    _check_answers(address, mend)
    where = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        hint = f"{mend} Where the cluster asks for a token, set RAY_AUTH_MODE=token here as well."
        if "ersion mismatch" in str(error):
            hint = "install the versions of the cluster here."
        raise ClusterError(f"no connection to the Ray cluster at {address}: {error}; {hint}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str | None, mend: str) -> None:
    """Check that something answers at an address; Ray itself would try for minutes."""
    if address is None or address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Ray cluster answers at {address} ({error}); {mend}") from None


class _Driver:
    """What is waiting, what is with the cluster, and what is on its way back. Nothing is kept of what is over."""

    def __init__(
        self,
        cells: Sequence[Cell],
        options: Options,
        storage: Storage,
        workers: int | None,
        batch: int | None,
        run: Run,
    ) -> None:
        import ray

        from fedbench.environment import versions

        self.options, self.storage, self.workers, self.batch = options, storage, workers, batch
        groups = grouped(cells, options.device)
        alike = groupby(groups, key=lambda group: (group[0].task.data, type(group[0].method)))
        self.waiting = deque(deque(some) for _, some in alike)  # a task has one data set and one method
        self.left = len(groups)
        self.flying: dict[Any, deque[Group]] = {}  # by the answers to come, what has no answer yet
        self.pulling: deque[Future[Event]] = deque()
        self.pullers = ThreadPoolExecutor(16, thread_name_prefix="fedbench-pull")
        self.data: tuple[Data, Any] | None = None
        self.task = ray.remote(_work).options(
            num_cpus=1,
            num_gpus=0 if options.device == "cpu" else 1,
            max_retries=RETRIES,
            num_returns="streaming",
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        )
        self.common = (options, storage.url, versions(), run)
        self.slots, self.counted = 0, -math.inf

    def events(self) -> Iterator[Event]:
        """Yield what happens until nothing more will."""
        while self.left or self.flying or self.pulling:
            if time.time() >= self.options.stop_at:
                yield from self._give_up()
            while self.left and len(self.flying) < self._room():
                yield from self._submit()
            yield from self._answered()
            yield from self._pulled()

    def stop(self) -> None:
        """Take back what is with the cluster; checkpoints stay in storage."""
        import ray

        for answers in self.flying:
            ray.cancel(answers)
        ends = time.monotonic() + 10
        while self.flying and time.monotonic() < ends:  # workers delete their folders before they end
            ended: Any = ray.wait(list(self.flying), num_returns=len(self.flying), timeout=0.1)[0]
            for answers in ended:
                if next(answers, None) is None:
                    del self.flying[answers]
        self.pullers.shutdown(cancel_futures=True)

    # --- to the cluster -----------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return how many tasks may be with the cluster: one that runs and one that waits for each of its CPUs."""
        if self.workers is not None:
            return self.workers
        if time.monotonic() - self.counted > 10:  # nodes come and go
            import ray

            kind = "CPU" if self.options.device == "cpu" else "GPU"
            self.slots = int(ray.cluster_resources().get(kind, 0))  # type: ignore[no-untyped-call]
            self.counted = time.monotonic()
            if not self.slots:
                _log.warning("the cluster has no %s; its cells wait until there is one.", kind)
        return 2 * max(self.slots, 1)

    def _take(self) -> list[Group]:
        share = self.left // (4 * max(self.workers or self.slots, 1))
        size = self.batch or min(max(share, 1), LARGEST_BATCH)
        first = self.waiting[0]
        groups = [first.popleft() for _ in range(min(size, len(first)))]
        if not first:
            self.waiting.popleft()
        self.left -= len(groups)
        return groups

    def _submit(self) -> Iterator[Event]:
        groups = self._take()
        try:
            dataset = self._resident(groups[0][0].task.data)
        except Exception as error:
            for group in groups:
                yield from self._failed(group, error)
            return
        self.flying[self.task.remote(tuple(groups), dataset, *self.common)] = deque(groups)

    def _resident(self, data: Data) -> Any:
        """Return the reference of a data set in the cluster; the last one is kept, tasks keep what they need."""
        import ray

        if self.data is None or self.data[0] != data:
            self.data = None
            self.data = data, ray.put(load_data(data, self.options.data_dir))
            load_data.cache_clear()  # the cluster has it; this process needs it no more
        return self.data[1]

    def _give_up(self) -> Iterator[Event]:
        while self.left:
            for group in self._take():
                yield from (Event(cell, "stopped") for cell in group)

    # --- from the cluster ---------------------------------------------------------------------------------------

    def _answered(self) -> Iterator[Event]:
        import ray

        flying = list(self.flying)
        if not flying:
            return
        ray.wait(flying, timeout=0.1 if self.pulling else 1)
        ready, _ = ray.wait(flying, num_returns=len(flying), timeout=0)
        for answers in ready:
            yield from self._receive(answers)

    def _receive(self, answers: Any) -> Iterator[Event]:
        """Yield what a task answers: first that it has begun, then group by group what became of the cells."""
        import ray

        groups = self.flying[answers]
        try:
            told: list[Told] | None = ray.get(next(answers))
        except StopIteration:
            del self.flying[answers]
            return
        except ray.exceptions.RayError as error:
            del self.flying[answers]
            yield from self._failed(groups.popleft(), ClusterError(_reason(error)))
            if groups:  # the task went down with one group; the others have not been tried
                self.waiting.appendleft(groups)
                self.left += len(groups)
            return
        if told is not None:
            for cell, values in zip(groups.popleft(), told, strict=True):
                yield from self._over(cell, values)
        if groups:
            yield from (Event(cell, "running", rounds=cell.task.protocol.rounds) for cell in groups[0])

    def _over(self, cell: Cell, values: Told) -> Iterator[Event]:
        if values.get("resumed"):
            _log.info("%s went on from round %d.", cell, values["resumed"])
        if values["state"] == "done":
            self.pulling.append(self.pullers.submit(self._pull, cell))
        elif values["state"] == "failed":
            with suppress(OSError):  # a full disk; the reason is told all the same
                write_atomic(cell.folder(self.options.results) / FAILURE, values["note"])
            yield Event(cell, "failed", reason=values["reason"])
        else:
            yield Event(cell, values["state"])

    def _pull(self, cell: Cell) -> Event:
        folder = cell.folder(self.options.results)
        try:
            return Event(cell, "done", digest=self.storage.pull_record(folder).digest)
        except Exception as error:
            return Event(cell, **failed(cell, self.options.results, error))

    def _pulled(self) -> Iterator[Event]:
        """Yield what has been pulled; wait where nothing else is to come, and where too much is on its way."""
        while self.pulling and (self.pulling[0].done() or not self.flying or len(self.pulling) > 1000):
            yield self.pulling.popleft().result()

    def _failed(self, group: Group, error: Exception) -> Iterator[Event]:
        for cell in group:
            values = failed(cell, self.options.results, error)
            try:
                self.storage.push_failure(cell.folder(self.options.results))
            except (StorageError, OSError) as other:
                _log.warning("%s: the note of its failure is here alone: %s", cell, other)
            yield Event(cell, **values)


def _reason(error: Exception) -> str:
    """Return why Ray gave a task up, as a user can mend it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, FedBenchError):
        return str(cause)
    missing = re.search(r"No module named '([^']+)'", str(error))
    if missing:
        return f"a node of the cluster cannot import {missing[1]}; install there what is installed here."
    if cause is not None:
        return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1]}; see the logs of Ray on its nodes."
    return (
        f"its worker or node was lost {RETRIES + 1} times ({type(error).__name__}), perhaps for lack of memory; see "
        "the logs of Ray on its nodes."
    )


# --- on a node ------------------------------------------------------------------------------------------------------


def _work(
    groups: Sequence[Group], dataset: Dataset, options: Options, url: str, made_by: str, run: Run
) -> Iterator[list[Told] | None]:
    """Run groups one after another; answer that it begins, and then for each group what became of its cells.

    A task that is started again gives the same number of answers, of which Ray passes on those that were not given.
    """
    from fedbench.environment import versions

    if versions() != made_by:
        raise ClusterError(
            f"node {socket.gethostname()} has {versions()}, but the driver {made_by}; install the same, as other "
            "versions may give other bits."
        )
    yield None
    dataset = _for_torch(dataset)
    for group in groups:
        with TemporaryDirectory(prefix="fedbench-") as scratch:
            mine = replace(options, results=Path(scratch))
            yield _run(group, dataset, mine, Storage(url, mine.results), run)


def _for_torch(dataset: Dataset) -> Dataset:
    """Return the same memory without the mark that it is read-only, at which torch warns.

    All workers of a node share it; nothing writes to it, as what a method is given are copies.
    """
    from torch.utils.dlpack import from_dlpack

    inputs, targets = (from_dlpack(array).numpy() for array in (dataset.inputs, dataset.targets))
    return replace(dataset, inputs=inputs, targets=targets)


def _run(group: Group, dataset: Dataset, options: Options, storage: Storage, run: Run) -> list[Told]:
    """Run what has no record in storage yet, from the checkpoints there, and push what it leaves."""
    folders = [cell.folder(options.results) for cell in group]
    todo = [i for i, folder in enumerate(folders) if not storage.has_record(folder)]
    told: list[Told] = [{"state": "stopped" if i in todo else "done"} for i in range(len(group))]
    if not todo or time.time() >= options.stop_at:
        return told
    for i in todo:
        storage.pull_checkpoint(checkpoint_folder(folders[i]))

    def tell(cell: Cell, values: Told) -> None:
        i = group.index(cell)
        told[i] = {"resumed": values.get("round", 0), **told[i], **values}

    def saved(folder: Path) -> None:
        try:
            storage.push_checkpoint(folder)
        except StorageError as error:
            _log.warning("%s The cell goes on without.", error)

    run(tuple(group[i] for i in todo), dataset, options, tell, saved=saved)
    for i in todo:
        _push(folders[i], checkpoint_folder(folders[i]), told[i], storage)
    return told


def _push(folder: Path, checkpoint: Path, told: Told, storage: Storage) -> None:
    """Push a record or the note of a failure; delete a checkpoint that is of no use any more."""
    if told["state"] == "done":
        storage.push_record(folder)
    elif told["state"] == "failed":
        told["note"] = (folder / FAILURE).read_text(encoding="utf-8")
        storage.push_failure(folder)
    if told["state"] != "stopped" and not checkpoint.exists():
        storage.remove_checkpoint(checkpoint)
