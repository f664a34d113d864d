"""Checks 14 to 16: what seeds decide is shared by all methods, can be drawn again, and is over the declared data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fedbench.errors import DataError, PartitionError
from fedbench.federation import Federation
from fedbench.seeds import Streams, fingerprint
from fedbench.verification.checks import REPLACE, Failed, NotApplicable, check, fail_if
from fedbench.verification.subject import Contents, Entry, Subject

OF_SPLIT = (
    "train_class_counts", "test_ids", "test_labels", "validation_ids", "client_offsets", "client_test_ids",
    "client_test_labels", "held_out",
)  # fmt: skip
"""Arrays that the split alone decides."""


def _alike(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Return the records of each task and track."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in subject.sound:
        contents = entry.contents
        task = json.dumps(contents.task, sort_keys=True)
        groups.setdefault((contents.task["name"], contents.track, task), []).append(entry)
    for (name, track, _), members in groups.items():
        yield f"{name}, {track}", members


@check(14, "methods of one task and seed have the same split, initial weights, schedule and order", over=_alike)
def paired(entries: Sequence[Entry]) -> str:
    """Find records whose split, labels, schedule, order or initial weights are others than those beside them."""
    if len(entries) < 2:
        raise NotApplicable("there is one record of this task")
    problems = []
    seeds: dict[int, list[Entry]] = {}
    for entry in entries:
        seeds.setdefault(entry.contents.record.info.seed, []).append(entry)
    for members in seeds.values():
        first = _typical(members)
        problems += [problem for entry in members for problem in _unpaired(first, entry)]
    if entries[0].contents.track == "faithful":
        first = _typical(entries)
        problems += [
            f"{entry.place} has another split or schedule than {first.place}, and one serves all seeds on this track"
            for entry in entries
            if _ids(entry)[:2] != _ids(first)[:2] or _differing(first.contents, entry.contents)
        ]
    fail_if(dict.fromkeys(problems), "run the cells that differ again; only paired cells can be compared")
    return f"{len(entries)} records of {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'}"


def _ids(entry: Entry) -> tuple[str, ...]:
    ids = entry.contents.record.info.seed_ids
    return ids.partition, ids.schedule, ids.init, ids.order


def _typical(entries: Sequence[Entry]) -> Entry:
    """Return the first record that has what most have, so that it is the odd one that is named."""
    keys = [(*_ids(entry), _split(entry.contents)) for entry in entries]
    return entries[max(range(len(keys)), key=lambda i: keys.count(keys[i]))]


def _split(contents: Contents) -> str:
    return fingerprint(contents.arrays[name] for name in OF_SPLIT if name in contents.arrays)


def _unpaired(first: Entry, entry: Entry) -> Iterator[str]:
    """Yield where two records of one task and seed differ in what the task decides."""
    for name, ours, theirs in zip(("partition", "schedule", "init", "order"), _ids(first), _ids(entry), strict=True):
        if ours != theirs:
            yield f"{entry.place} has another {name} than {first.place}"
    for name in _differing(first.contents, entry.contents):
        yield f"{entry.place} has another {name} than {first.place}"


def _differing(first: Contents, second: Contents) -> list[str]:
    names = [*OF_SPLIT]
    if not (first.pooled or second.pooled):
        names.append("schedule")
    none = np.zeros(0)
    pairs = ((name, first.arrays.get(name, none), second.arrays.get(name, none)) for name in names)
    return [name for name, ours, theirs in pairs if not np.array_equal(ours, theirs)]


@check(15, "split, schedule, order and labels are those that the seed draws from the data", needs=("arrays", "spec"))
def draws(entry: Entry) -> str:
    """Find swapped clients, and changed seeds, labels and class counts, where the data is at hand."""
    contents, task = entry.contents, entry.cell.task
    info, held = contents.record.info, contents.arrays
    dataset = entry.subject.dataset(task)
    try:
        federation = entry.subject.federation(task, contents.track, info.seed)
    except PartitionError as error:
        raise Failed(f"the split cannot be made: {error}") from None
    targets = dataset.targets
    tests = np.concatenate(federation.tests)
    drawn = {
        "train_class_counts": np.stack(
            [np.bincount(targets[ids], minlength=task.n_classes) for ids in federation.train]
        ),
        "test_ids": federation.global_test,
        "test_labels": targets[federation.global_test],
        "validation_ids": federation.validation,
        "client_offsets": np.cumsum([0, *map(len, federation.tests)]),
        "client_test_ids": tests,
        "client_test_labels": targets[tests],
    }
    if federation.held_out:
        drawn["held_out"] = np.arange(len(federation.tests)) >= federation.trainers
    if not contents.pooled:
        schedule = np.zeros((contents.protocol.rounds, len(federation.tests)), dtype=bool)
        for t, ids in enumerate(federation.schedule):
            schedule[t, ids] = True
        drawn["schedule"] = schedule
    problems = [f"{name} is another" for name, array in drawn.items() if not np.array_equal(array, held.get(name, ()))]
    if ("held_out" in held) != bool(federation.held_out):
        problems.append("held_out is there, and should not be, or the other way about")
    for name, made in (
        ("partition", federation.partition_id()),
        ("schedule", federation.schedule_id()),
        ("order", _order(federation, info.seed)),
    ):
        if getattr(info.seed_ids, name) != made:
            problems.append(f"the id of the {name} is {getattr(info.seed_ids, name)!r:.24}, drawn again {made}")
    fail_if(problems, f"it is no record of seed {info.seed} of this task: {REPLACE}")
    return f"{len(drawn)} arrays and 3 ids, of seed {info.seed}"


def _order(federation: Federation, seed: int) -> str:
    """Return the fingerprint of the order stream: how a client's samples are shuffled at each participation."""
    streams = Streams(seed)
    return fingerprint(
        streams.rng("order", client=k, round=t).permutation(len(federation.train[k]))
        for t, ids in enumerate(federation.schedule)
        for k in ids.tolist()
    )


@check(16, "the data has the checksum that the installed task declares, and the file here has it", needs=("schema",))
def data(entry: Entry) -> str:
    """Find records over other data than the task's."""
    said = entry.contents.task["data"].get("md5")
    if said is None:
        raise NotApplicable("its data has no single checksum")
    declared = getattr(entry.cell.task.data, "md5", None)
    if said != declared:
        raise Failed(f"the record is over data with MD5 {said!r:.40}, the installed task declares {declared}")
    try:
        files = entry.cell.task.data.locate(entry.subject.data_dir)
    except DataError:
        return f"MD5 {said[:12]}, as declared; the file is not here"
    for path in files:
        if (found := entry.subject.md5(path)) != said:
            raise Failed(f"{path} has MD5 {found}, the record is over {said}", "get the file again: `fedbench data ls`")
    return f"MD5 {said[:12]}, as declared and as the file here"
