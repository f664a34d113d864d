"""FedLC: its loss by hand, classes that a client lacks, and FedAvg at tau = 0."""

import math
from types import SimpleNamespace

import pytest
import torch
from fedbench.methods.fedlc import FedLC

from fedbench import Batch, Dirichlet, Method, Size
from fedbench.together import Together


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=FedLC, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1)


@pytest.fixture(scope="module")
def client(make_cell, start, shrink):
    """A client with fewer than the eight classes."""
    simulation = start(make_cell(shrink("blood-mini"), FedLC))
    clients = (simulation._client(k, 1) for k in range(8))
    return next(client for client in clients if 2 <= int((client.class_counts > 0).sum()) < 8)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def some(client, params):
    index = torch.arange(min(12, client.n))
    return Batch(client.model, client.kind, params, client.inputs[index], client.targets[index], index)


def test_at_tau_zero_it_is_fedavg_bit_for_bit(simulate, heart):
    a, b = simulate(heart, tau=0.0), simulate(heart, "fedavg")
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    assert not same(simulate(heart).server.params, b.server.params)


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_the_loss_is_the_papers(client, tau):
    batch = some(client, client.params)
    counts = [int((client.targets == c).sum()) for c in range(8)]
    total = 0.0
    for row, label in zip(batch.logits.tolist(), batch.y.tolist(), strict=True):
        exps = [math.exp(z - tau * n**-0.25) if n else 0.0 for z, n in zip(row, counts, strict=True)]
        total -= math.log(exps[label] / sum(exps))
    assert FedLC(tau=tau).loss(client, batch).item() == pytest.approx(total / len(batch.y), rel=1e-5)


def test_classes_that_a_client_lacks_are_left_alone(client):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
    FedLC().loss(client, some(client, leaves)).backward()
    lacking = client.class_counts == 0
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.values())
    assert not leaves["head.weight"].grad[lacking].any()
    assert leaves["head.weight"].grad[~lacking].abs().sum(dim=1).min() > 0


def test_equal_counts_give_the_plain_gradient(client):
    equal = SimpleNamespace(class_counts=torch.full((8,), 7))
    plain, calibrated = [], []
    for method, of, found in ((Method(), client, plain), (FedLC(), equal, calibrated)):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
        method.loss(of, some(client, leaves)).backward()
        found.extend(leaf.grad for leaf in leaves.values())
    for a, b in zip(plain, calibrated, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_rare_class_needs_a_larger_margin(client):
    batch = some(client, {name: torch.zeros_like(tensor) for name, tensor in client.params.items()})
    common = int(batch.y[0])
    batch.y = torch.full_like(batch.y, common)
    rare = torch.full((8,), 50)
    rare[common] = 2
    often = torch.full((8,), 2)
    often[common] = 50
    losses = [FedLC().loss(SimpleNamespace(class_counts=counts), batch).item() for counts in (rare, often)]
    assert losses[0] > math.log(8) > losses[1]


def test_tiny_clients_of_one_class_train(simulate, shrink):
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    simulation = simulate(task)
    targets = [simulation.targets[ids] for ids in simulation.federation.train]
    assert min(len(some) for some in targets) == 1
    assert any(len(some) > 1 and len(some.unique()) == 1 for some in targets)
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_clients_are_trained_together_to_the_same_result(simulate, heart):
    trainer = Together(lanes=3)
    together, alone = simulate(heart, trainer=trainer), simulate(heart)
    assert trainer.describe() == "up to 3 clients at a time, batches of 12"
    for name, tensor in alone.server.params.items():
        torch.testing.assert_close(together.server.params[name], tensor, rtol=1e-4, atol=1e-6)


def test_traffic_is_as_declared(simulate, heart):
    simulation = simulate(heart)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedLC().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [4 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [4 * up] * 2
