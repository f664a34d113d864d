"""A Ray cluster: the bits of a run on one machine, whatever dies in between. Those marked long start a real one."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from fedbench import Record, cluster
from fedbench.cluster import ClusterError, run_on_ray
from fedbench.executors import Options, run_cells, run_group, run_serially
from fedbench.records import state
from fedbench.resident import load_data
from fedbench.schema import CHECKPOINT, FAILURE, MANIFEST
from fedbench.storage import Storage, StorageError

PLUG_INS = """
    import os, signal, time
    from dataclasses import dataclass
    from pathlib import Path
    from fedbench import Method

    @dataclass(frozen=True, kw_only=True)
    class Fragile(Method):
        how: str = ""

        def client_update(self, client):
            if self.how == "raises":
                raise ValueError("no such thing")
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            return super().client_update(client)

    class Waits(Method):  # in its fourth round for a file
        def client_update(self, client):
            gate = Path(os.environ["FEDBENCH_TEST_GATE"])
            while client.round == 3 and not gate.exists():
                gate.with_name(f"waits-{os.getpid()}").touch()
                time.sleep(0.01)
            return super().client_update(client)
"""


@pytest.fixture(scope="module")
def plug_ins(tmp_path_factory):
    """Return a module of methods that is installed on the nodes as well, and the file that one of them waits for."""
    folder = tmp_path_factory.mktemp("plug-ins")
    (folder / "cluster_plug_ins.py").write_text(textwrap.dedent(PLUG_INS))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("FEDBENCH_TEST_GATE", str(folder / "gate"))
        import cluster_plug_ins

        yield cluster_plug_ins
    del sys.modules["cluster_plug_ins"]


@pytest.fixture
def gate(plug_ins):
    """Return the file that `Waits` waits for; it is there when the test ends, whatever happens."""
    path = Path(os.environ["FEDBENCH_TEST_GATE"])
    for file in (path, *path.parent.glob("waits-*")):
        file.unlink(missing_ok=True)
    yield path
    path.touch()


class Nodes:
    """A cluster on this machine: a head without CPUs, and nodes of one each."""

    def __init__(self, folder):
        from ray.cluster_utils import Cluster

        # A node that is gone is missed within seconds; Ray's default is half a minute.
        soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
        self.folder, self.cluster = folder, Cluster()
        self.cluster.add_node(num_cpus=0, object_store_memory=80 << 20, _system_config=soon, include_dashboard=False)
        self.nodes = []
        self.add(2)

    @property
    def address(self):
        return self.cluster.address

    def scratch(self):
        return set(self.folder.glob("fedbench-*"))

    def add(self, n=1):
        self.nodes += [self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(n)]

    def kill(self):
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes(plug_ins, bucket):
    """Return a cluster whose processes and files are gone when the tests are over."""
    ray = pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a short name: those of sockets may not be long
    made = None
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_TMPDIR", "TMPDIR"):
            patch.setenv(name, str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # no token in anybody's home
        try:
            made = Nodes(folder)
            yield made
        finally:
            ray.shutdown()
            if made is not None:
                made.cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def run_all(nodes, cells, options, storage, **others):
    events = run_on_ray(cells, options, address=nodes.address, storage=str(storage), **others)
    return last(events)


def last(events):
    return {event.cell: event for event in events if event.is_last}


def digests(events):
    return {cell: (event.state, event.digest) for cell, event in events.items()}


def index_of(cell, storage):
    """Return the number of rounds of a cell's checkpoint in storage, or None."""
    path = cell.folder(storage).with_name(f"seed-{cell.seed}.partial") / CHECKPOINT
    return json.loads(path.read_text())["round"] if path.exists() else None


def waiting(gate):
    """Return the processes that wait at a gate and are alive; what is dead and not yet buried has no command line."""
    processes = [path.name.removeprefix("waits-") for path in gate.parent.glob("waits-*")]
    lines = [Path("/proc", process, "cmdline") for process in processes]
    return [line for line in lines if line.exists() and line.read_bytes()]


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- in this process --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a worker in the middle."""


@pytest.fixture
def attempt(tmp_path):
    """Return a function that runs a cell as a worker would, killed after so many checkpoints."""

    def attempted(cell, name, checkpoints=None, **options):
        def run(group, dataset, options, tell, saved):
            left = checkpoints

            def counted(folder):
                nonlocal left
                saved(folder)
                left = left and left - 1
                if left == 0:
                    raise Killed

            run_group(group, dataset, options, tell, saved=counted)

        options = Options(tmp_path / name, checkpoint_seconds=0, **options)
        storage = Storage(str(tmp_path / "shared"), options.results)
        (told,) = cluster._run((cell,), load_data(cell.task.data), options, storage, run)
        return told

    return attempted


def test_a_killed_cell_goes_on_from_storage_to_the_same_bits(attempt, make_cell, shrink, tmp_path):
    cell = make_cell(shrink("heart", rounds=6), "fedkper")
    (whole,) = last(run_serially([cell], Options(tmp_path / "serial"))).values()
    with pytest.raises(Killed):
        attempt(cell, "first", checkpoints=2)
    with pytest.raises(Killed):
        attempt(cell, "second", checkpoints=1)
    assert index_of(cell, tmp_path / "shared") == 3
    told = attempt(cell, "third")
    assert (told["state"], told["resumed"], told["digest"]) == ("done", 3, whole.digest)
    assert index_of(cell, tmp_path / "shared") is None
    assert Record.open(cell.folder(tmp_path / "shared")).digest == whole.digest


def test_what_has_a_record_in_storage_is_not_run_again(attempt, make_cell, shrink, tmp_path):
    cell = make_cell(shrink("heart", rounds=1))
    attempt(cell, "first")
    assert attempt(cell, "second") == {"state": "done"}
    assert not (tmp_path / "second").exists()


def test_when_the_time_is_up_a_cell_stops_and_its_checkpoint_is_in_storage(attempt, make_cell, shrink, tmp_path):
    cell = make_cell(shrink("heart", rounds=3))
    with pytest.raises(Killed):
        attempt(cell, "first", checkpoints=1)
    assert attempt(cell, "second", stop_at=time.time()) == {"state": "stopped"}
    assert attempt(cell, "third")["resumed"] == 1


def test_a_checkpoint_that_cannot_be_pushed_costs_no_cell(attempt, make_cell, shrink, monkeypatch, caplog):
    def refuse(self, folder):
        raise StorageError("storage s3://bucket: no.")

    monkeypatch.setattr(Storage, "push_checkpoint", refuse)
    assert attempt(make_cell(shrink("heart", rounds=3)), "results")["state"] == "done"
    assert "storage s3://bucket: no. The cell goes on without." in caplog.text


def test_a_method_that_fails_takes_its_checkpoint_along(attempt, make_cell, shrink, plug_ins, tmp_path):
    cell = make_cell(shrink("heart", rounds=3), plug_ins.Fragile, how="raises")
    checkpoint = cell.folder(tmp_path / "shared").with_name("seed-1.partial")
    checkpoint.mkdir(parents=True)
    (checkpoint / CHECKPOINT).write_text('{"files": {}}')
    told = attempt(cell, "results")
    assert told["state"] == "failed"
    assert json.loads(told["note"])["reason"] == told["reason"]
    assert state(cell.folder(tmp_path / "shared")) == ("failed", told["reason"])
    assert not checkpoint.exists()


def test_arrays_of_the_object_store_are_taken_as_they_are(tmp_path, shrink):
    import torch

    dataset = load_data(shrink("heart", rounds=1).data)
    inputs = dataset.inputs.copy()
    inputs.flags.writeable = False
    taken = cluster._for_torch(type(dataset)(inputs, dataset.targets, dataset.train, dataset.validation, dataset.test))
    assert torch.from_numpy(taken.inputs).data_ptr() == inputs.ctypes.data
    assert np.array_equal(taken.inputs, inputs)


@pytest.mark.long
def test_nothing_writes_to_a_data_set():
    """Its memory is mapped so that a write would end the process."""
    script = """
        import tempfile
        from pathlib import Path
        import numpy as np
        from fedbench import Cell, Dataset, registry
        from fedbench.cluster import _for_torch
        from fedbench.resident import load_data, store
        from fedbench.simulation import run_cell

        folder = Path(tempfile.mkdtemp())
        for name in ("heart", "blood-mini"):
            task = registry.tasks.get(name)
            task = task.but(protocol=task.protocol.but(rounds=1, local_epochs=1))
            store(load_data(task.data), folder / name)
            files = {path.stem: np.load(path, mmap_mode="r") for path in (folder / name).glob("*.npy")}
            for method in registry.methods.names():
                cell = Cell(task, method, registry.methods.get(method)(), "faithful", 1)
                assert run_cell(cell, folder / "results", dataset=_for_torch(Dataset(**files)))
                print(cell)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) >= 12


def test_without_ray_the_mend_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r'pip install "fedbench\[ray\]"'):
        list(run_on_ray([], Options(tmp_path), address="auto", storage=str(tmp_path / "shared")))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:10001"])
def test_an_address_without_a_cluster_is_refused_at_once(address, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at .* give HOST:PORT"):
        list(run_on_ray([], Options(tmp_path), address=address, storage=str(tmp_path / "shared")))


# --- on a cluster -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_cluster_gives_the_bits_of_one_machine(nodes, make_cell, shrink, tmp_path):
    heart, blood = shrink("heart", rounds=3), shrink("blood-mini", rounds=1, local_epochs=1)
    cells = [make_cell(heart, name, seed=seed) for name in ("fedavg", "fedkper") for seed in (1, 2)]
    cells.append(make_cell(blood, "fedkper"))
    alone = {
        "serial": last(run_serially(cells, Options(tmp_path / "serial"))),
        "one": last(run_cells(cells, Options(tmp_path / "one"), 1)),
        "two": last(run_cells(cells, Options(tmp_path / "two"), 2)),
    }
    events = list(run_on_ray(cells, Options(tmp_path / "ray"), address=nodes.address, storage=str(tmp_path / "shared")))
    ray = last(events)
    assert {event.cell for event in events if event.state == "running"} == set(cells)
    assert len(ray) == 5
    for one_machine in alone.values():
        assert digests(ray) == digests(one_machine)
    for cell in cells:
        for results in ("ray", "shared"):
            assert Record.open(cell.folder(tmp_path / results)).digest == ray[cell].digest
    assert {Record.open(cell.folder(tmp_path / "ray")).info.environment.threads for cell in cells} == {1}
    again = run_all(nodes, cells, Options(tmp_path / "again"), tmp_path / "shared", workers=1)
    assert digests(again) == digests(ray)
    for cell in cells:  # pulled, not run again
        first, second = (cell.folder(tmp_path / name) / "run.json" for name in ("ray", "again"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.long
def test_a_node_that_dies_changes_no_bit(nodes, plug_ins, gate, make_cell, shrink, tmp_path, caplog):
    caplog.set_level(logging.INFO, "fedbench.cluster")
    cells = [make_cell(shrink("heart", rounds=6), plug_ins.Waits, seed=seed) for seed in (1, 2, 3)]
    gate.touch()
    serial = last(run_serially(cells, Options(tmp_path / "serial")))
    gate.unlink()
    shared, options = tmp_path / "shared", Options(tmp_path / "ray", checkpoint_seconds=0)
    events = []
    for event in run_on_ray(cells, options, address=nodes.address, storage=str(shared), batch=1):
        events.append(event)
        if len(events) == 2:  # two cells have begun, one on each node, and both will wait
            wait_until(lambda: len(waiting(gate)) == 2)
            assert [index_of(cell, shared) for cell in cells].count(3) == 2
            nodes.kill()
            wait_until(lambda: len(waiting(gate)) == 1)  # a worker lives on for a moment without its node
            gate.touch()
    nodes.add()
    assert digests(last(events)) == digests(serial)
    assert sum(event.is_last for event in events) == 3
    assert [record.getMessage().partition(" ")[2] for record in caplog.records] == ["went on from round 3."]
    assert not list(shared.rglob("*.partial"))


@pytest.mark.long
def test_a_run_that_is_given_up_goes_on_another_time(nodes, plug_ins, gate, make_cell, shrink, tmp_path):
    import ray

    cells = [make_cell(shrink("heart", rounds=6), plug_ins.Waits, seed=seed) for seed in (1, 2, 3, 4, 5, 6)]
    shared, options = tmp_path / "shared", Options(tmp_path / "ray", checkpoint_seconds=0)
    before = nodes.scratch()
    events = run_on_ray(cells, options, address=nodes.address, storage=str(shared), batch=1)
    first = next(events)
    assert (first.state, first.rounds) == ("running", 6)
    wait_until(lambda: index_of(first.cell, shared) == 3)
    events.close()
    assert not ray.is_initialized()
    assert nodes.scratch() == before
    gate.touch()
    assert index_of(first.cell, shared) == 3
    assert not list(shared.rglob(MANIFEST))
    serial = last(run_serially(cells[:2], Options(tmp_path / "serial")))
    assert digests(run_all(nodes, cells[:2], options, shared)) == digests(serial)


@pytest.mark.long
def test_a_cell_that_fails_costs_only_itself(nodes, plug_ins, make_cell, shrink, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "RETRIES", 1)
    heart = shrink("heart", rounds=1)
    hows = ("", "raises", "dies", "never")
    cells = [make_cell(heart, plug_ins.Fragile, how=how) for how in hows]
    events = run_all(nodes, cells, Options(tmp_path / "ray"), tmp_path / "shared", batch=4)
    assert [events[cell].state for cell in cells] == ["done", "failed", "failed", "done"]
    reasons = [events[cell].reason for cell in cells]
    assert reasons[1].startswith("ValueError: no such thing (cluster_plug_ins.py, line ")
    assert "was lost 2 times" in reasons[2]
    for results in ("ray", "shared"):
        for cell in cells[1:3]:
            assert state(cell.folder(tmp_path / results)) == ("failed", events[cell].reason)
    assert "cluster_plug_ins" in json.loads((cells[1].folder(tmp_path / "ray") / FAILURE).read_text())["traceback"]


@pytest.mark.long
def test_a_plug_in_that_is_not_on_the_nodes_is_named(nodes, make_cell, shrink, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("from fedbench import Method\n\nclass Mine(Method):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    heart = shrink("heart", rounds=1)
    cells = [make_cell(heart, only_here.Mine), make_cell(heart, only_here.Mine, seed=2), make_cell(heart)]
    events = run_all(nodes, cells, Options(tmp_path / "ray"), tmp_path / "shared")
    assert [events[cell].state for cell in cells] == ["failed", "failed", "done"]
    assert "cannot import only_here; install there" in events[cells[0]].reason
    assert state(cells[1].folder(tmp_path / "shared")) == ("failed", events[cells[1]].reason)


@pytest.mark.long
def test_a_bucket_does_for_storage(nodes, bucket, make_cell, shrink, tmp_path):
    cells = [make_cell(shrink("heart", rounds=3), "fedkper", seed=seed) for seed in (1, 2)]
    serial = last(run_serially(cells, Options(tmp_path / "serial")))
    events = run_all(nodes, cells, Options(tmp_path / "ray", checkpoint_seconds=0), bucket)
    assert digests(events) == digests(serial)
    files = Storage(bucket, tmp_path)._files.find("bucket/some/prefix")
    assert len(files) == 2 * 5
    assert not [name for name in files if "partial" in name]


@pytest.mark.long
def test_when_the_time_is_up_nothing_is_begun(nodes, make_cell, shrink, tmp_path):
    cells = [make_cell(shrink("heart", rounds=1), seed=seed) for seed in (1, 2, 3)]
    events = run_all(nodes, cells, Options(tmp_path / "ray", stop_at=time.time()), tmp_path / "shared")
    assert [events[cell].state for cell in cells] == ["stopped"] * 3


@pytest.mark.long
def test_without_an_address_this_machine_is_the_cluster(nodes, make_cell, shrink, tmp_path):
    import ray

    cell = make_cell(shrink("heart", rounds=1))
    (event,) = last(run_on_ray([cell], Options(tmp_path / "ray"), storage=str(tmp_path / "ray"))).values()
    assert event.state == "done"
    assert not ray.is_initialized()
