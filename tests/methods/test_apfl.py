"""APFL: two models and their mixture, against plain autograd, FedAvg and local training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.apfl import APFL

from fedbench import Partitioner, Size
from fedbench.together import Together

STEP = {"rounds": 1, "local_epochs": 1, "batch_size": 1000, "momentum": 0.0, "lr": 0.5}


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=APFL, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logits(w, x):
    hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    return hidden @ w["head.weight"].T + w["head.bias"]


def moved(model, seed):
    rng = torch.Generator().manual_seed(seed)
    return {name: w + 0.3 * torch.randn(w.shape, generator=rng) for name, w in model.items()}


@pytest.mark.parametrize(
    ("name", "values"),
    [("heart", {}), ("heart", {"alpha": 0.9}), ("heart", {"adaptive": True}), ("blood-mini", {"adaptive": True})],
    ids=str,
)
def test_the_global_model_is_fedavgs_bit_for_bit(simulate, shrink, name, values):
    task = shrink(name, rounds=2, local_epochs=1, weight_decay=0.01)
    assert same(simulate(task, **values).server.params, simulate(task, "fedavg").server.params)


def test_without_a_share_of_its_own_it_is_fedavg(simulate, shrink):
    task = shrink("heart", rounds=3, personal_every=1)
    found, plain = simulate(task, alpha=0.0), simulate(task, "fedavg")
    assert same(found.server.params, plain.server.params)
    assert found.rounds["train_loss"] == plain.rounds["train_loss"]
    for name, values in plain.arrays.items():
        assert np.array_equal(np.stack(found.arrays[name]), np.stack(values)), name


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_with_nothing_but_its_own_it_trains_locally_bit_for_bit(simulate, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1)
    found, local = simulate(task, alpha=1.0), simulate(task, "local")
    visited = [k for k, state in local.states.items() if state]
    assert visited
    for k in visited:
        assert same(found.states[k]["v"], local.states[k]["private"])
        assert same(found.method.personal(found._client(k, 0)), local.states[k]["private"])


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_is_the_papers(make_cell, start, shrink, adaptive):
    """w on its own loss, v on the mixture's times alpha, alpha along v - w; no decay of alpha."""
    simulation = start(make_cell(shrink("heart", **STEP, weight_decay=0.1), APFL, adaptive=adaptive))
    client = simulation._client(1, len(simulation.federation.train[1]))
    w, v = client.params, moved(client.params, 1)
    client.state = {"v": v, "alpha": torch.tensor(0.3)}
    sent = simulation.method.client_update(client)

    leaf = {name: tensor.clone().requires_grad_() for name, tensor in w.items()}
    F.cross_entropy(logits(leaf, client.inputs), client.targets).backward()
    mixture = {name: (0.7 * w[name] + 0.3 * v[name]).requires_grad_() for name in w}
    F.cross_entropy(logits(mixture, client.inputs), client.targets).backward()
    slope = sum(((v[name] - w[name]) * mixture[name].grad).sum() for name in w).item()
    for name in w:
        new_w = w[name] - 0.5 * (leaf[name].grad + 0.1 * w[name])
        new_v = v[name] - 0.5 * (0.3 * mixture[name].grad + 0.1 * v[name])
        torch.testing.assert_close(sent.params[name], new_w, rtol=0, atol=1e-6)
        torch.testing.assert_close(client.state["v"][name], new_v, rtol=0, atol=1e-6)
    expected = min(max(0.3 - 0.5 * slope, 0.0), 1.0) if adaptive else 0.3
    assert abs(slope) > 1e-3
    assert client.state["alpha"].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("direction", "end"), [(1, 0.0), (-1, 1.0)])
def test_alpha_stays_in_its_range(make_cell, start, shrink, direction, end):
    """v lies far up, or down, the gradient at w: alpha would leave [0, 1] in one step."""
    simulation = start(make_cell(shrink("heart", **STEP | {"lr": 100.0}), APFL, adaptive=True))
    client = simulation._client(0, len(simulation.federation.train[0]))
    leaf = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
    F.cross_entropy(logits(leaf, client.inputs), client.targets).backward()
    v = {name: w.detach() + direction * w.grad for name, w in leaf.items()}
    client.state = {"v": v, "alpha": torch.tensor(0.01 if end == 0.0 else 0.99)}
    simulation.method.client_update(client)
    assert client.state["alpha"].item() == end


def test_the_personal_model_mixes_with_the_newest_global_one(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=1, local_epochs=1), alpha=0.25)
    k = int(simulation.federation.schedule[0][0])
    found = simulation.method.personal(simulation._client(k, 0, evaluation=True))
    for name, w in simulation.server.params.items():
        torch.testing.assert_close(found[name], 0.75 * w + 0.25 * simulation.states[k]["v"][name])
    assert not same(found, simulation.server.params)
    never = next(k for k in range(8) if k not in simulation.federation.schedule[0])
    assert same(simulation.method.personal(simulation._client(never, 0, evaluation=True)), simulation.server.params)


def test_batch_normalisation(simulate, shrink):
    """The global model is FedAvg's with its statistics; the pass for the mixture's statistics trains nothing."""
    task = shrink("blood-mini", rounds=2, local_epochs=1).but(model="cnn-small-bn")
    simulation = simulate(task, alpha=0.5)
    assert same(simulation.server.params, simulate(task, "fedavg").server.params)
    client = simulation._client(int(simulation.federation.schedule[1][0]), 100)
    w = simulation.method.client_update(client).params
    for name, v in client.state["v"].items():
        if name.endswith((".mean", ".var")):
            assert torch.equal(client.local[name], v)
            assert not torch.equal(client.initial[name], v)
        else:
            assert torch.equal(client.local[name], 0.5 * w[name] + 0.5 * v)


def test_traffic_is_fedavgs(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=2, local_epochs=1))
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = APFL().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [value.tolist() for value in simulation.rounds["bytes_down"]] == [[4 * down]] * 2
    assert [value.tolist() for value in simulation.rounds["bytes_up"]] == [[4 * up]] * 2


@pytest.mark.parametrize("adaptive", [False, True])
def test_hard_clients(simulate, shrink, adaptive):
    task = shrink("blood-mini", partitioner=Hard(), rounds=2, local_epochs=1, participation=1.0, local_test=0.5)
    simulation = simulate(task, adaptive=adaptive)
    simulation.save()
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 10, 4]
    assert np.isfinite(np.stack(simulation.clients["train_loss"])).all()
    for state in simulation.states.values():
        assert 0 <= state["alpha"] <= 1
        assert all(torch.isfinite(tensor).all() for tensor in state["v"].values())


def test_clients_can_be_trained_together(simulate, shrink):
    task, trainer = shrink("heart", rounds=2, local_epochs=1, weight_decay=0.01), Together()
    found, plain = simulate(task, trainer=trainer, adaptive=True), simulate(task, adaptive=True)
    assert "one client" not in trainer.describe()
    for k, state in plain.states.items():
        torch.testing.assert_close(found.states[k]["alpha"], state["alpha"], rtol=1e-4, atol=1e-6)
        for name, v in state["v"].items():
            torch.testing.assert_close(found.states[k]["v"][name], v, rtol=1e-4, atol=1e-6)
