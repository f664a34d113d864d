"""How long FedBench takes to begin: seconds from the start of a fresh process, its interpreter included.

``import``: until `fedbench.simulation` is imported. ``first_round``: until a worker has read the data, made the split
and the model, and begins the first round of a cell.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from setting import arguments, tell

from fedbench import registry
from fedbench.cell import Cell
from fedbench.executors import Options, run_cells


def seconds(*command: str) -> float:
    """Return how long a fresh interpreter takes until it prints its first line."""
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        passed = time.perf_counter() - begin
    if process.returncode or line.strip() != "ready":
        sys.exit(f"{command} ended with status {process.returncode}")
    return passed


def begin(name: str) -> None:
    """Start a cell, say when its first round begins, and stop it."""
    cell = Cell(registry.tasks.get(name), "fedavg", registry.methods.get("fedavg")(), "faithful", 1)
    with TemporaryDirectory() as folder, closing(run_cells([cell], Options(results=Path(folder)), 1)) as events:
        event = next(events)
        if event.state == "failed":
            sys.exit(event.reason)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


def main() -> None:
    """Measure both."""
    parser = arguments(__doc__)
    parser.add_argument("--begin", action="store_true", help="only start a cell, and say when its first round begins")
    given = parser.parse_args()
    if given.begin:
        begin(given.task)
        return
    tell(
        start={
            "import": seconds("-c", "import fedbench.simulation; print('ready', flush=True)"),
            "first_round": seconds(__file__, "--task", given.task, "--begin"),
        }
    )


if __name__ == "__main__":
    main()
