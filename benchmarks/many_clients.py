"""Many clients: 100, 1,000 and 10,000 of them, one in a hundred a round, each with a state as large as the model.

Generated data, a model of about 0.2 million parameters, one worker. What must not grow with the number of all clients
is the time of a round and the memory of the worker: states that do not fit are files. Rounds in which all clients'
personal models are evaluated do grow with them, and so have a column of their own.

    python benchmarks/many_clients.py 1000 RESULTS    runs one size and prints what it measured as JSON
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fedbench import Cell, Client, Data, Dataset, Method, Natural, Protocol, Task, Upload
from fedbench.models import MLP, MODELS

if TYPE_CHECKING:
    from fedbench import Predictor

SAMPLES, TEST, VALIDATION, CLASSES, PIXELS = 12, 2000, 500, 8, 28
ROUNDS = 100

MODELS["mlp-wide"] = lambda shape, n_out: MLP(shape, n_out, hidden=256)


class Generated(Data):
    """Images of noise about a mean for each class, the same number for each client."""

    clients: int

    def locate(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return nothing: there is no file."""
        return ()

    def fetch(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return nothing: there is no file."""
        return ()

    def load(self, data_dir: Path | None = None) -> Dataset:
        """Draw the samples from a fixed stream."""
        rng = np.random.default_rng(0)
        sizes = (self.clients * SAMPLES, VALIDATION, TEST)
        targets = rng.integers(CLASSES, size=sum(sizes))
        means = rng.integers(60, 190, size=(CLASSES, PIXELS, PIXELS, 1))
        inputs = np.empty((len(targets), PIXELS, PIXELS, 1), dtype=np.uint8)
        for begin in range(0, len(targets), 10_000):
            some = slice(begin, begin + 10_000)
            noise = rng.integers(-60, 60, size=inputs[some].shape)
            inputs[some] = np.clip(means[targets[some]] + noise, 0, 255)
        train, validation, test = np.split(np.arange(len(targets)), np.cumsum(sizes)[:-1])
        return Dataset(inputs, targets, train, validation, test, sites=np.arange(len(targets)) % self.clients)


@dataclass(frozen=True, kw_only=True)
class KeepsItsModel(Method):
    """FedAvg whose clients keep what they trained and would deploy it: a state of one model a client."""

    def client_update(self, client: Client) -> Upload:
        """Train, keep the result, send it."""
        model = client.fit(client.params, self.loss).params
        client.state = {**client.state, "own": model}
        return client.upload(model)

    def personal(self, client: Client) -> Predictor | None:
        """Return what was kept, or what was received where nothing was."""
        return client.state.get("own", client.params)


def cell(clients: int, rounds: int = ROUNDS) -> Cell:
    """Return the run of one size."""
    counts = {"train": clients * SAMPLES, "val": VALIDATION, "test": TEST}
    task = Task(
        name=f"clients-{clients}",
        title="Generated",
        data=Generated(
            classes=tuple(map(str, range(CLASSES))),
            shape=(PIXELS, PIXELS, 1),
            counts=counts,
            license="none",
            clients=clients,
        ),
        partitioner=Natural(),
        model="mlp-wide",
        protocol=Protocol(rounds=rounds, participation=0.01, local_epochs=5, batch_size=SAMPLES, lr=0.01, momentum=0.9),
        source="generated",
    )
    return Cell(task, "keeps-its-model", KeepsItsModel(), "robust", 1)


class Stopped(BaseException):
    """Ends a run as Ctrl-C does."""


def measure(clients: int, results: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Run one size, once whole and once with a stop in the middle; return times, sizes and whether the bits agree."""
    from fedbench.resident import load_data
    from fedbench.schema import checkpoint_folder
    from fedbench.simulation import run_cell

    this = cell(clients, rounds)
    dataset = load_data(this.task.data)
    largest = 0

    def saved(folder: Path) -> None:
        nonlocal largest
        largest = max(largest, sum(path.stat().st_size for path in folder.iterdir()))

    def stop(done: int, _: int) -> None:
        if done == rounds // 2:
            raise Stopped

    whole = run_cell(this, results / "whole", dataset=dataset, checkpoint_seconds=1, saved=saved)
    try:
        run_cell(this, results / "stopped", dataset=dataset, checkpoint_seconds=1, watch=stop)
    except Stopped:
        kept = checkpoint_folder(this.folder(results / "stopped")).exists()
    resumed = run_cell(this, results / "stopped", dataset=dataset)
    assert whole is not None
    assert resumed is not None
    table = whole.rounds.to_pandas()
    seconds = table.seconds_train + table.seconds_evaluate
    personal = table["round"].isin(this.task.protocol.personal_rounds())
    return {
        "clients": clients,
        "sampled a round": int(table["sampled"].iloc[0]),
        "ms a round, training": round(1000 * float(table.seconds_train.median()), 1),
        "ms a round, evaluation": round(1000 * float(table.seconds_evaluate[~personal].median()), 1),
        "s a round with all personal models": round(float(seconds[personal].median()), 2),
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "data in it, MiB": dataset.inputs.nbytes >> 20,
        "largest checkpoint, MiB": largest >> 20,
        "resumed to the same bits": "yes" if kept and whole.digest == resumed.digest else "NO",
    }


@pytest.mark.parametrize("clients", [100, 1_000, 10_000])
def test_many_clients(benchmark: Any, tmp_path: Path, clients: int) -> None:
    """Each size in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, str(clients), str(tmp_path)]
    done = benchmark.pedantic(
        lambda: subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True), rounds=1, iterations=1
    )
    caption = (
        f"{ROUNDS} rounds, 1 % of the clients a round, {SAMPLES} samples and 5 epochs a client, a model of 0.2 million "
        "parameters and as much state a client, one worker. Memory is that of the whole process, the data included."
    )
    row = json.loads(done.stdout.splitlines()[-1])
    benchmark.extra_info.update(table="Many clients", row=row, caption=caption)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]))))
