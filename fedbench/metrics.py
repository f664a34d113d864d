"""Metrics: pure functions from an `Outcome` to one number, or None where the number is not defined.

A metric is a function with a card: `metric` puts both into `METRICS` under the function's name, and its
docstring is what ``fedbench show`` prints. Fractions are between 0 and 1, never percent. The per-round values
that metrics average, and charts draw, are public functions too (`global_accuracy`, `local_accuracy`,
`backward_transfer`, ...).

"Mean over rounds" is how we read the FedKPer paper, "last" is what a user would deploy, "selected" is the
round that validation data chose. The best round on test data is never computed. Unlike the authors' code, no
accuracy is rounded before a difference is taken.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# The standard library's mean and variance are correctly rounded: neither the order of the clients nor the
# machine can change a digit, and equal values have a variance of exactly zero.
from statistics import mean, pstdev, pvariance
from typing import Literal, NamedTuple

import numpy as np

from fedbench.errors import RecordError
from fedbench.outcome import Bits, Counts, Outcome, Values

Compute = Callable[[Outcome], float | None]
Direction = Literal["higher", "lower", "none"]
Level = Literal["global", "client", "cost"]
Model = Literal["global", "local", "personal"]
Unit = Literal["fraction", "bytes", "seconds", "samples", "rounds"]
Bounds = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and its card.

    Parameters
    ----------
    name : str
        Stable name, as in records and on the command line.
    title : str
        A few words for a column.
    symbol : str
        Short plain-text symbol.
    unit : {"fraction", "bytes", "seconds", "samples", "rounds"}
        Unit of the value; a fraction is never in percent.
    bounds : pair of float or None
        Lowest and highest possible value; None where there is none.
    direction : {"higher", "lower", "none"}
        Which values are better; "none" where neither is.
    level : {"global", "client", "cost"}
        Whether the global test set is read, the clients' own, or what the run spent.
    model : {"global", "local", "personal"} or None
        Which model is evaluated; None where no single one is.
    description : str
        Formula, convention and when the value is not defined.
    compute : function of Outcome to float or None
        The metric itself. None: not defined. Raises RecordError for a value that is not finite or out of
        bounds.
    """

    name: str
    title: str
    symbol: str
    unit: Unit
    bounds: Bounds
    direction: Direction
    level: Level
    model: Model | None
    description: str
    compute: Compute


METRICS: dict[str, Metric] = {}
"""All metrics by name, in the order of a full table."""


def metric(
    title: str,
    symbol: str,
    *,
    level: Level,
    model: Model | None,
    unit: Unit = "fraction",
    bounds: Bounds = (0.0, 1.0),
    direction: Direction = "higher",
) -> Callable[[Compute], Compute]:
    """Enter a function into `METRICS` under its own name, and check each value that it returns.

    Parameters
    ----------
    title, symbol, level, model, unit, bounds, direction
        See `Metric`. The description is the docstring up to its examples.
    """

    def register(function: Compute) -> Compute:
        name = function.__name__
        low = -math.inf if bounds[0] is None else bounds[0]
        high = math.inf if bounds[1] is None else bounds[1]

        @functools.wraps(function)
        def compute(outcome: Outcome) -> float | None:
            if not outcome.rounds:
                raise RecordError("the record has no round; run the cell again.")
            value = function(outcome)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise RecordError(f"metric {name} is {value}, not a number in [{low}, {high}]: the record is corrupt.")
            return value

        METRICS[name] = Metric(
            name=name,
            title=title,
            symbol=symbol,
            unit=unit,
            bounds=bounds,
            direction=direction,
            level=level,
            model=model,
            description=(inspect.getdoc(function) or "").partition("\n\nExamples\n")[0],
            compute=compute,
        )
        return compute

    return register


def evaluate(outcome: Outcome) -> dict[str, float | None]:
    """Return the value of every metric, None where it is not defined.

    Raises
    ------
    RecordError
        A value is not finite or out of the bounds of its metric, or the arrays contradict each other.

    Examples
    --------
    >>> values = evaluate(EXAMPLE)
    >>> values["global_accuracy_last"], values["bytes_up"]
    (0.25, 40.0)
    """
    return {name: entry.compute(outcome) for name, entry in METRICS.items()}


# The worked example of all docstrings below: 3 rounds, 3 clients with 2 local test samples each, the last one held out,
# 4 global test samples of 2 classes, 2 validation samples. 1 = right, 0 = wrong, . = the client is not sampled.
#
#             global model                                              local models               personal models
#             test 0011   right  accuracy   valid.   on clients         sampled   clients          clients
#   round 0   pred 0010    1110     3/4      10        11 | 00 | 10     0         11 | .. | ..
#   round 1   pred 0101    1001     2/4      11        10 | 11 | 11     0, 1      10 | 11 | ..
#   round 2   pred 0100    1000     1/4      11        00 | 10 | 01     0         00 | .. | ..     10 | 11 | 11
EXAMPLE = Outcome(
    n_classes=2,
    sampled=np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=np.bool_),
    test_labels=np.array([0, 0, 1, 1]),
    test_predictions=np.array([[0, 0, 1, 0], [0, 1, 0, 1], [0, 1, 0, 0]]),
    test_probabilities=np.array([[0.75, 0.25], [0.375, 0.625], [0.75, 0.25], [0.625, 0.375]]),
    validation=np.array([[1, 0], [1, 1], [1, 1]], dtype=np.bool_),
    offsets=np.array([0, 2, 4, 6]),
    client_labels=np.array([0, 1, 0, 1, 0, 1]),
    on_clients=np.array([[1, 1, 0, 0, 1, 0], [1, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 1]], dtype=np.bool_),
    local=np.array([[1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=np.bool_),
    personal_rounds=np.array([2]),
    personal=np.array([[1, 0, 1, 1, 1, 1]], dtype=np.bool_),
    held_out=np.array([0, 0, 1], dtype=np.bool_),
    final_predictions=np.array([0, 0, 1, 0]),
    final_on_clients=np.array([1, 1, 1, 0, 1, 0], dtype=np.bool_),
    bytes_up=np.array([10, 20, 10]),
    bytes_down=np.array([20, 40, 20]),
    seconds_train=np.array([1.0, 2.0, 1.0]),
    seconds_evaluate=np.array([0.5, 0.5, 0.5]),
    train_samples=np.array([12, 24, 12]),
    forward_samples=np.array([6, 12, 6]),
)


# ---- Values per round: what metrics average and charts draw ------------------------------------------------


def global_right(outcome: Outcome) -> Bits | None:
    """Return whether the global model is right on each global test sample, bool (R, N).

    None if the method has no global model or the task no global test set.

    Examples
    --------
    >>> global_right(EXAMPLE).astype(int).tolist()
    [[1, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0]]
    """
    if outcome.test_predictions is None or not outcome.test_labels.size:
        return None
    right: Bits = outcome.test_predictions == outcome.test_labels
    return right


def global_accuracy(outcome: Outcome) -> Values | None:
    """Return the accuracy of the global model on the global test set after each round, (R,), fraction.

    None where `global_right` is.

    Examples
    --------
    >>> global_accuracy(EXAMPLE).tolist()
    [0.75, 0.5, 0.25]
    """
    right = global_right(outcome)
    return None if right is None else _rate(right)


def validation_accuracy(outcome: Outcome) -> Values | None:
    """Return the accuracy of the global model on the validation samples after each round, (R,), fraction.

    None if the method has no global model or the task no validation samples.

    Examples
    --------
    >>> validation_accuracy(EXAMPLE).tolist()
    [0.5, 1.0, 1.0]
    """
    right = outcome.validation
    return None if right is None or not right.shape[1] else _rate(right)


def local_accuracy(outcome: Outcome) -> Values | None:
    """Return the mean accuracy of the sampled clients' local models in each round, (R,), fraction.

    Each local model is read right after its training, on its client's own local test samples; every client
    counts the same. None if no client of the federation trains.

    Examples
    --------
    In round 1 the two clients have 1/2 and 2/2 right.

    >>> local_accuracy(EXAMPLE).tolist()
    [1.0, 0.75, 0.0]
    """
    rounds = _sampled_accuracies(outcome)
    return None if rounds is None else np.array([_mean(values) for values in rounds])


def worst_sampled(outcome: Outcome) -> Values | None:
    """Return the lowest accuracy among the sampled clients' local models in each round, (R,), fraction.

    None if no client of the federation trains.

    Examples
    --------
    >>> worst_sampled(EXAMPLE).tolist()
    [1.0, 0.5, 0.0]
    """
    rounds = _sampled_accuracies(outcome)
    return None if rounds is None else np.array([values.min() for values in rounds])


def change_since_visit(outcome: Outcome) -> Values | None:
    """Return what each client lost or gained since it last took part, (R, K), difference of fractions.

    With a_t(k) the accuracy of the global model after round t on client k's local test samples, and s < t the last
    round before t in which k was sampled: a_t(k) − a_s(k). Negative is forgotten. NaN before a client's first visit is
    over. None if there is no global model or no client is ever sampled.

    Examples
    --------
    Accuracies on clients 0 and 1: (1, 0), (1/2, 1), (0, 1/2). Client 0 is sampled in every round, 1 in round 1.

    >>> change_since_visit(EXAMPLE).tolist()
    [[nan, nan, nan], [-0.5, nan, nan], [-0.5, -0.5, nan]]
    """
    if outcome.on_clients is None or not _anyone_trains(outcome):
        return None
    accuracies = _per_client(outcome, outcome.on_clients)
    record = np.full(outcome.n_clients, np.nan)
    change = np.full(accuracies.shape, np.nan)
    for t, (now, sampled) in enumerate(zip(accuracies, outcome.sampled, strict=True)):
        change[t] = now - record
        # Only now: the clients of this round were compared with what they had when last sampled.
        record[sampled] = now[sampled]
    return change


def backward_transfer(outcome: Outcome) -> Values | None:
    """Return the backward transfer (BwT) of the global model in each round, (R,), difference of fractions.

    With a_t(k) the accuracy of the global model after round t on client k's local test samples, and r(k) that
    accuracy in the round in which k was last sampled *before* t: BwT_t is the mean of a_t(k) − r(k) over all
    clients sampled before t, and BwT_0 is 0. A client sampled again in round t is thus first compared with
    its old record; then the record is replaced. None if there is no global model or no client is ever
    sampled.

    Source: the FedKPer authors' code.

    Examples
    --------
    The accuracies on clients 0 and 1 are (1, 0), (1/2, 1), (0, 1/2). Round 1 compares client 0 with round 0:
    1/2 − 1. Round 2 compares both with round 1: the mean of 0 − 1/2 and 1/2 − 1.

    >>> backward_transfer(EXAMPLE).tolist()
    [0.0, -0.5, -0.5]
    """
    change = change_since_visit(outcome)
    if change is None:
        return None
    transfer = np.zeros(outcome.rounds)
    for t in range(1, outcome.rounds):
        transfer[t] = _mean(change[t][~np.isnan(change[t])])
    return transfer


class Flips(NamedTuple):
    """How the samples changed from the evaluation before to each evaluation; int64 (T,) each, together N.

    Parameters
    ----------
    negative : int64 array (T,)
        Was right, is wrong.
    positive : int64 array (T,)
        Was wrong, is right.
    unchanged : int64 array (T,)
        The others.
    """

    negative: Counts
    positive: Counts
    unchanged: Counts


def flips(right: Bits) -> Flips:
    """Return the flips between consecutive evaluations of one model on the same samples.

    The first evaluation is compared with all wrong, as in the FedKPer authors' code: it has no negative flip.

    Parameters
    ----------
    right : bool array (T, N)
        Whether the model is right on each sample at each evaluation.

    Examples
    --------
    >>> negative, positive, unchanged = flips(global_right(EXAMPLE))
    >>> negative.tolist(), positive.tolist(), unchanged.tolist()
    ([0, 2, 1], [3, 1, 0], [1, 1, 3])
    """
    before = np.vstack([np.zeros_like(right[:1]), right[:-1]])
    negative = np.count_nonzero(before & ~right, axis=1)
    positive = np.count_nonzero(~before & right, axis=1)
    return Flips(negative, positive, right.shape[1] - negative - positive)


def step_forgetting(right: Bits) -> Values:
    """Return the negative flip rate (NFR) of each evaluation against the one before, (T,), fraction.

    NFR = #(right before, wrong now) / N. The denominator is all samples; the first value is 0.

    Parameters
    ----------
    right : bool array (T, N)
        Whether the model is right on each sample at each evaluation.

    Examples
    --------
    >>> step_forgetting(global_right(EXAMPLE)).tolist()
    [0.0, 0.5, 0.25]
    """
    rate: Values = flips(right).negative / right.shape[1]
    return rate


def peak_forgetting(right: Bits) -> Values:
    """Return the share of samples lost since the last peak, at each evaluation, (T,), fraction.

    #(right at the last peak, wrong now) / N. The last peak of evaluation t is the latest s <= t whose
    accuracy is the highest so far, so the value at a peak is 0; to equal the highest is to be a peak.

    Parameters
    ----------
    right : bool array (T, N)
        Whether the model is right on each sample at each evaluation.

    Examples
    --------
    Evaluation 0 stays the peak: 1110 against 1001 and against 1000 has lost two samples of four.

    >>> peak_forgetting(global_right(EXAMPLE)).tolist()
    [0.0, 0.5, 0.5]
    """
    hits = np.count_nonzero(right, axis=1)
    peak = hits == np.maximum.accumulate(hits)
    last = np.maximum.accumulate(np.where(peak, np.arange(len(hits)), 0))
    return _rate(right[last] & ~right)


def local_streams(outcome: Outcome) -> list[Bits] | None:
    """Return for each client that takes part whether its local model is right, bool (T_k, N_k).

    Row i is the client's i-th participation, column j its j-th local test sample. None if no client of the
    federation trains.

    Examples
    --------
    >>> [stream.astype(int).tolist() for stream in local_streams(EXAMPLE)]
    [[[1, 1], [1, 0], [0, 0]], [[1, 1]]]
    """
    if outcome.local is None or not _anyone_trains(outcome):
        return None
    _require_samples(outcome)
    return [
        outcome.local[outcome.sampled[:, k], outcome.offsets[k] : outcome.offsets[k + 1]]
        for k in range(outcome.n_clients)
        if outcome.sampled[:, k].any()
    ]


def personal_accuracy_by_client(outcome: Outcome) -> Values | None:
    """Return the accuracy of each client's personal model at its last evaluation, fraction.

    Of the clients that may train: those held out are left out, see `held_out_accuracy`.

    None if the method has no personal models, or none was evaluated.

    Examples
    --------
    >>> personal_accuracy_by_client(EXAMPLE).tolist()
    [0.5, 1.0]
    """
    if outcome.personal is None or not len(outcome.personal):
        return None
    accuracies = _per_client(outcome, outcome.personal[-1])
    return accuracies if outcome.held_out is None else accuracies[~outcome.held_out]


# ---- Global model, global test set -------------------------------------------------------------------------


@metric("Global accuracy, mean over rounds", "Ā_g", level="global", model="global")
def global_accuracy_mean(outcome: Outcome) -> float | None:
    """Mean over rounds of the global model's accuracy on the global test set (the paper's reading).

    Not defined without a global model.

    Examples
    --------
    (3/4 + 2/4 + 1/4) / 3.

    >>> global_accuracy_mean(EXAMPLE)
    0.5
    """
    return _over_rounds(global_accuracy(outcome))


@metric("Global accuracy, last round", "A_g(T)", level="global", model="global")
def global_accuracy_last(outcome: Outcome) -> float | None:
    """Accuracy of the global model on the global test set after the last round.

    Not defined without a global model.

    Examples
    --------
    >>> global_accuracy_last(EXAMPLE)
    0.25
    """
    return _last(global_accuracy(outcome))


@metric("Global accuracy, final", "A_g(+)", level="global", model="global")
def global_accuracy_final(outcome: Outcome) -> float | None:
    """Accuracy of the global model on the global test set, after what the method did when the last round was over.

    A calibration of the classifier (CCVR), for instance. Not defined for methods that then do nothing: for them it
    would be the accuracy after the last round.

    Examples
    --------
    >>> global_accuracy_final(EXAMPLE)
    0.75
    """
    if outcome.final_predictions is None or not len(outcome.test_labels):
        return None
    return float((outcome.final_predictions == outcome.test_labels).mean())


@metric("Global accuracy, selected round", "A_g(v)", level="global", model="global")
def global_accuracy_selected(outcome: Outcome) -> float | None:
    """Accuracy of the global model on the global test set after the round with the best validation accuracy.

    Of equal rounds the earliest. Test data have no part in the choice. Not defined without a global model or
    without validation samples.

    Examples
    --------
    Rounds 1 and 2 are both right on all validation samples; round 1 is taken, with 2/4 right on the test set.

    >>> global_accuracy_selected(EXAMPLE)
    0.5
    """
    accuracy, validation = global_accuracy(outcome), validation_accuracy(outcome)
    if accuracy is None or validation is None:
        return None
    return float(accuracy[validation.argmax()])


@metric("Global balanced accuracy, last round", "BA_g", level="global", model="global")
def global_balanced_accuracy(outcome: Outcome) -> float | None:
    """Mean over classes of the share of a class that the global model gets right, after the last round.

    Classes without a test sample are left out. Not defined without a global model.

    Examples
    --------
    Class 0: 1 of 2 right; class 1: 0 of 2.

    >>> global_balanced_accuracy(EXAMPLE)
    0.25
    """
    right = global_right(outcome)
    if right is None:
        return None
    return _mean(right[-1, outcome.test_labels == c].mean() for c in np.unique(outcome.test_labels))


@metric("Global macro-F1, last round", "F1_g", level="global", model="global")
def global_macro_f1(outcome: Outcome) -> float | None:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN) of the global model after the last round.

    The mean is over the classes that have a test sample. To predict another class is a miss (FN) of the true
    one, but the class itself adds no term; a class never predicted has F1 = 0. Not defined without a global
    model.

    Examples
    --------
    Labels 0011, predictions 0100. Class 0: TP 1, FP 2, FN 1, so 2/5; class 1: TP 0, so 0.

    >>> global_macro_f1(EXAMPLE)
    0.2
    """
    if outcome.test_predictions is None or not outcome.test_labels.size:
        return None
    labels, predictions = outcome.test_labels, outcome.test_predictions[-1]
    # 2 TP + FP + FN counts each sample of the class once and each prediction of it once.
    return _mean(
        2 * np.count_nonzero((labels == c) & (predictions == c)) / (np.sum(labels == c) + np.sum(predictions == c))
        for c in np.unique(labels)
    )


@metric("Global AUC, last round", "AUC_g", level="global", model="global")
def global_auc(outcome: Outcome) -> float | None:
    """Mean over classes of the global model's one-versus-rest area under the ROC curve, after the last round.

    The area of class c is the share of pairs, one sample of c and one of another class, in which the first
    has the higher probability of c; a tie counts one half, and as records keep probabilities in 16 bits, very
    high and very low ones tie. Classes without a test sample are left out. Not
    defined without class probabilities, or if all test samples are of one class.

    Examples
    --------
    P(class 1) is 1/4 and 5/8 for the samples of class 0, and 1/4 and 3/8 for those of class 1. The four pairs
    of class 1 are a tie, a loss, a win and a loss; those of class 0 mirror them. So 1.5 / 4 each.

    >>> global_auc(EXAMPLE)
    0.375
    """
    probabilities, classes = outcome.test_probabilities, np.unique(outcome.test_labels)
    if probabilities is None or len(classes) < 2:
        return None
    if not np.isfinite(probabilities).all():
        raise RecordError("a class probability of the global model is not finite: the record is corrupt.")
    areas = []
    for c in classes:
        of_class = outcome.test_labels == c
        inside, outside = probabilities[of_class, c], np.sort(probabilities[~of_class, c])
        # Each sample counts those below it twice, those equal to it once.
        twice_wins = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
        areas.append(float(twice_wins.sum() / (2 * len(inside) * len(outside))))
    return _mean(areas)


# ---- Local models, on their own clients --------------------------------------------------------------------


@metric("Local accuracy, mean over rounds", "Ā_k", level="client", model="local")
def local_accuracy_mean(outcome: Outcome) -> float | None:
    """Mean over rounds of the mean accuracy of the sampled clients' local models (the paper's reading).

    Each local model is read right after its training, on its client's own local test samples. Not defined if
    no client of the federation trains.

    Examples
    --------
    (1 + 3/4 + 0) / 3.

    >>> local_accuracy_mean(EXAMPLE)
    0.5833333333333334
    """
    return _over_rounds(local_accuracy(outcome))


@metric("Local accuracy, last round", "A_k(T)", level="client", model="local")
def local_accuracy_last(outcome: Outcome) -> float | None:
    """Mean accuracy of the sampled clients' local models in the last round.

    Not defined if no client of the federation trains.

    Examples
    --------
    >>> local_accuracy_last(EXAMPLE)
    0.0
    """
    return _last(local_accuracy(outcome))


@metric("Worst sampled client, mean over rounds", "A_w", level="client", model="local")
def worst_sampled_accuracy(outcome: Outcome) -> float | None:
    """Mean over rounds of the lowest accuracy among the sampled clients' local models (the paper's reading).

    A minimum over small test sets reads low: ten equally good clients at 80 % with 50 samples each read 71 %.
    Compare on the same clients only. Not defined if no client of the federation trains.

    Examples
    --------
    (1 + 1/2 + 0) / 3.

    >>> worst_sampled_accuracy(EXAMPLE)
    0.5
    """
    return _over_rounds(worst_sampled(outcome))


# ---- Personal models, on all clients (those held out are not meant) ----------------------------------------


@metric("Personal accuracy", "A_p", level="client", model="personal")
def personal_accuracy(outcome: Outcome) -> float | None:
    """Mean over all clients of the accuracy of the personal model on the client's own local test samples.

    At the last evaluation of personal models; every client counts the same. Held-out clients are not among them, nor in
    the other metrics of personal models but `held_out_accuracy`. Not defined without personal models.

    Examples
    --------
    >>> personal_accuracy(EXAMPLE)
    0.75
    """
    accuracies = personal_accuracy_by_client(outcome)
    return None if accuracies is None else _mean(accuracies)


@metric("Worst client", "A_p,min", level="client", model="personal")
def worst_all_accuracy(outcome: Outcome) -> float | None:
    """Lowest personal accuracy among all clients.

    A minimum over small test sets reads low; see `worst_fifth_accuracy` for a steadier one. Not defined
    without personal models.

    Examples
    --------
    >>> worst_all_accuracy(EXAMPLE)
    0.5
    """
    accuracies = personal_accuracy_by_client(outcome)
    return None if accuracies is None else float(accuracies.min())


@metric("Worst fifth of the clients", "A_p,20%", level="client", model="personal")
def worst_fifth_accuracy(outcome: Outcome) -> float | None:
    """Mean personal accuracy of the worst 20 % of all clients: the ceil(K / 5) lowest.

    Not defined without personal models.

    Examples
    --------
    Of two clients the worst one.

    >>> worst_fifth_accuracy(EXAMPLE)
    0.5
    """
    accuracies = personal_accuracy_by_client(outcome)
    return None if accuracies is None else _mean(np.sort(accuracies)[: math.ceil(len(accuracies) / 5)])


@metric("Spread over clients", "sd_p", level="client", model="personal", direction="lower")
def client_sd(outcome: Outcome) -> float | None:
    """Spread over all clients: the standard deviation (divisor K) of their personal accuracies.

    A fairness measure that equally bad clients satisfy: read it beside the accuracy. Not defined without
    personal models.

    Examples
    --------
    1/2 and 1 each lie 1/4 from their mean.

    >>> client_sd(EXAMPLE)
    0.25
    """
    accuracies = personal_accuracy_by_client(outcome)
    return None if accuracies is None else pstdev(accuracies.tolist())


@metric("Gap between clients", "gap_p", level="client", model="personal", direction="lower")
def client_gap(outcome: Outcome) -> float | None:
    """Highest minus lowest personal accuracy among all clients.

    Not defined without personal models.

    Examples
    --------
    >>> client_gap(EXAMPLE)
    0.5
    """
    accuracies = personal_accuracy_by_client(outcome)
    return None if accuracies is None else float(accuracies.max() - accuracies.min())


@metric("Jain index", "J_p", level="client", model="personal")
def jain_index(outcome: Outcome) -> float | None:
    """Jain's fairness index of the personal accuracies x of all clients: (sum x)² / (K · sum x²).

    1 if all clients are served equally well, 1/K if only one is served at all. Not defined without personal
    models, or if all accuracies are 0.

    Examples
    --------
    (1/2 + 1)² / (2 · (1/4 + 1)) = 2.25 / 2.5.

    >>> jain_index(EXAMPLE)
    0.9
    """
    accuracies = personal_accuracy_by_client(outcome)
    if accuracies is None or not accuracies.any():
        return None
    # The same as mean² / (mean² + variance), which rounding cannot lift above 1.
    square = _mean(accuracies) * _mean(accuracies)
    variance: float = pvariance(accuracies.tolist())
    return square / (square + variance)


# ---- Clients held out: how a method serves whoever comes later --------------------------------------------


@metric("Held-out clients", "A_h", level="client", model="personal")
def held_out_accuracy(outcome: Outcome) -> float | None:
    """Mean over the held-out clients of the accuracy of the personal model on the client's own local test samples.

    The personal model is what the method gives a client that never took part: the global model, or what the client
    makes of it on its own training data. At the last evaluation of personal models; every client counts the same. Not
    defined without personal models, or if no client is held out.

    Examples
    --------
    Client 2 has 2/2 right.

    >>> held_out_accuracy(EXAMPLE)
    1.0
    """
    return _on_held_out(outcome, outcome.personal)


@metric("Global model on held-out clients", "A_h,g", level="client", model="global")
def held_out_global_accuracy(outcome: Outcome) -> float | None:
    """Mean over the held-out clients of the accuracy of the global model on the client's own local test samples.

    After the last round; every client counts the same. Not defined without a global model, or if no client is held out.

    Examples
    --------
    Client 2: 1/2 in the last round.

    >>> held_out_global_accuracy(EXAMPLE)
    0.5
    """
    return _on_held_out(outcome, outcome.on_clients)


# ---- Forgetting: always to be read beside an accuracy, since a constant model forgets nothing --------------


@metric("Backward transfer, mean over rounds", "BwT", level="client", model="global", bounds=(-1.0, 1.0))
def bwt(outcome: Outcome) -> float | None:
    """Mean over all rounds of the backward transfer of the global model; round 0 counts as 0.

    BwT_t is the mean, over the clients sampled before round t, of the global model's accuracy on the client's
    local test samples after round t minus that after the round in which the client was last sampled before t.
    Not defined without a global model or if no client is ever sampled.

    Examples
    --------
    (0 − 1/2 − 1/2) / 3; see `backward_transfer`.

    >>> bwt(EXAMPLE)
    -0.3333333333333333
    """
    return _over_rounds(backward_transfer(outcome))


@metric("Backward transfer, last round", "BwT(T)", level="client", model="global", bounds=(-1.0, 1.0))
def bwt_last(outcome: Outcome) -> float | None:
    """Backward transfer of the global model in the last round; 0 if that is round 0.

    Not defined without a global model or if no client is ever sampled.

    Examples
    --------
    >>> bwt_last(EXAMPLE)
    -0.5
    """
    return _last(backward_transfer(outcome))


@metric("Consistency, by step", "C_step", level="global", model="global")
def consistency_step(outcome: Outcome) -> float | None:
    """1 − mean over all rounds of #(right after the round before, wrong now) / N, on the global test set.

    A reconstruction: the formula of the FedKPer paper is not at hand. Round 0 has no round before and counts
    as 0, as in the authors' code. Not defined without a global model.

    Examples
    --------
    Right: 1110, 1001, 1000. Lost: 0, 2 and 1 of 4, so 1 − (0 + 2/4 + 1/4) / 3.

    >>> consistency_step(EXAMPLE)
    0.75
    """
    right = global_right(outcome)
    return None if right is None else 1 - _mean(step_forgetting(right))


@metric("Consistency, by peak", "C_peak", level="global", model="global")
def consistency_peak(outcome: Outcome) -> float | None:
    """1 − mean over rounds t >= 1 of #(right at the last peak, wrong now) / N, on the global test set.

    A reconstruction, and the likelier one: the formula of the FedKPer paper is not at hand. The last peak is
    the latest round s <= t whose global accuracy is the highest so far, so a peak itself counts as 0. Not
    defined without a global model or with a single round.

    Examples
    --------
    Right: 1110, 1001, 1000. Round 0 stays the peak; 2 and 2 of its 4 are lost, so 1 − (2/4 + 2/4) / 2.

    >>> consistency_peak(EXAMPLE)
    0.5
    """
    right = global_right(outcome)
    return None if right is None or len(right) < 2 else 1 - _mean(peak_forgetting(right)[1:])


@metric("Local consistency, by step", "C_k,step", level="client", model="local")
def local_consistency_step(outcome: Outcome) -> float | None:
    """1 − mean over all participations of #(right at the client's participation before, wrong now) / N_k.

    It compares a client's local model, right after its training, with that of the same client the last time
    it was sampled, on its N_k local test samples. Every participation of every client counts the same, the
    first of each client as 0: the authors' code compares it with all wrong. A reconstruction. Not defined if
    no client of the federation trains.

    Examples
    --------
    Client 0 goes 11, 10, 00; client 1 takes part once. Lost: 0, 1/2, 1/2 and 0, so 1 − 1/4.

    >>> local_consistency_step(EXAMPLE)
    0.75
    """
    streams = local_streams(outcome)
    return None if streams is None else 1 - _mean(np.concatenate([step_forgetting(s) for s in streams]))


@metric("Local consistency, by peak", "C_k,peak", level="client", model="local")
def local_consistency_peak(outcome: Outcome) -> float | None:
    """1 − mean over participations after a client's first of #(right at its last peak, wrong now) / N_k.

    The last peak is the client's latest participation so far, this one included, whose local accuracy is the
    highest so far. Every participation of every client counts the same; the first of each client, which
    cannot forget, is left out, as round 0 is in `consistency_peak`. A reconstruction. Not defined if no
    client takes part twice.

    Examples
    --------
    Client 0 goes 11, 10, 00: it lost 1/2 and 2/2 since its peak, so 1 − (1/2 + 1) / 2.

    >>> local_consistency_peak(EXAMPLE)
    0.25
    """
    streams = local_streams(outcome)
    if streams is None:
        return None
    lost = np.concatenate([peak_forgetting(stream)[1:] for stream in streams])
    return 1 - _mean(lost) if lost.size else None


@metric("Balance", "B", level="global", model=None)
def balance(outcome: Outcome) -> float | None:
    """(`global_accuracy_mean` + `local_accuracy_mean`) / 2, as in the FedKPer paper.

    Not defined where one of the two is not.

    Examples
    --------
    (1/2 + 7/12) / 2.

    >>> balance(EXAMPLE)
    0.5416666666666667
    """
    at_server, at_clients = global_accuracy_mean(outcome), local_accuracy_mean(outcome)
    return None if at_server is None or at_clients is None else (at_server + at_clients) / 2


# ---- Cost: totals over the run -----------------------------------------------------------------------------


@metric("Bytes up", "↑", level="cost", model=None, unit="bytes", bounds=(0.0, None), direction="lower")
def bytes_up(outcome: Outcome) -> float | None:
    """Bytes that all clients together sent to the server, over the run.

    Examples
    --------
    >>> bytes_up(EXAMPLE)
    40.0
    """
    return float(outcome.bytes_up.sum() + outcome.final_bytes_up)


@metric("Bytes down", "↓", level="cost", model=None, unit="bytes", bounds=(0.0, None), direction="lower")
def bytes_down(outcome: Outcome) -> float | None:
    """Bytes that the server sent to all clients together, over the run.

    Examples
    --------
    >>> bytes_down(EXAMPLE)
    80.0
    """
    return float(outcome.bytes_down.sum() + outcome.final_bytes_down)


@metric(
    "Training time",
    "s_train",
    level="cost",
    model=None,
    unit="seconds",
    bounds=(0.0, None),
    direction="lower",
)
def seconds_train(outcome: Outcome) -> float | None:
    """Wall-clock seconds of training and aggregation, over the run, without evaluation.

    Examples
    --------
    >>> seconds_train(EXAMPLE)
    4.0
    """
    return math.fsum(outcome.seconds_train)


@metric(
    "Evaluation time",
    "s_eval",
    level="cost",
    model=None,
    unit="seconds",
    bounds=(0.0, None),
    direction="none",
)
def seconds_evaluate(outcome: Outcome) -> float | None:
    """Wall-clock seconds of evaluation, over the run: the price of the benchmark, not of the method.

    Examples
    --------
    >>> seconds_evaluate(EXAMPLE)
    1.5
    """
    return math.fsum(outcome.seconds_evaluate)


@metric(
    "Training passes",
    "n_train",
    level="cost",
    model=None,
    unit="samples",
    bounds=(0.0, None),
    direction="lower",
)
def train_samples(outcome: Outcome) -> float | None:
    """Sample passes forward and backward in training, over the run.

    Examples
    --------
    >>> train_samples(EXAMPLE)
    48.0
    """
    return float(outcome.train_samples.sum())


@metric("Forward passes", "n_fwd", level="cost", model=None, unit="samples", bounds=(0.0, None), direction="lower")
def forward_samples(outcome: Outcome) -> float | None:
    """Sample passes forward only, over the run: teachers and scores, but not evaluation.

    Examples
    --------
    >>> forward_samples(EXAMPLE)
    24.0
    """
    return float(outcome.forward_samples.sum())


# ---- What the functions above share ------------------------------------------------------------------------


def _mean(values: Iterable[float]) -> float:
    return float(mean([float(value) for value in values]))


def _rate(bits: Bits) -> Values:
    """Return the share of True in each row."""
    rate: Values = np.count_nonzero(bits, axis=1) / bits.shape[1]
    return rate


def _over_rounds(series: Values | None) -> float | None:
    return None if series is None else _mean(series)


def _last(series: Values | None) -> float | None:
    return None if series is None else float(series[-1])


def _anyone_trains(outcome: Outcome) -> bool:
    """Return whether clients of the federation train: in every round or, in a reference point, never."""
    busy = outcome.sampled.any(axis=1)
    if busy.any() and not busy.all():
        raise RecordError(f"no client is sampled in round {busy.argmin()}, but in others: the record is corrupt.")
    return bool(busy.any())


def _require_samples(outcome: Outcome) -> None:
    sizes = np.diff(outcome.offsets)
    if not sizes.all():
        raise RecordError(f"client {sizes.argmin()} has no local test sample, so it has no accuracy.")


def _per_client(outcome: Outcome, correct: Bits) -> Values:
    _require_samples(outcome)
    return outcome.per_client(correct)


def _on_held_out(outcome: Outcome, correct: Bits | None) -> float | None:
    """Return the mean accuracy of the held-out clients at the last of some evaluations."""
    if correct is None or not len(correct) or outcome.held_out is None or not outcome.held_out.any():
        return None
    return _mean(_per_client(outcome, correct[-1])[outcome.held_out])


def _sampled_accuracies(outcome: Outcome) -> list[Values] | None:
    """Return for each round the local accuracies of the clients sampled in it."""
    if outcome.local is None or not _anyone_trains(outcome):
        return None
    accuracies = _per_client(outcome, outcome.local)
    return [now[sampled] for now, sampled in zip(accuracies, outcome.sampled, strict=True)]
