"""FedBABU: a head that never moves, and fine-tuning that leaves no trace."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedbabu import FedBABU

from fedbench import Method, Size

BASE, HEAD = 13 * 16 + 16, 16 * 2 + 2  # numbers of the perceptron for heart


@dataclass(frozen=True, kw_only=True)
class FrozenHead(Method):
    """FedAvg of whole models, whose last layer the optimiser does not have."""

    def client_update(self, client):
        trained = client.fit(client.params, self.loss, train=lambda name: name.startswith(("fc", "conv")))
        return client.upload(trained.params)


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def simulated(task, method=FedBABU, **given):
        simulation = start(make_cell(task, method, **given))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("task", ["heart", "blood-mini"])
def test_it_is_fedavg_without_the_head_in_the_optimiser_bit_for_bit(simulate, shrink, task):
    task = shrink(task, rounds=2, local_epochs=1, weight_decay=0.01)
    a, b = simulate(task, tune_epochs=0), simulate(task, FrozenHead)
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    for name, values in b.arrays.items():
        assert np.array_equal(np.stack(values), np.stack(a.arrays[name])), name


def test_the_head_is_the_initial_one_everywhere(simulate, heart):
    simulation = simulate(heart)
    models = [simulation.server.params, *({**simulation.states[k]["private"]} for k in range(4))]
    for model in models:
        assert torch.equal(model["head.weight"], simulation.initial["head.weight"])
        assert torch.equal(model["head.bias"], simulation.initial["head.bias"])
    assert not torch.equal(simulation.server.params["fc1.weight"], simulation.initial["fc1.weight"])


def test_no_head_crosses_the_wire(simulate, heart):
    simulation = simulate(heart)
    assert set(np.concatenate(simulation.clients["bytes_down"])) == {4 * BASE}
    assert set(np.concatenate(simulation.clients["bytes_up"])) == {4 * BASE + 8}
    size = Size(shared=4 * BASE, model=4 * (BASE + HEAD), classes=2, features=16)
    assert simulation.method.traffic(size) == (4 * BASE, 4 * BASE + 8)


def test_without_fine_tuning_the_personal_model_is_the_global_one(simulate, heart):
    simulation = simulate(heart, tune_epochs=0)
    model, spent = simulation._personal(2)
    assert same(model, simulation.server.params)
    assert spent == 0


def test_fine_tuning_is_plain_sgd_on_the_whole_model(simulate, shrink):
    """Full batches; a second computation with torch's optimiser, at the learning rate of the last round."""
    task = shrink("heart", rounds=2, batch_size=1000, momentum=0.9, weight_decay=0.01, lr_decay=0.5)
    simulation = simulate(task, tune_epochs=3)
    ids = simulation.federation.train[2]
    x, y = simulation.inputs[ids], simulation.targets[ids]
    w = {name: tensor.clone().requires_grad_() for name, tensor in simulation.server.params.items()}
    optimiser = torch.optim.SGD(w.values(), lr=0.5 * task.protocol.lr, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
        F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
        optimiser.step()
    model, spent = simulation._personal(2)
    assert spent == 3 * len(ids)
    assert not torch.equal(model["head.weight"], simulation.initial["head.weight"])
    for name, tensor in model.items():
        torch.testing.assert_close(tensor, w[name].detach(), rtol=0, atol=1e-6)


def test_an_evaluation_leaves_no_trace_and_is_counted(make_cell, start, shrink):
    """Rounds with a personal evaluation after each give the models of rounds without."""
    often = start(make_cell(shrink("heart", rounds=2, personal_every=1), FedBABU))
    seldom = start(make_cell(shrink("heart", rounds=2), FedBABU))
    for _ in range(2):
        often.round()
        seldom.round()
    assert same(often.server.params, seldom.server.params)
    assert often.rounds["train_loss"] == seldom.rounds["train_loss"]
    assert {k: sorted(often.states[k]) for k in often.states} == {k: ["private"] for k in range(4)}
    samples = sum(len(ids) for ids in often.federation.train)
    assert np.concatenate(often.rounds["adapt_samples"]).tolist() == [5 * samples] * 2
    again = often._personal(1)[0]
    assert same(again, often._personal(1)[0])


@pytest.mark.parametrize("positions", [[0], "one class", [0, 1, 2]], ids=str)
def test_hard_clients_stay_finite(simulate, heart, positions):
    simulation = simulate(heart)
    client = simulation._client(0, 0)
    some = torch.where(client.targets == client.targets[0])[0] if positions == "one class" else torch.tensor(positions)
    hard = replace(client, targets=client.targets[some], read_inputs=lambda: client.inputs[some], passes=5 * len(some))
    upload = simulation.method.client_update(hard)
    assert set(upload.params) == {"fc1.weight", "fc1.bias"}
    for tensor in (*upload.params.values(), *simulation.method.personal(hard).values()):
        assert torch.isfinite(tensor).all()
