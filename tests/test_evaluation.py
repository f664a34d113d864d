"""Evaluation: each held-out sample passes a model once, and every result lands on its own sample."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from fedbench import Federation, MethodError
from fedbench.evaluation import Evaluator
from fedbench.kinds import KINDS
from fedbench.models import Model
from fedbench.seeds import Streams

CLASSES, FEATURES, N = 3, 4, 60
KIND = KINDS["classification"]
TESTS = ([3, 9, 20], [9, 4, 50, 51], [11])  # sample 9 is in two clients' test sets, as on the robust track
GLOBAL = [20, 1, 4, 9, 33, 3, 50]  # not sorted, and shared with the clients' sets
VALIDATION = [7, 2, 58]


def ids(values):
    return np.array(values, dtype=np.int64)


def make_federation(tests=TESTS, validation=VALIDATION):
    return Federation(
        train=tuple(ids([]) for _ in tests),
        tests=tuple(map(ids, tests)),
        global_test=ids(GLOBAL),
        validation=ids(validation),
        schedule=(),
        passes=(),
    )


def make_samples():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.standard_normal((N, FEATURES))).to(torch.float32), torch.from_numpy(
        rng.integers(CLASSES, size=N)
    )


def make_evaluator(batch=128, **changes):
    model = Model("mlp", (FEATURES,), CLASSES)
    inputs, targets = make_samples()
    evaluator = Evaluator(inputs, targets, make_federation(**changes), model, KIND, batch)
    return evaluator, model, inputs, targets


def assert_bits(got, expected):
    assert got.dtype == np.bool_
    assert got.tolist() == list(expected)


@pytest.mark.parametrize("batch", [1, 3, 128])
def test_a_global_model_sample_by_sample(batch):
    evaluator, model, inputs, targets = make_evaluator(batch)
    params = model.initial(Streams(0))
    predicted = [int(model(params, inputs[i : i + 1]).logits.argmax()) for i in range(N)]
    right = [predicted[i] == int(targets[i]) for i in range(N)]
    assert 0 < sum(right) < N
    result = evaluator.everywhere(params)
    assert result.predictions.dtype == np.uint8
    assert result.predictions.tolist() == [predicted[i] for i in GLOBAL]
    assert_bits(result.correct, [right[i] for i in GLOBAL])
    assert_bits(result.validation, [right[i] for i in VALIDATION])
    assert_bits(result.clients, [right[i] for test in TESTS for i in test])
    torch.testing.assert_close(result.logits, model(params, inputs[GLOBAL]).logits, rtol=1e-5, atol=1e-6)


def test_columns_of_a_client():
    evaluator, *_ = make_evaluator()
    assert evaluator.offsets.tolist() == [0, 3, 7, 8]


@pytest.mark.parametrize("client", range(3))
def test_a_local_model_sees_its_own_test_set_alone(client):
    evaluator, model, inputs, targets = make_evaluator()
    params = model.initial(Streams(client))
    seen = []

    def watched(x):
        seen.append(x)
        return model(params, x).logits

    got = evaluator.on_client(watched, client)
    own = TESTS[client]
    assert torch.equal(torch.cat(seen), inputs[own])
    assert_bits(got, (model(params, inputs[own]).logits.argmax(dim=1) == targets[own]).tolist())
    assert_bits(evaluator.on_client(params, client), got)


def test_a_global_model_on_clients_is_what_each_client_would_find():
    evaluator, model, *_ = make_evaluator()
    params = model.initial(Streams(5))
    result = evaluator.everywhere(params)
    assert result.clients.tolist() == np.concatenate([evaluator.on_client(params, k) for k in range(3)]).tolist()


@pytest.mark.parametrize("batch", [1, 4, 5, 128])
def test_each_sample_passes_once_in_batches_of_the_protocol_s_size(batch):
    evaluator, _, inputs, _ = make_evaluator(batch)
    passed = []

    def watched(x):
        passed.append(x)
        return torch.zeros(len(x), CLASSES)

    evaluator.everywhere(watched)
    held_out = sorted({*GLOBAL, *VALIDATION, *(i for test in TESTS for i in test)})
    assert Counter(row.tolist().__repr__() for row in torch.cat(passed)) == Counter(
        inputs[i].tolist().__repr__() for i in held_out
    )
    assert [len(x) for x in passed[:-1]] == [batch] * (len(passed) - 1)
    assert len(passed) == math.ceil(len(held_out) / batch)


@pytest.mark.parametrize("label", range(CLASSES))
def test_a_constant_is_right_where_its_class_is(label):
    evaluator, _, _, targets = make_evaluator()
    result = evaluator.everywhere(lambda x: torch.eye(CLASSES)[label].expand(len(x), -1))
    assert set(result.predictions.tolist()) == {label}
    assert_bits(result.correct, (targets[GLOBAL] == label).tolist())


def test_no_validation_set_gives_no_bits():
    evaluator, model, *_ = make_evaluator(validation=())
    assert evaluator.everywhere(model.initial(Streams(0))).validation.shape == (0,)


def test_evaluation_takes_no_gradients():
    evaluator, model, *_ = make_evaluator()
    params = {name: tensor.requires_grad_() for name, tensor in model.initial(Streams(0)).items()}
    assert not evaluator.everywhere(params).logits.requires_grad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_a_method_error(value):
    evaluator, *_ = make_evaluator()
    with pytest.raises(MethodError, match="not finite"):
        evaluator.everywhere(lambda x: torch.full((len(x), CLASSES), value))
    with pytest.raises(MethodError, match="not finite"):
        evaluator.on_client(lambda x: torch.full((len(x), CLASSES), value), 0)


# --- the kind ---------------------------------------------------------------------------------------------------


def test_cross_entropy_of_each_sample_in_closed_form():
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [100.0, 0.0, 0.0]])
    targets = torch.tensor([1, 0, 0])
    expected = torch.tensor([math.log(3), math.log(2), 0.0])
    torch.testing.assert_close(KIND.loss(logits, targets), expected)


def test_a_prediction_is_the_first_largest_logit_and_its_score_is_right_or_wrong():
    logits = torch.tensor([[0.1, 0.3, 0.2], [0.5, 0.5, 0.0], [-1.0, -2.0, -3.0]])
    assert KIND.predict(logits).tolist() == [1, 0, 0]
    assert KIND.score(logits, torch.tensor([1, 1, 0])).tolist() == [1.0, 0.0, 1.0]
    assert KIND.outputs(8) == 8
