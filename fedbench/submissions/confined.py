"""Verifying submitted records in a process of its own, with limits: what crashes or starves it is a finding.

``python -I -m fedbench.submissions.confined FOLDER`` prints one JSON object. The process sees no method
and no task but FedBench's own, writes nothing, and has no module of the current folder on its path.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbench.characters import shown

MEMORY = 384 * 1024 * 1024
"""Bytes of data (heap and private mappings) of the process; with its libraries it stays below 512 MB."""
SECONDS = 600
"""Of processor time, and of waiting for it."""
_OUTPUT = 4_000_000  # bytes of its report
_MEND = "no record of FedBench is like this: run the cells again, and pack them again"
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "LC_ALL": "C.UTF-8",
}
_PASSED_ON = ("PATH", "HOME", "XDG_CACHE_HOME", "FEDBENCH_DATA")  # to find libraries and data files


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Parameters
    ----------
    what : str
        The thing and its place.
    mend : str
        What to do about it.
    """

    what: str
    mend: str


def verified(folder: Path) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """Verify a results folder in a process with limits, and return its report, or why there is none.

    The report is that of `fedbench.verification.Report.plain`.

    Parameters
    ----------
    folder : Path
        Unpacked records with their plan.
    """
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "fedbench.submissions.confined", str(folder.resolve())],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=_QUIET | passed_on, cwd="/",
        )  # fmt: skip
        try:
            status = process.wait(SECONDS + 30)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            status = -signal.SIGXCPU
        out.seek(0)
        report = out.read(_OUTPUT + 1)
        err.seek(max(0, err.seek(0, os.SEEK_END) - 2000))
        last = err.read().decode(errors="replace").strip().rpartition("\n")[2]
    if status == 0 and len(report) <= _OUTPUT:
        try:
            return json.loads(report), ()
        except ValueError:
            last = "its report cannot be read"
    return {}, (Finding(f"the check of the records ended without an answer: {_ended(status, last)}", _MEND),)


def _ended(status: int, last: str) -> str:
    if status == -signal.SIGXCPU:
        return f"it took more than {SECONDS} seconds"
    if "MemoryError" in last or "ArrowMemoryError" in last or "bad_alloc" in last:
        return f"it asked for more than {MEMORY // 1024**2} MB"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"it was stopped by {name}, as by a crash in a library" + (f" ({shown(last)})" if last else "")
    return shown(last, 300) or f"exit status {status}"


def _limit() -> None:
    for what, limit in (
        (resource.RLIMIT_DATA, MEMORY),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, _OUTPUT),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def _hide_plugins() -> None:
    """Take plug-ins out of sight, so that nothing can import what was submitted; FedBench's own tasks stay.

    Its own methods would bring torch along, which is larger than all records.
    """
    from fedbench import registry

    registry.methods.points().clear()
    for name in registry.tasks.installed():
        del registry.tasks.points()[name]


def _main(folder: Path) -> None:
    _limit()
    _hide_plugins()
    from fedbench.verification import verify

    sys.stdout.write(json.dumps(verify(folder).plain()))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
