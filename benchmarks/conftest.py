"""Options of the benchmarks, and how a script is measured: in a fresh process, with the memory of all it starts."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from setting import setting

import fedbench
from fedbench.environment import environment

HERE = Path(__file__).parent
LIMIT = 3600.0
"""Seconds after which a script is given up."""

Script = Callable[..., dict[str, Any]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a sitting is made of."""
    group = parser.getgroup("fedbench")
    group.addoption("--sittings", type=int, default=3, help="times that all variants are measured, one after another")
    group.addoption("--rounds", type=int, default=3, help="rounds of a variant; the first is not counted")
    group.addoption("--task", default="blood", help="task that the variants run")
    group.addoption(
        "--flower-python",
        type=Path,
        default=HERE.parent / ".venv-flower" / "bin" / "python",
        help="interpreter of the environment of requirements-flower.txt",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave Flower out where its environment is not there; the report says so."""
    if config.getoption("--flower-python").exists():
        return
    without = [item for item in items if item.get_closest_marker("flower")]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def pytest_report_header(config: pytest.Config) -> str:
    """Say whether Flower is measured."""
    there = config.getoption("--flower-python").exists()
    return "Flower: measured" if there else "Flower: not measured, see benchmarks/requirements-flower.txt"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add what the report says of the machine, and leave out its name."""
    here, the = environment(), setting(config.getoption("--task"), config.getoption("--rounds"))
    machine_info.clear()
    machine_info |= {
        "processor": here.processor,
        "cores": here.cores,
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "platform": here.platform,
        "versions": {"FedBench": fedbench.__version__, "Python": here.python, **here.packages},
        "task": the.task.name,
        "protocol": the.task.protocol.model_dump(mode="json"),
    }


@pytest.fixture
def script(request: pytest.FixtureRequest) -> Script:
    """Run a script of this folder in a fresh process and return what it told, its seconds and its peak memory."""
    config = request.config
    common = ["--task", config.getoption("--task"), "--rounds", str(config.getoption("--rounds"))]

    def measured(name: str, *arguments: str, python: Path = Path(sys.executable)) -> dict[str, Any]:
        begin, busy, own, memory = time.monotonic(), _busy(), _own(), 0
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            with subprocess.Popen([python, HERE / name, *common, *arguments], stdout=out, stderr=err) as process:
                while process.poll() is None:
                    memory = max(memory, resident(process.pid))
                    if time.monotonic() - begin > LIMIT:
                        process.kill()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(1)
            wall = time.monotonic() - begin
            others = None if busy is None else max(0.0, (_busy() - busy) - (_own() - own)) / wall
            out.seek(0)
            err.seek(0)
            if process.returncode:
                pytest.fail(f"{name} ended with status {process.returncode}:\n{err.read()[-4000:]}", pytrace=False)
            told: dict[str, Any] = json.loads(out.read().splitlines()[-1])
        return told | {"wall": wall, "memory_mib": memory / 1024 or None, "other_work": others}

    return measured


def resident(pid: int) -> int:
    """Return the largest resident memory so far, in KiB, of a process and all below it; 0 where there is no /proc.

    A page that two processes share counts twice. Read once a second, it costs what it measures next to nothing.
    """
    return sum(_peak(each) for each in _family(pid))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(children).split():
            yield from _family(int(child))


def _peak(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def _busy() -> float | None:
    """Return the processor seconds that the machine has spent or lost to its host so far; None without /proc."""
    fields = _read(Path("/proc/stat")).partition("\n")[0].split()[1:]
    if not fields:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Return the processor seconds of what this process started and that has ended, and of itself."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:  # it has just ended
        return ""
