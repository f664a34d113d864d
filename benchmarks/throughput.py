"""Many cells: what a second worker brings, and 100,000 cells that do nothing through a Ray cluster.

``test_two_at_once`` runs the same cells with one worker and with two, and beside them, in the same turns, what the
machine itself makes of two processes instead of one: the bare training loop of `overhead.py`, and products of matrices
that fit into the cache. A pair of measurements goes 1, 2, the next 2, 1; ratios are taken within a pair.
``test_many_cells_on_ray`` is about the driver: what a cell costs it in time, and whether its memory stays bounded.

Set ``FEDBENCH_PAIRS`` (default 5) and ``FEDBENCH_CELLS`` (default 100,000) for a shorter look.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from setting import arguments, setting, tell

from fedbench import Cell, Dataset, registry
from fedbench.executors import Group, Options, Tell, run_cells

if TYPE_CHECKING:
    from conftest import Script

PAIRS = int(os.environ.get("FEDBENCH_PAIRS", "5"))
NO_OPS = int(os.environ.get("FEDBENCH_CELLS", "100000"))
CELLS = 8
"""Cells of a measurement, each of one round: a few seconds of training, evaluation, set-up and record."""

TARGET = 1.85
KINDS = ("cells", "loop", "products")
ROWS = {
    "FedBench's cells": ("cells", "rate"),
    "the same, from when each worker has done its first cell": ("cells", "steady"),
    "bare training loop, outside FedBench": ("loop", "rate"),
    "products of matrices": ("products", "rate"),
}

_pairs: list[dict[tuple[str, int], dict[str, Any]]] = []


@pytest.fixture
def pairs(script: Script) -> list[dict[tuple[str, int], dict[str, Any]]]:
    """Return what was measured of each kind with one worker and with two, pair by pair; measured once."""
    while len(_pairs) < PAIRS:
        order = (1, 2) if len(_pairs) % 2 == 0 else (2, 1)
        _pairs.append(
            {
                (kind, workers): script(Path(__file__).name, "--kind", kind, "--workers", str(workers))
                for kind in KINDS
                for workers in order
            }
        )
    return _pairs


@pytest.mark.parametrize("row", ROWS)
def test_two_at_once(benchmark: Any, pairs: list[dict[tuple[str, int], dict[str, Any]]], row: str) -> None:
    """Keep the median over pairs; the time that pytest-benchmark takes here means nothing."""
    kind, rate = ROWS[row]
    one, two = ([pair[kind, workers][rate] for pair in pairs] for workers in (1, 2))
    ratios = benchmark.pedantic(lambda: [b / a for a, b in zip(one, two, strict=True)], rounds=1, iterations=1)
    others = [told["other_work"] for pair in pairs for told in pair.values() if told.get("other_work") is not None]
    noise = f" Other work on the machine: {median(others):.2f} cores at the median." if others else ""
    benchmark.extra_info |= {
        "table": "Two workers against one",
        "caption": f"Rates a minute, of cells of one round, of rounds and of products; median over {PAIRS} pair(s) of "
        f"measurements in turns. The target for cells is {TARGET}; the lower rows are what the machine itself makes of "
        f"two processes.{noise}",
        "row": {
            "what": row,
            "1 at a time": median(one),
            "2 at once": median(two),
            "ratio": median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        },
    }


def test_many_cells_on_ray(benchmark: Any, script: Script) -> None:
    """Keep the seconds, and the driver's memory on the way."""
    pytest.importorskip("ray")
    told = benchmark.pedantic(script, args=(Path(__file__).name, "--kind", "no-ops"), rounds=1, iterations=1)
    memory = [mib for _, mib in told["memory"]]
    benchmark.extra_info |= {
        "table": "Cells that do nothing, through Ray",
        "caption": "A head and two nodes of one CPU on this machine; the target is less than ten minutes for 100,000. "
        "Memory is that of the driver, in MiB.",
        "row": {
            "cells": NO_OPS,
            "seconds": told["seconds"],
            "until the first": told["first"],
            "cells a minute": round(60 * (NO_OPS - 1) / (told["seconds"] - told["first"])),
            "processor seconds of the driver": told["busy"],
            "memory at the first": memory[0],
            "halfway": memory[len(memory) // 2],
            "at the end": memory[-1],
            "at most": max(memory),
        },
    }


# --- in a process of its own ------------------------------------------------------------------------------------


def cells(name: str, workers: int) -> dict[str, Any]:
    """Return cells a minute, of worker processes that start first and of those that have."""
    task = setting(name, 1).task
    some = [Cell(task, "fedavg", registry.methods.get("fedavg")(), "faithful", seed) for seed in range(1, CELLS + 1)]
    begin, ends = time.perf_counter(), []
    with TemporaryDirectory() as folder:
        for event in run_cells(some, Options(results=Path(folder)), workers):
            if event.state == "failed":
                sys.exit(event.reason)
            ends += [time.perf_counter()] if event.is_last else []
        whole = time.perf_counter() - begin
    steady = (CELLS - workers) / (ends[-1] - ends[workers - 1])
    return {"rate": 60 * CELLS / whole, "steady": 60 * steady}


def side_by_side(work: Callable[[str, Barrier], None], name: str, times: int, workers: int) -> dict[str, Any]:
    """Return how often a minute some work is done that so many processes do so many times each."""
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Barrier(workers + 1)
    processes = [spawn.Process(target=work, args=(name, gate, times)) for _ in range(workers)]
    for process in processes:
        process.start()
    gate.wait()
    begin = time.perf_counter()
    gate.wait()
    passed = time.perf_counter() - begin
    for process in processes:
        process.join()
    return {"rate": 60 * workers * times / passed}


def loop(name: str, gate: Barrier, rounds: int) -> None:
    """Run rounds of the bare loop, one more before."""
    from overhead import BareLoop

    bare = BareLoop(setting(name, rounds))
    bare.round(0)
    gate.wait()
    for t in range(rounds):
        bare.round(t)
    gate.wait()


def products(name: str, gate: Barrier, times: int) -> None:
    """Multiply matrices of 256 KiB each."""
    import torch

    torch.set_num_threads(1)
    a = torch.ones(256, 256)
    b, out = a.clone(), a.clone()
    gate.wait()
    for _ in range(times):
        torch.mm(a, b, out=out)
    gate.wait()


def nothing(group: Group, dataset: Dataset, options: Options, tell: Tell, saved: Callable[[Path], None]) -> None:
    """Run no cell, and leave no record."""
    for cell in group:
        tell(cell, {"state": "stopped"})


def no_ops() -> dict[str, Any]:
    """Return the seconds of many cells, and the memory of this process, the driver, at each hundredth of them."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    from ray.cluster_utils import Cluster

    from fedbench.cluster import run_on_ray

    method, task = registry.methods.get("fedavg")(), registry.tasks.get("heart")
    many = [Cell(task, "fedavg", method, "faithful", seed) for seed in range(NO_OPS)]
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"RAY_TMPDIR": folder, "TMPDIR": folder}
        cluster = Cluster()
        try:
            for cpus in (0, 1, 1):
                cluster.add_node(num_cpus=cpus, object_store_memory=80 << 20, include_dashboard=False)
            begin, busy, memory, done = time.perf_counter(), time.process_time(), [], 0
            storage = f"{folder}/shared"
            for event in run_on_ray(
                many, Options(results=Path(folder)), address=cluster.address, storage=storage, run=nothing
            ):
                done += event.is_last
                if event.is_last and (done == 1 or done % max(NO_OPS // 100, 1) == 0):
                    memory.append((time.perf_counter() - begin, resident_mib()))
            seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        finally:
            cluster.shutdown()
    if done != NO_OPS:
        sys.exit(f"{done} of {NO_OPS} cells came back")
    return {"seconds": seconds, "busy": busy, "first": memory[0][0], "memory": memory}


def resident_mib() -> float:
    """Return the resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure one thing."""
    parser = arguments(__doc__)
    parser.add_argument("--kind", choices=(*KINDS, "no-ops"), required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes at once (default: %(default)s)")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.kind == "no-ops":
        tell(**no_ops())
    elif given.kind == "cells":
        tell(**cells(given.task, given.workers))
    elif given.kind == "loop":
        tell(**side_by_side(loop, given.task, given.rounds, given.workers))
    else:
        tell(**side_by_side(products, given.task, 10_000, given.workers))


if __name__ == "__main__":
    main()
