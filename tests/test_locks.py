"""Locks: one process at a time, whoever dies lets go, and what stands in the file is for messages alone."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from fedbench.locks import BusyError, LockError, Owner, held, locked

HOLD = """
    import sys, time
    from pathlib import Path
    from fedbench.locks import locked
    with locked(Path(sys.argv[1]), wait=True):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "task" / ".seed-1.lock"


@pytest.fixture
def elsewhere(path):
    """Return a function that holds the lock in another process, and returns it once it does."""
    begun = []

    def hold(seconds=60):
        command = [sys.executable, "-c", textwrap.dedent(HOLD), str(path), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in begun:
        process.kill()
        process.communicate()


def test_a_lock_is_held_and_leaves_no_file(path):
    assert held(path) == ""
    with locked(path) as dead:
        assert dead is None
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(path.parent.iterdir()) == []
    with locked(path) as dead:
        assert dead is None


def test_what_is_raised_while_it_is_held_lets_it_go(path):
    with pytest.raises(ZeroDivisionError), locked(path):
        _ = 1 / 0
    assert held(path) == ""
    assert not path.exists()


def test_another_process_is_named_and_a_dead_one_is_taken_over(path, elsewhere):
    process = elsewhere()
    who = rf"held by pid {process.pid} on host \S+ for \d+ s"
    with pytest.raises(BusyError, match=who), locked(path):
        pass
    assert held(path).startswith(f"held by pid {process.pid} on host ")
    assert json.loads(path.read_text())["pid"] == process.pid  # looking changed nothing
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert path.exists()
    assert held(path) == ""
    with locked(path) as dead:
        assert dead.pid == process.pid
    assert not path.exists()


def test_who_waits_gets_it_though_the_file_that_was_waited_for_is_deleted(path, elsewhere):
    elsewhere(seconds=0.3)
    begin = time.monotonic()
    with locked(path, wait=True) as dead:
        assert time.monotonic() - begin > 0.05
        assert dead is None  # it was let go
        with pytest.raises(BusyError), locked(path):  # the file that stands there is the one that is locked
            pass
    assert not path.exists()


def test_many_who_wait_have_it_one_after_the_other(path, tmp_path):
    """Eight processes each add ten lines ``begin``, ``end``; were two in it at once, the lines would be mixed."""
    code = """
        import sys, time
        from pathlib import Path
        from fedbench.locks import locked
        for _ in range(10):
            with locked(Path(sys.argv[1]), wait=True), open(sys.argv[2], "a") as log:
                for what in ("begin", "end"):
                    print(what, sys.argv[3], file=log, flush=True)
                    time.sleep(0.001)
    """
    log = tmp_path / "log"
    command = [sys.executable, "-c", textwrap.dedent(code), str(path), str(log)]
    processes = [subprocess.Popen([*command, str(i)]) for i in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    lines = log.read_text().splitlines()
    assert len(lines) == 8 * 10 * 2
    assert all(lines[i].replace("begin", "end") == lines[i + 1] for i in range(0, len(lines), 2))
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}', '{"host": "x", "pid": "y", "since": 0}', "null"])
def test_whatever_stands_in_the_file_is_no_error(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with locked(path) as dead:
        assert dead is None
    path.write_text(text)
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert held(path) == "held by another process"
    os.close(descriptor)


@pytest.mark.parametrize(
    ("seconds", "age"), [(0, "0 s"), (59, "59 s"), (180, "3 min"), (7000, "117 min"), (7200, "2 h"), (-5, "0 s")]
)
def test_an_age_is_told_in_words(monkeypatch, seconds, age):
    monkeypatch.setattr("fedbench.locks.time.time", lambda: 1000.0 + seconds)
    assert (Owner("x", 12, 1000.0).age, str(Owner("x", 12, 1000.0))) == (age, "pid 12 on host x")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_the_mend(path, monkeypatch, number):
    def refuse(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fedbench.locks.fcntl.flock", refuse)
    with pytest.raises(LockError, match=r"task: this file system has no locks .*another disk with --out"), locked(path):
        pass


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / ".seed-1.lock"):
        pass
