"""What a round of each method takes, relative to FedAvg's: `pytest benchmarks` measures it, `ls methods` shows it.

The rounds of a few methods and of FedAvg take turns in one process of one thread, and what counts is the processor's
time: so a machine that does something else meanwhile slows all of them alike. The task is small, 1,600 images over
eight clients, with the paper's model. All clients take part in every round, since many a method does its full work only
for clients that it has met before; the first round, in which it has met nobody, is not counted.

    python benchmarks/methods.py fedntd moon    prints the rows of these two as JSON
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from report import METHODS, TIME
from setting import arguments, tell

from fedbench import MethodError, registry
from fedbench.cell import Cell
from fedbench.checkpoint import Checkpoint, pack
from fedbench.resident import load_data
from fedbench.simulation import Simulation, one_thread

if TYPE_CHECKING:
    from conftest import Script

CAPTION = (
    "Processor time of a method's round over that of FedAvg's rounds between which it was measured, and what else it "
    "takes. 1,600 blood cells, eight clients, all of which take part, the paper's model and protocol; the first of "
    "four rounds is not counted. Personal models are not evaluated in these rounds. *Down* and *up* are bytes a client "
    "and round over the model's; *state* is what a client keeps after the last of these rounds, over the model's. "
    "A method whose loss is not finite here, at its defaults, is measured as far as it comes."
)
AT_ONCE = 4
"""Methods that take turns with FedAvg: more would not fit into the processor's cache any better."""
ROUNDS = 4
BASE = "fedavg"
TARGETS = {"fedntd": 1.15, "moon": 1.5}
"""At most so many times FedAvg's round."""


def built_in() -> list[str]:
    """Return the methods that come with FedBench, but for the reference points, which train something else."""
    points = metadata.distribution("fedbench").entry_points.select(group=registry.methods.group)
    return sorted(point.name for point in points if registry.methods.get(point.name).family != "reference")


def simulation(name: str, folder: Path) -> Simulation:
    """Return a run of a method, not begun."""
    task = registry.tasks.get("blood-mini")
    protocol = task.protocol.but(rounds=ROUNDS + 1, participation=1.0)  # one more: the last one is followed by more
    task = task.but(model="cnn4", protocol=protocol)
    cell = Cell(task, name, registry.methods.get(name)(), "faithful", 1)
    return Simulation(cell, load_data(task.data), Checkpoint(folder / name, made_by="a benchmark"))


@one_thread()
def measured(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the row of each of some methods, measured in turns with FedAvg."""
    with TemporaryDirectory() as folder:
        runs = {name: simulation(name, Path(folder)) for name in dict.fromkeys([BASE, *names])}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for t in range(ROUNDS):
            for name in [name for name, taken in seconds.items() if len(taken) == t]:
                begin = time.process_time()
                with suppress(MethodError):  # its loss is not finite: so much for it
                    runs[name].round()
                    seconds[name].append(time.process_time() - begin)
        return [row(runs[name], seconds[name], seconds[BASE]) for name in names]


def row(run: Simulation, seconds: Sequence[float], of_base: Sequence[float]) -> dict[str, Any]:
    """Return what a method costs, from the rounds that it has done."""
    counted = slice(min(1, len(seconds) - 1), len(seconds))
    time_of_round = sum(seconds[counted]) / sum(of_base[counted])
    model = sum(tensor.nbytes for tensor in run.initial.values())
    visits, down, up = (
        sum(float(values[0]) for values in run.rounds[name][counted]) for name in ("sampled", "bytes_down", "bytes_up")
    )
    return {
        "method": run.cell.method_name,
        "version": run.method.version,
        "family": run.method.family,
        TIME: time_of_round,
        "down": down / visits / model,
        "up": up / visits / model,
        "state": len(pack(run.states[0])) / model if run.states.get(0) else 0.0,
        "target": _verdict(run.cell.method_name, time_of_round),
        "note": None if run.done == ROUNDS else f"not finite in round {run.done + 1}",
    }


def _verdict(name: str, time_of_round: float) -> str | None:
    if name not in TARGETS:
        return None
    return f"at most {TARGETS[name]}: {'met' if time_of_round <= TARGETS[name] else 'not met'}"


def test_methods(benchmark: Any, script: Script) -> None:
    """Measure all methods, a few at a time, each time in a fresh process."""
    names = built_in()
    groups = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]

    def every() -> list[dict[str, Any]]:
        return [row for group in groups for row in script(Path(__file__).name, *group)["rows"]]

    rows = benchmark.pedantic(every, rounds=1, iterations=1)
    rows.sort(key=lambda row: row[TIME])
    benchmark.extra_info |= {"table": METHODS, "caption": CAPTION, "rows": rows}


def main() -> None:
    """Measure some methods."""
    parser = arguments(__doc__)  # of which the task and the number of rounds are not ours: all are measured alike
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="all, if none is named")
    given = parser.parse_args()
    tell(rows=measured(given.methods or built_in()))


if __name__ == "__main__":
    main()
