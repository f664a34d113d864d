"""Verification and its readers: hostile files are one kind of error, reports are stable, re-runs are asked for."""

import io
import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from fedbench import Record, RecordError, SpecError, reading, registry, verbs
from fedbench.cell import Cell
from fedbench.cli import cli
from fedbench.executors import Event
from fedbench.records import ARRAYS, COLUMNS, LAYOUTS, NewerSchemaError, read_plan
from fedbench.schema import FILES, MANIFEST, PREDICTIONS, ROUNDS, RUN
from fedbench.verification import CHECKS, Finding, Subject, examine, verify
from fedbench.verification import rerun as again
from fedbench.verification.checks import Check

NUMBERS = {
    "files": 1, "hashes": 2, "schema": 3, "digest": 4, "identity": 5, "spec": 6, "plans": 7, "series": 8, "arrays": 9,
    "bounds": 10, "probabilities": 11, "recomputed": 12, "contradictions": 13, "paired": 14, "draws": 15, "data": 16,
    "copies": 17, "perfect": 18,
}  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Return a results folder with one record, of the constant predictor, which takes no time."""
    from fedbench.simulation import run_cell

    results = tmp_path_factory.mktemp("honest")
    majority = registry.methods.get("majority")
    run_cell(Cell(registry.tasks.get("heart"), "majority", majority(), "faithful", 1), results)
    return results


@pytest.fixture
def results(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "results")


def only(results):
    (manifest,) = results.glob(f"*/*/*/*/{MANIFEST}")
    return manifest.parent


# --- reading: JSON --------------------------------------------------------------------------------------------------

JSON = {
    "nothing": b"",
    "no JSON": b"{",
    "bytes that are no text": b"\xff\xfe{}",
    "a list": b"[]",
    "a number": b"1",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": [-Infinity]}',
    "a number beyond floats": b'{"a": 1e999}',
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a number of 65 bits": b'{"a": 18446744073709551616}',
    "half a character": b'{"a": "\\ud800"}',
    "half a character as a key": b'{"\\udc00": 1}',
    "the same key twice": b'{"a": 1, "a": 2}',
    "33 levels": b'{"a":' * 33 + b"1" + b"}" * 33,
    "a million levels": b'{"a":' + b"[" * 1_000_000,
    "too large": b'{"a": "' + b"x" * reading.LARGEST_JSON + b'"}',
}


@pytest.mark.reliability
@pytest.mark.parametrize("what", JSON)
def test_bad_json_is_a_record_error(tmp_path, what, tally):
    path = tmp_path / "run.json"
    path.write_bytes(JSON[what])
    with pytest.raises(RecordError, match=r"run\.json cannot be read \(.*\); run the cell again\.$") as error:
        reading.json_object(path)
    assert len(str(error.value)) < 500
    tally("bad inputs")


def test_what_json_may_be(tmp_path):
    values = {"a": [1, -(2**63), 2**63 - 1, 1.5, True, None, "\u00e9\U0001f600"], "b": {"c": []}}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    assert reading.json_object(path) == values
    path.write_bytes(b'{"a":' * 31 + b"1" + b"}" * 31)
    assert reading.json_object(path)


@pytest.mark.reliability
def test_no_link_device_or_pipe_is_opened(tmp_path, tally):
    (tmp_path / "there").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "device").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    (tmp_path / "folder").mkdir()
    for name in ("link", "device", "pipe", "folder", "missing"):
        for read in (reading.json_object, reading.sha256, lambda path: reading.arrays(path, LAYOUTS)):
            with pytest.raises(RecordError, match=f"{name} cannot be read"):
                read(tmp_path / name)
            tally("bad inputs")


# --- reading: .npz --------------------------------------------------------------------------------------------------


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(text, data=b"", version=b"\x01\x00"):
    text = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


def packed(*members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def ids(shape="(3,)", descr="<i8", order="False", data=bytes(24), **more):
    return header(f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}", data, **more)


def encrypted():
    content = bytearray(packed(("test_ids.npy", npy(np.arange(3)))))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    return bytes(content)


def claims(size):
    """Return an archive whose directory says that a member has another size than it has."""
    content = bytearray(packed(("test_ids.npy", npy(np.arange(3)))))
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", size)
    return bytes(content)


def bomb():
    """Return 64 kB that unpack to 64 MB, in a member whose header and size say so."""
    shape = 1 << 23
    start = ids(f"({shape},)", data=b"")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    crc, parts = zlib.crc32(start), [squeeze.compress(start)]
    for _ in range(shape * 8 >> 20):
        crc = zlib.crc32(block, crc)
        parts.append(squeeze.compress(block))
    data, size, name = b"".join([*parts, squeeze.flush()]), len(start) + shape * 8, b"test_ids.npy"
    facts = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(data), size, len(name), 0)
    local = b"PK\x03\x04" + facts + name + data
    central = b"PK\x01\x02" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


NPZ = {
    "nothing": lambda: b"",
    "garbage": lambda: b"garbage" * 9,
    "cut off": lambda: packed(("test_ids.npy", npy(np.arange(3))))[:-5],
    "something behind it": lambda: packed(("test_ids.npy", npy(np.arange(3)))) + b"behind",
    "a pickle": lambda: packed(("test_ids.npy", npy(np.array([Bomb()], dtype=object)))),
    "a name with a path": lambda: packed(("../test_ids.npy", npy(np.arange(3)))),
    "an absolute name": lambda: packed(("/test_ids.npy", npy(np.arange(3)))),
    "a name that is no array": lambda: packed(("weights.npy", npy(np.arange(3)))),
    "no ending": lambda: packed(("test_ids", npy(np.arange(3)))),
    "encrypted": encrypted,
    "packed by lzma": lambda: packed(("test_ids.npy", npy(np.arange(3))), compression=zipfile.ZIP_LZMA),
    "another dtype": lambda: packed(("test_ids.npy", npy(np.arange(3.0)))),
    "another byte order": lambda: packed(("test_ids.npy", ids(descr=">i8"))),
    "a dtype of fields": lambda: packed(("test_ids.npy", npy(np.zeros(3, dtype=[("a", "<i8")])))),
    "too many axes": lambda: packed(("test_ids.npy", npy(np.zeros((3, 1), dtype=np.int64)))),
    "no axis": lambda: packed(("test_ids.npy", npy(np.array(3)))),
    "a negative shape": lambda: packed(("test_ids.npy", ids("(-3,)"))),
    "a huge shape": lambda: packed(("test_ids.npy", ids("(4611686018427387904,)"))),
    "a shape of 900 digits": lambda: packed(("test_ids.npy", ids(f"({'9' * 900},)"))),
    "too few bytes": lambda: packed(("test_ids.npy", ids("(4,)"))),
    "too many bytes": lambda: packed(("test_ids.npy", ids("(2,)"))),
    "columns first": lambda: packed(("schedule.npy", ids("(3, 8)", descr="|b1", order="True"))),
    "a header of 60,000 bytes": lambda: packed(("test_ids.npy", ids("(3,)" + " " * 60_000))),
    "a header that computes": lambda: packed(("test_ids.npy", ids("(1+2,)"))),
    "a header of version 2": lambda: packed(("test_ids.npy", ids(version=b"\x02\x00"))),
    "a size that is not there": lambda: claims(1 << 30),
    "a size that is less": lambda: claims(140),
    "a truth that is neither": lambda: packed(("held_out.npy", ids("(3,)", descr="|b1", data=b"\0\1\2"))),
    "a bomb": bomb,
    "too many members": lambda: packed(*((f"{i}.npy", b"") for i in range(len(ARRAYS) + 1))),
}  # fmt: skip


@pytest.mark.reliability
@pytest.mark.parametrize("what", NPZ)
def test_a_bad_npz_is_a_record_error(tmp_path, monkeypatch, what, tally):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / PREDICTIONS
    path.write_bytes(NPZ[what]())
    with pytest.raises(RecordError, match=r"predictions\.npz cannot be read \(.*\); run the cell again\.$"):
        reading.arrays(path, LAYOUTS, 1 << 20)
    assert [item.name for item in tmp_path.iterdir()] == [PREDICTIONS]
    tally("bad inputs")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_not_read(tmp_path):
    member = ("test_ids.npy", npy(np.arange(3)))
    (tmp_path / PREDICTIONS).write_bytes(packed(member, member))
    with pytest.raises(RecordError, match="holds test_ids twice"):
        reading.arrays(tmp_path / PREDICTIONS, LAYOUTS)


@pytest.mark.reliability
def test_a_bomb_costs_no_memory(tmp_path, tally):
    import tracemalloc

    path = tmp_path / PREDICTIONS
    path.write_bytes(bomb())
    tracemalloc.start()
    with pytest.raises(RecordError, match="takes the record beyond the number of values"):
        reading.arrays(path, LAYOUTS, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    tally("bad inputs")


def test_every_array_that_is_written_is_read(tmp_path):
    held = {
        name: np.zeros([2] * len(layout.axes), dtype=layout.dtype) for name, layout in LAYOUTS.items()
    } | {"held_out": np.array([True, False]), "validation_ids": np.zeros(0, dtype=np.int64)}  # fmt: skip
    path = tmp_path / PREDICTIONS
    path.write_bytes(packed(*((f"{name}.npy", npy(array)) for name, array in held.items())))
    read = reading.arrays(path, LAYOUTS)
    assert read.keys() == held.keys()
    for name, array in held.items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    values = sum(array.size * (8 if LAYOUTS[name].bits else 1) for name, array in held.items())
    assert reading.arrays(path, LAYOUTS, values).keys() == held.keys()
    with pytest.raises(RecordError, match="beyond the number of values"):
        reading.arrays(path, LAYOUTS, values - 1)


def test_layouts_are_what_is_described():
    assert LAYOUTS["client_offsets"] == reading.Layout(np.dtype("int64"), ("K + 1",))
    assert LAYOUTS["personal_client_correct"] == reading.Layout(np.dtype("uint8"), ("P", "M"), bits=True)
    with pytest.raises(ValueError, match="does not begin with a dtype"):
        reading.Layout.of("the schedule")


# --- reading: Parquet -----------------------------------------------------------------------------------------------


def parquet(columns, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def page_that_claims(size):
    """Return a file in which the header of the first page says that it unpacks to so many bytes."""
    content = parquet({"round": pa.array(np.arange(64))}, compression="zstd", use_dictionary=False)
    start = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(0).data_page_offset
    fields, _ = reading._thrift(content, start)
    # The header begins with field 1 (type) and field 2 (bytes when unpacked), each one byte of kind and a number.
    assert content[start : start + 2] == b"\x15\x00"
    assert content[start + 2] == 0x15
    old = varint(fields[2])
    assert content[start + 3 : start + 3 + len(old)] == old
    new = varint(size)
    return content[: start + 3] + new + content[start + 3 + len(old) :]


def varint(number):
    number, out = number << 1, bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


PARQUET = {
    "nothing": lambda: b"",
    "garbage": lambda: b"PAR1garbagePAR1",
    "cut off": lambda: parquet({"round": [1, 2]})[:-9],
    "a footer longer than the file": lambda: b"PAR1" + bytes(8) + b"\xff\xff\xff\x7fPAR1",
    "another column": lambda: parquet({"note": [1]}),
    "text": lambda: parquet({"round": ["<script>"]}),
    "a float for a whole number": lambda: parquet({"round": [1.0]}),
    "32 bits": lambda: parquet({"round": pa.array([1], pa.int32())}),
    "a list": lambda: parquet({"round": [[1]]}),
    "a struct": lambda: parquet({"round": [{"a": 1}]}),
    "a dictionary": lambda: parquet({"round": pa.array(["1", "1"]).dictionary_encode()}),
    "times": lambda: parquet({"round": pa.array([1], pa.timestamp("ns"))}),
    "decimals": lambda: parquet({"round": pa.array([1], pa.decimal128(18))}),
    "nulls": lambda: parquet({"round": pa.nulls(3)}),
    "too many rows": lambda: parquet({"round": np.arange(200_000)}),
    "a page that claims 2 GB": lambda: page_that_claims(2**31 - 1),
    "a page of no size": lambda: page_that_claims(0),
}


@pytest.mark.reliability
@pytest.mark.parametrize("what", PARQUET)
def test_bad_parquet_is_a_record_error(tmp_path, what, tally):
    path = tmp_path / ROUNDS
    path.write_bytes(PARQUET[what]())
    with pytest.raises(RecordError, match=r"rounds\.parquet cannot be read \(.*\); run the cell again\.$"):
        reading.table(path, COLUMNS[ROUNDS], 1 << 20)
    tally("bad inputs")


@pytest.mark.reliability
def test_a_column_twice_is_not_read(tmp_path, tally):
    path = tmp_path / ROUNDS
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["round", "round"]), path)
    with pytest.raises(RecordError, match="a column stands twice"):
        reading.table(path, COLUMNS[ROUNDS])
    tally("bad inputs")


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"data_page_version": "2.0"}, {"row_group_size": 7}])
def test_tables_come_back_however_they_were_written(tmp_path, options):
    columns = {"round": np.arange(100), "lr": pa.array([None, *np.linspace(0, 1, 99)])}
    pq.write_table(pa.table(columns), tmp_path / ROUNDS, **options)
    assert reading.table(tmp_path / ROUNDS, COLUMNS[ROUNDS]).equals(pa.table(columns))


# --- reading: records and plans -------------------------------------------------------------------------------------


@pytest.mark.reliability
@pytest.mark.parametrize("name", [MANIFEST, RUN])
@pytest.mark.parametrize("what", JSON)
def test_a_record_with_bad_json_is_one_error_and_a_finding(results, name, what, tally):
    folder = only(results)
    (folder / name).write_bytes(JSON[what])
    with pytest.raises(RecordError):
        Record.open(folder)
    report = verify(folder)
    assert {"schema"} <= {result.name for result in report.results if result.state == "failed"}
    tally("bad inputs")


@pytest.mark.reliability
@pytest.mark.parametrize(
    "files", [{"../secret": "0"}, {"/etc/passwd": "0"}, {"seed-1": "0"}, {"run.json\0": "0"}, {"": "0"}], ids=str
)
def test_a_manifest_names_files_of_a_record_alone(results, files, tally):
    folder = only(results)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": {**manifest["files"], **files}}))
    with pytest.raises(RecordError, match="which is no file of a record"):
        Record.open(folder)
    tally("bad inputs")


@pytest.mark.reliability
@pytest.mark.parametrize("what", JSON)
def test_a_bad_plan_is_one_error_and_a_finding(results, what, tally):
    path = results / "plans" / "bad.json"
    path.parent.mkdir()
    path.write_bytes(JSON[what])
    with pytest.raises(RecordError, match="delete this file and run the suite again"):
        read_plan(path)
    assert [result.name for result in verify(results).results if result.state == "failed"] == ["plans"]
    tally("bad inputs")


@pytest.mark.reliability
@pytest.mark.parametrize(
    "change",
    [
        {"identity": {}},
        {"identity": {"task": [], "method": {}, "track": "faithful"}},
        {"identity": {"task": {"name": "heart", "version": "1"}, "method": {}, "track": "faithful"}},
        {"classes": ["\u202e", "<b>"]},
        {"seed": -1},
        {"label": "x" * 100_000},
        {"seconds": {}},
        {"models": ["global", "global"]},
        {"models": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_run_json_says_is_a_finding(results, change, tally):
    folder = only(results)
    values = json.loads((folder / RUN).read_text())
    (folder / RUN).write_text(json.dumps(values | change))
    report = verify(folder)
    assert not report.passed
    assert max(len(item.evidence) for result in report.results for item in result.findings) < 2_000
    tally("bad inputs")


def test_a_newer_schema_is_named(results):
    folder = only(results)
    values = json.loads((folder / RUN).read_text())
    (folder / RUN).write_text(json.dumps({**values, "schema_version": 99}))
    (schema,) = (result for result in verify(folder).results if result.name == "schema")
    assert "update FedBench" in schema.findings[0].evidence
    with pytest.raises(NewerSchemaError):
        Record.unchecked(folder)


# --- checks and reports -----------------------------------------------------------------------------------------------


def test_numbers_and_names_of_checks_are_stable():
    assert {check.name: check.number for check in CHECKS.values()} == NUMBERS
    assert len(NUMBERS) + 1 == again.NUMBER


def test_every_check_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "verify.md").read_text(encoding="utf-8")
    for check in CHECKS.values():
        assert f"| {check.number} | `{check.name}` |" in text, check.name
    assert f"| {again.NUMBER} | `{again.NAME}` |" in text


def test_a_check_that_stumbles_is_a_finding(honest):
    def stumble(unit):
        return str(1 / 0)

    subject = Subject.of(honest)
    check = Check(99, "stumble", "", lambda subject: [("here", None)], (), stumble)
    (finding,) = check.findings(subject)
    assert (finding.where, finding.state) == ("here", "failed")
    assert "ZeroDivisionError" in finding.evidence


def test_one_record_alone(honest):
    folder = only(honest)
    report = verify(folder)
    assert report.passed
    assert report.records == 1
    assert {result.name for result in report.results if result.state == "not applicable"} == {
        "plans", "paired", "copies",
    }  # fmt: skip


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_part_of_a_results_folder(honest, levels, monkeypatch):
    folder = only(honest).parents[levels - 1]
    report = verify(folder)
    assert (report.passed, report.records) == (True, 1)
    (identity,) = [result for result in report.results if result.name == "identity"]
    assert identity.findings[0].where == only(honest).relative_to(honest).as_posix()
    monkeypatch.chdir(folder)
    assert verify(Path()).passed


def test_a_folder_above_a_results_folder_names_it(results):
    with pytest.raises(SpecError, match=f"is no results folder, but {re.escape(str(results))} is"):
        verify(results.parent)


def test_a_record_within_a_record_does_not_belong_there(results):
    folder = only(results)
    shutil.copytree(folder, folder / "deeper")
    report = verify(results)
    assert report.records == 1
    assert "'deeper' is no file of a record" in report.results[0].findings[0].evidence


def test_a_folder_that_cannot_be_read_is_not_passed_over(results, monkeypatch):
    walked = os.scandir

    def scandir(path):
        if Path(path).name == "heart":
            raise PermissionError(13, "Permission denied", str(path))
        return walked(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SpecError, match=r"heart cannot be read \(Permission denied\)"):
        verify(results)


def test_a_plan_of_plug_ins_alone_need_not_name_the_methods_of_its_suite(results):
    """It is that of a submission: its seeds are those of the suite, its methods are none of the suite's."""

    def found(*methods, seeds=(1, 2, 3)):
        cells = [
            {"task": "heart", "method": name, "label": name, "family": "global", "hash": "0" * 12, "seed": seed}
            for name in methods
            for seed in seeds
        ]
        plan = {"schema_version": 1, "suite": "quick", "title": "", "track": "faithful", "cells": cells}
        (results / "plans").mkdir(exist_ok=True)
        (results / "plans" / "quick.json").write_text(json.dumps(plan))
        (check,) = [result for result in verify(results).results if result.name == "plans"]
        return check.findings[0].evidence

    assert found("steady").startswith("3 of 3 cells have no record")
    assert "lacks the seeds 3 of the suite" in found("steady", seeds=(1, 2))
    assert "on blood-mini are not planned, and are in the suite" in found("steady", "fedavg")


def test_what_is_not_installed_is_named(results, monkeypatch):
    names = registry.methods.names()
    monkeypatch.setattr(type(registry.methods), "names", lambda self: [n for n in names if n != "majority"] + ["heart"])
    states = {result.name: result.findings[0] for result in verify(only(results)).results}
    assert states["spec"].state == "not applicable"
    assert states["spec"].evidence == "the method 'majority' is not installed here"
    assert states["draws"].state == "not applicable"
    assert states["recomputed"].state == "passed"


def test_data_that_is_not_here_is_named(results, monkeypatch):
    from fedbench import DataMissingError

    data = registry.tasks.get("heart").data

    def missing(self, data_dir=None):
        raise DataMissingError("nowhere")

    for name in ("load", "locate"):
        monkeypatch.setattr(type(data), name, missing)
    states = {result.name: result.findings[0] for result in verify(only(results)).results}
    assert (states["draws"].state, states["draws"].evidence) == ("not applicable", "the data of heart is not here")
    assert states["data"].state == "passed"
    assert "the file is not here" in states["data"].evidence


def test_a_folder_without_records_is_bad_usage(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SpecError, match="verify:"):
            verify(path)


def test_a_report_is_the_same_twice_and_has_no_path_but_the_one_named(honest):
    first, second = (verify(honest).plain() for _ in range(2))
    assert first == second
    assert first["schema"] == "fedbench-verification-1"
    assert [check["number"] for check in first["checks"]] == list(range(1, 19))
    assert str(honest) not in json.dumps(first["checks"])


def test_published_records_can_be_read():
    folder = Path(__file__).parents[1] / "reports" / "records"
    found = [path.parent for path in folder.rglob(MANIFEST)]
    assert len(found) >= 135
    for place in found[::9]:
        Record.open(place).verify()


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments, columns=80):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(cli, ["verify", *map(str, arguments)], standalone_mode=False)


@pytest.mark.parametrize("columns", [60, 120])
def test_the_table_folds(honest, columns):
    result = run(only(honest), columns=columns)
    assert result.return_value == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[-1] == "1 record: all checks passed"
    for name, number in NUMBERS.items():
        assert any(line.startswith(f"{number:>2} {name}") for line in lines), name


def test_what_failed_stands_first_with_evidence_and_mend(results):
    path = only(results) / PREDICTIONS
    path.write_bytes(path.read_bytes() + b"!")
    result = run(results)
    assert result.return_value == 1
    lines = result.output.splitlines()
    assert lines[0].startswith("2 hashes failed")
    assert any(line.strip().startswith("mend: run the cell again") for line in lines[:9])
    assert lines[-1].startswith("1 record: failed: 2 (hashes)")


def test_json_is_the_report(honest):
    result = run(honest, "--json")
    assert result.return_value == 0
    assert json.loads(result.output) == verify(honest).plain()


def test_control_characters_do_not_reach_the_terminal(results):
    folder = only(results)
    (folder / "\x1b[31mred").write_text("")
    values = json.loads((folder / RUN).read_text())
    (folder / RUN).write_text(json.dumps(values | {"hash": "\x1b[2J", "label": "\u202e\x07"}))
    assert not {"\x1b", "\x07", "\u202e"} & {*run(results).output}


# --- re-runs ----------------------------------------------------------------------------------------------------------


def test_a_rerun_is_named_and_asked_for(honest):
    result = CliRunner().invoke(cli, ["verify", str(honest), "--rerun", "1"], standalone_mode=False)
    assert isinstance(result.exception, SpecError)
    assert "nobody agreed" in str(result.exception)
    assert f"majority, from {registry.methods.origin('majority')}" in result.output
    assert "runs the code of these methods on this machine" in result.output


def test_a_rerun_of_an_honest_record_has_the_same_digest(honest):
    report = verbs.verify(honest, rerun=1, executor="serial", agree=lambda drawn: True)
    (finding,) = report.results[-1].findings
    assert report.passed
    assert finding.evidence == f"the same digest, {Record.open(only(honest)).digest}"


def test_the_draw_is_that_of_its_seed(honest):
    subject = Subject.of(honest)
    subject.entries = tuple(replace(subject.entries[0], place=f"heart/majority/0/seed-{i}") for i in range(20))
    draws = {seed: [item.where for item in again.draw(subject, 5, seed).others] for seed in (0, 0, 1)}
    assert draws[0] == [item.where for item in again.draw(subject, 5, 0).others]
    assert draws[0] != draws[1]
    assert len(set(draws[0])) == 5
    for n in (0, 21):
        with pytest.raises(SpecError, match="between 1 and all 20"):
            again.draw(subject, n, 0)


@pytest.mark.parametrize(
    ("processor", "moved", "state"),
    [("same", 0.0, "failed"), ("other", 0.0, "passed"), ("other", 0.045, "passed"), ("other", 0.06, "failed")],
)
def test_another_platform_has_a_tolerance(honest, tmp_path, monkeypatch, processor, moved, state):
    """The record is the same but for its digest; its metric moves by as much as is said."""
    subject = Subject.of(honest)
    examine(subject)
    (entry,) = again.draw(subject, 1, 0).entries
    made = entry.cell.folder(tmp_path)
    shutil.copytree(only(honest), made)
    values = json.loads((made / RUN).read_text())
    if processor == "other":
        values["environment"]["processor"] = "another"
    (made / RUN).write_text(json.dumps(values))
    manifest = json.loads((made / MANIFEST).read_text())
    manifest["digest"] = "0" * 64
    manifest["files"][RUN] = reading.sha256(made / RUN)
    (made / MANIFEST).write_text(json.dumps(manifest))
    metric = again.METRICS["global_accuracy_mean"]
    stored = entry.contents.record.outcome
    moving = replace(metric, compute=lambda outcome: 0.5 if outcome is stored else 0.5 + moved)
    monkeypatch.setitem(again.METRICS, metric.name, moving)
    finding = again._finding(entry, Event(entry.cell, "done"), tmp_path)
    assert finding.state == state
    assert ("processor" in finding.evidence) is (processor == "other")


def test_a_cell_that_cannot_be_trained_proves_nothing(honest, tmp_path):
    subject = Subject.of(honest)
    examine(subject)
    drawn = again.draw(subject, 1, 0)

    def broken(cells, options):
        yield Event(cells[0], "failed", reason="no memory")

    result = again.rerun(drawn, broken, lambda folder: None)
    assert result.findings == (
        Finding(drawn.entries[0].place, "not applicable", "the cell was not trained: no memory"),
    )


def test_files_of_a_record_are_the_ones_that_are_read():
    assert set(COLUMNS) | {RUN, PREDICTIONS} == set(FILES)
