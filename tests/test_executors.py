"""Worker processes: the same bits for any number of them, and one cell's failure costs only itself."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from fedbench import Cell, Record, registry
from fedbench.cell import load_suite
from fedbench.executors import Options, clear_up, lock_of, run_cells, run_serially
from fedbench.locks import locked
from fedbench.records import state

BROKEN = """
    import os, resource, signal
    from dataclasses import dataclass
    from pathlib import Path
    from fedbench import Method

    class Raises(Method):
        def client_update(self, client):
            raise ValueError("no such thing")

    class Dies(Method):
        def client_update(self, client):
            os.kill(os.getpid(), signal.SIGKILL)

    @dataclass(frozen=True, kw_only=True)
    class DiesOnce(Method):  # in its third round, if it has not before
        how: int = 0

        def client_update(self, client):
            died = Path(__file__).with_name(f"died-{self.how}")
            if client.round == 2 and not died.exists():
                died.touch()
                os.kill(os.getpid(), self.how) if self.how else os._exit(3)
            return super().client_update(client)

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
    return {event.cell: event for event in run_cells(cells, Options(results), jobs) if event.is_last}


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
    assert "and that twice" in reasons[1]
    assert [events[cell].state for cell in cells] == ["failed", "failed", "done"]
    for cell, reason in zip(cells[:2], reasons, strict=False):
        assert state(cell.folder(tmp_path / "results")) == ("failed", reason)


@pytest.mark.reliability
def test_a_worker_that_dies_costs_its_cell_one_retry(make_cell, shrink, tmp_path, broken, tally):
    """By a signal or an exit: the cell goes on from its checkpoint to the bits of a run in which nothing died."""
    heart = shrink("heart", rounds=4, local_epochs=1)
    ways = {signal.SIGKILL: "ended by SIGKILL", signal.SIGSEGV: "ended by SIGSEGV", 0: "exited with status 3"}
    cells = [make_cell(heart, broken.DiesOnce, how=int(how)) for how in ways]
    events = list(run_cells(cells, Options(tmp_path / "results", checkpoint_seconds=0), 1))
    whole = {event.cell: event for event in run_serially(cells, Options(tmp_path / "whole")) if event.is_last}
    for cell, reason in zip(cells, ways.values(), strict=True):
        own = [event for event in events if event.cell == cell]
        (put_off,) = [event for event in own if event.state == "waiting"]
        assert reason in put_off.reason
        assert "tried once more, from its checkpoint" in put_off.reason
        taken_over = [event for event in own if event.state == "running" and event.reason]
        assert [event.reason.startswith("taken over from pid ") for event in taken_over] == [True]
        later = own[own.index(taken_over[0]) + 1 :]
        assert min(event.round for event in later if event.state == "running") == 2
        assert (own[-1].state, own[-1].digest) == ("done", whole[cell].digest)
    tally("worker deaths", len(cells))


@pytest.mark.reliability
@pytest.mark.long
def test_of_a_group_only_the_cells_that_are_left_are_tried_again(
    make_cell, shrink, tmp_path, broken, monkeypatch, tally
):
    """Each alone, so that the one that takes its worker down takes no other along."""
    heart = shrink("heart", rounds=1)
    cells = [make_cell(heart), make_cell(heart, broken.Dies), make_cell(heart, seed=2)]
    monkeypatch.setattr("fedbench.executors.grouped", lambda cells, device: [tuple(cells)])
    events = list(run_cells(cells, Options(tmp_path), 1))
    ends = [[event.state for event in events if event.cell == cell and event.state != "running"] for cell in cells]
    assert ends == [["done"], ["waiting", "failed"], ["waiting", "done"]]
    tally("worker deaths", 2)


# --- several runs -----------------------------------------------------------------------------------------------


def test_a_cell_that_another_run_holds_is_put_off_and_taken_when_it_is_free(make_cell, shrink, tmp_path, monkeypatch):
    monkeypatch.setattr("fedbench.executors.POLL", 0.05)
    heart = shrink("heart", rounds=1)
    cells = [make_cell(heart), make_cell(heart, "local")]
    for run in (run_serially, partial(run_cells, jobs=1)):
        results, seen = tmp_path / str(run), []
        with ExitStack() as stack:
            stack.enter_context(locked(lock_of(cells[0], results)))
            for event in run(cells, Options(results)):
                if event.state != "running":
                    seen.append((event.cell, event.state))
                if event.state == "waiting":
                    assert re.fullmatch(rf"held by pid {os.getpid()} on host \S+ for \d+ s", event.reason)
                    stack.close()
        assert seen == [(cells[1], "done"), (cells[0], "waiting"), (cells[0], "done")]


def test_what_another_run_has_done_meanwhile_is_not_run_again(make_cell, shrink, tmp_path, monkeypatch):
    monkeypatch.setattr("fedbench.executors.POLL", 0.05)
    cell = make_cell(shrink("heart", rounds=1))
    (_, made) = run_serially([cell], Options(tmp_path / "made"))
    folder = cell.folder(tmp_path / "results")
    with ExitStack() as stack:
        stack.enter_context(locked(lock_of(cell, tmp_path / "results")))
        for event in run_serially([cell], Options(tmp_path / "results")):
            if event.state == "waiting":
                shutil.copytree(cell.folder(tmp_path / "made"), folder)
                written = (folder / "manifest.json").stat().st_ino
                stack.close()
    assert (event.state, event.digest) == ("done", made.digest)
    assert (folder / "manifest.json").stat().st_ino == written


def test_a_cell_is_not_over_while_the_run_that_made_it_can_die_before_it_has_cleared_up(
    make_cell, shrink, tmp_path, monkeypatch
):
    monkeypatch.setattr("fedbench.executors.POLL", 0.05)
    cell = make_cell(shrink("heart", rounds=1))
    *_, made = run_serially([cell], Options(tmp_path / "made"))
    for run in (run_serially, partial(run_cells, jobs=1)):
        folder, states = cell.folder(tmp_path / str(run)), []
        with ExitStack() as stack:
            stack.enter_context(locked(lock_of(cell, tmp_path / str(run))))
            shutil.copytree(cell.folder(tmp_path / "made"), folder)
            folder.with_name("seed-1.partial").mkdir()
            for event in run([cell], Options(tmp_path / str(run))):
                states.append(event.state)
                if event.state == "waiting":
                    stack.close()  # as it dies, its lock is free and its checkpoint stays
        assert (states[-1], "waiting" in states, event.digest) == ("done", True, made.digest)
        assert [path.name for path in folder.parent.iterdir()] == ["seed-1"]


def test_when_the_time_is_up_nobody_is_waited_for(make_cell, shrink, tmp_path):
    cell = make_cell(shrink("heart", rounds=1))
    with locked(lock_of(cell, tmp_path)):
        ends = [event.state for event in run_serially([cell], Options(tmp_path, stop_at=time.time())) if event.is_last]
    assert ends == ["stopped"]


def test_what_killed_runs_left_is_cleared_up(make_cell, shrink, tmp_path):
    cell = make_cell(shrink("heart", rounds=1))
    folder = cell.folder(tmp_path)
    (folder.parent / ".seed-1-abcdefgh").mkdir(parents=True)
    (folder.parent / ".seed-1-abcdefgh" / "run.json").write_text("{")
    (folder.parent / ".seed-10-abcdefgh").mkdir()
    *_, event = run_serially([cell], Options(tmp_path))
    assert event.state == "done"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".seed-10-abcdefgh", "seed-1"]
    (folder.parent / "seed-1.partial").mkdir()
    (folder.parent / ".seed-1.lock").write_text("{}")
    clear_up(cell, tmp_path)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".seed-10-abcdefgh", "seed-1"]


COUNTED = """
    import os, time
    from pathlib import Path
    from fedbench import Method
    from fedbench.registry import tasks

    HEART = tasks.get("heart")
    SHORT = HEART.but(name="heart-short", protocol=HEART.protocol.but(rounds=4, local_epochs=1))
    HERE = Path(__file__).parent

    class Counted(Method):  # begins no cell before two workers are there; says when it begins one
        def query(self, server):
            if server.round == 0:
                (HERE / f"pid-{os.getpid()}").touch()
                while len(list(HERE.glob("pid-*"))) < 2:
                    time.sleep(0.01)
                with open(HERE / "begun", "a") as file:
                    print(os.getpid(), file=file)
            time.sleep(0.05)
            return ()
"""


@pytest.fixture
def two_runs(tmp_path, plugged, monkeypatch):
    """Return two commands on one results folder, just begun, what notes each cell's first round, and its cells."""
    plugged("counted-fl", textwrap.dedent(COUNTED), methods={"counted": "Counted"}, tasks={"heart-short": "SHORT"})
    installed = tmp_path / "installed" / "counted-fl"
    monkeypatch.setenv("PYTHONPATH", str(installed), prepend=os.pathsep)
    suite = tmp_path / "two.toml"
    suite.write_text(
        'name = "two"\ntitle = "Two"\ntrack = "faithful"\ntasks = ["heart-short"]\nmethods = ["counted"]\n'
        "seeds = [1, 2, 3, 4, 5, 6, 7, 8]\n"
    )
    command = [sys.executable, "-m", "fedbench.cli", "run", "--all", "--suite", suite, "--jobs", "1"]
    command += ["--checkpoint-seconds", "0", "--out", tmp_path / "results", "--reports", tmp_path / "reports"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) for _ in range(2)]
    cells = load_suite(str(suite)).cells()
    yield runs, installed / "begun", cells
    for run in runs:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def assert_as_one_run(cells, tmp_path):
    for number in (1, 2):
        (tmp_path / "installed" / "counted-fl" / f"pid-{number}").touch()  # nobody is waited for now
    one = {event.cell: event.digest for event in run_serially(cells, Options(tmp_path / "one")) if event.is_last}
    assert {cell: Record.open(cell.folder(tmp_path / "results")).digest for cell in cells} == one
    names = {path.name for path in (tmp_path / "results").rglob("*")}
    assert not {name for name in names if name.startswith(".") or name.endswith(".partial")}


@pytest.mark.long
@pytest.mark.reliability
def test_two_runs_on_one_folder_share_the_work(two_runs, tmp_path, tally):
    runs, begun, cells = two_runs
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    pids = begun.read_text().split()
    assert len(pids) == len(cells) == 8  # each cell once
    assert len(set(pids)) == 2
    assert all("8 of 8 cells done" in output for output in outputs)
    assert_as_one_run(cells, tmp_path)
    tally("two runs on one folder")


@pytest.mark.long
@pytest.mark.reliability
@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["parent", "parent and worker"])
def test_of_two_runs_one_is_killed_and_the_other_takes_over(two_runs, tmp_path, tally, kill):
    runs, begun, cells = two_runs
    deadline = time.monotonic() + 120
    while not begun.exists() or len(begun.read_text().split()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill(runs[0].pid, signal.SIGKILL)
    output, _ = runs[1].communicate(timeout=300)
    assert runs[1].returncode == 0, output
    assert "8 of 8 cells done" in output
    assert len(begun.read_text().split()) in (8, 9)  # one may have been in its first round
    assert_as_one_run(cells, tmp_path)
    tally("two runs on one folder, one killed")


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


@pytest.mark.long
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


@pytest.mark.long
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
