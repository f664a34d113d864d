"""FedAvgFT: FedAvg to the last bit, and a personal model that is fine-tuned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedavg_ft import FedAvgFT

from fedbench import Size

NUMBERS = 13 * 16 + 16 + 16 * 2 + 2  # of the perceptron for heart


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def simulated(task, method=FedAvgFT, **given):
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
def test_without_fine_tuning_it_is_fedavg_bit_for_bit(simulate, shrink, task):
    task = shrink(task, rounds=2, local_epochs=1)
    a, b = simulate(task, tune_epochs=0), simulate(task, "fedavg")
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    assert np.concatenate(a.rounds["adapt_samples"])[-1] == 0
    for name, values in b.arrays.items():
        assert np.array_equal(np.stack(values), np.stack(a.arrays[name])), name


def test_its_global_and_local_models_are_fedavgs_however_long_it_fine_tunes(simulate, shrink):
    task = shrink("heart", rounds=2, personal_every=1)
    a, b = simulate(task, tune_epochs=7), simulate(task, "fedavg")
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    for name in ("global_test_predictions", "local_client_correct"):
        assert np.array_equal(np.stack(a.arrays[name]), np.stack(b.arrays[name]))
    assert not np.array_equal(a.arrays["personal_client_correct"], b.arrays["personal_client_correct"])
    samples = sum(len(ids) for ids in a.federation.train)
    assert np.concatenate(a.rounds["adapt_samples"]).tolist() == [7 * samples] * 2


def test_fine_tuning_is_plain_sgd_on_the_whole_model(simulate, shrink):
    """Full batches; a second computation with torch's optimiser, at the learning rate of the last round."""
    task = shrink("heart", rounds=2, batch_size=1000, momentum=0.9, weight_decay=0.01, lr_decay=0.5)
    simulation = simulate(task, tune_epochs=3)
    ids = simulation.federation.train[1]
    x, y = simulation.inputs[ids], simulation.targets[ids]
    w = {name: tensor.clone().requires_grad_() for name, tensor in simulation.server.params.items()}
    optimiser = torch.optim.SGD(w.values(), lr=0.5 * task.protocol.lr, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
        F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
        optimiser.step()
    model, spent = simulation._personal(1)
    assert spent == 3 * len(ids)
    for name, tensor in model.items():
        torch.testing.assert_close(tensor, w[name].detach(), rtol=0, atol=1e-6)


def test_fine_tuning_has_an_order_of_its_own(simulate, heart):
    """A personal model is not what the client's next visit would train from the same model."""
    simulation = simulate(heart)
    client = simulation._client(1, 5 * len(simulation.federation.train[1]))
    again = simulation._client(1, 5 * len(simulation.federation.train[1]))
    tuned = simulation.method.personal(client)
    simulation.method.client_update(again)
    assert client.train_loss is None
    assert not torch.equal(tuned["fc1.weight"], again.local["fc1.weight"])
    torch.testing.assert_close(tuned["fc1.weight"], again.local["fc1.weight"], rtol=0, atol=0.1)


def test_traffic_is_fedavgs(simulate, heart):
    simulation = simulate(heart)
    assert set(np.concatenate(simulation.clients["bytes_down"])) == {4 * NUMBERS}
    assert set(np.concatenate(simulation.clients["bytes_up"])) == {4 * NUMBERS + 8}
    size = Size(shared=4 * NUMBERS, model=4 * NUMBERS, classes=2, features=16)
    assert simulation.method.traffic(size) == (4 * NUMBERS, 4 * NUMBERS + 8)
    assert simulation.states[0] == {}


@pytest.mark.parametrize("positions", [[0], "one class", [0, 1, 2]], ids=str)
def test_hard_clients_stay_finite(simulate, heart, positions):
    simulation = simulate(heart)
    client = simulation._client(0, 0)
    some = torch.where(client.targets == client.targets[0])[0] if positions == "one class" else torch.tensor(positions)
    hard = replace(client, targets=client.targets[some], read_inputs=lambda: client.inputs[some])
    for tensor in simulation.method.personal(hard).values():
        assert torch.isfinite(tensor).all()
