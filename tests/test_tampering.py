"""Tampering with records: naively, and by a forger who renews every hash. The check that is meant for it finds it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedbench import registry
from fedbench.cell import Cell
from fedbench.durable import write_atomic
from fedbench.records import PREDICTIONS, Record, write
from fedbench.schema import FILES, MANIFEST, RUN, Plan, PlannedCell, identity_hash
from fedbench.verification import verify

pytestmark = pytest.mark.reliability

TASK, METHODS, SEEDS = "heart-brief", ("fedavg", "fedprox"), (1, 2)


@pytest.fixture(scope="module")
def task():
    """Register a task over the real data of ``heart``, with a protocol that takes a moment."""
    heart = registry.tasks.get("heart")
    brief = heart.but(name=TASK, protocol=heart.protocol.but(rounds=3, local_epochs=1, participation=0.75))
    registry.tasks.add(TASK, brief)
    yield brief
    registry.tasks.forget(TASK)


@pytest.fixture(scope="module")
def honest(task, tmp_path_factory):
    """Return a results folder with the records of two methods and two seeds, and their plan."""
    from fedbench.simulation import run_cell

    results = tmp_path_factory.mktemp("honest")
    cells = [
        Cell(task, name, registry.methods.get(name).configure(name, {}), "faithful", seed)
        for name in METHODS
        for seed in SEEDS
    ]
    for cell in cells:
        run_cell(cell, results)
    write_plan(results, cells)
    return results


def write_plan(results, cells):
    planned = [
        PlannedCell(
            task=cell.task.name,
            method=cell.method_name,
            label=cell.label,
            family=cell.method.family,
            hash=cell.hash,
            seed=cell.seed,
            hyperparameters=cell.method.hyperparameters(),
        )
        for cell in cells
    ]
    plan = Plan(schema_version=1, suite="brief", title="Brief", track="faithful", cells=tuple(planned))
    write_atomic(results / "plans" / "brief.json", plan.model_dump_json())


@pytest.fixture
def results(honest, tmp_path):
    """Return a copy of it to tamper with."""
    return shutil.copytree(honest, tmp_path / "results")


def of(results, method="fedavg", seed=1):
    """Return the folder of a record."""
    (folder,) = results.glob(f"{TASK}/{method}/*/seed-{seed}")
    return folder


def failed(path):
    """Return the numbers of the checks that fail."""
    return {result.number for result in verify(path).results if result.state == "failed"}


def told(path, number):
    """Return what a check found wrong."""
    (result,) = (result for result in verify(path).results if result.number == number)
    return " ".join(f"{item.where}: {item.evidence}" for item in result.of("failed"))


def forge(folder, *, info=None, rounds=None, clients=None, arrays=None, to=None):
    """Change a record and write it with hashes and digest that are right again; None takes a column or an array out."""
    record = Record.open(folder)
    parts = [
        {name: table.column(name).combine_chunks() for name in table.column_names}
        for table in (record.rounds, record.clients)
    ]
    parts = [{**part, **(changes or {})} for part, changes in zip(parts, (rounds, clients), strict=True)]
    held = {name: array for name, array in {**record.arrays, **(arrays or {})}.items() if array is not None}
    values = {**record.info.model_dump(mode="json"), **(info or {})}
    if to is not None:
        shutil.rmtree(folder)
    return write(to or folder, type(record.info)(**values), *parts, held)


def column(table, name):
    return np.array(table.column(name).to_pylist(), dtype=float)


def test_what_is_honest_passes_every_check(honest):
    report = verify(honest)
    assert report.passed, [(result.name, result.of("failed")) for result in report.results]
    assert [result.number for result in report.results] == [*range(1, 19)]
    every = {result.name: len(result.of("passed")) for result in report.results}
    # 4 records; the folder itself is one more place to look for links, the plan and the group of 4 are one each
    assert every == {**dict.fromkeys(every, 4), "files": 5, "plans": 1, "paired": 1, "copies": 1}


# --- naively: the hashes stay what they were ----------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_one_bit_of_a_file(results, name, tally):
    folder = of(results)
    whole = (folder / name).read_bytes()
    places = np.linspace(0, len(whole) * 8 - 1, 9).astype(int)
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(content)
        assert 2 in failed(folder), place
        assert name in told(folder, 2)
    tally("tampered records", len(places))


def test_one_bit_of_the_manifest(results, tally):
    folder = of(results)
    whole = (folder / MANIFEST).read_bytes()
    places = range(40, len(whole) * 8, 997)
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        (folder / MANIFEST).write_bytes(content)
        same = json_of(content) == json_of(whole)  # a space that became another one
        assert bool(failed(folder) & {2, 3, 4}) is not same, place
    tally("tampered records", len(places))


def json_of(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


# --- by a forger, who renews hashes, digest, place and plan -------------------------------------------------


def one_prediction(results):
    record = Record.open(of(results))
    predictions = record.arrays["global_test_predictions"].copy()
    predictions[1, 0] ^= 1
    forge(record.folder, arrays={"global_test_predictions": predictions})


def one_metric(results):
    record = Record.open(of(results))
    accuracy = column(record.rounds, "global_accuracy")
    accuracy[-1] += 0.01
    forge(record.folder, rounds={"global_accuracy": accuracy})


def one_client_metric(results):
    record = Record.open(of(results))
    accuracy = column(record.clients, "personal_accuracy")
    accuracy[-1] = min(1.0, accuracy[-1] + 0.01) if accuracy[-1] < 1 else 0.99
    forge(record.folder, clients={"personal_accuracy": pa.array(accuracy, mask=np.isnan(accuracy))})


def total_of_bytes(results):
    record = Record.open(of(results))
    forge(record.folder, info={"bytes_up": record.info.bytes_up // 2})


def total_of_samples(results):
    record = Record.open(of(results))
    forge(record.folder, info={"train_samples": record.info.train_samples - 1})


def seed(results):
    folder = of(results)
    shutil.rmtree(folder.with_name("seed-3"), ignore_errors=True)
    forge(folder, info={"seed": 3}, to=folder.with_name("seed-3"))
    replan(results, {"seed": 3})


def replan(results, changes):
    """Change what is planned for the cell of FedAvg and seed 1."""
    path = results / "plans" / "brief.json"
    plan = json.loads(path.read_text())
    cells = [cell | changes if (cell["method"], cell["seed"]) == ("fedavg", 1) else cell for cell in plan["cells"]]
    path.write_text(json.dumps({**plan, "cells": cells}))


def identity(results, method, change):
    """Change the identity of a record, renew its hash, put it into its new place, and return what changed."""
    folder = of(results, method)
    values = json.loads((folder / RUN).read_text())["identity"]
    change(values)
    made = identity_hash(values)
    to = folder.parent.with_name(made) / folder.name
    forge(folder, info={"identity": values, "hash": made}, to=to)
    return values, made


def learning_rate(results):
    _, made = identity(results, "fedavg", lambda values: values["task"]["protocol"].update(weight_decay=0.1))
    replan(results, {"hash": made})


def hyperparameter(results):
    identity(results, "fedprox", lambda values: values["method"]["hyperparameters"].update(mu=0.5))


def hyperparameter_under_the_old_hash(results):
    folder = of(results, "fedprox")
    values = json.loads((folder / RUN).read_text())["identity"]
    values["method"]["hyperparameters"]["mu"] = 0.5
    forge(folder, info={"identity": values})


def checksum(results):
    _, made = identity(results, "fedavg", lambda values: values["task"]["data"].update(md5="0" * 32))
    replan(results, {"hash": made})


def swapped_clients(results):
    """Swap the first two clients in all that is theirs, in every record, and renew what follows from it."""
    for method in METHODS:
        for number in SEEDS:
            record = Record.open(of(results, method, number))
            held, offsets = record.arrays, record.arrays["client_offsets"]
            n_clients = len(offsets) - 1
            order = [1, 0, *range(2, n_clients)]
            tests = np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in order])
            changed = {
                "schedule": held["schedule"][:, order],
                "train_class_counts": held["train_class_counts"][order],
                "client_offsets": np.cumsum([0, *np.diff(offsets)[order]]),
                "client_test_ids": held["client_test_ids"][tests],
                "client_test_labels": held["client_test_labels"][tests],
            }
            for name in ("global", "local", "personal"):
                packed = held[f"{name}_client_correct"]
                bits = np.unpackbits(packed, axis=-1, count=offsets[-1])[..., tests]
                changed[f"{name}_client_correct"] = np.packbits(bits, axis=-1)
            rows = np.concatenate([np.array(order) + t * n_clients for t in range(3)])
            names = set(record.clients.column_names) - {"round", "client"}
            clients = {name: record.clients.column(name).combine_chunks().take(rows) for name in names}
            forge(record.folder, clients=clients, arrays=changed)


def dropped_round(results):
    record = Record.open(of(results))
    rows = len(record.clients) - record.arrays["schedule"].shape[1]
    per_round = ("schedule", "global_test_predictions", "global_validation_correct", "global_client_correct",
                 "local_client_correct")  # fmt: skip
    forge(
        record.folder,
        rounds={name: record.rounds.column(name).combine_chunks()[:-1] for name in record.rounds.column_names},
        clients={name: record.clients.column(name).combine_chunks()[:rows] for name in record.clients.column_names},
        arrays={name: record.arrays[name][:-1] for name in per_round},
    )  # fmt: skip


def labels_as_predictions(results):
    record = Record.open(of(results))
    predictions = np.tile(record.arrays["test_labels"], (3, 1))
    forge(record.folder, rounds={"global_accuracy": np.ones(3)}, arrays={"global_test_predictions": predictions})


def labels_as_all_answers(results):
    """As above, and whatever else tells of the global model agrees."""
    record = Record.open(of(results))
    held = record.arrays
    labels, right = held["test_labels"], np.ones((3, held["client_offsets"][-1]), dtype=np.uint8)
    forge(
        record.folder,
        rounds={"global_accuracy": np.ones(3)},
        clients={"global_accuracy": np.ones(len(record.clients))},
        arrays={
            "global_test_predictions": np.tile(labels, (3, 1)),
            "global_test_probabilities": np.eye(len(record.info.classes), dtype=np.float16)[labels],
            "global_client_correct": np.packbits(right, axis=-1),
        },
    )


def labels_in_the_last_round(results):
    """Labels and fitting probabilities in the last round, but each client's test of the same samples is as it was."""
    record = Record.open(of(results))
    labels, predictions = record.arrays["test_labels"], record.arrays["global_test_predictions"].copy()
    predictions[-1] = labels
    accuracy = column(record.rounds, "global_accuracy")
    accuracy[-1] = 1.0
    probabilities = np.eye(len(record.info.classes), dtype=np.float16)[labels]
    arrays = {"global_test_predictions": predictions, "global_test_probabilities": probabilities}
    forge(record.folder, rounds={"global_accuracy": accuracy}, arrays=arrays)


def another_methods_record(results):
    """FedAvg's record in FedProx's place, with FedProx's identity and label."""
    source, target = Record.open(of(results, "fedavg")), Record.open(of(results, "fedprox"))
    info = {name: getattr(target.info, name) for name in ("identity", "hash", "label", "cards")}
    shutil.rmtree(target.folder)
    shutil.copytree(source.folder, target.folder)
    forge(target.folder, info=info)


def another_seeds_record(results):
    """Seed 1's record as that of seed 2, with the ids of seed 2 and other times."""
    source, target = Record.open(of(results)), Record.open(of(results, seed=2))
    info = {"seed": 2, "seed_ids": target.info.seed_ids.model_dump()}
    info["seconds"] = {name: value + 0.3 for name, value in source.info.seconds.items()}
    times = {name: column(source.rounds, name) + 0.1 for name in ("seconds_train", "seconds_evaluate")}
    shutil.rmtree(target.folder)
    shutil.copytree(source.folder, target.folder)
    forge(target.folder, info=info, rounds=times)


def class_counts(results):
    record = Record.open(of(results))
    counts = record.arrays["train_class_counts"].copy()
    counts[0] = counts[0][::-1]
    forge(record.folder, arrays={"train_class_counts": counts})


def changed_label(results):
    """One label changed in every record, with the accuracies that follow."""
    for method in METHODS:
        for number in SEEDS:
            record = Record.open(of(results, method, number))
            held = record.arrays
            labels, of_clients = held["test_labels"].copy(), held["client_test_labels"].copy()
            labels[0] ^= 1
            (where,) = np.flatnonzero(held["client_test_ids"] == held["test_ids"][0])
            of_clients[where] ^= 1
            right = held["global_test_predictions"] == labels
            offsets = held["client_offsets"]
            bits = np.unpackbits(held["global_client_correct"], axis=-1, count=offsets[-1])
            bits[:, where] ^= 1
            share = np.add.reduceat(bits, offsets[:-1], axis=-1, dtype=int) / np.diff(offsets)
            arrays = {
                "test_labels": labels,
                "client_test_labels": of_clients,
                "global_client_correct": np.packbits(bits, axis=-1),
            }
            series = {"rounds": {"global_accuracy": right.mean(axis=1)}, "clients": {"global_accuracy": share.ravel()}}
            forge(record.folder, arrays=arrays, **series)


def raised_weight(results):
    record = Record.open(of(results))
    weights = record.clients.column("weight").to_pylist()
    first = next(row for row, weight in enumerate(weights) if weight is not None)
    weights[first] += 0.05
    forge(record.folder, clients={"weight": weights})


def shifted_weight(results):
    record = Record.open(of(results))
    weights = record.clients.column("weight").to_pylist()
    first, second = [row for row, weight in enumerate(weights) if weight is not None][:2]
    weights[first], weights[second] = weights[first] + 0.05, weights[second] - 0.05
    forge(record.folder, clients={"weight": weights})


def initial_weights(results):
    record = Record.open(of(results))
    forge(record.folder, info={"seed_ids": {**record.info.seed_ids.model_dump(), "init": "0" * 16}})


def negative_bytes(results):
    record = Record.open(of(results))
    sent = record.clients.column("bytes_up").to_pylist()
    first = next(row for row, value in enumerate(sent) if value is not None)
    sent[first] = -sent[first]
    forge(record.folder, clients={"bytes_up": sent})


def infinite_loss(results):
    record = Record.open(of(results))
    loss = column(record.rounds, "train_loss")
    loss[0] = np.inf
    forge(record.folder, rounds={"train_loss": loss})


def probabilities_of_two(results):
    record = Record.open(of(results))
    forge(record.folder, arrays={"global_test_probabilities": record.arrays["global_test_probabilities"] * 2})


def padding(results):
    record = Record.open(of(results))
    bits = record.arrays["global_client_correct"].copy()
    assert record.arrays["client_offsets"][-1] % 8
    bits[0, -1] |= 1
    forge(record.folder, arrays={"global_client_correct": bits})


def learned_rate(results):
    record = Record.open(of(results))
    forge(record.folder, rounds={"lr": column(record.rounds, "lr") / 2})


FORGERIES = {
    "one prediction": (one_prediction, {12, 13}),
    "one metric": (one_metric, {12}),
    "one client's metric": (one_client_metric, {12}),
    "the bytes in all": (total_of_bytes, {12}),
    "the samples in all": (total_of_samples, {12}),
    "the seed": (seed, {7, 15}),
    "the protocol": (learning_rate, {6}),
    "the learning rate of the series": (learned_rate, {8}),
    "a hyperparameter": (hyperparameter, {6, 7}),
    "a hyperparameter under the old hash": (hyperparameter_under_the_old_hash, {5, 6, 7}),
    "the checksum of the data": (checksum, {6, 16}),
    "two clients swapped everywhere": (swapped_clients, {15}),
    "a round dropped": (dropped_round, {8}),
    "labels as predictions": (labels_as_predictions, {11, 13, 18}),
    "labels as all answers": (labels_as_all_answers, {18}),
    "labels in the last round": (labels_in_the_last_round, {13}),
    "another method's record": (another_methods_record, {17}),
    "another seed's record": (another_seeds_record, {17}),
    "the class counts": (class_counts, {14, 15}),
    "a label everywhere": (changed_label, {15}),
    "one weight raised": (raised_weight, {8}),
    "one weight raised, one lowered": (shifted_weight, {12}),
    "the id of the initial weights": (initial_weights, {14}),
    "negative bytes": (negative_bytes, {10, 12}),
    "an infinite loss": (infinite_loss, {10, 12}),
    "probabilities that sum to two": (probabilities_of_two, {9}),
    "a bit beyond the last": (padding, {9}),
}
"""How each is made, and all the checks that find it."""


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forger_is_found_by_the_check_meant_for_it(results, what, tally):
    make, checks = FORGERIES[what]
    make(results)
    assert failed(results) == checks
    tally("tampered records")


@pytest.mark.parametrize("what", FORGERIES)
def test_the_same_without_new_hashes_is_found_by_the_hashes(results, honest, what, tally):
    FORGERIES[what][0](results)
    forged = {path.relative_to(results): path for path in results.glob(f"{TASK}/*/*/seed-*")}
    for place, folder in forged.items():
        was = honest / place
        if not was.is_dir():  # it moved with its hash or seed
            (was,) = (path for path in honest.glob(f"{TASK}/{place.parts[1]}/*/seed-1"))
        shutil.copy(was / MANIFEST, folder / MANIFEST)
    assert 2 in failed(results)
    tally("tampered records")


# --- what is missing, too much, or elsewhere ----------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(results, name, tally):
    (of(results) / name).unlink()
    assert {1, 2, 3} <= failed(results)
    tally("tampered records")


def test_a_file_too_much_and_a_link(results, tmp_path, tally):
    (of(results) / "notes.txt").write_text("nothing")
    assert failed(results) == {1}
    (of(results) / "notes.txt").unlink()
    outside = tmp_path / "predictions.npz"
    shutil.move(of(results) / PREDICTIONS, outside)
    (of(results) / PREDICTIONS).symlink_to(outside)
    assert {1, 2, 3} <= failed(results)  # the content is right, but it is not there
    tally("tampered records", 2)


def test_a_record_in_anothers_place(results, tally):
    first, second = of(results, seed=1), of(results, seed=2)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    assert failed(results) == {5, 17}
    assert "seed-1', it stands in" in told(results, 5)
    tally("tampered records")


def test_a_digest_that_is_none(results, tally):
    folder = of(results)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "digest": "0" * 64}))
    assert failed(results) == {4}
    tally("tampered records")


def test_a_seed_left_out(results, tally):
    shutil.rmtree(of(results, seed=2))
    assert failed(results) == {7}
    path = results / "plans" / "brief.json"
    plan = json.loads(path.read_text())
    plan["cells"] = [cell for cell in plan["cells"] if (cell["method"], cell["seed"]) != ("fedavg", 2)]
    path.write_text(json.dumps(plan))
    assert failed(results) == {7}
    assert "'fedavg' on 'heart-brief' has the seeds 1, others 1, 2" in told(results, 7)
    tally("tampered records", 2)


# --- what no check finds, and a re-run does -----------------------------------------------------------------


def another_run_retold(results):
    """A whole hyperparameter retold: identity, hash, label, place and plan agree."""
    kind = registry.methods.get("fedprox")
    fedavg = Cell(registry.tasks.get(TASK), "fedavg", registry.methods.get("fedavg")(), "faithful", 1)
    retold = Cell(registry.tasks.get(TASK), "fedprox", kind(mu=0.5), "faithful", 1)
    for method in METHODS:
        shutil.rmtree(of(results, method, 2))
    forge(
        of(results, "fedprox"),
        info={"identity": retold.identity(), "hash": retold.hash, "label": retold.label},
        to=retold.folder(results),
    )
    write_plan(results, [fedavg, retold])
    return retold


def test_what_is_told_without_contradiction_is_found_by_a_rerun_alone(results, tally):
    from fedbench import verbs

    retold = another_run_retold(results)
    assert failed(results) == set()
    drawn = []

    def agree(found):
        drawn.append(found)
        return True

    report = verbs.verify(results, rerun=2, executor="serial", agree=agree)
    assert drawn[0].methods == {
        "fedavg": registry.methods.origin("fedavg"),
        "fedprox": registry.methods.origin("fedprox"),
    }
    assert not report.passed
    found = {Path(item.where).parts[1]: item for item in report.results[-1].findings}
    assert (found["fedavg"].state, found["fedprox"].state) == ("passed", "failed")
    assert "on the same platform" in found["fedprox"].evidence
    assert Record.open(retold.folder(results)).digest[:12] in found["fedprox"].evidence
    tally("tampered records")


def test_nothing_is_run_where_nobody_agrees(results):
    from fedbench import SpecError, verbs

    with pytest.raises(SpecError, match="nobody agreed"):
        verbs.verify(results, rerun=1)


def test_tampering_is_told_with_place_evidence_and_mend(results):
    one_metric(results)
    (result,) = (result for result in verify(results).results if result.state == "failed")
    (finding,) = result.of("failed")
    record = Record.open(of(results))
    right = record.arrays["global_test_predictions"][-1] == record.arrays["test_labels"]
    assert finding.where == of(results).relative_to(results).as_posix()
    assert finding.evidence == (
        f"global_accuracy, round 2: {right.mean() + 0.01:.12g} is stored, {right.mean():.12g} follows"
    )
    assert "run the cell again" in finding.mend
