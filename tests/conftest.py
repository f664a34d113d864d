"""Fixtures of all tests."""

import os
import shutil
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # as in worker processes: the number of threads may change the last bits

import numpy as np
import pytest

from fedbench import Cell, registry
from fedbench.outcome import Outcome


def pytest_collection_modifyitems(config, items):
    """Deselect what this machine has no data, no browser or no GPU for; pytest prints how many that are."""
    lacking = set() if os.environ.get("FEDBENCH_DATA") else {"data"}
    lacking |= set() if shutil.which("chromium") else {"browser"}
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        lacking |= set() if torch.cuda.is_available() else {"gpu"}
    out = [item for item in items if any(item.get_closest_marker(name) for name in lacking)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def make_outcome():
    """Return a factory of small outcomes: name what the test is about, the rest is absent or zero."""

    def make(*, rounds, sizes=(1,), labels=(), n_classes=2, **arrays):
        zeros = np.zeros(rounds, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        given = {
            "sampled": np.zeros((rounds, len(sizes)), dtype=bool),
            "test_predictions": None,
            "test_probabilities": None,
            "validation": None,
            "client_labels": np.zeros(offsets[-1], dtype=np.int64),
            "on_clients": None,
            "local": None,
            "personal_rounds": np.zeros(0, dtype=np.int64),
            "personal": None,
            "bytes_up": zeros,
            "bytes_down": zeros,
            "seconds_train": zeros.astype(float),
            "seconds_evaluate": zeros.astype(float),
            "train_samples": zeros,
            "forward_samples": zeros,
        }
        for name, value in arrays.items():
            bits = name in {"sampled", "validation", "on_clients", "local", "personal"}
            given[name] = None if value is None else np.asarray(value, dtype=bool if bits else None)
        return Outcome(n_classes=n_classes, offsets=offsets, test_labels=np.asarray(labels, dtype=np.int64), **given)

    return make


@pytest.fixture(scope="session")
def shrink():
    """Return a function that gives a registered task with another, smaller protocol or partitioner."""

    def shrunk(name, *, partitioner=None, **protocol):
        task = registry.tasks.get(name)
        return task.but(protocol=task.protocol.but(**protocol), partitioner=partitioner or task.partitioner)

    return shrunk


@pytest.fixture(scope="session")
def make_cell():
    """Return a factory of cells; a method is given by name, or as a class of the test's own."""

    def make(task, method="fedavg", *, seed=1, track="faithful", **hyperparameters):
        kind = registry.methods.get(method) if isinstance(method, str) else method
        name = method if isinstance(method, str) else method.__name__.lower()
        return Cell(task, name, kind.configure(name, hyperparameters), track, seed)

    return make


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Return a function that starts the simulation of a cell, without a single round done."""
    from fedbench.checkpoint import Checkpoint
    from fedbench.resident import load_data
    from fedbench.simulation import Simulation

    def started(cell, **options):
        folder = tmp_path_factory.mktemp("simulation") / "seed.partial"
        return Simulation(cell, load_data(cell.task.data), Checkpoint(folder), **options)

    return started


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """Return a function that installs a package with plug-ins, for as long as a test takes.

    It is a real distribution on the path, which other processes started from here find as well.
    """
    for group in (registry.methods, registry.tasks):
        monkeypatch.setattr(group, "_points", None)
        monkeypatch.setattr(group, "_loaded", {})

    def install(distribution, code="", **groups):
        """Install code as a module of the distribution's name, with ``methods={name: "Class" or "module:Class"}``."""
        folder, module = tmp_path / "installed" / distribution, distribution.replace("-", "_")
        info = folder / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = []
        for group, named in groups.items():
            lines.append(f"[fedbench.{group}]")
            lines += [f"{name} = {to if ':' in to else f'{module}:{to}'}" for name, to in named.items()]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setitem(sys.modules, module, None)  # so that it is taken out again
        del sys.modules[module]
        for group in (registry.methods, registry.tasks):
            group._points = None

    return install


@pytest.fixture(scope="module")
def bucket():
    """Return the URL of a bucket on a local S3 server."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    S3FileSystem.clear_instance_cache()  # they remember the endpoint
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        S3FileSystem().mkdir("bucket")
        yield "s3://bucket/some/prefix"
        S3FileSystem().rm("bucket", recursive=True)  # what a server held, the next one in this process holds too
        S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def tally(record_property):
    """Return what counts, for `reports/reliability.md`, how often something was tried and came out right."""

    def count(what, tried=1):
        record_property("tally", f"{what}: {tried}")

    return count
