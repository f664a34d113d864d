"""Worker processes: the same bits for any number of them, and one cell's failure costs only itself."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fedbench import Cell, Record, registry
from fedbench.executors import Options, run_cells, run_serially
from fedbench.records import state

BROKEN = """
    import os, resource, signal
    from fedbench import Method

    class Raises(Method):
        def client_update(self, client):
            raise ValueError("no such thing")

    class Dies(Method):
        def client_update(self, client):
            os.kill(os.getpid(), signal.SIGKILL)

    class FillsTheDisk(Method):  # no file may grow beyond 4 kB from here on
        def init_server(self, server):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a module of methods that fail, importable in workers as well."""
    (tmp_path / "broken_methods.py").write_text(textwrap.dedent(BROKEN))
    monkeypatch.syspath_prepend(tmp_path)
    import broken_methods

    yield broken_methods
    del sys.modules["broken_methods"]


def run_all(cells, results, jobs):
    events = [event for event in run_cells(cells, Options(results), jobs) if event.state != "running"]
    return {event.cell: event for event in events}


def test_one_worker_and_two_give_the_same_bits(make_cell, shrink, tmp_path):
    heart, blood = shrink("heart", rounds=3), shrink("blood-mini", rounds=1, local_epochs=1)
    cells = [make_cell(heart, name, seed=seed) for name in ("fedavg", "fedkper") for seed in (1, 2)]
    cells.append(make_cell(blood, "fedkper"))
    one, two = run_all(cells, tmp_path / "one", 1), run_all(cells, tmp_path / "two", 2)
    assert len(one) == len(two) == 5
    for cell in cells:
        assert one[cell].state == two[cell].state == "done"
        assert one[cell].digest == two[cell].digest == Record.open(cell.folder(tmp_path / "two")).digest


def test_a_cell_that_raises_or_dies_costs_only_itself(make_cell, shrink, tmp_path, broken):
    heart = shrink("heart", rounds=1)
    cells = [make_cell(heart, kind) for kind in (broken.Raises, broken.Dies)] + [make_cell(heart)]
    events = run_all(cells, tmp_path / "results", 1)
    reasons = [events[cell].reason for cell in cells]
    assert reasons[0].startswith("ValueError: no such thing (broken_methods.py, line ")
    assert "ended by SIGKILL" in reasons[1]
    assert [events[cell].state for cell in cells] == ["failed", "failed", "done"]
    for cell, reason in zip(cells[:2], reasons, strict=False):
        assert state(cell.folder(tmp_path / "results")) == ("failed", reason)


def test_a_failure_gives_way_to_the_record_of_a_later_run(make_cell, shrink, tmp_path, broken):
    cell = make_cell(shrink("heart", rounds=1), broken.Raises)
    run_all([cell], tmp_path / "results", 1)
    broken_file = tmp_path / "broken_methods.py"
    broken_file.write_text(
        broken_file.read_text().replace('raise ValueError("no such thing")', "return super().client_update(client)")
    )
    assert run_all([cell], tmp_path / "results", 1)[cell].state == "done"
    assert state(cell.folder(tmp_path / "results")) == ("done", "")


def test_a_full_disk_is_named_and_leaves_no_half_record(make_cell, shrink, tmp_path, broken):
    cell = make_cell(shrink("heart", rounds=3), broken.FillsTheDisk)
    event = run_all([cell], tmp_path / "results", 1)[cell]
    assert event.state == "failed"
    assert event.reason.startswith("File too large")
    assert "run again, what is finished stays" in event.reason
    left = sorted(path.name for path in (tmp_path / "results").rglob("*") if path.is_file())
    assert left == ["failure.json"]


def test_no_room_for_the_data_is_named_and_leaves_nothing(make_cell, tmp_path, monkeypatch):
    cell = make_cell(registry.tasks.get("heart"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    event = run_all([cell], tmp_path / "results", 1)[cell]
    assert event.state == "failed"
    assert f"{tmp_path / 'gone'} has no room" in event.reason
    assert "setting TMPDIR" in event.reason


def test_data_is_laid_out_once_and_deleted_when_no_cell_needs_it(make_cell, shrink, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    heart, blood = shrink("heart", rounds=1), shrink("blood-mini", rounds=1, local_epochs=1)
    cells = [make_cell(heart), make_cell(heart, "local"), make_cell(blood)]
    seen = []
    for event in run_cells(cells, Options(tmp_path / "results"), 1):
        if event.is_last:
            assert event.state == "done"
            seen.append(len(list(tmp_path.glob("fedbench-data-*"))))
    assert seen == [1, 1, 1]
    assert list(tmp_path.glob("fedbench-data-*")) == []


def test_serial_is_the_same_bits(make_cell, shrink, tmp_path, broken):
    heart = shrink("heart", rounds=2)
    cells = [make_cell(heart), make_cell(heart, broken.Raises), make_cell(heart, "fedkper")]
    parallel = run_all(cells, tmp_path / "processes", 2)
    serial = {event.cell: event for event in run_serially(cells, Options(tmp_path / "serial")) if event.is_last}
    assert {cell: (event.state, event.digest) for cell, event in serial.items()} == {
        cell: (event.state, event.digest) for cell, event in parallel.items()
    }
    assert [serial[cell].state for cell in cells] == ["done", "failed", "done"]


def test_when_the_time_is_up_no_round_is_begun(make_cell, shrink, tmp_path):
    cell = make_cell(shrink("heart", rounds=3))
    (event,) = [event for event in run_serially([cell], Options(tmp_path, stop_at=0)) if event.is_last]
    assert (event.state, state(cell.folder(tmp_path))) == ("stopped", ("missing", ""))


def test_a_run_that_is_killed_and_started_again_gives_the_same_record(tmp_path):
    """SIGKILL to the whole process group, somewhere in the middle; then the same command again."""
    command = [
        sys.executable,
        "-m",
        "fedbench.cli",
        "run",
        "--task",
        "blood-mini",
        "--method",
        "fedkper",
        "--seed",
        "1",
    ]
    command += ["--jobs", "1", "--checkpoint-seconds", "0", "--reports", str(tmp_path / "reports"), "--out"]
    quick = Cell(registry.tasks.get("blood-mini"), "fedkper", registry.methods.get("fedkper")(), "faithful", 1)
    index = quick.folder(tmp_path / "killed").with_name("seed-1.partial") / "checkpoint.json"
    first = subprocess.Popen(
        [*command, tmp_path / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not index.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    _, errors = first.communicate()
    assert index.exists(), errors.decode()
    assert state(quick.folder(tmp_path / "killed")) == ("missing", "")
    for results in ("killed", "whole"):
        subprocess.run([*command, tmp_path / results], check=True, capture_output=True, timeout=300)
    killed, whole = (Record.open(quick.folder(tmp_path / results)) for results in ("killed", "whole"))
    assert killed.digest == whole.digest
    assert not index.exists()


@pytest.mark.long
def test_kills_at_random_moments_never_change_a_record(tmp_path):
    """Ten kills in one run, at moments drawn from a fixed stream."""
    from fedbench.seeds import Streams

    command = [sys.executable, "-m", "fedbench.cli", "run", "--task", "organa-mini", "--method", "fedkper", "--method"]
    command += ["local", "--seed", "2", "--checkpoint-seconds", "0", "--reports", str(tmp_path / "reports"), "--out"]
    waits = Streams(0).rng("kills").uniform(3.0, 7.0, size=10)
    for wait in waits:
        run = subprocess.Popen([*command, tmp_path / "killed"], stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            run.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    for results in ("killed", "whole"):
        subprocess.run([*command, tmp_path / results], check=True, capture_output=True, timeout=300)
    for name in ("fedkper", "local"):
        task, method = registry.tasks.get("organa-mini"), registry.methods.get(name)()
        cell = Cell(task, name, method, "faithful", 2)
        assert (
            Record.open(cell.folder(tmp_path / "killed")).digest == Record.open(cell.folder(tmp_path / "whole")).digest
        )


def test_an_interrupt_leaves_no_worker_and_no_half_record(tmp_path):
    command = [sys.executable, "-m", "fedbench.cli", "run", "--task", "organa-mini", "--out", str(tmp_path / "results")]
    run = subprocess.Popen(
        [*command, "--reports", str(tmp_path / "reports"), "--checkpoint-seconds", "0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("checkpoint.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors.strip() == "fedbench: interrupted; finished cells are whole, the others go on from their checkpoints."
    assert gone(run.pid, within=20)
    assert not list(Path(tmp_path).rglob(".seed-*"))


def gone(group, within):
    """Wait until no process of a group is left; say whether that happened in so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
