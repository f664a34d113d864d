"""A small board, and the results of somebody whose method wants to be on it."""

import json
import shutil
import zipfile
from types import SimpleNamespace

import pytest

from fedbench import Method, records, registry, verbs
from fedbench.records import Record
from fedbench.submissions import archive

SUITE = """name = "demo"
title = "A demonstration"
track = "faithful"
tasks = ["tiny", "tinier"]
methods = ["fedavg"]
seeds = [1, 2]
"""


class Steady(Method):
    """A method of somebody's: FedAvg with nine tenths of the loss."""

    mechanism = "patience"

    def loss(self, client, batch):
        return 0.9 * super().loss(client, batch)


class Steadier(Steady):
    """The same, later."""

    version = 2

    def loss(self, client, batch):
        return 0.8 * super().loss(client, batch)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return three results folders of a suite of two tasks and two seeds: of the board, and of two versions of steady.

    All are real runs, and nobody may change them.
    """
    base = tmp_path_factory.mktemp("made")
    (base / "demo.toml").write_text(SUITE)
    heart = registry.tasks.get("heart")
    tiny = heart.but(name="tiny", protocol=heart.protocol.but(rounds=2))
    tinier = heart.but(name="tinier", protocol=heart.protocol.but(rounds=2, local_epochs=1))
    for task in (tiny, tinier):
        registry.tasks.add(task.name, task)
    try:
        for folder, methods, kind in (
            ("board", ["fedavg"], None),
            ("first", ["fedavg", "steady"], Steady),
            ("second", ["fedavg", "steady"], Steadier),
        ):
            if kind is not None:
                shutil.copytree(base / "board", base / folder)  # whose cells need not be run again
                registry.methods.add("steady", kind)
            selection = verbs.Selection(str(base / "demo.toml"), methods=methods)
            verbs.run(selection, base / folder, reports=None, executor="serial")
            registry.methods.forget("steady")
    finally:
        for task in (tiny, tinier):
            registry.tasks.forget(task.name)
    return SimpleNamespace(
        board=base / "board", first=base / "first", second=base / "second", packs={}, tasks=(tiny, tinier)
    )


@pytest.fixture
def board(made, tmp_path):
    """Return a copy of the board's results folder."""
    shutil.copytree(made.board, tmp_path / "board")
    return tmp_path / "board"


@pytest.fixture
def released(plugged, tmp_path):
    """Return a function that installs a distribution with the method, in some version.

    Whoever imports it leaves a file behind: nobody must.
    """

    def install(version="1.2", distribution="fedbench-steady", method="steady"):
        module = distribution.replace("-", "_")
        info = tmp_path / "installed" / distribution / f"{module}-1.2.dist-info"
        if not info.exists():
            mark = tmp_path / "imported"
            plugged(distribution, f"open({str(mark)!r}, 'w')\nraise SystemExit", methods={method: "Steady"})
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        registry.methods._points = None

    yield install
    assert not (tmp_path / "imported").exists()


ABOUT = {"licence": "MIT", "url": "https://example.org/steady", "authors": ("A. Author",)}


@pytest.fixture
def in_process(monkeypatch):
    """Verify records in this process: the same checks, without the second that another one takes to begin."""
    from fedbench.submissions import confined
    from fedbench.verification import verify

    monkeypatch.setattr(confined, "verified", lambda folder: (verify(folder).plain(), ()))


@pytest.fixture
def packed(made, released, tmp_path):
    """Return a function that packs steady from one of the two results folders, as some version."""

    def pack(results="first", version="1.2", distribution="fedbench-steady", **about):
        released(version, distribution)
        path = tmp_path / f"{distribution}-{version}.fedbench.zip"
        key = (results, version, distribution, json.dumps(about, sort_keys=True))
        if key in made.packs:  # the same records give the same bytes, and tests want them often
            path.write_bytes(made.packs[key])
        else:
            path.unlink(missing_ok=True)
            verbs.submit_pack("steady", "demo", getattr(made, results), path=path, **ABOUT | about)
            made.packs[key] = path.read_bytes()
        return path

    return pack


@pytest.fixture
def forge():
    """Return a function that changes arrays of a record, hashed and digested anew as whoever changes them would."""

    def change(folder, **arrays):
        record = Record.open(folder)
        tables = ({n: table.column(n) for n in table.column_names} for table in (record.rounds, record.clients))
        changed = {name: change(record.arrays[name].copy()) for name, change in arrays.items()}
        records.write(folder, record.info, *tables, {**record.arrays, **changed})

    return change


@pytest.fixture
def rewritten(tmp_path):
    """Return a function that changes members of an archive and, unless told otherwise, the list of their hashes."""

    def rewrite(path, change, *, listed=True):
        from fedbench.submissions.packing import _sha256

        with zipfile.ZipFile(path) as source:
            files = {name: source.read(name) for name in source.namelist()}
        form = json.loads(files.pop("submission.json"))
        change(form, files)
        if listed:
            form["files"] = {name: _sha256(content) for name, content in files.items()}
        target = tmp_path / "rewritten.zip"
        archive.write(target, files | {"submission.json": json.dumps(form).encode()})
        return target

    return rewrite


@pytest.fixture
def fedbench(monkeypatch, capfd):
    """Return a function that runs a command: its status, and what it printed."""
    from fedbench import cli

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        return stop.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def report(packed, tmp_path):
    """Return a function that gives an archive's report with a re-run of its first cell."""

    def make(archive, name="rerun.json", state="passed", evidence="the same digest, 0123456789ab"):
        from .test_checking import report_of

        keep = tmp_path / f"keep-{name}"
        assert verbs.submit_check(archive, keep=keep).good
        place = next(str(path.parent.relative_to(keep)) for path in sorted(keep.rglob("manifest.json")))
        return report_of(keep, tmp_path / name, rerun=[{"where": place, "state": state, "evidence": evidence}])

    return make


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch):
    """Let temporary files of a test lie in a folder of its own, where what is left behind is seen."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("scratch")))
