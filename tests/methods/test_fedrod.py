"""FedRoD: the paper's loss, a base that the personal head does not move, and both predictors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedrod import FedRoD

from fedbench import Batch, Method, Size
from fedbench.together import Together

NUMBERS = 13 * 16 + 16 + 16 * 2 + 2  # of the perceptron for heart


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def simulated(task, method=FedRoD, *, trainer=None, **given):
        simulation = start(make_cell(task, method, **given), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=2)


@pytest.fixture(scope="module")
def simulation(simulate, heart):
    return simulate(heart)


@pytest.fixture
def client(simulation):
    return simulation._client(0, 10)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def some(client, positions, **changes):
    """Return the client with some of its samples alone."""
    x, y = client.inputs[positions], client.targets[positions]
    return replace(client, targets=y, read_inputs=lambda: x, passes=5 * len(y), **changes)


def gradient(method, client, params):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    index = torch.arange(client.n)
    method.loss(client, Batch(client.model, client.kind, leaves, client.inputs, client.targets, index)).backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def moved(client):
    """Return a model with a personal head that is not zero."""
    return {name: 1.3 * tensor + (0.2 if name.startswith("personal") else 0) for name, tensor in client.params.items()}


@pytest.mark.parametrize("task", ["heart", "blood-mini"])
def test_without_balancing_its_global_model_is_fedavgs_bit_for_bit(simulate, shrink, task):
    task = shrink(task, rounds=2, local_epochs=1)
    a, b = simulate(task, gamma=0.0), simulate(task, "fedavg")
    assert same(a.server.params, b.server.params)
    predicted = (np.stack(run.arrays["global_test_predictions"]) for run in (a, b))
    assert np.array_equal(*predicted)


def test_with_balancing_it_is_not(simulate, heart, simulation):
    assert not same(simulation.server.params, simulate(heart, "fedavg").server.params)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_loss_is_the_papers(client, gamma):
    """Written with loops: CE(z + gamma log n) + CE(z + h(f))."""

    def entropy(rows, labels):
        exps = [[math.exp(value) for value in row] for row in rows]
        return sum(-math.log(row[y] / sum(row)) for row, y in zip(exps, labels, strict=True)) / len(labels)

    params, counts = moved(client), torch.bincount(client.targets).tolist()
    x, y = client.inputs[:5], client.targets[:5]
    f = torch.relu(x @ params["fc1.weight"].T + params["fc1.bias"])
    z = f @ params["head.weight"].T + params["head.bias"]
    h = f @ params["personal.weight"].T + params["personal.bias"]
    balanced = [[value + gamma * math.log(n) for value, n in zip(row, counts, strict=True)] for row in z.tolist()]
    expected = entropy(balanced, y.tolist()) + entropy((z + h).tolist(), y.tolist())
    batch = Batch(client.model, client.kind, params, x, y, torch.arange(5))
    assert FedRoD(gamma=gamma).loss(client, batch).item() == pytest.approx(expected, rel=1e-5)


def test_equal_class_counts_give_the_generic_path_fedavgs_gradient(client):
    each = [torch.where(client.targets == c)[0][:20] for c in (0, 1)]
    even = some(client, torch.cat(each))
    plain, found = (gradient(method, even, moved(client)) for method in (Method(), FedRoD()))
    for name in plain:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-5, atol=1e-7)


def test_the_personal_head_moves_neither_base_nor_generic_head(client):
    params = moved(client)
    other = {name: tensor * (-2 if name.startswith("personal") else 1) for name, tensor in params.items()}
    a, b = (gradient(FedRoD(), client, model) for model in (params, other))
    for name in client.initial:
        assert torch.equal(a[name], b[name])
    assert not torch.equal(a["personal.weight"], b["personal.weight"])


def test_the_first_step_of_a_personal_head_by_hand(simulate, shrink):
    """From zero, on a full batch: -lr times the mean of (softmax(z) - onehot(y)) f."""
    task = shrink("heart", rounds=1, local_epochs=1, batch_size=1000, momentum=0.0, weight_decay=0.0)
    simulation = simulate(task)
    w = simulation.initial
    for k, ids in enumerate(simulation.federation.train):
        x, y = simulation.inputs[ids], simulation.targets[ids]
        f = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
        error = torch.softmax(f @ w["head.weight"].T + w["head.bias"], dim=1) - F.one_hot(y, 2)
        head = simulation.states[k]["private"]
        assert set(head) == {"personal.weight", "personal.bias"}
        torch.testing.assert_close(head["personal.weight"], -task.protocol.lr * error.T @ f / len(ids))
        torch.testing.assert_close(head["personal.bias"], -task.protocol.lr * error.mean(dim=0))


def test_a_client_deploys_the_sum_of_both_predictors(simulation):
    x, head = simulation.inputs[:20], simulation.states[2]["private"]
    output = simulation.model(simulation.server.params, x)
    expected = output.logits + output.features @ head["personal.weight"].T + head["personal.bias"]
    deployed = simulation.model(simulation._personal(2)[0], x).logits
    torch.testing.assert_close(deployed, expected)
    assert not torch.allclose(deployed, output.logits)


def test_before_its_first_visit_a_client_deploys_the_generic_model(make_cell, start, shrink):
    simulation = start(make_cell(shrink("blood-mini", rounds=1, local_epochs=1), FedRoD))
    simulation.round()
    (k, *_) = set(range(8)) - set(simulation.states)
    model = simulation._personal(k)[0]
    assert all(torch.equal(model[name], tensor) for name, tensor in simulation.server.params.items())


def test_the_local_model_is_the_deployed_one_after_training(simulation, client):
    simulation.method.client_update(client)
    model = {**client.params, **client.state["private"]}
    assert not torch.equal(client.local["head.weight"], model["head.weight"])
    difference = client.local["head.weight"] - client.state["private"]["personal.weight"]
    assert torch.isfinite(difference).all()


def test_no_personal_head_crosses_the_wire(simulation):
    assert set(np.concatenate(simulation.clients["bytes_down"])) == {4 * NUMBERS}
    assert set(np.concatenate(simulation.clients["bytes_up"])) == {4 * NUMBERS + 8}
    size = Size(shared=4 * NUMBERS, model=4 * NUMBERS, classes=2, features=16)
    assert simulation.method.traffic(size) == (4 * NUMBERS, 4 * NUMBERS + 8)
    assert simulation.server.params.keys() == simulation.initial.keys()


def test_a_client_with_one_class_teaches_the_generic_path_nothing(client):
    """An absent class has probability zero, so the balanced loss is zero, and so is its gradient."""
    alone = some(client, torch.where(client.targets == 1)[0])
    found = gradient(FedRoD(), alone, moved(client))
    for name, tensor in found.items():
        assert torch.isfinite(tensor).all()
        assert name.startswith("personal") or not tensor.any()


@pytest.mark.parametrize("positions", [[0], [0, 1, 2]], ids=str)
def test_small_clients_stay_finite(simulation, client, positions):
    hard = some(client, torch.tensor(positions))
    upload = simulation.method.client_update(hard)
    for tensor in (*upload.params.values(), *hard.local.values()):
        assert torch.isfinite(tensor).all()


def test_clients_can_be_trained_together(simulate, heart, simulation):
    trainer = Together(lanes=3)
    together = simulate(heart, trainer=trainer)
    assert trainer.describe() == "up to 3 clients at a time, batches of 12"
    for name, tensor in simulation.server.params.items():
        torch.testing.assert_close(together.server.params[name], tensor, rtol=1e-4, atol=1e-6)
