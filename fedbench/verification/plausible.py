"""Checks 17 and 18: what two runs cannot have in common, and what no trained model reaches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from fedbench.verification.answers import OF_MODEL
from fedbench.verification.checks import NotApplicable, check, fail_if
from fedbench.verification.draws import _alike
from fedbench.verification.subject import Contents, Entry

FEW = 30
"""Fewer test samples than these may all be right by chance."""
DOUBT = 0.9
"""A model that is right on every test sample is right on more of the validation set than this share."""


@check(17, "no record is a copy of another", over=_alike)
def copies(entries: Sequence[Entry]) -> str:
    """Find two records of which one was made from the other; the same answers alone prove nothing."""
    if len(entries) < 2:
        raise NotApplicable("there is one record of this task")
    same: dict[tuple[str, ...], set[int]] = {}
    problems = []
    for first, second in _pairs(entries):
        ours, theirs = first.contents, second.contents
        if _clock(ours) == _clock(theirs):
            problems.append(f"{first.place} and {second.place} took the same time in every round, to the last digit")
        elif _seeds_apart(ours, theirs) and _losses(ours) == _losses(theirs):
            problems.append(
                f"{first.place} and {second.place} began with other weights and have the same loss in every round"
            )
        else:
            labels = tuple(sorted({contents.record.info.label for contents in (ours, theirs)}))
            same.setdefault(labels, set()).update(contents.record.info.seed for contents in (ours, theirs))
    fail_if(problems, "run both cells again; of one of them this is no record")
    # FedBN is FedAvg where nothing is normalised, FedNTD and MOON have limits: equal answers are no proof of anything.
    told = [f"{' and '.join(labels)} (seeds {_listed(seeds)})" for labels, seeds in same.items()]
    return f"{len(entries)} records" + (f"; the same answers, to look at: {'; '.join(told)}" if told else "")


def _listed(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _pairs(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Yield the pairs of records with the same answers or the same times."""
    for key in (_answers, _clock):
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(key(entry.contents), []).append(entry)
        for members in groups.values():
            for first, second in combinations(members, 2):
                if key is _answers or _answers(first.contents) != _answers(second.contents):
                    yield first, second


def _answers(contents: Contents) -> str:
    """Return a digest over what its models answered in all rounds."""
    names = (*sum(OF_MODEL.values(), ()), "final_test_predictions", "final_client_correct")
    parts = (name.encode() + contents.arrays[name].tobytes() for name in names if name in contents.arrays)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _clock(contents: Contents) -> str:
    """Return a digest over its times, which no two runs share."""
    columns = (contents.rounds["seconds_train"], contents.rounds["seconds_evaluate"])
    return hashlib.sha256(b"".join(column.values.tobytes() for column in columns)).hexdigest()


def _seeds_apart(first: Contents, second: Contents) -> bool:
    """Say whether two records began with other weights, and both trained."""
    trained = all(contents.rounds["train_loss"].known.any() for contents in (first, second))
    return trained and first.record.info.seed_ids.init != second.record.info.seed_ids.init


def _losses(contents: Contents) -> bytes:
    return contents.rounds["train_loss"].values.tobytes()


@check(18, "no model is perfect from the first round on, or perfect in testing alone", needs=("arrays",))
def perfect(entry: Entry) -> str:
    """Find predictions that were made from the labels."""
    contents = entry.contents
    held = contents.arrays
    if "global" not in contents.record.info.models:
        raise NotApplicable("no global model")
    size = len(held["test_labels"])
    if size < FEW:
        raise NotApplicable(f"{size} test samples, fewer than {FEW}, may all be right by chance")
    accuracy = (held["global_test_predictions"] == held["test_labels"]).mean(axis=1)
    losses = contents.rounds["train_loss"]
    problems = []
    if (accuracy == 1).all() and (losses.values[losses.known] > 0).any():
        problems.append(
            f"the global model is right on all {size} test samples in every round, with a training loss of "
            f"{losses.values[losses.known].max():.3g}"
        )
    if len(held["validation_ids"]) >= FEW:
        validation = contents.bits("global_validation_correct").mean(axis=1)
        for t in np.flatnonzero((accuracy == 1) & (validation < DOUBT))[:1]:
            problems.append(f"round {t}: all {size} test samples are right, but {validation[t]:.1%} of the validation")
    fail_if(problems, "ask how it was made; only a re-run can tell: `fedbench verify --rerun`")
    return f"accuracy {accuracy.min():.3f} to {accuracy.max():.3f}"
