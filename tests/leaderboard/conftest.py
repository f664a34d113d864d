"""Synthetic records whose every number can be worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from fedbench import durable, records
from fedbench.schema import Environment, Failure, ModelInfo, Plan, PlannedCell, RunInfo, SeedIds

# Every record has 2 rounds, 2 clients with 4 local test samples each, 10 global test samples of 2 classes.
#
#   global model   right on the first 10 · accuracy test samples after both rounds, so mean = last = accuracy,
#                  and nothing flips: consistency is 1
#   on clients     round 0: client 0 all 4, client 1 none;  round 1: client 0 three of 4, client 1 none
#                  client 0 is sampled in round 0, so BwT_1 = 3/4 − 1 and BwT = (0 − 1/4) / 2 = −12.5 points
#   local models   round 0: client 0 has 2 of 4;  round 1: client 0 has 4 of 4, client 1 has 2 of 4
#                  mean (1/2 + 3/4) / 2 = 62.5 %, worst (1/2 + 1/2) / 2 = 50 %, consistency 1
#   personal       4 of 4 and 2 of 4: 75 %
#   cost           up 2 MB, down 4 MB, 300 samples trained, 30 forward, 12 s training, 3 s evaluation
ON_CLIENTS = [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
LOCAL = [[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]
PERSONAL = [[1, 1, 1, 1, 1, 1, 0, 0]]

HASH = "0123456789ab"
CARD = """Loss: something made up.

    Parameters
    ----------
    tau : float, > 0
        A temperature, <b>hot</b>.

    Cost: none.
    """
MECHANISMS = {"fedkper": "distillation, weighting", "fedper": "partial sharing", "fedprox": "regularisation"}
SCRIPT = "<script>alert(1)</script>|`x`"


class Lab:
    """A results folder under construction: each call plans one cell and puts something into its folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.cells: list[PlannedCell] = []

    def plan(self, task, label, seed, *, family="global", skipped=None):
        method = "evil" if label == SCRIPT else label.partition("[")[0]
        cell = PlannedCell(
            task=task,
            method=method,
            label=label,
            family=family,
            hash=HASH,
            seed=seed,
            mechanism=MECHANISMS.get(method, ""),
            hyperparameters={"distil": False} if label == "fedkper[distil=False]" else {},
            skipped=skipped,
        )
        self.cells.append(cell)
        return cell

    def done(self, task, label, seed, accuracy, *, family="global", models=("global", "local"), **changes):
        """Write a record; ``changes`` are fields of its RunInfo, arrays, or ``partition`` and ``device``."""
        cell = self.plan(task, label, seed, family=family)
        arrays = _arrays(accuracy, models)
        arrays |= {name: changes.pop(name) for name in list(changes) if name in records.ARRAYS}
        info = _info(cell, seed, models, changes.pop("partition", "p"), changes.pop("device", "cpu"))
        half = np.array([1, 1])
        records.write(
            self.results / cell.path,
            info.model_copy(update=changes),
            rounds={
                "bytes_up": half * 1_000_000,
                "bytes_down": half * 2_000_000,
                "seconds_train": half * 6.0,
                "seconds_evaluate": half * 1.5,
                "train_samples": half * 150,
                "forward_samples": half * 15,
            },
            clients={"round": [0, 0, 1, 1], "client": [0, 1, 0, 1]},
            arrays=arrays,
        )
        return cell

    def failed(self, task, label, seed, reason):
        cell = self.plan(task, label, seed)
        failure = Failure(reason=reason, traceback="", at="2026-01-01T00:00:00+00:00")
        records.write_failure(self.results / cell.path, failure)

    def corrupt(self, task, label, seed):
        cell = self.done(task, label, seed, 0.5)
        path = self.results / cell.path / "rounds.parquet"
        path.write_bytes(path.read_bytes() + b"!")

    def finish(self, suite="demo", *, cells=None, title="A demonstration", track="faithful"):
        """Write the plan, and return the results folder."""
        plan = Plan(schema_version=1, suite=suite, title=title, track=track, cells=tuple(cells or self.cells))
        durable.write_atomic(self.results / "plans" / f"{suite}.json", plan.model_dump_json() + "\n")
        return self.results


def _arrays(accuracy, models):
    right = np.arange(10) < round(accuracy * 10)
    labels = np.arange(10) % 2
    bits = {name: np.packbits(np.array(rows, dtype=bool), axis=-1) for name, rows in _BITS.items()}
    arrays = {
        "schedule": np.array([[1, 0], [1, 1]], dtype=bool),
        "train_class_counts": np.full((2, 2), 5),
        "test_ids": np.arange(10),
        "test_labels": labels.astype(np.uint8),
        "validation_ids": np.zeros(0, dtype=np.int64),
        "client_offsets": np.array([0, 4, 8]),
        "client_test_ids": np.arange(8),
        "client_test_labels": np.zeros(8, dtype=np.uint8),
    }
    if "global" in models:
        predictions = np.where(right, labels, 1 - labels).astype(np.uint8)
        arrays |= {
            "global_test_predictions": np.stack([predictions, predictions]),
            "global_test_probabilities": np.eye(2, dtype=np.float16)[predictions],
            "global_validation_correct": np.zeros((2, 0), dtype=np.uint8),
            "global_client_correct": bits["on_clients"],
        }
    if "local" in models:
        arrays["local_client_correct"] = bits["local"]
    if "personal" in models:
        arrays |= {"personal_rounds": np.array([1]), "personal_client_correct": bits["personal"]}
    return arrays


_BITS = {"on_clients": ON_CLIENTS, "local": LOCAL, "personal": PERSONAL}


def _info(cell, seed, models, partition, device):
    task = {
        "name": cell.task,
        "version": 1,
        "data": {"shape": [28, 28, 1], "counts": {"train": 1234, "test": 10}, "license": "CC BY 4.0"},
        "partitioner": {"type": "Dirichlet", "alpha": 0.1},
        "protocol": {
            "rounds": 2,
            "participation": 0.75,
            "local_epochs": 5,
            "batch_size": 12,
            "lr": 0.01,
            "momentum": 0.9,
        },
        "source": "made-up",
    }
    return RunInfo(
        schema_version=1,
        fedbench="0.1.0",
        identity={"task": task, "method": {"name": cell.method}, "track": "faithful"},
        hash=cell.hash,
        seed=seed,
        label=cell.label,
        cards={
            "task": f"Task {cell.task}\n\nMade up, with `code`.\n\nMore about it.",
            "method": CARD,
            "source": "Source: A. Author, <i>Title</i>.",
        },
        classes=("ill", "well"),
        primary="global_accuracy_mean",
        seed_ids=SeedIds(partition=partition, init=f"i{seed}", schedule="s", order=f"o{seed}"),
        model=ModelInfo(name="mlp", parameters=1000, bytes=4000, flops=2000),
        models=models,
        bytes_up=2_000_000,
        bytes_down=4_000_000,
        train_samples=300,
        forward_samples=30,
        environment=Environment(
            python="3.11.0",
            packages={"numpy": "2.0.0", "torch": "2.13.0"},
            platform="Linux",
            processor="A processor",
            cores=2,
            threads=1,
            device=device,
            commit="c0ffee" * 6 + "c0ff",
        ),
        started="2026-01-01T00:00:00+00:00",
        seconds={"train": 12.0, "evaluate": 3.0},
    )


@pytest.fixture
def lab(tmp_path):
    """Return an empty results folder to fill."""
    return Lab(tmp_path / "results")


@pytest.fixture
def robust(lab):
    """Return a robust board of 12 seeds on one task: the right answers of 10 test samples, seed by seed.

    fedavg 5 6 5 6 …; fedkper two more at every seed; fedntd one less than fedkper at one seed and else the same;
    fedprox without its last seed.
    """
    for seed in range(12):
        base = (5 + seed % 2) / 10
        lab.done("alpha", "fedavg", seed, base, partition=f"p{seed}")
        lab.done("alpha", "fedkper", seed, base + 0.2, partition=f"p{seed}")
        lab.done("alpha", "fedntd", seed, base + (0.1 if seed == 3 else 0.2), partition=f"p{seed}")
        lab.done("alpha", "majority", seed, 0.9, family="reference", models=("global",), partition=f"p{seed}")
        if seed < 11:
            lab.done("alpha", "fedprox", seed, base, partition=f"p{seed}")
        else:
            lab.plan("alpha", "fedprox", seed)
    return lab.finish(track="robust")


@pytest.fixture
def script():
    """Return a label that is text to a reader and an attack on a page or a Markdown table."""
    return SCRIPT


def demonstration(lab):
    """Return a results folder with everything that can happen: 2 tasks, 3 seeds.

    alpha    fedavg 0.5 0.6 0.7 · fedkper[distil=False] 0.7 0.8 0.9 · fedprox 0.6 0.8 and a failure
             fedper without a global model · majority (reference) 0.5 0.5 0.5
    beta     fedavg 0.9, missing, corrupt · fedkper skipped · a hostile label 0.4 0.4 0.4
    """
    for seed, accuracy in ((1, 0.5), (2, 0.6), (3, 0.7)):
        lab.done("alpha", "fedavg", seed, accuracy)
        lab.done("alpha", "fedkper[distil=False]", seed, accuracy + 0.2)
        lab.done("alpha", "fedper", seed, 0, family="personalised", models=("local", "personal"))
        lab.done("alpha", "majority", seed, 0.5, family="reference", models=("global",))
        lab.plan("beta", "fedkper", seed, skipped="bloodmnist.npz is not on this machine")
        lab.done("beta", SCRIPT, seed, 0.4)
    lab.done("alpha", "fedprox", 1, 0.6)
    lab.done("alpha", "fedprox", 2, 0.8)
    lab.failed("alpha", "fedprox", 3, "loss is NaN\nin round 2")
    lab.done("beta", "fedavg", 1, 0.9)
    lab.plan("beta", "fedavg", 2)
    lab.corrupt("beta", "fedavg", 3)
    return lab.finish()


@pytest.fixture
def demo(lab):
    """Return the demonstration, for a test that may change it."""
    return demonstration(lab)


@pytest.fixture(scope="session")
def shown(tmp_path_factory):
    """Return the demonstration, for tests that only look at it."""
    return demonstration(Lab(tmp_path_factory.mktemp("shown") / "results"))


@pytest.fixture(scope="session")
def make_lab():
    """Return what makes a results folder to fill, for fixtures that outlive a test."""
    return Lab
