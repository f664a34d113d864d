"""Checks 9 and 11 to 13: the arrays fit together, and what is stored twice or follows is the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedbench.errors import FedBenchError, RecordError
from fedbench.method import Method
from fedbench.metrics import evaluate
from fedbench.records import LAYOUTS, Array
from fedbench.verification.checks import Failed, NotApplicable, check, fail_if
from fedbench.verification.subject import Contents, Entry

OF_MODEL = {
    "global": (
        "global_test_predictions", "global_test_probabilities", "global_validation_correct", "global_client_correct",
    ),
    "local": ("local_client_correct",),
    "personal": ("personal_rounds", "personal_client_correct"),
}  # fmt: skip
"""The arrays of each model: all of them, or none."""
SOMETIMES = ("held_out", "final_bytes_down", "final_bytes_up", "final_test_predictions", "final_client_correct")
ALWAYS = tuple(name for name in LAYOUTS if name not in (*SOMETIMES, *sum(OF_MODEL.values(), ())))
HALF = np.finfo(np.float16)


# --- 9: arrays --------------------------------------------------------------------------------------------------------


@check(9, "the arrays are those of its models and fit each other", needs=("schema", "series"))
def arrays(entry: Entry) -> str:
    """Find arrays that are missing, misshapen, or contradict each other."""
    contents = entry.contents
    held = contents.arrays
    fail_if(_missing(held, contents))
    sizes = _sizes(held, contents)
    fail_if(_misshapen(held, sizes))
    fail_if(_contradictions(held, contents, sizes))
    return ", ".join(f"{symbol} {size:,}" for symbol, size in sizes.items())


def _missing(held: Mapping[str, Array], contents: Contents) -> Iterator[str]:
    models = contents.record.info.models
    yield from (f"{name} is missing" for name in ALWAYS if name not in held)
    for model, names in OF_MODEL.items():
        for name in names:
            if (name in held) != (model in models):
                what = "is there, and run.json has no" if name in held else "is missing, and run.json has a"
                yield f"{name} {what} {model} model"
    if len(set(models)) < len(models):
        yield f"run.json names a model twice: {', '.join(models)}"
    if ("final_bytes_down" in held) != ("final_bytes_up" in held):
        yield "of final_bytes_down and final_bytes_up one is missing"
    final = [name in held for name in ("final_bytes_up", "final_test_predictions", "final_client_correct")]
    if final not in ([False] * 3, [True, False, False], [True] * 3):
        yield "the arrays of a final model are there in part"


def _sizes(held: Mapping[str, Array], contents: Contents) -> dict[str, int]:
    """Return R, K, C, N, V, M and P."""
    clients, classes = held["train_class_counts"].shape
    return {
        "R": contents.protocol.rounds,
        "K": clients,
        "C": classes,
        "N": len(held["test_ids"]),
        "V": len(held["validation_ids"]),
        "M": len(held["client_test_ids"]),
        "P": len(held.get("personal_rounds", ())),
    }


def _misshapen(held: Mapping[str, Array], sizes: Mapping[str, int]) -> Iterator[str]:
    for name, array in held.items():
        layout = LAYOUTS[name]
        symbols = [axis.partition(" + ")[::2] for axis in layout.axes]
        due = [sizes[symbol] + int(more or 0) for symbol, more in symbols]
        if layout.bits:
            due[-1] = -(-due[-1] // 8)
        if array.shape != tuple(due):
            yield f"{name} is of shape {array.shape}, and should be {tuple(due)}"
    if sizes["C"] < 2 or not sizes["K"] or not sizes["N"]:
        yield "there is no client, no test sample or no second class"


def _contradictions(held: Mapping[str, Array], contents: Contents, sizes: Mapping[str, int]) -> Iterator[str]:
    offsets, info = held["client_offsets"], contents.record.info
    if len(info.classes) != sizes["C"]:
        yield f"run.json has {len(info.classes)} classes, the arrays {sizes['C']}"
    if offsets[0] != 0 or offsets[-1] != sizes["M"] or (np.diff(offsets) < 1).any():
        yield "client_offsets do not divide the local tests into one part a client"
        return
    for name in ("test_labels", "client_test_labels", "global_test_predictions", "final_test_predictions"):
        if name in held and held[name].max(initial=0) >= sizes["C"]:
            yield f"{name} has the class {held[name].max()} of {sizes['C']}"
    for name in ("test_ids", "validation_ids"):
        yield from _repeats(name, held[name])
    tests = [held["client_test_ids"][first:end] for first, end in pairwise(offsets)]
    for k, ids in enumerate(tests):
        yield from _repeats(f"the local test of client {k}", ids)
    if both := np.intersect1d(held["test_ids"], held["validation_ids"]).size:
        yield f"{both} samples are both for testing and for validation"
    yield from _two_labels(held)
    if (held["train_class_counts"].sum(axis=1) < 1).any():
        yield f"client {held['train_class_counts'].sum(axis=1).argmin()} has no training sample"
    for name, width in (("validation", sizes["V"]), ("client", sizes["M"])):
        for array in (array for key, array in held.items() if LAYOUTS[key].bits and name in key):
            if width % 8 and (array[..., -1] & (0xFF >> width % 8)).any():
                yield f"the padding of the {name} bits is not zero"
    if "local" in info.models:
        idle = np.repeat(~held["schedule"], np.diff(offsets), axis=1)
        if (contents.bits("local_client_correct") & idle).any():
            yield "local_client_correct has answers of clients that did not train"
    if "personal" in info.models:
        due = contents.protocol.personal_rounds()
        if held["personal_rounds"].tolist() != due:
            yield f"personal_rounds are {held['personal_rounds'][:5].tolist()}, and should be {due[:5]}"
    yield from _no_probabilities(held, sizes["C"])


def _repeats(name: str, ids: Array) -> Iterator[str]:
    if len(np.unique(ids)) < len(ids):
        yield f"{name} has a sample twice"


def _two_labels(held: Mapping[str, Array]) -> Iterator[str]:
    """Yield a sample that has one label in one test set and another in another."""
    ids = np.concatenate([held["test_ids"], held["client_test_ids"]])
    labels = np.concatenate([held["test_labels"], held["client_test_labels"]])
    _, first, where = np.unique(ids, return_index=True, return_inverse=True)
    for row in np.flatnonzero(labels != labels[first][where])[:1]:
        yield f"sample {ids[row]} has the label {labels[row]} and the label {labels[first][where][row]}"


def _no_probabilities(held: Mapping[str, Array], classes: int) -> Iterator[str]:
    if "global_test_probabilities" not in held:
        return
    values = held["global_test_probabilities"].astype(np.float64)
    # Each is rounded to 11 bits, or where it is tiny to a multiple of the smallest number.
    tolerance = float(HALF.eps) / 2 + classes * float(HALF.smallest_subnormal)
    off = np.abs(values.sum(axis=1) - 1)
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()):
        yield "global_test_probabilities are not between 0 and 1"
    elif (off > tolerance).any():
        yield f"the probabilities of test sample {off.argmax()} sum to {values[off.argmax()].sum():.4f}"


# --- 11: probabilities ------------------------------------------------------------------------------------------------


@check(11, "the last round's predictions are the likeliest classes", needs=("arrays",))
def probabilities(entry: Entry) -> str:
    """Find predictions that were changed beside the probabilities that they come from."""
    contents = entry.contents
    held = contents.arrays
    if "global" not in contents.record.info.models:
        raise NotApplicable("no global model")
    predicted = held["global_test_predictions"][-1].astype(np.int64)
    values = held["global_test_probabilities"].astype(np.float64)
    highest, given = values.max(axis=1), values[np.arange(len(values)), predicted]
    # What was highest before it was rounded is highest after, but for the last bit.
    ties = np.spacing(highest.astype(np.float16)).astype(np.float64)
    wrong = np.flatnonzero(given < highest - ties)
    if len(wrong):
        row = wrong[0]
        raise Failed(
            f"{len(wrong)} of {len(values)}: test sample {row} is predicted as class {predicted[row]} with probability "
            f"{given[row]:.4f}, class {values[row].argmax()} has {highest[row]:.4f}"
        )
    return f"{len(values):,} samples"


# --- 12: recomputed ---------------------------------------------------------------------------------------------------


@check(12, "the stored accuracies and totals are what the predictions and series give", needs=("arrays",))
def recomputed(entry: Entry) -> str:
    """Find accuracies, losses and totals that do not follow from what they were computed from."""
    contents = entry.contents
    compared = 0
    problems = []
    for where, stored, made in (*_twice(contents), *_by_samples(entry)):
        compared += np.size(made)
        both = np.broadcast_arrays(np.asarray(stored, dtype=np.float64), np.asarray(made, dtype=np.float64))
        wrong = np.argwhere(~np.isclose(both[0], both[1], rtol=1e-12, atol=1e-12, equal_nan=True))
        for index in wrong[:1]:
            at = ", ".join(f"{axis} {i}" for axis, i in zip(("round", "client"), index, strict=False))
            place = f"{where}{f', {at}' if at else ''}"
            problems.append(f"{place}: {both[0][tuple(index)]:.12g} is stored, {both[1][tuple(index)]:.12g} follows")
    fail_if(problems)
    return f"{compared:,} numbers"


def _by_samples(entry: Entry) -> Iterator[tuple[str, npt.ArrayLike, npt.ArrayLike]]:
    """Yield the weights of a method that has those of FedAvg: the shares of the sampled clients in their samples."""
    contents = entry.contents
    try:
        plain = type(entry.cell.method).weights is Method.weights
    except (NotApplicable, FedBenchError):
        return
    if plain and not contents.pooled:
        samples = contents.arrays["schedule"] * contents.arrays["train_class_counts"].sum(axis=1)
        yield "weight", contents.of_client("weight").values, samples / samples.sum(axis=1, keepdims=True)


def _twice(contents: Contents) -> Iterator[tuple[str, npt.ArrayLike, npt.ArrayLike]]:
    """Yield what is stored, and what it must be."""
    held, info, rounds = contents.arrays, contents.record.info, contents.rounds
    offsets = held["client_offsets"]

    def by_client(name: str) -> Array:
        bits = contents.bits(name)
        hits = np.add.reduceat(bits, offsets[:-1], axis=-1, dtype=np.int64)
        share: Array = hits / np.diff(offsets)
        return share

    def column(name: str) -> Array:
        found = contents.of_client(name)
        return np.where(found.known, found.values, np.nan)

    if "global" in info.models:
        right = held["global_test_predictions"] == held["test_labels"]
        yield "global_accuracy", rounds["global_accuracy"].values, right.mean(axis=1)
        if len(held["validation_ids"]):
            valid = contents.bits("global_validation_correct").mean(axis=1)
            yield "validation_accuracy", rounds["validation_accuracy"].values, valid
        yield "global_accuracy of clients", column("global_accuracy"), by_client("global_client_correct")
    if "local" in info.models:
        local = np.where(held["schedule"], by_client("local_client_correct"), np.nan)
        yield "local_accuracy of clients", column("local_accuracy"), local
    if "personal" in info.models:
        stored = column("personal_accuracy")[held["personal_rounds"]]
        yield "personal_accuracy of clients", stored, by_client("personal_client_correct")
    losses = contents.of_client("train_loss")
    count = losses.known.sum(axis=1)
    mean = losses.values.sum(axis=1)[count > 0] / count[count > 0]
    yield "train_loss", rounds["train_loss"].values[count > 0], mean
    for name in ("bytes_up", "bytes_down"):
        yield name, rounds[name].values, contents.of_client(name).values.sum(axis=1)
        final = int(held[f"final_{name}"].sum()) if f"final_{name}" in held else 0
        yield f"run.json: {name}", getattr(info, name), int(rounds[name].values.sum()) + final
    for name in ("train_samples", "forward_samples"):
        yield f"run.json: {name}", getattr(info, name), int(rounds[name].values.sum())
    for name in ("train", "evaluate"):
        yield f"run.json: seconds.{name}", info.seconds.get(name, np.nan), rounds[f"seconds_{name}"].values.sum()


# --- 13: contradictions -----------------------------------------------------------------------------------------------

NOT_ABOVE = (
    ("worst_sampled_accuracy", "local_accuracy_mean"),
    ("worst_all_accuracy", "worst_fifth_accuracy"),
    ("worst_fifth_accuracy", "personal_accuracy"),
    ("client_sd", "client_gap"),
)
"""Metrics of which the first is never above the second."""


@check(13, "no metric is out of its bounds, and no two numbers exclude each other", needs=("arrays",))
def contradictions(entry: Entry) -> str:
    """Find metrics that are impossible, and one sample with two answers."""
    contents = entry.contents
    try:
        values = evaluate(contents.record.outcome)
    except RecordError as error:
        raise Failed(str(error)) from None
    problems = []
    for low, high in NOT_ABOVE:
        below, above = values[low], values[high]
        if below is not None and above is not None and below > above + 1e-12:
            problems.append(f"{low} is {below:.4f}, above {high}, {above:.4f}")
    last, balanced = values["global_accuracy_last"], values["global_balanced_accuracy"]
    if last is not None and balanced is not None and (last in (0, 1) or balanced in (0, 1)) and last != balanced:
        problems.append(f"global accuracy is {last:.4f} in the last round, balanced {balanced:.4f}")
    problems += _two_answers(contents)
    fail_if(problems)
    return f"{sum(value is not None for value in values.values())} metrics"


def _two_answers(contents: Contents) -> Iterator[str]:
    """Yield a sample on which one global model is right in one test set and wrong in another.

    Without styles, a sample is one image wherever it is tested, and a model is evaluated on it once.
    """
    held = contents.arrays
    if "global" not in contents.record.info.models or contents.task.get("styles") is not None:
        return
    ids, rows, columns = np.intersect1d(held["test_ids"], held["client_test_ids"], return_indices=True)
    if not len(ids):
        return
    right = (held["global_test_predictions"] == held["test_labels"])[:, rows]
    for t, i in np.argwhere(right != contents.bits("global_client_correct")[:, columns])[:1]:
        yield (
            f"round {t}: the global model is {'right' if right[t, i] else 'wrong'} on sample {ids[i]} of the test set, "
            "and not so where a client is tested on it"
        )
