"""Shared storage: what is pushed comes back whole, and whatever is cut short leaves the old or the new behind."""

import json
import shutil
from itertools import count
from pathlib import Path

import pytest

from fedbench import Record, RecordError
from fedbench.checkpoint import Checkpoint
from fedbench.records import write_failure
from fedbench.schema import CHECKPOINT, FAILURE, MANIFEST, Failure
from fedbench.simulation import run_cell
from fedbench.storage import Storage, StorageError


@pytest.fixture(params=["path", "memory", pytest.param("s3", marks=pytest.mark.long)])
def url(request, tmp_path):
    """Return where to store: a path, memory, or a bucket."""
    places = {"path": lambda: str(tmp_path / "shared"), "memory": lambda: "memory://shared"}
    place = places.get(request.param, lambda: request.getfixturevalue("bucket"))()
    yield place
    emptied(Storage(place, tmp_path))


def emptied(storage):
    """Return a storage with nothing in it."""
    if storage._files.exists(storage._root):
        storage._files.rm(storage._root, recursive=True)
    return storage


@pytest.fixture(scope="module")
def record(make_cell, shrink, tmp_path_factory):
    """Return a record and the results folder that it stands in."""
    results = tmp_path_factory.mktemp("results")
    return run_cell(make_cell(shrink("heart", rounds=1)), results), results


class Cut(Exception):
    """What ends a process in the middle."""


class Breaking:
    """A file system that goes down after so many files written or deleted, with half of one written.

    Only small files are written whole or not at all, as object stores do; for paths, `write_atomic` has tests.
    """

    def __init__(self, storage, steps):
        self.files, self.left = storage._files, steps
        storage._files, storage._is_path = self, False

    def __getattr__(self, name):
        return getattr(self.files, name)

    def put(self, here, there):
        for path, place in zip(here, there, strict=True):
            data = Path(path).read_bytes()
            if self.left == 0:
                self.files.makedirs(place.rpartition("/")[0], exist_ok=True)
                self.files.pipe_file(place, data[: len(data) // 2])
            self.step()
            self.files.put([path], [place])

    def pipe_file(self, place, data):
        self.step()
        self.files.makedirs(place.rpartition("/")[0], exist_ok=True)
        self.files.pipe_file(place, data)

    def rm(self, places):
        for place in places:
            self.step()
            self.files.rm([place])

    def step(self):
        if self.left == 0:
            raise Cut
        self.left -= 1


def cut_at_every_step(make_storage, push):
    """Yield a storage cut at each of the steps of a push, until one is whole; say how far it came."""
    for steps in count():
        storage = make_storage()
        broken = Storage(storage.url, storage._results)
        Breaking(broken, steps)
        try:
            push(broken)
            whole = True
        except StorageError as error:
            if not isinstance(error.__cause__, Cut):
                raise
            whole = False
        yield storage, steps
        if whole:
            return


# --- records ----------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(record, url, tmp_path):
    whole, results = record
    there, here = Storage(url, results), Storage(url, tmp_path / "pulled")
    folder = here._results / whole.folder.relative_to(results)
    assert not there.has_record(whole.folder)
    there.push_record(whole.folder)
    assert there.has_record(whole.folder)
    assert here.has_record(folder)
    pulled = here.pull_record(folder)
    assert (pulled.folder, pulled.digest) == (folder, whole.digest)
    Record.open(folder).verify()
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert here.pull_record(folder).digest == whole.digest  # again, over the one that is there


def test_a_record_whose_push_was_cut_is_not_there(record, url):
    whole, results = record

    cuts = cut_at_every_step(lambda: emptied(Storage(url, results)), lambda broken: broken.push_record(whole.folder))
    for storage, steps in cuts:
        assert storage.has_record(whole.folder) == (steps >= 5)
        storage.push_record(whole.folder)
        assert storage.has_record(whole.folder)
    assert steps >= 5


def test_a_damaged_record_is_refused_and_made_again(record, url, tmp_path):
    whole, results = record
    there, here = Storage(url, results), Storage(url, tmp_path / "pulled")
    folder = here._results / whole.folder.relative_to(results)
    there.push_record(whole.folder)
    there._files.pipe_file(f"{there._place(whole.folder)}/run.json", b"{}")
    with pytest.raises(RecordError, match=r"damaged: .*run\.json is not the file"):
        here.pull_record(folder)
    assert not list(folder.parent.iterdir())
    assert not there.has_record(whole.folder)
    there.push_record(whole.folder)
    assert here.pull_record(folder).digest == whole.digest


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": 3}', '{"files": {"../../escaped": "0"}}'])
def test_a_manifest_that_is_none_is_refused(manifest, record, tmp_path):
    whole, results = record
    there, here = Storage(str(tmp_path / "shared"), results), Storage(str(tmp_path / "shared"), tmp_path / "pulled")
    there.push_record(whole.folder)
    there._write(f"{there._place(whole.folder)}/{MANIFEST}", manifest)
    with pytest.raises(RecordError):
        here.pull_record(here._results / whole.folder.relative_to(results))
    assert not there.has_record(whole.folder)


def test_a_record_of_a_newer_schema_stays(record, tmp_path):
    whole, results = record
    there, here = Storage(str(tmp_path / "shared"), results), Storage(str(tmp_path / "shared"), tmp_path / "pulled")
    there.push_record(whole.folder)
    place = Path(there._place(whole.folder)) / MANIFEST
    place.write_text(json.dumps({**json.loads(place.read_text()), "schema_version": 99}))
    with pytest.raises(RecordError, match="update FedBench"):
        here.pull_record(here._results / whole.folder.relative_to(results))
    assert there.has_record(whole.folder)


def test_a_record_that_is_nowhere_has_a_mend(tmp_path):
    with pytest.raises(StorageError, match="give a place that all nodes share"):
        Storage(str(tmp_path / "shared"), tmp_path).pull_record(tmp_path / "task" / "seed-1")


def test_the_results_folder_can_be_the_storage(record, tmp_path):
    whole, results = record
    folder = tmp_path / whole.folder.relative_to(results)
    shutil.copytree(whole.folder, folder)
    storage = Storage(str(tmp_path), tmp_path)
    storage.push_record(folder)
    assert storage.pull_record(folder).digest == whole.digest
    (folder / "run.json").write_text("{}")
    with pytest.raises(RecordError, match="damaged"):
        storage.pull_record(folder)
    assert not storage.has_record(folder)


def test_a_note_of_a_failure_gives_way_to_the_record(record, url):
    whole, results = record
    storage = Storage(url, results)
    noted = Storage(url, results.parent / "noted")
    folder = noted._results / whole.folder.relative_to(results)
    write_failure(folder, Failure(reason="why", traceback="", at="now"))
    noted.push_failure(folder)
    place = f"{storage._place(whole.folder)}/{FAILURE}"
    assert json.loads(storage._read(place))["reason"] == "why"
    assert not storage.has_record(whole.folder)
    storage.push_record(whole.folder)
    assert storage._read(place) is None


# --- checkpoints ------------------------------------------------------------------------------------------------


def saved(folder, *rounds, by=""):
    """Return a checkpoint's folder after some rounds, each of which changes the server and one client."""
    made = Checkpoint(folder)
    for t in rounds:
        made.save(t, {"server": f"server {t} {by}".encode(), f"client-{t % 2}": f"client {t} {by}".encode()})
    return folder


def loaded(storage):
    """Return what a checkpoint is after being pulled to an empty place: rounds and parts, or None."""
    folder = storage._results / "fresh" / "seed-1.partial"
    shutil.rmtree(folder, ignore_errors=True)
    pulled = Storage(storage.url, folder.parent).pull_checkpoint(folder)
    assert pulled == folder.exists()
    whole = Checkpoint(folder).load()
    assert pulled == (whole is not None)  # what is there can be gone on from
    return whole and (whole[0], dict(whole[1]))


def test_a_checkpoint_comes_back_as_it_was_and_leaves_no_old_files(url, tmp_path):
    storage, folder = Storage(url, tmp_path), tmp_path / "seed-1.partial"
    assert loaded(storage) is None
    parts = {}
    for t in (1, 2, 5):
        saved(folder, *range(1, t + 1))
        storage.push_checkpoint(folder)
        parts = {"server": f"server {t} ".encode(), f"client-{t % 2}": f"client {t} ".encode()}
        whole = loaded(storage)
        assert whole[0] == t
        assert parts.items() <= whole[1].items()
        there = storage._files.find(storage._place(folder))
        assert len(there) == 1 + len(whole[1])
    storage.remove_checkpoint(folder)
    assert loaded(storage) is None
    storage.remove_checkpoint(folder)  # not there: nothing to do


def test_what_was_pulled_is_gone_on_from_and_only_what_is_new_is_pushed(url, tmp_path):
    first, second = Storage(url, tmp_path / "first"), Storage(url, tmp_path / "second")
    first.push_checkpoint(saved(tmp_path / "first" / "seed-1.partial", 1, 2))
    folder = tmp_path / "second" / "seed-1.partial"
    second.pull_checkpoint(folder)
    made = Checkpoint(folder)
    assert made.load()[0] == 2
    made.save(3, {"server": b"server 3 "})
    put, sent = second._put, []
    second._put = lambda files: (sent.extend(files), put(files))
    second.push_checkpoint(folder)
    assert len(sent) == 1
    assert loaded(second) == (3, {"server": b"server 3 ", "client-0": b"client 2 ", "client-1": b"client 1 "})


@pytest.mark.parametrize("by", ["", "another attempt"])
def test_a_push_that_is_cut_leaves_the_old_or_the_new_checkpoint(url, tmp_path, by):
    """Also where the new one gives the names of the old one's files to others, as a cell that begins again does."""
    old, new = saved(tmp_path / "old", 1, 2, 3), saved(tmp_path / "new", 1, 2, 3, *(() if by else (4,)), by=by)
    ends = []
    for path in (old, new):
        made = Checkpoint(path).load()
        ends.append((made[0], dict(made[1])))

    folder = tmp_path / "results" / "seed-1.partial"

    def with_old():
        storage = emptied(Storage(url, folder.parent))
        for source in (old, new):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            if source == old:
                storage.push_checkpoint(folder)
        return storage

    seen = []
    for storage, _ in cut_at_every_step(with_old, lambda broken: broken.push_checkpoint(folder)):
        seen.append(ends.index(loaded(storage)))
        storage.push_checkpoint(folder)  # the next attempt
        assert loaded(storage) == ends[1]
    assert seen == sorted(seen)
    assert {*seen} == {0, 1}
    assert len(seen) >= 6


def test_a_damaged_index_is_no_checkpoint(url, tmp_path):
    storage, folder = Storage(url, tmp_path), saved(tmp_path / "seed-1.partial", 1)
    storage.push_checkpoint(folder)
    for index in ("", "[]", '{"files": 1}', '{"files": {"server": ""}}', '{"files": {"server": "../../out 0"}}'):
        storage._write(f"{storage._place(folder)}/{CHECKPOINT}", index)
        fresh = tmp_path / "fresh"
        Storage(url, tmp_path).pull_checkpoint(fresh)
        assert Checkpoint(fresh).load() is None
        shutil.rmtree(fresh, ignore_errors=True)
    storage.push_checkpoint(folder)
    assert loaded(storage)[0] == 1


def test_a_checkpoint_that_is_not_whole_is_none(url, tmp_path):
    storage, folder = Storage(url, tmp_path), saved(tmp_path / "seed-1.partial", 1)
    storage.push_checkpoint(folder)
    storage._files.rm([place for place in storage._files.find(storage._place(folder)) if "server" in place])
    assert loaded(storage) is None


def test_a_checkpoint_that_changes_while_it_is_pulled_is_pulled_again(url, tmp_path):
    storage, other = Storage(url, tmp_path / "here"), Storage(url, tmp_path / "other")
    other.push_checkpoint(saved(tmp_path / "other" / "seed-1.partial", 1))
    get = storage._get

    def slow(files):
        storage._get = get
        other.push_checkpoint(saved(tmp_path / "other" / "seed-1.partial", 1, 2))
        return get(files)

    storage._get = slow
    folder = tmp_path / "here" / "seed-1.partial"
    assert storage.pull_checkpoint(folder)
    assert Checkpoint(folder).load()[0] == 2


# --- where ------------------------------------------------------------------------------------------------------


def test_what_can_be_written_passes_the_check_and_keeps_no_trace(url, tmp_path):
    storage = Storage(url, tmp_path)
    storage.check()
    assert not storage._files.find(storage._root)


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Storage("shared", tmp_path).url == f"file://{tmp_path}/shared"
    assert Storage(f"file://{tmp_path}/shared", tmp_path)._is_path


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://bucket", "Protocol not known: nope; give a path, or a URL"),
        ("shared[1]", "choose another place"),
        ("adl://store", r"pip install"),
    ],
)
def test_what_is_no_storage_is_refused(url, message, tmp_path):
    with pytest.raises(StorageError, match=message):
        Storage(url, tmp_path)


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/shared.*mend that and run again"):
        Storage(str(tmp_path / "file" / "shared"), tmp_path).check()


@pytest.mark.long
def test_a_bucket_that_cannot_be_written_is_named_with_the_mend(bucket, tmp_path, monkeypatch):
    from s3fs import S3FileSystem

    with pytest.raises(StorageError, match="make that bucket or folder first"):
        Storage("s3://no-such-bucket/results", tmp_path).check()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        Storage(bucket, tmp_path).check()
    S3FileSystem.clear_instance_cache()
