"""Nothing is lost: whatever ends a run, the same command goes on to the record of an uninterrupted one."""

import errno
import itertools
import os
import shutil
import signal
import stat
import time
import traceback
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch

from fedbench import Method, Record
from fedbench.checkpoint import BEFORE, Checkpoint
from fedbench.environment import versions
from fedbench.executors import Options, run_group, run_serially
from fedbench.records import state
from fedbench.resident import load_data
from fedbench.schema import CHECKPOINT, checkpoint_folder
from fedbench.seeds import Streams
from fedbench.simulation import Simulation, run_cell

pytestmark = pytest.mark.reliability

ROUNDS = 5
METHODS = {"stateless": "fedavg", "client state": "ditto", "server state": "fedadam"}
KILLS = int(os.environ.get("FEDBENCH_KILLS", "50"))
"""Kills at random moments, of each method."""
MADE_BY = f"{versions()}, cpu"


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    """Wait for no disk: a killed process leaves what it wrote with the system, and a loss of power is mimicked."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=ROUNDS, local_epochs=1, personal_every=2)


@pytest.fixture(scope="module")
def cell_of(heart, make_cell):
    return lambda method: make_cell(heart, method)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that gives the digest of a cell's uninterrupted run."""

    @cache
    def run(cell):
        return run_cell(cell, tmp_path_factory.mktemp("whole"), checkpoint_seconds=0).digest

    return run


def attempt(cell, results, before=lambda: None, delay=None):
    """Run a cell in a child process, which prepares as it likes; kill it after so many seconds; say if it was killed.

    Everything is imported and read already, so that a child takes no longer than the cell itself.
    """
    dataset = load_data(cell.task.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads do not go on in the child, nor need they
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(120)
            before()
            told = []
            run_group(
                (cell,), dataset, Options(results, checkpoint_seconds=0), lambda cell, values: told.append(values)
            )
            os._exit(0 if told[-1]["state"] == "done" else 1)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(2)
    ended, status = 0, 0
    if delay is not None:
        deadline = time.monotonic() + delay
        while not ended and time.monotonic() < deadline:
            time.sleep(0.001)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def kill_after(step, done):
    """Return what makes a process kill itself once a step of the simulation is over, with so many rounds done."""

    def prepare():
        real = getattr(Simulation, step)

        def killing(self, *args):
            result = real(self, *args)
            if self.done == done:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(Simulation, step, killing)

    return prepare


def assert_is_whole(cell, results, digest):
    folder = cell.folder(results)
    assert Record.open(folder).digest == digest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


BOUNDARIES = [
    *(("round", done) for done in range(1, ROUNDS + 1)),  # before the round is saved, or the record made
    *(("save", done) for done in range(1, ROUNDS)),
    ("record", ROUNDS),  # before the checkpoint is deleted
]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(
    ("step", "done"),
    [
        item if item in (("round", 2), ("save", 2)) else pytest.param(*item, marks=pytest.mark.long)
        for item in BOUNDARIES
    ],
)
def test_a_kill_at_a_round_boundary(cell_of, whole, tmp_path, tally, method, step, done):
    cell = cell_of(method)
    assert attempt(cell, tmp_path, kill_after(step, done))
    saved = Checkpoint(checkpoint_folder(cell.folder(tmp_path)), made_by=MADE_BY).load()
    assert (saved and saved[0]) == {"round": done - 1 or None, "save": done, "record": ROUNDS - 1}[step]
    assert not attempt(cell, tmp_path)
    assert_is_whole(cell, tmp_path, whole(cell))
    tally("kills at a round boundary")


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_kills_at_random_moments(cell_of, whole, tmp_path, tally, method):
    """A cell is killed again and again until it comes to its end; then another one, until there were enough kills."""
    cell = cell_of(method)
    digest, killed, delays = whole(cell), 0, Streams(0).rng("kills", method=method)
    begin = time.monotonic()
    attempt(cell, tmp_path / "measured")
    longest = 0.9 * (time.monotonic() - begin)
    for run in itertools.count():
        results = tmp_path / str(run)
        while attempt(cell, results, delay=delays.uniform(0, longest) if killed < KILLS else None):
            killed += 1
        assert_is_whole(cell, results, digest)
        if killed >= KILLS:
            break
    tally("kills at a random moment", killed)


# --- damage -----------------------------------------------------------------------------------------------------


def torn(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("method", [METHODS["client state"]])
def test_a_damaged_checkpoint_costs_rounds_but_no_bit(cell_of, whole, tmp_path, tally, caplog, method):
    """Each file of the newest is damaged in turn; the run goes on from the one before, and says so."""
    cell = cell_of(method)
    assert attempt(cell, tmp_path / "killed", kill_after("save", 3))
    folder = checkpoint_folder(cell.folder(tmp_path / "killed"))
    client = next(path.name for path in folder.iterdir() if path.name.startswith("client-") and "@3" in path.name)
    damages = [(client, torn), (CHECKPOINT, torn), ("server@3", flipped), ("series-3@3", Path.unlink)]
    for name, damage in damages:
        results = tmp_path / f"{name} {damage.__name__}"
        shutil.copytree(tmp_path / "killed", results)
        damage(checkpoint_folder(cell.folder(results)) / name)
        started = []
        caplog.clear()
        record = run_cell(cell, results, watch=lambda done, rounds, log=started: log.append(done))
        assert (started[0], record.digest) == (2, whole(cell))
        assert "goes on from the one before, after 2 rounds" in caplog.text
    for name in (CHECKPOINT, BEFORE):
        torn(folder / name)
    started = []
    record = run_cell(cell, tmp_path / "killed", watch=lambda done, rounds: started.append(done))
    assert (started[0], record.digest) == (0, whole(cell))
    tally("torn or corrupt checkpoints", len(damages) + 1)


# --- the machine fails ------------------------------------------------------------------------------------------


class FullDisk:
    """From the n-th write on, within a save after three rounds, the disk is full; a file then is half written."""

    def __init__(self, patch, n):
        self.left, self.on, self.hit = n, False, False
        write_bytes, save = Path.write_bytes, Simulation.save
        for name in ("fsync", "replace", "mkdir"):
            patch.setattr(os, name, self.refusing(getattr(os, name)))

        def half(path, data):
            self.step(lambda: write_bytes(path, data[: len(data) // 2]))
            return write_bytes(path, data)

        def saving(simulation):
            self.on = simulation.done == 3
            try:
                save(simulation)
            finally:
                self.on = False

        patch.setattr(Path, "write_bytes", half)
        patch.setattr(Simulation, "save", saving)

    def step(self, torn=lambda: None):
        if self.on:
            self.left -= 1
            if self.left < 0:
                self.hit = True
                torn()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refusing(self, real):
        def call(*args, **kwargs):
            self.step()
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("n", [0, 3, 8, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 4, 5, 6, 7, 9, 10))])
def test_a_disk_that_is_full_while_a_checkpoint_is_written(cell_of, whole, tmp_path, monkeypatch, tally, n):
    cell = cell_of(METHODS["client state"])
    options = Options(tmp_path, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, n)
        *_, event = run_serially([cell], options)
    assert disk.hit
    assert (event.state, event.machine) == ("failed", True)
    assert "No space left on device" in event.reason
    assert state(cell.folder(tmp_path)) == ("failed", event.reason)
    saved = Checkpoint(checkpoint_folder(cell.folder(tmp_path)), made_by=MADE_BY).load()
    assert saved[0] in (2, 3)
    started = []
    record = run_cell(cell, tmp_path, watch=lambda done, rounds: started.append(done))
    assert (started[0], record.digest) == (saved[0], whole(cell))
    tally("full disks")


class Hungry(Method):
    """Wants more memory than there is in its third round, as long as it is told to."""

    hungry = None

    def server_update(self, server, uploads, weights):
        if server.round == 2 and Hungry.hungry is not None:
            Hungry.hungry()
        super().server_update(server, uploads, weights)


def python_memory():
    raise MemoryError


def torch_memory():
    torch.empty(10**15)


def gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("hungry", [python_memory, torch_memory, gpu_memory])
def test_no_memory_keeps_the_checkpoint(cell_of, whole, tmp_path, monkeypatch, tally, hungry):
    cell = cell_of(Hungry)
    digest = whole(cell)
    with monkeypatch.context() as patch:
        patch.setattr(Hungry, "hungry", staticmethod(hungry))
        *_, event = run_serially([cell], Options(tmp_path, checkpoint_seconds=0))
    assert (event.state, event.machine) == ("failed", True)
    started = []
    record = run_cell(cell, tmp_path, watch=lambda done, rounds: started.append(done))
    assert (started[0], record.digest) == (2, digest)
    tally("runs out of memory")


def test_a_second_save_of_the_same_rounds_loses_nothing(cell_of, whole, tmp_path):
    """The time is up right after a save: nothing is written over it."""
    cell = cell_of(METHODS["client state"])
    assert attempt(cell, tmp_path, kill_after("save", 2))
    assert run_cell(cell, tmp_path, stop_at=0.0) is None
    assert run_cell(cell, tmp_path, stop_at=0.0) is None
    assert run_cell(cell, tmp_path).digest == whole(cell)


# --- power is lost ----------------------------------------------------------------------------------------------


class Disk:
    """What may be left of a folder, were the power lost now.

    A file is as it was at its last fsync or, where it was written since, anything between nothing and what it is now.
    A name that was made, deleted or renamed since the last fsync of its folder stands there as before or as now.
    """

    def __init__(self, root, patch, rng, lost):
        self.root, self.rng, self.lost, self.looking = root, rng, lost, False
        self.ids, self.new = {}, itertools.count()  # by inode, as long as it is that file's
        self.now, self.synced = {}, {}  # by id: content of a file, or names in a folder
        self.pending = {}  # by id of a folder: changes of names since its last sync, each a mapping of name to id
        self.look()
        self.synced |= self.now
        self.pending = {key: [] for key in self.pending}
        for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, self.watched(getattr(os, name), name))

    def watched(self, real, name):
        def call(*args, **kwargs):
            if self.looking:  # what a test itself does with what is left
                return real(*args, **kwargs)
            self.look()
            result = real(*args, **kwargs)
            self.look()
            inode = os.fstat(args[0]).st_ino if name == "fsync" else None
            if inode in self.ids:
                key = self.ids[inode]
                self.synced[key] = self.now[key]
                self.pending[key] = []
            self.looking = True
            self.lost(self)
            self.looking = False
            return result

        return call

    def look(self):
        """See what has changed."""
        found = {}

        def walk(path):
            status = path.stat()
            key = found[status.st_ino] = self.ids.get(status.st_ino) or f"{next(self.new)}"
            before = self.now.get(key, {})
            if stat.S_ISREG(status.st_mode):
                self.now[key] = path.read_bytes()
                return key
            self.now[key] = names = {child.name: walk(child) for child in sorted(path.iterdir())}
            gone = {name: None for name in before if name not in names}
            for name, child in names.items():
                if before.get(name) != child:
                    renamed = [old for old in gone if before[old] == child]
                    change = {name: child, **dict.fromkeys(renamed)}
                    self.pending.setdefault(key, []).append(change)
                    gone = {old: None for old in gone if old not in renamed}
            self.pending.setdefault(key, []).extend({name: None} for name in gone)
            return key

        walk(self.root)
        self.ids = found

    def write(self, path, key=None):
        """Write what is left to another place."""
        key = self.ids[self.root.stat().st_ino] if key is None else key
        if isinstance(self.now[key], bytes):
            path.write_bytes(self.left(key))
            return
        names = dict(self.synced.get(key, {}))
        for change in self.pending.get(key, ()):
            if self.rng.random() < 0.5:
                names |= change
        path.mkdir(parents=True)
        for name, child in names.items():
            if child is not None:
                self.write(path / name, child)

    def left(self, key):
        now, before = self.now[key], self.synced.get(key, b"")
        if now == before:
            return now
        return (now, before, b"", now[: self.rng.integers(len(now) + 1)])[self.rng.integers(4)]


@pytest.fixture
def power_lost(tmp_path, monkeypatch):
    """Return a context in which the power is lost, so to say, after every call that syncs or changes names."""

    @contextmanager
    def losing(root, lost):
        with monkeypatch.context() as patch:
            yield Disk(root, patch, Streams(0).rng("power"), lost)

    return losing


def test_the_disk_of_these_tests_loses_what_was_not_synced(tmp_path, power_lost):
    """A file replaced without any fsync can be the old one, nothing, torn or the new one; with both, only the new."""
    root, seen, number = tmp_path / "root", set(), itertools.count()
    root.mkdir()
    (root / "file").write_text("old")

    def lost(disk):
        for _ in range(50):
            left = tmp_path / str(next(number))
            disk.write(left)
            seen.add((left / "file").read_text() if (left / "file").exists() else None)

    with power_lost(root, lost):
        (root / "part").write_text("new one")
        (root / "part").replace(root / "file")
        assert {"old", "", "new", "new one"} <= seen
        for path in (root / "file", root):
            descriptor = os.open(path, os.O_RDONLY)
            seen.clear()
            os.fsync(descriptor)
            os.close(descriptor)
        assert seen == {"new one"}


def test_power_lost_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path, power_lost, tally):
    """At least the last save that had returned; what comes back is exactly what was saved."""
    root, saved, tried = tmp_path / "root", [None], 0
    root.mkdir()

    def lost(disk):
        nonlocal tried
        for _ in range(5):
            left = tmp_path / f"left-{tried}"
            disk.write(left)
            loaded = Checkpoint(left / "task" / "seed-1.partial").load()
            assert loaded in saved[-2:], (loaded, saved[-2:])
            shutil.rmtree(left)
            tried += 1

    with power_lost(root, lost):
        checkpoint, parts = Checkpoint(root / "task" / "seed-1.partial"), {}
        for done in range(1, 6):
            new = {"server": b"server %d" % done, f"client-{done % 2}": b"client %d" % done, f"series-{done}": b"."}
            parts = {**parts, **new}
            saved.append((done, parts))
            checkpoint.save(done, new)
            saved.append(saved[-1])  # from here on nothing less
            checkpoint.write("client-7", b"put aside %d" % done, done + 1)
            parts = {**parts, "client-7": b"put aside %d" % done}
    assert tried > 100
    tally("power losses", tried)


@pytest.mark.parametrize("runs", [6, pytest.param(80, marks=pytest.mark.long)])
def test_power_lost_at_any_moment_of_a_run_loses_no_bit(cell_of, whole, tmp_path, power_lost, tally, runs):
    """The record is there whole or not at all, and the same command again ends in the same one."""
    cell = cell_of(METHODS["client state"])
    digest = whole(cell)
    root, lefts = tmp_path / "root", []
    root.mkdir()

    def lost(disk):
        left = tmp_path / f"left-{len(lefts)}"
        disk.write(left)
        lefts.append(left)

    with power_lost(root, lost):
        *_, event = run_serially([cell], Options(root, checkpoint_seconds=0))
    assert event.digest == digest
    for left in lefts:
        now, _ = state(cell.folder(left))
        assert now in ("missing", "done")
        if now == "done":
            assert Record.open(cell.folder(left)).digest == digest
    assert state(cell.folder(lefts[-1]))[0] == "done"
    chosen = Streams(0).rng("lefts").permutation(len(lefts))[:runs]
    for i in chosen:
        assert [event.digest for event in run_serially([cell], Options(lefts[i])) if event.is_last] == [digest]
        assert_is_whole(cell, lefts[i], digest)
    tally("power losses", len(lefts))
