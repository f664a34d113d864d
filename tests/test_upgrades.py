"""Records of every schema that ever was: they open, give the numbers they gave then, and stand on a board.

``records/schema-<n>/`` is a results folder that a FedBench of schema n wrote; ``records/schema-<n>.json`` has the
digests and metrics which that FedBench computed. Schema 1 is kept from commit 544aabf, the first that published
records: its files know nothing of how clients were trained, of mechanisms, margins or held-out clients.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fedbench.leaderboard import load_board

from fedbench import Record, RecordError, reading, records, schema, upgrades, verbs
from fedbench.merging import merge
from fedbench.metrics import evaluate
from fedbench.records import NewerSchemaError, read_plan, state
from fedbench.upgrades import STEPS, Step

KEPT = Path(__file__).parent / "records"
VERSIONS = range(1, schema.SCHEMA_VERSION + 1)
CELLS = [
    pytest.param(version, place, then, id=f"{version}-{place.split('/')[1]}")
    for version in VERSIONS
    for place, then in json.loads((KEPT / f"schema-{version}.json").read_text()).items()
]


def test_every_version_has_a_step_to_the_next_and_no_other_does():
    assert list(STEPS) == list(range(1, schema.SCHEMA_VERSION))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_kept_is_of_its_version(version):
    files = [*(KEPT / f"schema-{version}").rglob("*.json")]
    assert {path.name for path in files} >= {"run.json", "manifest.json", "kept.json"}
    assert {json.loads(path.read_text())["schema_version"] for path in files} == {version}


@pytest.mark.parametrize(("version", "place", "then"), CELLS)
def test_a_kept_record_gives_what_it_gave_then(version, place, then):
    record = Record.open(KEPT / f"schema-{version}" / place)
    record.verify()
    assert record.digest == then["digest"]
    now = evaluate(record.outcome)
    for name, value in then["metrics"].items():
        assert now[name] == (value if value is None else pytest.approx(value, rel=1e-12, abs=0)), name
    assert state(record.folder) == ("done", "")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_results_folder_has_a_board(version, tmp_path):
    results = KEPT / f"schema-{version}"
    board = load_board(results, "kept")
    assert [(row.label, row.rank, row.hole) for task in board.tasks for row in task.all_rows] == [
        ("fedavg", 1, ""),
        ("fedkper", 2, ""),
        ("local", None, ""),
    ]
    pages = verbs.report("kept", results, tmp_path)
    assert "75.4" in (tmp_path / "kept" / "leaderboard.md").read_text()  # what the terminal said at that commit
    assert pages


@pytest.mark.parametrize("version", VERSIONS)
def test_kept_records_join_others(version, tmp_path):
    shutil.copytree(KEPT / f"schema-{version}", tmp_path / "copy")
    merged = merge([KEPT / f"schema-{version}", tmp_path / "copy"], tmp_path / "merged")
    assert (merged.records, merged.same) == (3, 3)


def test_the_layout_of_schema_1_was_smaller():
    """So that nobody makes the kept files anew: they lack what was added without a new version."""
    for run in (KEPT / "schema-1").rglob("run.json"):
        assert "training" not in json.loads(run.read_text())["environment"]
    plan = json.loads((KEPT / "schema-1" / "plans" / "kept.json").read_text())
    assert "margin" not in plan
    assert {"mechanism", "tuning", "hyperparameters", "versions"}.isdisjoint(set().union(*plan["cells"]))


class TestANewVersion:
    """A made-up schema 2: it renames a key of ``run.json``, counts classes from one row, and adds a column."""

    @pytest.fixture(autouse=True)
    def two(self, monkeypatch):
        def values(name, found):
            if name == "RunInfo":
                cards = {**found["cards"], "schema": "made up"}
                return {**found, "cards": cards}
            if name == "Plan":
                return {**found, "title": found["title"].upper()}
            return found

        def arrays(name, found):
            assert name == "predictions.npz"
            return {**found, "test_labels": 1 - found["test_labels"]}

        def table(name, found):
            return found.append_column("file", [[name] * len(found)])

        for module in (schema, records):
            monkeypatch.setattr(module, "SCHEMA_VERSION", 2)
        monkeypatch.setattr(upgrades, "STEPS", {1: Step(values, arrays, table)})

    @pytest.fixture
    def folder(self, tmp_path):
        return Path(shutil.copytree(KEPT / "schema-1", tmp_path / "results")) / "heart/fedavg/7bc7bd77c5ae/seed-1"

    def test_an_old_record_is_read_as_a_new_one_and_stays_what_it_is(self, folder):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        record = Record.open(folder)
        assert (record.info.schema_version, record.manifest.schema_version) == (2, 2)
        assert record.info.cards["schema"] == "made up"
        assert set(record.rounds["file"].to_pylist()) == {"rounds.parquet"}
        assert set(record.clients["file"].to_pylist()) == {"clients.parquet"}
        with np.load(folder / "predictions.npz") as stored:
            assert (record.arrays["test_labels"] == 1 - stored["test_labels"]).all()
        record.verify()  # the digest is that of what was written
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_an_old_plan_and_an_old_failure_are_read(self, folder):
        assert read_plan(folder.parents[3] / "plans" / "kept.json").title == "KEPT FROM AN EARLIER FEDBENCH"
        (folder / "failure.json").write_text('{"reason": "NaN", "traceback": "", "at": ""}')  # it did not say it then
        assert records.read_failure(folder).schema_version == 2

    def test_its_own_records_are_not_converted(self, folder):
        for path in folder.glob("*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["run.json"] = reading.sha256(folder / "run.json")
        (folder / "manifest.json").write_text(json.dumps(manifest))
        record = Record.open(folder)
        assert "schema" not in record.info.cards
        assert "file" not in record.rounds.column_names

    def test_without_its_step_it_is_refused_by_name(self, folder, monkeypatch):
        monkeypatch.setattr(upgrades, "STEPS", {})
        with pytest.raises(
            RecordError, match=r"manifest\.json of schema version 1 .*reads schema version 1 as version 2"
        ):
            Record.open(folder)

    def test_a_step_that_meets_what_it_cannot_read_is_no_crash(self, folder, monkeypatch):
        def values(name, found):
            return {**found, "more": found["not there"]}

        monkeypatch.setattr(upgrades, "STEPS", {1: Step(values)})
        with pytest.raises(RecordError, match=r"manifest\.json of schema version 1 cannot be read"):
            Record.open(folder)

    def test_two_steps_are_taken_in_order(self, folder, monkeypatch):
        for module in (schema, records):
            monkeypatch.setattr(module, "SCHEMA_VERSION", 3)

        def marked(at):
            return lambda name, found: {**found, "digest": f"{found['digest']}{at}"} if name == "Manifest" else found

        monkeypatch.setattr(upgrades, "STEPS", {2: Step(marked(2)), 1: Step(marked(1))})
        assert Record.open(folder).digest.endswith("12")


@pytest.mark.parametrize("version", [0, -1, -(10**12)])
def test_a_version_that_never_was_is_refused(version, tmp_path):
    folder = Path(shutil.copytree(KEPT / "schema-1", tmp_path / "results")) / "heart/fedavg/7bc7bd77c5ae/seed-1"
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(RecordError, match=f"version {version}"):
        Record.open(folder)
    assert state(folder)[0] == "corrupt"


@pytest.mark.parametrize("name", ["manifest.json", "run.json"])
def test_a_newer_record_is_refused_by_name_wherever_it_is_met(name, tmp_path):
    results = Path(shutil.copytree(KEPT / "schema-1", tmp_path / "results"))
    place = "heart/fedavg/7bc7bd77c5ae/seed-1"
    path = results / place / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    if name == "run.json":  # as a newer FedBench would have written it
        manifest = json.loads((results / place / "manifest.json").read_text())
        manifest["files"][name] = reading.sha256(path)
        (results / place / "manifest.json").write_text(json.dumps(manifest))
    suite = verbs.Selection("quick", ["heart"], ["fedavg"], [1])
    named = rf"{place}/{name} has schema version 99.*update FedBench"
    before = {path: path.read_bytes() for path in results.rglob("*.*") if path.is_file()}
    for refused in (
        lambda: verbs.status(suite, results),
        lambda: verbs.run(suite, results, reports=None),
        lambda: load_board(results, "kept"),
        lambda: verbs.report("kept", results, tmp_path / "reports"),
        lambda: merge([results, KEPT / "schema-1"], tmp_path / "merged"),
    ):
        with pytest.raises(NewerSchemaError, match=named):
            refused()
    assert {path: path.read_bytes() for path in results.rglob("*.*") if path.is_file()} == before
    assert not (tmp_path / "reports").exists()
    assert not (tmp_path / "merged").exists()
