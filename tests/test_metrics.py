import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from fedbench import metrics
from fedbench.errors import RecordError
from fedbench.metrics import EXAMPLE, METRICS, evaluate


@st.composite
def outcomes(draw, make):
    """Draw an outcome with up to 7 rounds and 6 clients; every round has a sampled client."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rounds, clients, classes = draw(st.integers(1, 7)), draw(st.integers(1, 6)), draw(st.integers(2, 5))
    n, v = draw(st.integers(1, 30)), draw(st.integers(0, 5))
    sizes = rng.integers(1, 8, size=clients)
    total, right = int(sizes.sum()), draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    sampled = rng.random((rounds, clients)) < 0.4
    sampled[np.arange(rounds), rng.integers(clients, size=rounds)] = True
    labels = rng.integers(classes, size=n)
    # A few levels only, so that equal probabilities occur.
    probabilities = rng.integers(1, 5, size=(n, classes)).astype(float)
    every = {
        "test_predictions": np.where(rng.random((rounds, n)) < right, labels, rng.integers(classes, size=(rounds, n))),
        "test_probabilities": probabilities / probabilities.sum(axis=1, keepdims=True),
        "validation": rng.random((rounds, v)) < right,
        "on_clients": rng.random((rounds, total)) < right,
        "local": (rng.random((rounds, total)) < right) & np.repeat(sampled, sizes, axis=1),
        "personal_rounds": np.array([rounds - 1]),
        "personal": rng.random((1, total)) < right,
        "final_predictions": rng.integers(classes, size=n),
    }
    return make(
        rounds=rounds, sizes=sizes, labels=labels, n_classes=classes, sampled=sampled,
        bytes_up=rng.integers(100, size=rounds), seconds_train=rng.random(rounds), **every,
    )  # fmt: skip


@pytest.fixture(scope="session")
def any_outcome(make_outcome):
    return outcomes(make_outcome)


# ---- By hand: a run unlike the one in the docstrings ---------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(make_outcome):
    # 4 rounds, 3 clients with 1, 2 and 4 local test samples, 5 test samples of classes 0 and 1 out of 3.
    #
    #             test 00111   right   valid.   on clients      sampled   local models    personal models
    #   round 0   pred 01120   10100   100      1 | 10 | 1100   0, 1      1 | 11 | ....
    #   round 1   pred 00111   11111   010      0 | 11 | 1111   2         . | .. | 1110   1 | 11 | 1111
    #   round 2   pred 00000   11000   110      1 | 00 | 1000   0, 2      0 | .. | 0111
    #   round 3   pred 20110   01110   011      1 | 11 | 0000   1, 2      . | 10 | 0101   1 | 10 | 1000
    return make_outcome(
        rounds=4,
        sizes=(1, 2, 4),
        n_classes=3,
        labels=[0, 0, 1, 1, 1],
        test_predictions=[[0, 1, 1, 2, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [2, 0, 1, 1, 0]],
        validation=[[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]],
        sampled=[[1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]],
        on_clients=[[1, 1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]],
        local=[[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 1, 0, 1]],
        personal_rounds=[1, 3],
        personal=[[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 0]],
    )


def test_global_by_hand(by_hand):
    # Right: 10100, 11111, 11000, 01110; accuracy 2/5, 1, 2/5, 3/5.
    values = evaluate(by_hand)
    assert metrics.global_accuracy(by_hand) == pytest.approx([0.4, 1.0, 0.4, 0.6])
    assert values["global_accuracy_mean"] == pytest.approx(2.4 / 4)
    assert values["global_accuracy_last"] == pytest.approx(0.6)
    # Validation 1, 1, 2, 2 of 3: round 2, not round 1 that is best on the test set, and not round 3 with the same.
    assert values["global_accuracy_selected"] == pytest.approx(0.4)
    # Last round 20110 against 00111. Class 0: 1 of 2; class 1: 2 of 3; class 2 is absent from the test set.
    assert values["global_balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Class 0: TP 1, FP 1, FN 1: 2/4. Class 1: TP 2, FP 0, FN 1: 4/5. Class 2, predicted but absent: no term.
    assert values["global_macro_f1"] == pytest.approx((1 / 2 + 4 / 5) / 2)
    assert values["global_auc"] is None


def test_clients_by_hand(by_hand):
    values = evaluate(by_hand)
    # Means of the sampled: (1 + 1)/2, 3/4, (0 + 3/4)/2, (1/2 + 2/4)/2; minima: 1, 3/4, 0, 1/2.
    assert metrics.local_accuracy(by_hand) == pytest.approx([1.0, 0.75, 0.375, 0.5])
    assert values["local_accuracy_mean"] == pytest.approx(2.625 / 4)
    assert values["local_accuracy_last"] == pytest.approx(0.5)
    assert values["worst_sampled_accuracy"] == pytest.approx(2.25 / 4)
    assert values["balance"] == pytest.approx((0.6 + 0.65625) / 2)
    # The last personal round only: 1, 1/2, 1/4.
    assert values["personal_accuracy"] == pytest.approx(1.75 / 3)
    assert values["worst_all_accuracy"] == values["worst_fifth_accuracy"] == 0.25
    assert values["client_sd"] == pytest.approx(np.std([1, 0.5, 0.25]))
    assert values["client_gap"] == 0.75
    assert values["jain_index"] == pytest.approx(1.75**2 / (3 * (1 + 0.25 + 0.0625)))


def test_forgetting_by_hand(by_hand):
    values = evaluate(by_hand)
    # Global accuracy on the clients: (1, 1/2, 1/2), (0, 1, 1), (1, 0, 1/4), (1, 1, 0).
    # Round 1 against records 1, 1/2 of round 0:            0 − 1, 1 − 1/2           mean −1/4
    # Round 2 against 1, 1/2 and now 1 of round 1:          0, −1/2, −3/4            mean −5/12
    # Round 3 against 1 and 1/4 of round 2, 1/2 of round 0: 0, +1/2, −1/4            mean +1/12
    assert metrics.backward_transfer(by_hand) == pytest.approx([0, -1 / 4, -5 / 12, 1 / 12])
    assert values["bwt"] == pytest.approx(-7 / 48)
    assert values["bwt_last"] == pytest.approx(1 / 12)
    # Right 10100 -> 11111 -> 11000 -> 01110: lost 0, 0, 3, 1 of 5 by step; since the peak of round 1 lost 3 and 2.
    assert values["consistency_step"] == pytest.approx(1 - (0 + 0 + 3 + 1) / 5 / 4)
    assert values["consistency_peak"] == pytest.approx(1 - (0 + 3 + 2) / 5 / 3)
    # Client 0: 1 -> 0 loses 1. Client 1: 11 -> 10 loses 1/2. Client 2: 1110 -> 0111 loses 1/4, -> 0101 loses 1/4.
    # Seven participations, three of them a first one.
    assert values["local_consistency_step"] == pytest.approx(1 - (1 + 1 / 2 + 1 / 4 + 1 / 4) / 7)
    # By peak: 0111 equals the highest and so is a peak itself; 0101 lost 1/4 since.
    assert values["local_consistency_peak"] == pytest.approx(1 - (1 + 1 / 2 + 0 + 1 / 4) / 4)


def test_worst_fifth_is_rounded_up(make_outcome):
    # Six clients with 4 samples each, 0 to 4 right: the worst two are 0/4 and 1/4.
    hits = [3, 0, 4, 1, 2, 4]
    personal = [[i < h for h in hits for i in range(4)]]
    outcome = make_outcome(rounds=1, sizes=[4] * 6, personal=personal, personal_rounds=[0])
    assert metrics.worst_fifth_accuracy(outcome) == 0.125


def test_balance_of_the_paper(make_outcome):
    # 64.5 % and 86.8 % give 75.65 %.
    outcome = make_outcome(
        rounds=1,
        sizes=[1000],
        labels=np.zeros(1000),
        test_predictions=[np.arange(1000) >= 645],
        sampled=[[1]],
        local=[np.arange(1000) < 868],
    )
    assert metrics.balance(outcome) == pytest.approx(0.7565, abs=1e-12)


def test_costs_are_totals():
    values = evaluate(EXAMPLE)
    costs = {name: values[name] for name, entry in METRICS.items() if entry.level == "cost"}
    assert costs == {
        "bytes_up": 40, "bytes_down": 80, "seconds_train": 4, "seconds_evaluate": 1.5,
        "train_samples": 48, "forward_samples": 24,
    }  # fmt: skip


# ---- Against scikit-learn -------------------------------------------------------------------------------------------


@given(data=st.data())
def test_like_scikit_learn(any_outcome, data):
    outcome = data.draw(any_outcome)
    labels, predictions = outcome.test_labels, outcome.test_predictions[-1]
    present = np.unique(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes that are predicted and absent
        balanced = balanced_accuracy_score(labels, predictions)
    f1 = f1_score(labels, predictions, labels=present, average="macro")
    assert metrics.global_balanced_accuracy(outcome) == pytest.approx(balanced)
    assert metrics.global_macro_f1(outcome) == pytest.approx(f1)
    if len(present) < 2:
        assert metrics.global_auc(outcome) is None
    else:
        areas = [roc_auc_score(labels == c, outcome.test_probabilities[:, c]) for c in present]
        assert metrics.global_auc(outcome) == pytest.approx(np.mean(areas))


def test_auc_like_scikit_learn_with_all_classes(make_outcome):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(6), rng.integers(6, size=300)])
    probabilities = rng.dirichlet(np.ones(6), size=306).astype(np.float16).astype(np.float64)
    outcome = make_outcome(rounds=1, labels=labels, n_classes=6, test_probabilities=probabilities)
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True)
    expected = roc_auc_score(labels, normalised, multi_class="ovr", average="macro")
    assert metrics.global_auc(outcome) == pytest.approx(expected, abs=1e-4)


def test_constant_scores_have_half_the_area(make_outcome):
    outcome = make_outcome(rounds=1, labels=[0, 1, 1], test_probabilities=np.full((3, 2), 0.5))
    assert metrics.global_auc(outcome) == 0.5


# ---- Against the text of the definitions, in plain Python -----------------------------------------------------------


def plain_accuracies(outcome, bits):
    """a[t][k] of a table of correctness bits."""
    table = []
    for row in bits.tolist():
        parts = [row[outcome.offsets[k] : outcome.offsets[k + 1]] for k in range(outcome.n_clients)]
        table.append([sum(part) / len(part) for part in parts])
    return table


def plain_bwt(outcome):
    a = plain_accuracies(outcome, outcome.on_clients)
    r, reported = {}, []
    for t in range(outcome.rounds):
        if t == 0:
            reported.append(0.0)
        else:
            differences = [a[t][k] - r[k] for k in r]
            reported.append(sum(differences) / len(differences))
        for k in range(outcome.n_clients):
            if outcome.sampled[t, k]:
                r[k] = a[t][k]
    return reported


def plain_nfr(stream):
    previous, rates = [False] * len(stream[0]), []
    for now in stream:
        rates.append(sum(was and not right for was, right in zip(previous, now, strict=True)) / len(now))
        previous = now
    return rates


def plain_lost_since_peak(stream):
    rates = []
    for t, now in enumerate(stream):
        highest = max(sum(stream[s]) for s in range(t + 1))
        peak = stream[max(s for s in range(t + 1) if sum(stream[s]) == highest)]
        rates.append(sum(was and not right for was, right in zip(peak, now, strict=True)) / len(now))
    return rates


def plain_local_streams(outcome):
    streams = {}
    for t in range(outcome.rounds):
        for k in range(outcome.n_clients):
            if outcome.sampled[t, k]:
                own = outcome.local[t].tolist()[outcome.offsets[k] : outcome.offsets[k + 1]]
                streams.setdefault(k, []).append(own)
    return streams


@given(data=st.data())
def test_forgetting_like_the_text(any_outcome, data):
    outcome = data.draw(any_outcome)
    transfer = plain_bwt(outcome)
    assert metrics.backward_transfer(outcome) == pytest.approx(transfer)
    assert metrics.bwt(outcome) == pytest.approx(sum(transfer) / len(transfer))
    assert metrics.bwt_last(outcome) == pytest.approx(transfer[-1])

    stream = [
        [p == label for p, label in zip(row, outcome.test_labels.tolist(), strict=True)]
        for row in outcome.test_predictions.tolist()
    ]
    step, peak = plain_nfr(stream), plain_lost_since_peak(stream)[1:]
    assert metrics.consistency_step(outcome) == pytest.approx(1 - sum(step) / len(step))
    if peak:
        assert metrics.consistency_peak(outcome) == pytest.approx(1 - sum(peak) / len(peak))
    else:
        assert metrics.consistency_peak(outcome) is None

    step, peak = [], []
    for own in plain_local_streams(outcome).values():
        step += plain_nfr(own)
        peak += plain_lost_since_peak(own)[1:]
    assert metrics.local_consistency_step(outcome) == pytest.approx(1 - sum(step) / len(step))
    if peak:
        assert metrics.local_consistency_peak(outcome) == pytest.approx(1 - sum(peak) / len(peak))
    else:
        assert metrics.local_consistency_peak(outcome) is None


@given(data=st.data())
def test_local_like_the_text(any_outcome, data):
    outcome = data.draw(any_outcome)
    a = plain_accuracies(outcome, outcome.local)
    means, minima = [], []
    for t in range(outcome.rounds):
        sampled = [a[t][k] for k in range(outcome.n_clients) if outcome.sampled[t, k]]
        means.append(sum(sampled) / len(sampled))
        minima.append(min(sampled))
    assert metrics.local_accuracy_mean(outcome) == pytest.approx(sum(means) / len(means))
    assert metrics.local_accuracy_last(outcome) == pytest.approx(means[-1])
    assert metrics.worst_sampled_accuracy(outcome) == pytest.approx(sum(minima) / len(minima))


# ---- Invariants -----------------------------------------------------------------------------------------------------

bit_tables = st.tuples(st.integers(1, 6), st.integers(1, 8)).flatmap(lambda shape: arrays(bool, shape))


@given(bit_tables)
def test_flips_add_up(right):
    assert (sum(metrics.flips(right)) == right.shape[1]).all()


@given(bit_tables)
def test_no_flip_between_equal_evaluations(right):
    same = np.repeat(right[:1], 5, axis=0)
    assert not metrics.step_forgetting(same).any()
    assert not metrics.peak_forgetting(same).any()


def test_all_right_then_all_wrong():
    right = np.array([[True] * 7, [False] * 7])
    assert metrics.step_forgetting(right).tolist() == [0, 1]
    assert metrics.peak_forgetting(right).tolist() == [0, 1]


@given(bit_tables)
def test_nothing_is_lost_at_a_peak(right):
    hits = right.sum(axis=1)
    assert not metrics.peak_forgetting(right)[hits == np.maximum.accumulate(hits)].any()


@given(data=st.data())
def test_constant_model_forgets_nothing(any_outcome, data):
    outcome = data.draw(any_outcome)
    constant = dataclasses.replace(
        outcome,
        test_predictions=np.zeros_like(outcome.test_predictions),
        on_clients=np.repeat(outcome.on_clients[:1], outcome.rounds, axis=0),
    )
    assert metrics.bwt(constant) == metrics.bwt_last(constant) == 0
    assert metrics.consistency_step(constant) == 1
    assert metrics.consistency_peak(constant) in {None, 1}


@given(lost=st.integers(0, 10), order=st.permutations(range(4)))
def test_backward_transfer_is_the_drop(make_outcome, lost, order):
    # Each client is sampled once, with 10 of 10 right; ever after `lost` of them are wrong.
    sampled, on_clients = np.zeros((4, 4)), np.zeros((4, 4, 10))
    for t, k in enumerate(order):
        sampled[t, k] = 1
        on_clients[t, k] = 1
        on_clients[t + 1 :, k, lost:] = 1
    outcome = make_outcome(rounds=4, sizes=[10] * 4, sampled=sampled, on_clients=on_clients.reshape(4, 40))
    assert metrics.backward_transfer(outcome) == pytest.approx([0, -lost / 10, -lost / 10, -lost / 10])
    assert metrics.bwt(outcome) == pytest.approx(-lost / 10 * 3 / 4)


@given(data=st.data())
def test_bounds(any_outcome, data):
    outcome = data.draw(any_outcome)
    values = evaluate(outcome)
    assert list(values) == list(METRICS)
    for name, value in values.items():
        low, high = METRICS[name].bounds
        assert value is None or (type(value) is float and math.isfinite(value))
        assert value is None or ((low is None or low <= value) and (high is None or value <= high)), name


@given(data=st.data())
def test_order_changes_no_bit(any_outcome, data):
    outcome = data.draw(any_outcome)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    clients, samples = rng.permutation(outcome.n_clients), rng.permutation(len(outcome.test_labels))
    columns = np.concatenate([rng.permutation(np.arange(*outcome.offsets[k : k + 2])) for k in clients])
    shuffled = dataclasses.replace(
        outcome,
        sampled=outcome.sampled[:, clients],
        test_labels=outcome.test_labels[samples],
        test_predictions=outcome.test_predictions[:, samples],
        final_predictions=outcome.final_predictions[samples],
        test_probabilities=outcome.test_probabilities[samples],
        validation=outcome.validation[:, ::-1],
        offsets=np.concatenate([[0], np.cumsum(np.diff(outcome.offsets)[clients])]),
        client_labels=outcome.client_labels[columns],
        on_clients=outcome.on_clients[:, columns],
        local=outcome.local[:, columns],
        personal=outcome.personal[:, columns],
    )
    assert evaluate(shuffled) == evaluate(outcome)


@given(data=st.data())
def test_bits_of_clients_not_sampled_mean_nothing(any_outcome, data):
    outcome = data.draw(any_outcome)
    idle = ~np.repeat(outcome.sampled, np.diff(outcome.offsets), axis=1)
    assert evaluate(dataclasses.replace(outcome, local=outcome.local | idle)) == evaluate(outcome)


# ---- Not defined, and corrupt ---------------------------------------------------------------------------------------


def undefined(outcome):
    return {name for name, value in evaluate(outcome).items() if value is None}


def test_everything_is_defined_in_the_example():
    assert undefined(EXAMPLE) == set()


def test_metrics_of_an_absent_model_are_not_defined():
    absent = {"test_predictions": None, "test_probabilities": None, "validation": None, "on_clients": None}
    absent |= {"final_predictions": None, "final_on_clients": None}
    of_global = {name for name, entry in METRICS.items() if entry.model == "global"}
    of_local = {name for name, entry in METRICS.items() if entry.model == "local"}
    of_personal = {name for name, entry in METRICS.items() if entry.model == "personal"}
    assert len(of_global) == 12
    assert len(of_local) == 5
    assert len(of_personal) == 7
    assert undefined(dataclasses.replace(EXAMPLE, **absent)) == of_global | {"balance"}
    assert undefined(dataclasses.replace(EXAMPLE, local=None)) == of_local | {"balance"}
    assert undefined(dataclasses.replace(EXAMPLE, personal=None)) == of_personal
    never = {"personal": np.zeros((0, 4), dtype=bool), "personal_rounds": np.zeros(0, dtype=np.int64)}
    assert undefined(dataclasses.replace(EXAMPLE, **never)) == of_personal


def test_no_client_trains():
    nobody = np.zeros_like(EXAMPLE.sampled)
    assert undefined(dataclasses.replace(EXAMPLE, sampled=nobody)) == {
        "local_accuracy_mean", "local_accuracy_last", "worst_sampled_accuracy", "bwt", "bwt_last",
        "local_consistency_step", "local_consistency_peak", "balance",
    }  # fmt: skip


def test_no_client_is_held_out():
    nobody = {"held_out_accuracy", "held_out_global_accuracy"}
    assert undefined(dataclasses.replace(EXAMPLE, held_out=None)) == nobody
    assert undefined(dataclasses.replace(EXAMPLE, held_out=np.zeros(3, dtype=bool))) == nobody


def test_no_validation_samples():
    empty = np.zeros((3, 0), dtype=bool)
    assert undefined(dataclasses.replace(EXAMPLE, validation=empty)) == {"global_accuracy_selected"}
    assert undefined(dataclasses.replace(EXAMPLE, validation=None)) == {"global_accuracy_selected"}


def test_single_round(make_outcome):
    outcome = make_outcome(
        rounds=1, sizes=[2], labels=[0, 1], test_predictions=[[0, 0]], sampled=[[1]], on_clients=[[1, 0]],
        local=[[1, 1]],
    )  # fmt: skip
    values = evaluate(outcome)
    assert values["bwt"] == values["bwt_last"] == 0  # round 0 reports 0
    assert values["consistency_step"] == values["local_consistency_step"] == 1
    assert values["consistency_peak"] is values["local_consistency_peak"] is None


def test_no_test_samples(make_outcome):
    values = evaluate(make_outcome(rounds=2, labels=[], test_predictions=np.zeros((2, 0), dtype=np.int64)))
    assert all(values[name] is None for name, entry in METRICS.items() if entry.level == "global")


def test_nobody_is_served(make_outcome):
    values = evaluate(make_outcome(rounds=1, sizes=[2, 3], personal=np.zeros((1, 5)), personal_rounds=[0]))
    assert values["personal_accuracy"] == values["client_sd"] == values["client_gap"] == 0
    assert values["jain_index"] is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seconds_train", np.array([1.0, np.nan, 1.0]), "seconds_train is nan"),
        ("seconds_evaluate", np.array([1.0, np.inf, 1.0]), "seconds_evaluate is inf"),
        ("bytes_up", np.array([-100, 1, 1]), "bytes_up is -98"),
        ("test_probabilities", np.full((4, 2), np.nan), "probability"),
        ("sampled", np.array([[1, 0], [0, 0], [0, 1]], dtype=bool), "no client is sampled in round 1"),
        ("offsets", np.array([0, 4, 4]), "client 1 has no local test sample"),
        ("sampled", np.zeros((0, 2), dtype=bool), "no round"),
    ],
)
def test_corrupt_records(field, value, message):
    with pytest.raises(RecordError, match=message):
        evaluate(dataclasses.replace(EXAMPLE, **{field: value}))


def test_out_of_bounds_is_corrupt(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", {})
    broken = metrics.metric("Broken", "x", level="global", model=None)(lambda _: 1.0000001)
    with pytest.raises(RecordError, match=r"not a number in \[0.0, 1.0\]"):
        broken(EXAMPLE)


# ---- Cards ----------------------------------------------------------------------------------------------------------


def test_cards():
    assert list(METRICS) == [
        "global_accuracy_mean", "global_accuracy_last", "global_accuracy_final", "global_accuracy_selected",
        "global_balanced_accuracy", "global_macro_f1", "global_auc",
        "local_accuracy_mean", "local_accuracy_last", "worst_sampled_accuracy",
        "personal_accuracy", "worst_all_accuracy", "worst_fifth_accuracy", "client_sd", "client_gap", "jain_index",
        "held_out_accuracy", "held_out_global_accuracy",
        "bwt", "bwt_last", "consistency_step", "consistency_peak", "local_consistency_step", "local_consistency_peak",
        "balance",
        "bytes_up", "bytes_down", "seconds_train", "seconds_evaluate", "train_samples", "forward_samples",
    ]  # fmt: skip
    for name, entry in METRICS.items():
        assert entry.name == name
        assert entry.compute is getattr(metrics, name)
        assert entry.description
        assert ">>>" not in entry.description
        assert f">>> {name}(EXAMPLE)" in entry.compute.__doc__
        assert entry.level == "cost" or "Not defined" in " ".join(entry.description.split())
        assert "\n  " not in entry.description
    assert len({entry.title for entry in METRICS.values()}) == len({entry.symbol for entry in METRICS.values()}) == 31


def test_reconstructions_say_so():
    assert all("reconstruction" in METRICS[name].description for name in METRICS if "consistency" in name)
