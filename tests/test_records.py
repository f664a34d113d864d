"""Records: whole or absent, every corruption found, a digest over what was computed and nothing else."""

import errno
import hashlib
import io
import json
import os
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedbench import Record, RecordError, durable, records, schema
from fedbench.records import ARRAYS, NewerSchemaError, content_digest, state, write

R, K, C = 3, 2, 3
N, M, V = 13, 11, 5  # none a multiple of 8: the packed bits have padding
OFFSETS = [0, 4, 11]
BITS = {
    "global_validation_correct": (R, V),
    "global_client_correct": (R, M),
    "local_client_correct": (R, M),
    "personal_client_correct": (2, M),
    "final_client_correct": (M,),
}


def make_info(**changes):
    values = {
        "schema_version": schema.SCHEMA_VERSION,
        "fedbench": "0.1.0",
        "identity": {"task": {"name": "toy"}, "track": "faithful"},
        "hash": "0123456789ab",
        "seed": 1,
        "label": "fedavg",
        "cards": {"task": "Toy", "method": "FedAvg"},
        "classes": ("a", "b", "c"),
        "primary": "global_accuracy_mean",
        "seed_ids": schema.SeedIds(partition="p", init="i", schedule="s", order="o"),
        "model": schema.ModelInfo(name="mlp", parameters=7, bytes=28, flops=14),
        "models": ("global", "local", "personal"),
        "bytes_up": 84,
        "bytes_down": 84,
        "train_samples": 30,
        "forward_samples": 0,
        "environment": schema.Environment(
            python="3.11", packages={}, platform="x", processor="y", cores=2, threads=1, device="cpu", commit=None
        ),
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": {"train": 1.0},
    }
    return schema.RunInfo(**{**values, **changes})


def make_rounds(**changes):
    return {
        "round": [0, 1, 2],
        "global_accuracy": [0.5, None, 0.75],
        "bytes_up": [28, 28, 28],
        "bytes_down": [28, 28, 28],
        "train_samples": [10, 10, 10],
        "forward_samples": [0, 0, 0],
        "seconds_train": [0.1, 0.2, 0.3],
        "seconds_evaluate": [0.01, 0.02, 0.03],
        **changes,
    }


def make_clients(**changes):
    return {"round": [0, 0, 1, 1, 2, 2], "client": [0, 1] * 3, "weight": [1.0, None] * 3, **changes}


def make_bits():
    rng = np.random.default_rng(0)
    return {name: rng.random(shape) < 0.5 for name, shape in BITS.items()}


def make_arrays(**changes):
    rng = np.random.default_rng(1)
    arrays = {
        "schedule": np.array([[True, False], [False, True], [True, False]]),
        "train_class_counts": np.array([[5, 0, 5], [0, 10, 0]]),
        "test_ids": np.arange(100, 100 + N),
        "test_labels": rng.integers(C, size=N).astype(np.uint8),
        "validation_ids": np.arange(V),
        "client_offsets": np.array(OFFSETS),
        "client_test_ids": np.arange(50, 50 + M),
        "client_test_labels": rng.integers(C, size=M).astype(np.uint8),
        "global_test_predictions": rng.integers(C, size=(R, N)).astype(np.uint8),
        "global_test_probabilities": rng.dirichlet(np.ones(C), N).astype(np.float16),
        "personal_rounds": np.array([0, 2]),
        "final_test_predictions": rng.integers(C, size=N).astype(np.uint8),
        "final_bytes_down": np.array([7, 0]),
        "final_bytes_up": np.array([0, 5]),
        "held_out": np.array([False, True]),
        **{name: np.packbits(bits, axis=-1) for name, bits in make_bits().items()},
    }
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def make_record(folder, info=None, rounds=None, clients=None, arrays=None, weights=None):
    return write(
        folder,
        info or make_info(),
        rounds or make_rounds(),
        clients or make_clients(),
        arrays or make_arrays(),
        weights,
    )


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "toy" / "fedavg" / "0123456789ab" / "seed-1"


# --- writing ----------------------------------------------------------------------------------------------------


def test_a_record_is_five_files_and_the_manifest_has_their_hashes(folder):
    record = make_record(folder)
    assert everything_below(folder) == [
        "clients.parquet", "manifest.json", "predictions.npz", "rounds.parquet", "run.json",
    ]  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in schema.FILES
    }
    assert manifest["digest"] == record.digest
    assert state(folder) == ("done", "")
    assert everything_below(folder.parent) == [f"seed-1/{name}" for name in everything_below(folder)]


def test_kept_weights_are_in_the_manifest_but_not_in_the_digest(folder, tmp_path):
    kept = make_record(folder, weights=b"weights")
    assert (folder / schema.WEIGHTS).read_bytes() == b"weights"
    assert schema.WEIGHTS in kept.manifest.files
    assert kept.digest == make_record(tmp_path / "bare").digest


def test_what_was_written_is_read_back(folder):
    info = make_info()
    make_record(folder, info)
    record = Record.open(folder)
    assert record.info == info
    assert record.rounds.to_pydict() == make_rounds()
    assert record.clients.to_pydict() == make_clients()
    assert set(record.arrays) == set(ARRAYS)
    for name, array in make_arrays().items():
        np.testing.assert_array_equal(record.arrays[name], array, strict=True)


def test_the_outcome_has_the_bits_that_were_packed(folder):
    outcome = make_record(folder).outcome
    bits, arrays = make_bits(), make_arrays()
    for name, value in (
        ("validation", bits["global_validation_correct"]),
        ("on_clients", bits["global_client_correct"]),
        ("local", bits["local_client_correct"]),
        ("personal", bits["personal_client_correct"]),
        ("sampled", arrays["schedule"]),
        ("test_predictions", arrays["global_test_predictions"].astype(np.int64)),
        ("test_labels", arrays["test_labels"].astype(np.int64)),
        ("client_labels", arrays["client_test_labels"].astype(np.int64)),
        ("test_probabilities", arrays["global_test_probabilities"].astype(np.float64)),
        ("personal_rounds", np.array([0, 2])),
        ("offsets", np.array(OFFSETS)),
        ("final_predictions", arrays["final_test_predictions"].astype(np.int64)),
        ("final_on_clients", bits["final_client_correct"]),
        ("bytes_up", np.array([28, 28, 28])),
        ("seconds_train", np.array([0.1, 0.2, 0.3])),
    ):
        np.testing.assert_array_equal(getattr(outcome, name), value, strict=True, err_msg=name)
    assert (outcome.final_bytes_down, outcome.final_bytes_up) == (7, 5)
    assert (outcome.n_classes, outcome.rounds, outcome.n_clients) == (C, R, K)
    by_hand = [[row[:4].sum() / 4, row[4:].sum() / 7] for row in bits["global_client_correct"]]
    np.testing.assert_allclose(outcome.per_client(outcome.on_clients), by_hand, rtol=1e-15)


def test_a_model_that_the_method_has_not_is_none_and_not_zero(folder):
    absent = ["global_test_predictions", "global_test_probabilities", "personal_rounds", *BITS]
    absent += ["final_test_predictions", "final_bytes_down", "final_bytes_up"]
    outcome = make_record(folder, arrays=make_arrays(**dict.fromkeys(absent))).outcome
    for name in ("test_predictions", "test_probabilities", "validation", "on_clients", "local", "personal"):
        assert getattr(outcome, name) is None, name
    assert outcome.personal_rounds.shape == (0,)


def test_an_empty_validation_set_gives_no_columns(folder):
    empty = {"validation_ids": np.arange(0), "global_validation_correct": np.zeros((R, 0), np.uint8)}
    assert make_record(folder, arrays=make_arrays(**empty)).outcome.validation.shape == (R, 0)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 40))))
def test_packed_bits_of_any_width_come_back(bits):
    packed = np.packbits(bits, axis=-1)
    assert packed.shape[1] == -(-bits.shape[1] // 8)
    np.testing.assert_array_equal(np.unpackbits(packed, axis=-1, count=bits.shape[1]).astype(bool), bits, strict=True)


def fail_after(real, calls):
    count = iter(range(calls))

    def failing(*args, **kwargs):
        if next(count, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    return failing


@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [
        (pq, "write_table", 0),
        (pq, "write_table", 1),
        (records, "_npz", 0),
        (records, "write_atomic", 0),
        (os, "fsync", 0),
    ],
)
def test_a_full_disk_leaves_nothing_behind(folder, monkeypatch, module, name, calls):
    folder.parent.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_after(getattr(module, name), calls))
        with pytest.raises(OSError, match="No space left"):
            make_record(folder)
    assert list(folder.parent.iterdir()) == []
    assert state(folder) == ("missing", "")
    make_record(folder)
    assert state(folder)[0] == "done"


def test_an_interrupt_leaves_nothing_behind(folder, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_record(folder)
    assert list(folder.parent.iterdir()) == []


def test_a_failed_write_leaves_the_note_of_the_earlier_failure(folder, monkeypatch):
    records.write_failure(folder, schema.Failure(reason="out of memory", traceback="...", at="now"))
    monkeypatch.setattr(pq, "write_table", fail_after(pq.write_table, 0))
    with pytest.raises(OSError, match="No space left"):
        make_record(folder)
    assert state(folder) == ("failed", "out of memory")


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "toy").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="toy"):
        make_record(tmp_path / "toy" / "seed-1")
    assert everything_below(tmp_path) == ["toy"]


def test_a_record_takes_the_place_of_a_failure(folder):
    records.write_failure(folder, schema.Failure(reason="out of memory", traceback="...", at="now"))
    assert state(folder) == ("failed", "out of memory")
    make_record(folder)
    assert state(folder) == ("done", "")
    assert not (folder / schema.FAILURE).exists()


def test_an_atomic_write_replaces_or_keeps(tmp_path, monkeypatch):
    path = tmp_path / "new" / "note.txt"
    durable.write_atomic(path, "first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_after(os.fsync, 0))
        with pytest.raises(OSError, match="No space left"):
            durable.write_atomic(path, "second")
    assert path.read_text() == "first"
    durable.write_atomic(path, "third")
    assert path.read_text() == "third"
    assert everything_below(tmp_path) == ["new/note.txt"]


# --- no pickle --------------------------------------------------------------------------------------------------


def test_objects_are_not_written(folder):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        make_record(folder, arrays=make_arrays(test_ids=np.array([{"a": 1}], dtype=object)))
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("column", [["a", "b", "c"], [True, None, False], [[1.0], [2.0], [3.0]]], ids=str)
def test_a_column_of_objects_has_no_digest(folder, column):
    with pytest.raises(TypeError, match="rounds/note holds objects"):
        make_record(folder, rounds=make_rounds(note=pa.array(column)))
    assert list(folder.parent.iterdir()) == []


def rewritten(folder, content):
    """Put another predictions.npz into a record, with a manifest that fits it."""
    (folder / schema.PREDICTIONS).write_bytes(content)
    manifest = json.loads((folder / schema.MANIFEST).read_text())
    manifest["files"][schema.PREDICTIONS] = hashlib.sha256(content).hexdigest()
    (folder / schema.MANIFEST).write_text(json.dumps(manifest))
    return Record.open(folder)


def test_a_pickle_in_a_record_is_never_loaded(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    make_record(folder)
    buffer = io.BytesIO()
    np.savez(buffer, test_ids=np.array([Bomb()], dtype=object))
    record = rewritten(folder, buffer.getvalue())
    with pytest.raises(RecordError, match=r"predictions\.npz cannot be read"):
        _ = record.arrays
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04N.", b"PK\x03\x04 cut off"])
def test_an_unreadable_npz_is_a_record_error(folder, content):
    make_record(folder)
    with pytest.raises(RecordError, match=r"predictions\.npz cannot be read"):
        _ = rewritten(folder, content).arrays


# --- bytes ------------------------------------------------------------------------------------------------------


def test_equal_arrays_give_equal_files(tmp_path):
    shuffled = dict(reversed(make_arrays().items()))
    shuffled["train_class_counts"] = np.asfortranarray(shuffled["train_class_counts"])
    make_record(tmp_path / "a")
    make_record(tmp_path / "b", arrays=shuffled)
    assert (tmp_path / "a" / schema.PREDICTIONS).read_bytes() == (tmp_path / "b" / schema.PREDICTIONS).read_bytes()


def test_the_npz_carries_no_dates(folder):
    make_record(folder)
    with zipfile.ZipFile(folder / schema.PREDICTIONS) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(f"{name}.npy" for name in ARRAYS)


def digest(info=None, rounds=None, clients=None, arrays=None):
    return content_digest(
        info or make_info(), rounds or make_rounds(), clients or make_clients(), arrays or make_arrays()
    )


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_the_digest_depends_on_each_array(name):
    array = make_arrays()[name]
    changed = array.copy()
    changed.flat[-1] = ~changed.flat[-1] if array.dtype == bool else changed.flat[-1] + 1
    variants = [changed, array.reshape(1, *array.shape), None]
    if array.dtype != bool:
        variants.append(array.astype(np.float32))
    digests = {digest(arrays=make_arrays(**{name: variant})) for variant in variants}
    assert len(digests | {digest()}) == len(variants) + 1


@pytest.mark.parametrize("name", ["round", "global_accuracy", "bytes_up", "train_samples"])
def test_the_digest_depends_on_each_column(name):
    assert digest(rounds=make_rounds(**{name: [1, 1, 1]})) != digest()


def test_the_digest_depends_on_missing_values():
    assert digest(clients=make_clients(weight=[1.0] * 6)) != digest()


@pytest.mark.parametrize(
    "change",
    [
        {"environment": make_info().environment.model_copy(update={"processor": "z", "threads": 8, "python": "3.13"})},
        {"seconds": {"train": 99.0}},
        {"started": "2030-01-01T00:00:00+00:00"},
        {"cards": {"task": "reworded", "method": "reworded"}},
        {"fedbench": "0.2.0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_does_not_depend_on_machine_time_or_prose(change):
    assert digest(make_info(**change)) == digest()


def test_the_digest_does_not_depend_on_seconds_or_on_the_order_of_columns():
    timed = make_rounds(seconds_train=[9.0, 9.0, 9.0], seconds_evaluate=[8.0, 8.0, 8.0])
    assert digest(rounds=timed) == digest()
    assert digest(rounds=dict(reversed(make_rounds().items()))) == digest()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"hash": "f" * 12},
        {"bytes_up": 1},
        {"identity": {"track": "robust"}},
        {"models": ("global",)},
        {"seed_ids": schema.SeedIds(partition="q", init="i", schedule="s", order="o")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_depends_on_the_rest_of_run_json(change):
    assert digest(make_info(**change)) != digest()


def test_the_digest_of_a_record_can_be_had_from_its_files(folder):
    record = make_record(folder)
    columns = [
        {name: table.column(name).to_numpy() for name in table.column_names}
        for table in (record.rounds, record.clients)
    ]
    assert content_digest(record.info, *columns, record.arrays) == record.digest


# --- corruption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", schema.FILES)
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_one_changed_byte_is_found(folder, name, where):
    make_record(folder)
    content = bytearray((folder / name).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(RecordError, match=rf"{name} is not the file .*SHA-256 differs.*run the cell again"):
        Record.open(folder)
    assert state(folder)[0] == "corrupt"
    assert name in state(folder)[1]


@pytest.mark.parametrize("name", schema.FILES)
def test_a_truncated_and_a_missing_file_are_found(folder, name):
    make_record(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    assert state(folder)[0] == "corrupt"
    (folder / name).unlink()
    with pytest.raises(RecordError, match=f"{name} is missing; run the cell again"):
        Record.open(folder)
    assert state(folder)[0] == "corrupt"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "5", '"text"', "{}", '{"schema_version": "1"}', '{"schema_version": null}',
        '{"schema_version": 1, "files": {}, "digest": ""}', '{"schema_version": 1, "files": [], "digest": ""}',
        '{"schema_version": 1, "files": {}, "digest": "", "more": 1}',
    ],
)  # fmt: skip
def test_a_garbled_manifest_is_found(folder, text):
    make_record(folder)
    (folder / schema.MANIFEST).write_text(text)
    with pytest.raises(RecordError, match=r"manifest\.json.*run the cell again"):
        Record.open(folder)
    assert state(folder)[0] == "corrupt"


def test_a_manifest_that_is_no_text_is_found(folder):
    make_record(folder)
    (folder / schema.MANIFEST).write_bytes(b"\xff\xfe\x00")
    assert state(folder)[0] == "corrupt"


def test_a_manifest_reaches_no_file_outside_its_folder(folder):
    make_record(folder)
    outside = folder.parent / "secret"
    outside.write_text("secret")
    manifest = json.loads((folder / schema.MANIFEST).read_text())
    manifest["files"]["../secret"] = hashlib.sha256(b"secret").hexdigest()
    (folder / schema.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RecordError, match="secret', which is no file of a record"):
        Record.open(folder)


def test_without_a_manifest_there_is_no_record(folder):
    assert state(folder) == ("missing", "")
    make_record(folder)
    (folder / schema.MANIFEST).unlink()
    assert state(folder) == ("missing", "")


@pytest.mark.parametrize("name", [schema.MANIFEST, schema.RUN])
def test_a_newer_schema_is_neither_read_nor_called_corrupt(folder, name):
    make_record(folder)
    values = {**json.loads((folder / name).read_text()), "schema_version": schema.SCHEMA_VERSION + 1, "novelty": 1}
    (folder / name).write_text(json.dumps(values))
    if name == schema.RUN:
        manifest = json.loads((folder / schema.MANIFEST).read_text())
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / schema.MANIFEST).write_text(json.dumps(manifest))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for read in (Record.open, state):
        with pytest.raises(NewerSchemaError, match=r"schema version 2, this FedBench reads up to 1.*update FedBench"):
            read(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("text", ["", "{", "{}", "[]"])
def test_a_garbled_failure_is_still_a_failure(folder, text):
    folder.mkdir(parents=True)
    (folder / schema.FAILURE).write_text(text)
    kind, reason = state(folder)
    assert kind == "failed"
    assert "failure.json" in reason


def test_a_plan_round_trips_and_a_damaged_one_is_named(tmp_path):
    planned = schema.PlannedCell(
        task="toy", method="fedavg", label="fedavg", family="global", hash="0123456789ab", seed=1, skipped="no data"
    )
    plan = schema.Plan(schema_version=1, suite="quick", title="Quick", track="faithful", cells=(planned,))
    path = tmp_path / "plans" / "quick.json"
    durable.write_atomic(path, plan.model_dump_json())
    assert records.read_plan(path) == plan
    assert planned.path == "toy/fedavg/0123456789ab/seed-1"
    path.write_text(plan.model_dump_json()[:-2])
    with pytest.raises(RecordError, match=r"quick\.json"):
        records.read_plan(path)
    path.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(NewerSchemaError):
        records.read_plan(path)
