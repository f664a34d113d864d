"""A release holds what its board was rendered from, in one file."""

import io
import json
import lzma
import shutil
import tarfile

import numpy as np
import pytest

from fedbench import Record, RecordError, release
from fedbench.records import write_failure
from fedbench.schema import Failure

KEPT = "schema-1"


@pytest.fixture
def results(tmp_path, request):
    """Return a results folder with three records of heart and their plan."""
    folder = tmp_path / "results"
    shutil.copytree(request.path.parent / "records" / KEPT, folder)
    return folder


def test_a_release_gives_the_same_records_plan_and_notes(results, tmp_path, tally):
    plan = json.loads((results / "plans" / "kept.json").read_text())
    (records := sorted(path.parent for path in results.rglob("manifest.json")))
    lost = records.pop()
    shutil.rmtree(lost)
    write_failure(lost, Failure(reason="the loss became nan", traceback="", at="2026-01-01T00:00:00+00:00"))
    assert release.pack(results, "kept", tmp_path / "records.tar.xz") == len(records) == 2
    with release.opened(tmp_path / "records.tar.xz") as folder:
        assert json.loads((folder / "plans" / "kept.json").read_text())["cells"][0]["hash"] == plan["cells"][0]["hash"]
        for path in records:
            before, after = Record.open(path), Record.open(folder / path.relative_to(results))
            after.verify()
            assert after.digest == before.digest
            assert after.info == before.info
            for name, array in before.arrays.items():
                np.testing.assert_array_equal(after.arrays[name], array, strict=True)
        assert (folder / lost.relative_to(results) / "failure.json").is_file()
    assert not folder.exists()


def test_the_same_records_give_the_same_bytes_and_a_plain_tar_file(results, tmp_path):
    release.pack(results, "kept", tmp_path / "a.tar.xz")
    release.pack(results, "kept", tmp_path / "b.tar.xz")
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.xz") as archive:  # as anybody's tar reads it
        assert {(entry.mtime, entry.uid, entry.mode) for entry in archive} == {(0, 0, 0o644)}


def test_a_damaged_record_is_in_no_release_and_an_earlier_release_stays(results, tmp_path):
    release.pack(results, "kept", tmp_path / "a.tar.xz")
    before = (tmp_path / "a.tar.xz").read_bytes()
    path = next(iter(results.rglob("rounds.parquet")))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordError, match=r"rounds.parquet is not the file"):
        release.pack(results, "kept", tmp_path / "a.tar.xz")
    assert (tmp_path / "a.tar.xz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.xz", "results"]


def test_a_folder_is_opened_as_it_is(results):
    with release.opened(results) as folder:
        assert folder == results


def member(name, content=b"x", **settings):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in settings.items():
        setattr(entry, key, value)
    return entry, content


HOSTILE = {
    "a path that leads out": [member("../out")],
    "an absolute path": [member("/tmp/fedbench-out")],
    "a link": [member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "a hard link": [member("link", b"", type=tarfile.LNKTYPE, linkname="../out")],
    "a device": [member("device", b"", type=tarfile.CHRTYPE)],
    "a pipe": [member("pipe", b"", type=tarfile.FIFOTYPE)],
    "one name twice": [member("plans/a.json"), member("plans/a.json")],
}


@pytest.mark.reliability
@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_plain_file_below_is_refused(members, tmp_path, monkeypatch, tally):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        for entry, content in members:
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(RecordError, match="is no release"), release.opened(tmp_path / "a.tar.xz"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.xz", "scratch"]
    assert list((tmp_path / "scratch").iterdir()) == []
    tally("hostile archives")


@pytest.mark.reliability
def test_a_file_that_unpacks_to_more_than_is_read_is_refused(tmp_path, monkeypatch, tally):
    monkeypatch.setattr(release, "LARGEST", 1000)
    monkeypatch.setattr(release, "MOST", 3)
    for name, members in (("large", [member("a", bytes(2000))]), ("many", [member(str(n)) for n in range(4)])):
        with tarfile.open(tmp_path / name, "w:xz") as archive:
            for entry, content in members:
                archive.addfile(entry, io.BytesIO(content))
        with pytest.raises(RecordError, match="one too many"), release.opened(tmp_path / name):
            pass
    tally("hostile archives", 2)


@pytest.mark.parametrize("content", [b"", b"no archive", lzma.compress(b"no tar file" * 200)[:-9]])
def test_what_is_no_release_is_named(tmp_path, content):
    (tmp_path / "a.tar.xz").write_bytes(content)
    with pytest.raises(RecordError, match=r"a.tar.xz is no release"), release.opened(tmp_path / "a.tar.xz"):
        pass
