"""FedBN: FedAvg without batch normalisation, and normalisation that stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fedbench.methods.fedbn import FedBN

from fedbench import Size

CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)
NORM = 4 * (8 + 16)  # scale, shift, mean and variance of both layers


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs some of a cell's rounds and returns its simulation."""

    def simulated(task, method=FedBN, rounds=None):
        simulation = start(make_cell(task, method))
        for _ in range(rounds or task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1, participation=0.4).but(model="cnn-small-bn")


@pytest.fixture(scope="module")
def first(simulate, blood):
    return simulate(blood, rounds=1)


@pytest.fixture(scope="module")
def both(simulate, blood):
    return simulate(blood)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def is_norm(name):
    return name.startswith("norm")


@pytest.mark.parametrize("task", ["heart", "blood-mini"])
def test_without_batch_normalisation_it_is_fedavg_bit_for_bit(simulate, shrink, task):
    task = shrink(task, rounds=2, local_epochs=1)
    a, b = simulate(task), simulate(task, "fedavg")
    assert same(a.server.params, b.server.params)
    for column in ("train_loss", "bytes_down", "bytes_up"):
        assert a.rounds[column] == b.rounds[column]
    for name, values in b.arrays.items():
        assert np.array_equal(np.stack(values), np.stack(a.arrays[name])), name


def test_the_first_round_trains_as_fedavg_and_averages_all_but_normalisation(simulate, blood, first):
    fedavg = simulate(blood, "fedavg", rounds=1)
    assert first.rounds["train_loss"] == fedavg.rounds["train_loss"]
    for name, tensor in first.server.params.items():
        other = first.initial if is_norm(name) else fedavg.server.params
        assert torch.equal(tensor, other[name])
    fedavg.server.params, fedavg.server.round = dict(fedavg.initial), 0
    for k, passes in zip(fedavg.plan.schedule[0].tolist(), fedavg.plan.passes[0].tolist(), strict=True):
        client = fedavg._client(k, passes)
        fedavg.method.client_update(client)
        assert same(first.states[k]["private"], {n: t for n, t in client.local.items() if is_norm(n)})


def test_from_the_second_round_on_it_is_not_fedavg(simulate, blood, both):
    fedavg = simulate(blood, "fedavg")
    assert not torch.equal(both.server.params["conv1.weight"], fedavg.server.params["conv1.weight"])


def test_no_tensor_of_normalisation_crosses_the_wire(both):
    sampled = ~np.isnan(np.stack(both.clients["bytes_down"]))
    assert set(np.stack(both.clients["bytes_down"])[sampled]) == {4 * CNN_SMALL}
    assert set(np.stack(both.clients["bytes_up"])[sampled]) == {4 * CNN_SMALL + 8}
    size = Size(shared=4 * CNN_SMALL, model=4 * (CNN_SMALL + NORM), classes=8, features=64)
    assert both.method.traffic(size) == (4 * CNN_SMALL, 4 * CNN_SMALL + 8)


def test_normalisation_stays_with_its_client(first, both):
    sampled = set(both.federation.schedule[1].tolist())
    assert set(first.states) - sampled  # somebody was sampled in the first round alone
    for k in first.states:
        own = both.states[k]["private"]
        assert sum(tensor.numel() for tensor in own.values()) == NORM
        assert same(own, first.states[k]["private"]) is (k not in sampled)


def test_a_client_deploys_the_newest_model_with_its_own_normalisation(both):
    for k in range(8):
        own = both.states[k]["private"] if k in both.states else both.initial
        for name, tensor in both._personal(k)[0].items():
            assert torch.equal(tensor, (own if is_norm(name) else both.server.params)[name])
    assert "global_test_predictions" not in both.arrays


@pytest.mark.parametrize("positions", [[0], "one class", [0, 1, 2]], ids=str)
def test_hard_clients_stay_finite(first, positions):
    client = first._client(0, 0)
    some = torch.where(client.targets == client.targets[0])[0] if positions == "one class" else torch.tensor(positions)
    hard = replace(client, targets=client.targets[some], read_inputs=lambda: client.inputs[some], passes=2 * len(some))
    upload = first.method.client_update(hard)
    assert not any(is_norm(name) for name in upload.params)
    for tensor in (*upload.params.values(), *hard.state["private"].values()):
        assert torch.isfinite(tensor).all()
