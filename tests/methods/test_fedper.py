"""FedPer: its limits, one step by hand, heads that stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedper import FedPer

from fedbench import MethodError, Size

BASE, HEAD = 13 * 16 + 16, 16 * 2 + 2  # numbers of the perceptron for heart


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def simulated(task, method=FedPer, **given):
        simulation = start(make_cell(task, method, **given))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=2)


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1, participation=0.4)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def equal_runs(a, b):
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    for name, values in b.arrays.items():
        assert np.array_equal(np.stack(values), np.stack(a.arrays[name])), name


def test_with_nothing_private_it_is_fedavg_bit_for_bit(simulate, heart):
    a, b = simulate(heart, private=""), simulate(heart, "fedavg")
    assert same(a.server.params, b.server.params)
    equal_runs(a, b)


def test_with_everything_private_it_is_local_training_bit_for_bit(simulate, heart):
    a, b = simulate(heart, private="fc1,head"), simulate(heart, "local")
    equal_runs(a, b)
    for k in b.states:
        assert same(a.states[k]["private"], b.states[k]["private"])


def test_one_step_is_the_closed_form(simulate, shrink):
    """Full batches: the base moves by the mean gradient of all hospitals, each head by that of its own."""
    task = shrink("heart", rounds=1, local_epochs=1, batch_size=1000, momentum=0.0, weight_decay=0.0)
    simulation, lr = simulate(task), task.protocol.lr
    sizes = [len(ids) for ids in simulation.federation.train]
    base = {name: w.double() for name, w in simulation.initial.items() if not name.startswith("head")}
    for k, ids in enumerate(simulation.federation.train):
        x, y = simulation.inputs[ids], simulation.targets[ids]
        w = {name: tensor.clone().requires_grad_() for name, tensor in simulation.initial.items()}
        hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
        F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
        for name in base:
            base[name] = base[name] - lr * sizes[k] / sum(sizes) * w[name].grad.double()
        for name, tensor in simulation.states[k]["private"].items():
            assert name.startswith("head")
            torch.testing.assert_close(tensor, (w[name] - lr * w[name].grad).detach(), rtol=0, atol=1e-7)
    for name, tensor in base.items():
        torch.testing.assert_close(simulation.server.params[name].double(), tensor, rtol=0, atol=1e-7)


def test_no_head_crosses_the_wire(simulate, heart):
    simulation = simulate(heart)
    assert set(np.concatenate(simulation.clients["bytes_down"])) == {4 * BASE}
    assert set(np.concatenate(simulation.clients["bytes_up"])) == {4 * BASE + 8}
    size = Size(shared=4 * BASE, model=4 * (BASE + HEAD), classes=2, features=16)
    assert simulation.method.traffic(size) == (4 * BASE, 4 * BASE + 8)
    for kind in ("weight", "bias"):
        assert torch.equal(simulation.server.params[f"head.{kind}"], simulation.initial[f"head.{kind}"])


def test_a_client_that_is_not_sampled_keeps_its_head(make_cell, start, blood):
    simulation = start(make_cell(blood, FedPer))
    simulation.round()
    before = {k: simulation.states[k]["private"] for k in simulation.states}
    simulation.round()
    sampled = set(simulation.federation.schedule[1].tolist())
    assert set(before) - sampled  # somebody was sampled in the first round alone
    for k, head in before.items():
        assert same(simulation.states[k]["private"], head) is (k not in sampled)


def test_a_client_deploys_the_newest_base_under_its_own_head(simulate, blood):
    simulation = simulate(blood)
    for k in range(8):
        model, spent = simulation._personal(k)
        own = simulation.states[k]["private"] if k in simulation.states else simulation.initial
        assert spent == 0
        for name, tensor in model.items():
            assert torch.equal(tensor, (own if name.startswith("head") else simulation.server.params)[name])
    assert "global_test_predictions" not in simulation.arrays


def test_a_layer_that_is_not_there_is_named(simulate, heart):
    with pytest.raises(MethodError, match=r"FedPer\.private: the model has no layer 'haed'; it has fc1, head"):
        simulate(heart, private="haed")


@pytest.mark.parametrize("positions", [[0], "one class", [0, 1, 2]], ids=str)
def test_hard_clients_stay_finite(simulate, heart, positions):
    simulation = simulate(heart)
    client = simulation._client(0, 0)
    some = torch.where(client.targets == client.targets[0])[0] if positions == "one class" else torch.tensor(positions)
    hard = replace(client, targets=client.targets[some], read_inputs=lambda: client.inputs[some], passes=5 * len(some))
    upload = simulation.method.client_update(hard)
    assert upload.n == len(some)
    assert set(upload.params) == {"fc1.weight", "fc1.bias"}
    for tensor in (*upload.params.values(), *hard.state["private"].values()):
        assert torch.isfinite(tensor).all()
