"""Joining results folders: nothing is lost, nothing is half joined, and what contradicts is named."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedbench import durable, records
from fedbench.errors import RecordError, SpecError
from fedbench.merging import merge
from fedbench.records import NewerSchemaError, Record, read_plan
from fedbench.schema import Failure, Plan, PlannedCell, Tuning
from fedbench.simulation import run_cell


@pytest.fixture(scope="module")
def original(make_cell, shrink, tmp_path_factory):
    """Return one real record, of a single round."""
    cell, results = make_cell(shrink("heart", rounds=1)), tmp_path_factory.mktemp("original")
    run_cell(cell, results)
    return Record.open(cell.folder(results))


@pytest.fixture
def put(original):
    """Return a function that writes the record into a results folder, as another seed or with other answers."""

    def write(results, seed=1, *, flipped=False, weights=None):
        arrays = dict(original.arrays)
        if flipped:
            arrays["global_test_predictions"] = 1 - arrays["global_test_predictions"]
        rounds, clients = (
            {name: table.column(name) for name in table.column_names} for table in (original.rounds, original.clients)
        )
        info = original.info.model_copy(update={"seed": seed})
        return records.write(results / place(original, seed), info, rounds, clients, arrays, weights)

    return write


def place(record, seed=1):
    return f"heart/fedavg/{record.info.hash}/seed-{seed}"


def fail(results, record, seed, reason, at="2026-01-01T00:00:00+00:00"):
    records.write_failure(results / place(record, seed), Failure(reason=reason, traceback="", at=at))


def plan(results, seeds, *, suite="demo", **changes):
    values = {"schema_version": 1, "suite": suite, "title": "A suite", "track": "faithful", **changes}
    cells = tuple(seed if isinstance(seed, PlannedCell) else planned(seed) for seed in seeds)
    durable.write_atomic(
        results / "plans" / f"{suite}.json", Plan(cells=cells, **values).model_dump_json(indent=1) + "\n"
    )


def planned(seed, **changes):
    return PlannedCell(
        task="heart", method="fedavg", label="fedavg", family="global", hash="0123456789ab", seed=seed, **changes
    )


def contents(folder):
    """Return the hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def two(tmp_path, put):
    """Return two results folders: seeds 1 and 2, seeds 2 and 3."""
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, seeds in ((a, (1, 2)), (b, (2, 3))):
        for seed in seeds:
            put(folder, seed)
        plan(folder, seeds)
    return a, b


def test_everything_is_there_once_and_the_folders_stay(two, original, tmp_path):
    a, b = two
    before = contents(a), contents(b)
    found = merge([a, b], tmp_path / "c")
    assert (found.records, found.same, found.failures, found.plans, found.left_out) == (3, 1, 0, ("demo",), ())
    assert (contents(a), contents(b)) == before
    joined = contents(tmp_path / "c")
    for folder in before:
        for name, digest in folder.items():
            if not name.startswith("plans/"):
                assert joined[name] == digest
    assert [cell.seed for cell in read_plan(tmp_path / "c" / "plans" / "demo.json").cells] == [1, 2, 3]
    for seed in (1, 2, 3):
        Record.open(tmp_path / "c" / place(original, seed)).verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]  # and nothing staged


def test_the_order_of_the_folders_changes_no_record(two, tmp_path):
    a, b = two
    merge([a, b], tmp_path / "c")
    merge([b, a], tmp_path / "d")
    drop = "plans/demo.json"  # whose cells are in the order in which they were found
    first, second = contents(tmp_path / "c"), contents(tmp_path / "d")
    assert {k: v for k, v in first.items() if k != drop} == {k: v for k, v in second.items() if k != drop}


def test_what_was_joined_can_be_joined_again(two, put, tmp_path):
    a, b = two
    merge([a, b], tmp_path / "c")
    put(tmp_path / "d", 4)
    found = merge([tmp_path / "c", a, tmp_path / "d"], tmp_path / "e")
    assert (found.records, found.same) == (4, 2)


def test_of_two_copies_the_one_with_weights_is_kept(put, original, tmp_path):
    put(tmp_path / "a")
    put(tmp_path / "b", weights=b"weights")
    for order in (["a", "b"], ["b", "a"]):
        merge([tmp_path / name for name in order], tmp_path / "".join(order))
        copied = tmp_path / "".join(order) / place(original) / "weights.safetensors"
        assert copied.read_bytes() == b"weights"


def test_two_results_of_one_cell_are_refused_by_name(two, put, original, tmp_path):
    a, b = two
    put(b, 2, flipped=True)
    before = contents(a), contents(b)
    with pytest.raises(RecordError) as refused:
        merge([a, b], tmp_path / "c")
    for words in ("one cell, two results", place(original, 2), str(a), str(b), "nothing was joined", "(cpu)"):
        assert words in str(refused.value)
    assert place(original, 1) not in str(refused.value)
    assert (contents(a), contents(b)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


# --- damage -----------------------------------------------------------------------------------------------------------


def truncated(folder):
    path = folder / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-10])


def forged(folder):
    """Change a number and hash the files anew, as somebody would who knows how."""
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "bytes_up": 1}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["run.json"] = hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def no_json(folder):
    (folder / "manifest.json").write_text("{")


def gone(folder):
    (folder / "rounds.parquet").unlink()


DAMAGE = [truncated, forged, no_json, gone]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_refused_by_name_or_left_out_by_name(two, original, tmp_path, damage):
    a, b = two
    damage(a / place(original, 1))
    with pytest.raises(RecordError, match=r"seed-1[\s\S]*nothing was joined[\s\S]*--leave-damaged"):
        merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    found = merge([a, b], tmp_path / "c", leave_damaged=True)
    assert found.records == 2
    assert len(found.left_out) == 1
    assert place(original, 1) in found.left_out[0]
    assert not (tmp_path / "c" / place(original, 1)).exists()
    assert (a / place(original, 1)).exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_whole_copy_elsewhere_takes_its_place(two, original, tmp_path, damage):
    a, b = two
    damage(a / place(original, 2))
    found = merge([a, b], tmp_path / "c")
    assert (found.records, found.same) == (3, 0)
    assert place(original, 2) in found.left_out[0]
    Record.open(tmp_path / "c" / place(original, 2)).verify()


def test_a_record_in_the_place_of_another_is_damaged(two, original, tmp_path):
    a, b = two
    shutil.copytree(a / place(original, 1), a / place(original, 7))
    with pytest.raises(RecordError, match=r"seed-7: the record is that of heart/fedavg/.*/seed-1"):
        merge([a, b], tmp_path / "c")


def test_a_newer_schema_is_never_left_out(two, original, tmp_path):
    a, b = two
    path = a / place(original, 1) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(NewerSchemaError, match="update FedBench"):
        merge([a, b], tmp_path / "c", leave_damaged=True)
    assert not (tmp_path / "c").exists()


# --- plans and failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"track": "robust"}, "track is faithful and"), ({"margin": 0.01}, "margin is 0.005 and")],
)
def test_plans_that_contradict_each_other_are_refused(two, tmp_path, changes, words):
    a, b = two
    plan(b, (2, 3), **changes)
    with pytest.raises(RecordError, match=f"two plans of demo contradict each other: {words}"):
        merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_damaged_plan_is_refused(two, tmp_path):
    a, b = two
    (b / "plans" / "demo.json").write_text("{")
    with pytest.raises(RecordError, match=r"demo\.json cannot be read"):
        merge([a, b], tmp_path / "c")


def test_plans_of_other_suites_stand_side_by_side(two, tmp_path):
    a, b = two
    plan(b, (1,), suite="other")
    assert merge([a, b], tmp_path / "c").plans == ("demo", "other")


def test_a_cell_is_skipped_only_where_it_was_everywhere_and_tuning_is_kept(two, tmp_path):
    a, b = two
    tuning = Tuning(task="heart", metric="m", budget=20, seed=0, digest="d")
    plan(a, [planned(1, skipped="no data"), planned(2, skipped="no data"), planned(3)])
    plan(b, [planned(1, skipped="no network"), planned(2), planned(3, tuning=tuning)])
    merge([a, b], tmp_path / "c")
    first, second, third = read_plan(tmp_path / "c" / "plans" / "demo.json").cells
    assert (first.skipped, second.skipped, third.tuning) == ("no data", None, tuning)


def test_the_newest_failure_is_kept_where_there_is_no_record(two, original, tmp_path):
    a, b = two
    fail(a, original, 5, "old", at="2026-01-01T00:00:00+00:00")
    fail(b, original, 5, "new", at="2026-02-01T00:00:00+00:00")
    fail(a, original, 3, "repaired since")  # b has the record
    found = merge([a, b], tmp_path / "c")
    assert found.failures == 1
    assert records.state(tmp_path / "c" / place(original, 5)) == ("failed", "new")
    assert records.state(tmp_path / "c" / place(original, 3)) == ("done", "")


def test_a_damaged_failure_note_still_says_failed(two, original, tmp_path):
    a, b = two
    (a / place(original, 5)).mkdir(parents=True)
    (a / place(original, 5) / "failure.json").write_text("{")
    merge([a, b], tmp_path / "c")
    assert records.state(tmp_path / "c" / place(original, 5))[0] == "failed"


def test_checkpoints_stay_where_they_are(two, original, tmp_path):
    a, b = two
    partial = a / f"{place(original, 6)}.partial"
    partial.mkdir()
    (partial / "state").write_bytes(b"half")
    merge([a, b], tmp_path / "c")
    assert (partial / "state").read_bytes() == b"half"
    assert not list((tmp_path / "c").rglob("*.partial"))


# --- wrong folders ----------------------------------------------------------------------------------------------------


def test_wrong_folders_are_refused(two, tmp_path):
    a, b = two
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    c = tmp_path / "c"
    for folders, into, words in (
        ([a], c, "two results folders or more"),
        ([], c, "two results folders or more"),
        ([a, tmp_path / "nothing"], c, "is no folder"),
        ([a, tmp_path / "file"], c, "is no folder"),
        ([a, tmp_path / "empty"], c, "neither plans nor records"),
        ([a, a], c, "are the same folder"),
        ([a, b / ".." / "a"], c, "are the same folder"),
        ([a, b], tmp_path / "full", "is there and not empty"),
        ([a, b], b, "is there and not empty"),
        ([a, b], tmp_path / "file", "is there and not empty"),
        ([a, b], tmp_path / "link", "is there and not empty"),
        ([a, b], a / "joined", "which is only read"),
    ):
        before = contents(tmp_path)
        with pytest.raises(SpecError, match=words):
            merge(folders, into)
        assert contents(tmp_path) == before


def test_an_empty_folder_may_be_joined_into(two, tmp_path):
    (tmp_path / "c").mkdir()
    assert merge(two, tmp_path / "c").records == 3


def test_a_full_disk_leaves_nothing_behind(two, tmp_path, monkeypatch):
    copied = []

    def copyfile(source, target):
        copied.append(source)
        if len(copied) > 4:
            raise OSError(28, "No space left on device")
        return Path(target).write_bytes(Path(source).read_bytes())

    before = contents(tmp_path)
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(OSError, match="No space left"):
        merge(two, tmp_path / "c")
    assert contents(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.name not in ("a", "b")]


def test_a_copy_that_went_wrong_is_noticed(two, tmp_path, monkeypatch):
    def copyfile(source, target):
        content = Path(source).read_bytes()
        return Path(target).write_bytes(content[:-1] if str(source).endswith("clients.parquet") else content)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(RecordError, match=r"clients\.parquet"):
        merge(two, tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_arrays_that_nobody_can_read_are_damage_not_a_crash(two, original, tmp_path):
    a, b = two
    folder = a / place(original, 1)
    np.save(folder / "predictions.npz", np.zeros(3))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["predictions.npz"] = hashlib.sha256((folder / "predictions.npz.npy").read_bytes()).hexdigest()
    (folder / "predictions.npz.npy").replace(folder / "predictions.npz")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RecordError, match="nothing was joined"):
        merge([a, b], tmp_path / "c")
