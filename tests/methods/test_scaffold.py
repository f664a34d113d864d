"""SCAFFOLD: its rounds in plain torch, the sum of its control variates, momentum, convolutions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.scaffold import SCAFFOLD, gradient_weight

from fedbench import Method, Partitioner
from fedbench.together import Together

CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)


class Uniform(Method):
    """FedAvg without weights."""

    def weights(self, server, uploads):
        return [1 / len(uploads)] * len(uploads)


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=SCAFFOLD, *, trainer=None, rounds=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(rounds or task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name].double(), tensor.double(), **tolerance, msg=lambda text, n=name: n + text
        )


def variates(simulation):
    return {k: state["c"] for k, state in simulation.states.items()}


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_gradients_weight_is_the_recursion_s(momentum):
    speed = weight = 0.0
    for steps in range(1, 60):
        speed = momentum * speed + 1
        weight += speed
        assert gradient_weight(steps, momentum) == pytest.approx(weight, rel=1e-12)


def plain_client(simulation, k, start, c, own):
    """Return client k's model and control variate after its full-batch steps, computed with plain torch."""
    protocol, ids = simulation.protocol, simulation.federation.train[k]
    rho, rate, steps = protocol.momentum, protocol.lr_at(simulation.done), protocol.local_epochs
    x, y = simulation.inputs[ids], simulation.targets[ids]
    w = {name: tensor.clone() for name, tensor in start.items()}
    speed = {name: torch.zeros_like(tensor) for name, tensor in w.items()}
    seen = {name: torch.zeros_like(tensor) for name, tensor in w.items()}
    weights = [sum(rho**i for i in range(steps - step)) for step in range(steps)]
    for weight in weights:
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in w.items()}
        F.cross_entropy(simulation.model(leaves, x).logits, y).backward()
        for name, leaf in leaves.items():
            gradient = leaf.grad + protocol.weight_decay * w[name]
            seen[name] += weight / sum(weights) * gradient
            speed[name] = rho * speed[name] + gradient - own[name] + c[name]
            w[name] = w[name] - rate * speed[name]
    return w, seen


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("task", ["heart", "blood-mini"])
def test_rounds_are_those_of_plain_torch(simulate, shrink, task, momentum):
    """Full-batch steps, also of convolutions, in the second round, when control variates are no longer zero."""
    steps = {"local_epochs": 3, "batch_size": 1000, "momentum": momentum, "weight_decay": 0.01, "lr_decay": 0.5}
    task = shrink(task, rounds=2, participation=0.5, **steps)
    simulation = simulate(task, rounds=1)
    start, c, kept = simulation.server.params, simulation.server.state["c"], variates(simulation)
    assert all(tensor.abs().sum() > 0 for tensor in c.values())
    sampled = simulation.federation.schedule[1].tolist()
    assert kept.keys() & sampled
    zeros = {name: torch.zeros_like(tensor) for name, tensor in c.items()}
    plain = {k: plain_client(simulation, k, start, c, kept.get(k, zeros)) for k in sampled}
    simulation.round()
    for k, (_, seen) in plain.items():
        close(variates(simulation)[k], seen, rtol=1e-3, atol=2e-5)
    mean = {name: sum(w[name] for w, _ in plain.values()) / len(plain) for name in start}
    close(simulation.server.params, mean, rtol=0, atol=1e-6)


def test_without_momentum_a_step_s_control_variate_is_its_gradient(simulate, shrink):
    task = shrink("heart", rounds=1, local_epochs=1, batch_size=1000, momentum=0.0, weight_decay=0.0)
    simulation = simulate(task)
    for k, ids in enumerate(simulation.federation.train):
        x, y = simulation.inputs[ids], simulation.targets[ids]
        w = {name: tensor.clone().requires_grad_() for name, tensor in simulation.initial.items()}
        hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
        F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
        close(variates(simulation)[k], {name: leaf.grad for name, leaf in w.items()}, rtol=1e-4, atol=2e-5)


def test_the_server_s_control_variate_is_the_mean_of_the_clients(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=4, local_epochs=1), rounds=1)
    for _ in range(3):
        simulation.round()
        kept = variates(simulation)  # of the other clients it is zero
        total = {name: sum(c[name].double() for c in kept.values()) / 8 for name in simulation.initial}
        close(simulation.server.state["c"], total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["heart", "blood-mini"])
def test_with_zero_control_variates_it_is_fedavg_without_weights(simulate, shrink, task):
    task = shrink(task, rounds=2, local_epochs=1)
    found, plain = simulate(task, rounds=1), simulate(task, Uniform, rounds=1)
    assert found.rounds["train_loss"] == plain.rounds["train_loss"]  # the clients' models are the same bits
    close(found.server.params, plain.server.params, rtol=1e-5, atol=1e-7)
    found.round()
    plain.round()
    assert found.rounds["train_loss"] != plain.rounds["train_loss"]


def test_the_server_s_rate_scales_its_step(simulate, shrink):
    task = shrink("heart", rounds=1)
    whole, half = simulate(task).server.params, simulate(task, eta_g=0.5)
    expected = {name: w + 0.5 * (whole[name] - w) for name, w in half.initial.items()}
    close(half.server.params, expected, rtol=0, atol=1e-7)


def test_control_variates_double_the_traffic(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * 8 * CNN_SMALL] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * (8 * CNN_SMALL + 8)] * 2


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=2, local_test=0.5, participation=1.0)
    simulation = simulate(task)
    assert sorted(len(ids) for ids in simulation.federation.train) == [1, 4, 10, 40]
    assert all(tensor.isfinite().all() for tensor in simulation.server.params.values())


def test_without_epochs_nothing_moves(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=2, local_epochs=0))
    close(simulation.server.params, simulation.initial, rtol=0, atol=0)
    assert not any(c.any() for c in simulation.server.state["c"].values())


def test_running_statistics_are_averaged(simulate, shrink):
    task = shrink("blood-mini", rounds=2, local_epochs=1).but(model="cnn-small-bn")
    found, plain = simulate(task, rounds=1), simulate(task, Uniform, rounds=1)
    statistics = {"norm1.mean", "norm1.var", "norm2.mean", "norm2.var"}
    assert all(torch.equal(found.server.params[name], plain.server.params[name]) for name in statistics)
    found.round()
    assert found.server.state["c"].keys() == found.initial.keys() - statistics


def test_clients_trained_together_are_those_trained_alone(simulate, shrink):
    task, trainer = shrink("heart", rounds=3, local_epochs=1), Together()
    close(simulate(task, trainer=trainer).server.params, simulate(task).server.params, rtol=1e-4, atol=1e-6)
    assert trainer.describe() == "up to 4 clients at a time, batches of 12"
