"""FedRS: its loss by hand, classes that a client lacks, and FedAvg at alpha = 1."""

import math

import pytest
import torch
from fedbench.methods.fedrs import FedRS

from fedbench import Batch, Dirichlet, Method, Size
from fedbench.together import Together


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=FedRS, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def skewed(shrink):
    """Hospitals have patients of both classes; these twelve clients do not."""
    return shrink("heart", partitioner=Dirichlet(alpha=0.3, clients=12, min_size=5), rounds=2, local_epochs=1)


@pytest.fixture(scope="module")
def clients(make_cell, start, shrink):
    simulation = start(make_cell(shrink("blood-mini"), FedRS))
    return [simulation._client(k, 1) for k in range(8)]


@pytest.fixture(scope="module")
def client(clients):
    """A client with fewer than the eight classes."""
    return next(client for client in clients if 2 <= int((client.class_counts > 0).sum()) < 8)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def some(client, params):
    index = torch.arange(min(12, client.n))
    return Batch(client.model, client.kind, params, client.inputs[index], client.targets[index], index)


def gradients(method, client, params):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    method.loss(client, some(client, leaves)).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def test_at_alpha_one_it_is_fedavg_bit_for_bit(simulate, skewed):
    a, b = simulate(skewed, alpha=1.0), simulate(skewed, "fedavg")
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    assert not same(simulate(skewed).server.params, b.server.params)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_the_loss_is_the_papers(client, alpha):
    batch = some(client, client.params)
    weight, bias = client.params["head.weight"], client.params["head.bias"]
    has = set(client.targets.tolist())
    total = 0.0
    for f, label in zip(batch.features, batch.y.tolist(), strict=True):
        z = [(1 if c in has else alpha) * float(weight[c] @ f) + float(bias[c]) for c in range(8)]
        total += math.log(sum(math.exp(value) for value in z)) - z[label]
    assert FedRS(alpha=alpha).loss(client, batch).item() == pytest.approx(total / len(batch.y), rel=1e-5)


def test_a_client_of_all_classes_takes_fedavgs_step(shrink, make_cell, start):
    simulation = start(make_cell(shrink("heart"), FedRS))
    hospital = simulation._client(0, 1)
    assert int((hospital.class_counts > 0).sum()) == 2
    assert same(gradients(FedRS(), hospital, hospital.params), gradients(Method(), hospital, hospital.params))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5])
def test_the_pull_on_lacking_classes_shrinks_by_alpha(client, alpha):
    """At weights of zero their logits do not depend on alpha, so that alpha is all that is left of it."""
    lacking = client.class_counts == 0
    params = {**client.params, "head.weight": client.params["head.weight"] * ~lacking[:, None]}
    restricted, plain = gradients(FedRS(alpha=alpha), client, params), gradients(Method(), client, params)
    a, b = restricted["head.weight"], plain["head.weight"]
    torch.testing.assert_close(a[lacking], alpha * b[lacking], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(a[~lacking], b[~lacking], rtol=1e-4, atol=1e-7)
    assert b[lacking].abs().sum() > 0


def test_tiny_clients_of_one_class_train(simulate, shrink):
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    simulation = simulate(task)
    assert min(len(ids) for ids in simulation.federation.train) == 1
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_clients_are_trained_together_to_the_same_result(simulate, skewed):
    trainer = Together(lanes=3)
    together, alone = simulate(skewed, trainer=trainer), simulate(skewed)
    assert trainer.describe() == "up to 3 clients at a time, batches of 12"
    for name, tensor in alone.server.params.items():
        torch.testing.assert_close(together.server.params[name], tensor, rtol=1e-4, atol=1e-6)


def test_traffic_is_as_declared(simulate, skewed):
    simulation = simulate(skewed)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedRS().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [12 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [12 * up] * 2
