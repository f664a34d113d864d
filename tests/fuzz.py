"""Fuzzing: whatever stands in a file that somebody else wrote, reading it gives a value or a `FedBenchError`.

``python tests/fuzz.py TARGET --seconds 60`` lets atheris (libFuzzer with coverage of `fedbench`) change real files for
a minute: it stops at the first other exception, at a read that takes more than ten seconds, and at 512 MB of memory.
What it found is kept as ``crash-...`` in the current folder; ``python tests/fuzz.py TARGET --once FILE`` reads that.
Every file that is changed is hashed anew, as whoever writes a wrong file hashes it as well.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
MEMORY = 512  # MB
SLOWEST = 10  # seconds
LARGEST = 1 << 16  # bytes of an input; the files that are changed are smaller

Read = Callable[[bytes], None]


# --- what is read --------------------------------------------------------------------------------------------------


def record_file(name: str) -> Callable[[Path, Path], Read]:
    """Return a target that reads a record in which one file is other than it was."""

    def target(sample: Path, scratch: Path) -> Read:
        import hashlib
        import shutil

        from fedbench.records import Record
        from fedbench.verification import verify

        folder = scratch / sample.relative_to(sample.parents[3])
        shutil.copytree(sample, folder)
        manifest = json.loads((folder / "manifest.json").read_text())

        def read(data: bytes) -> None:
            (folder / name).write_bytes(data)
            if name != "manifest.json":
                manifest["files"][name] = hashlib.sha256(data).hexdigest()
                (folder / "manifest.json").write_text(json.dumps(manifest))
            verify(folder)  # reads all of it, and raises nothing
            record = Record.open(folder)
            for what in ("arrays", "rounds", "clients", "outcome"):
                getattr(record, what)
            record.verify()

        return read

    return target


def plan_file(sample: Path, scratch: Path) -> Read:
    """Return a target that reads a plan and renders its board."""
    from fedbench.leaderboard import load_board

    from fedbench.records import read_plan

    path = scratch / "plans" / "fuzzed.json"
    path.parent.mkdir()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_plan(path)
        load_board(scratch, "fuzzed")

    return read


def archive_file(sample: Path, scratch: Path) -> Read:
    """Return a target that unpacks a submission and reads its form."""
    from fedbench.submissions import form
    from fedbench.submissions.archive import unpack

    path = scratch / "fuzzed.zip"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            raw = Path(folder) / "unpacked"
            unpack(path, raw)
            if (raw / form.FORM).is_file():
                form.read((raw / form.FORM).read_bytes())

    return read


def text_file(reader: str) -> Callable[[Path, Path], Read]:
    """Return a target that reads a file which users write: a suite, a task, what a search found."""

    def target(sample: Path, scratch: Path) -> Read:
        import importlib

        module, function = reader.split(":")
        load = getattr(importlib.import_module(module), function)
        path = scratch / "fuzzed.toml"

        def read(data: bytes) -> None:
            path.write_bytes(data)
            load(str(path))

        return read

    return target


def data_file(sample: Path, scratch: Path) -> Read:
    """Return a target that reads a user's own table of patients."""
    import shutil

    from fedbench.taskfile import load_task_file

    shutil.copy(DOCS / "my-task.toml", scratch)

    def read(data: bytes) -> None:
        (scratch / "patients.csv").write_bytes(data)
        load_task_file(scratch / "my-task.toml").data.load()

    return read


TARGETS: dict[str, Callable[[Path, Path], Read]] = {
    "run": record_file("run.json"),
    "manifest": record_file("manifest.json"),
    "rounds": record_file("rounds.parquet"),
    "clients": record_file("clients.parquet"),
    "predictions": record_file("predictions.npz"),
    "plan": plan_file,
    "archive": archive_file,
    "suite": text_file("fedbench.cell:load_suite"),
    "task": text_file("fedbench.taskfile:load_task_file"),
    "tuned": text_file("fedbench.cell:load_tuned"),
    "data": data_file,
}
ZIPPED = ("predictions", "archive")


@contextlib.contextmanager
def reading(target: str, sample: Path) -> Iterator[Read]:
    """Yield what reads an input; it raises nothing that a reader may raise.

    Parameters
    ----------
    target : str
        One of `TARGETS`.
    sample : Path
        The folder of a real record, which stays as it is.
    """
    from fedbench.errors import FedBenchError

    with tempfile.TemporaryDirectory(prefix="fedbench-fuzz-") as scratch:
        read = TARGETS[target](sample, Path(scratch))

        def guarded(data: bytes) -> None:
            with contextlib.suppress(FedBenchError):
                read(data)

        yield guarded


# --- what is changed ----------------------------------------------------------------------------------------------


def change_member(data: bytes, change: Callable[[bytes, int], bytes], largest: int, seed: int) -> bytes:
    """Return an archive with one member changed, and its checksum right; bytes that are no archive are changed as such.

    Changed bytes of a deflated member only ever fail the checksum, and nothing behind it would be tried.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        chosen = seed % len(members)
    except Exception:
        return change(data, largest)
    if seed % 7 == 0:  # the container itself
        return change(data, largest)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, (name, content) in enumerate(members):
            archive.writestr(name or "empty", change(content, largest) if index == chosen else content)
    return made.getvalue()


def samples(target: str, sample: Path) -> list[bytes]:
    """Return real inputs to begin with; those of an archive are given."""
    from importlib import resources

    files = {"run": "run.json", "manifest": "manifest.json", "predictions": "predictions.npz"}
    files |= {"rounds": "rounds.parquet", "clients": "clients.parquet"}
    if target in files:
        return [(sample / files[target]).read_bytes()]
    if target == "plan":
        return [path.read_bytes() for path in (sample.parents[3] / "plans").glob("*.json")]
    if target == "suite":
        suites = resources.files("fedbench.tasks").joinpath("suites")
        return [path.read_bytes() for path in suites.iterdir() if path.name.endswith(".toml")]
    if target == "task":
        return [(DOCS / "my-task.toml").read_bytes()]
    if target == "data":
        return [b"hospital,age,stay_days,creatinine,readmitted\na,1.5,2,3,no\nb,2,3,4,yes\nb,3,4,5,no\n"]
    if target == "tuned":
        return [TUNED.encode()]
    return []


TUNED = """fedbench = "0.1.0"
sampler = "optuna TPE"
method = "fedprox"
method_version = 1
task = "heart"
task_hash = "0123456789ab"
track = "faithful"
seed = 0
metric = "global_accuracy_mean"
budget = 2
trials = 2
configurations = 2
failed = 1
default_score = 0.5
best_score = 0.5
hyperparameters = { mu = 0.1 }

[searched.mu]
low = 0.001
high = 1.0

[[trial]]
hyperparameters = { mu = 0.1 }
score = 0.5

[[trial]]
hyperparameters = { mu = 1.0 }
score = 0.0
failed = true
"""


def fuzz(target: str, sample: Path, begin: Sequence[bytes], seconds: int, seed: int) -> None:
    """Change real files for so many seconds; ends the process, with libFuzzer's figures as its last lines."""
    import atheris

    with contextlib.ExitStack() as stack:
        with atheris.instrument_imports(include=["fedbench"]):  # a target imports what it reads with
            read = stack.enter_context(reading(target, sample))
        corpus = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedbench-fuzz-"))
        for index, data in enumerate([*samples(target, sample), *begin]):
            Path(corpus, str(index)).write_bytes(data)

        def mutate(data: bytes, largest: int, seed: int) -> bytes:
            return change_member(data, atheris.Mutate, largest, seed)

        arguments = [f"-max_total_time={seconds}", f"-seed={seed}", f"-rss_limit_mb={MEMORY}", f"-timeout={SLOWEST}"]
        arguments += [f"-max_len={LARGEST}", "-print_final_stats=1", "-verbosity=0", corpus]
        options = {"custom_mutator": mutate} if target in ZIPPED else {}
        atheris.Setup([sys.argv[0], *arguments], read, **options)
        atheris.Fuzz()  # ends the process at once, without clearing up


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("inputs", nargs="*", type=Path, help="files to begin with, besides those that are known")
    parser.add_argument("--record", type=Path, required=True, help="folder of a real record, in a results folder")
    parser.add_argument("--once", action="store_true", help="only read these files, and let what is raised be seen")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in the process that is given up
    chosen = parser.parse_args()
    given = [path.read_bytes() for path in chosen.inputs]
    if chosen.once:
        with reading(chosen.target, chosen.record) as read:
            for data in given:
                read(data)
    elif not chosen.here:
        with tempfile.TemporaryDirectory(prefix="fedbench-fuzz-") as scratch:
            command = [sys.executable, __file__, *sys.argv[1:], "--here"]
            status = subprocess.run(command, env={**os.environ, "TMPDIR": scratch}).returncode
        sys.exit(status)
    else:
        fuzz(chosen.target, chosen.record, given, chosen.seconds, chosen.seed)


if __name__ == "__main__":
    main()
