"""FedRep: two phases that do not touch each other's part."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedbabu import FedBABU
from fedbench.methods.fedrep import FedRep

from fedbench import Size

BASE, HEAD = 13 * 16 + 16, 16 * 2 + 2  # numbers of the perceptron for heart


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def simulated(task, method=FedRep, **given):
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


def test_a_round_is_two_plain_phases_of_sgd(simulate, shrink):
    """Full batches, momentum and weight decay on; a second computation with two optimisers of torch."""
    task = shrink("heart", rounds=1, batch_size=1000, momentum=0.9, weight_decay=0.01)
    simulation = simulate(task, head_epochs=3, base_epochs=2)
    sizes = [len(ids) for ids in simulation.federation.train]
    base = {name: torch.zeros_like(w).double() for name, w in simulation.initial.items() if name.startswith("fc1")}
    for k, ids in enumerate(simulation.federation.train):
        x, y = simulation.inputs[ids], simulation.targets[ids]
        w = {name: tensor.clone().requires_grad_() for name, tensor in simulation.initial.items()}
        for layer, epochs in (("head", 3), ("fc1", 2)):
            part = [tensor for name, tensor in w.items() if name.startswith(layer)]
            optimiser = torch.optim.SGD(part, lr=task.protocol.lr, momentum=0.9, weight_decay=0.01)
            for _ in range(epochs):
                optimiser.zero_grad()
                hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
                F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
                optimiser.step()
        for name, tensor in simulation.states[k]["private"].items():
            torch.testing.assert_close(tensor, w[name].detach(), rtol=0, atol=1e-6)
        for name in base:
            base[name] += sizes[k] / sum(sizes) * w[name].detach().double()
    for name, tensor in base.items():
        torch.testing.assert_close(simulation.server.params[name].double(), tensor, rtol=0, atol=1e-6)


class Watched(FedRep):
    """FedRep whose phases can be looked at: where each starts, ends and on which stream."""

    def client_update(self, client):
        phases, fit = [], client.fit

        def watched(params, loss, **options):
            result = fit(params, loss, **options)
            phases.append((dict(params), result.params, options.get("stream", "order")))
            return result

        client.fit = watched
        upload = super().client_update(client)
        PHASES[client.id] = phases
        return upload


PHASES = {}


def test_each_phase_leaves_the_other_part_alone_bit_for_bit(simulate, heart):
    """With momentum, weight decay, and heads that differ from client to client by the second round."""
    simulate(heart, Watched)
    assert len(PHASES) == 4
    for (start, between, first), (start_2, end, second) in PHASES.values():
        assert (first, second) == ("head", "order")
        assert same(start_2, between)
        for name in start:
            is_head = name.startswith("head")
            assert torch.equal(between[name], start[name]) is not is_head
            assert torch.equal(end[name], between[name]) is is_head


def test_without_a_head_phase_its_bases_are_fedbabus_bit_for_bit(simulate, shrink):
    task = shrink("heart", rounds=2, local_epochs=3)
    a, b = simulate(task, head_epochs=0, base_epochs=3), simulate(task, FedBABU)
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]


def test_no_head_crosses_the_wire_and_epochs_are_counted(simulate, heart):
    simulation = simulate(heart)
    assert set(np.concatenate(simulation.clients["bytes_down"])) == {4 * BASE}
    assert set(np.concatenate(simulation.clients["bytes_up"])) == {4 * BASE + 8}
    size = Size(shared=4 * BASE, model=4 * (BASE + HEAD), classes=2, features=16)
    assert simulation.method.traffic(size) == (4 * BASE, 4 * BASE + 8)
    samples = sum(len(ids) for ids in simulation.federation.train)
    assert set(np.concatenate(simulation.rounds["train_samples"])) == {5 * samples}  # as FedAvg at 5 local epochs
    assert "global_test_predictions" not in simulation.arrays


def test_a_client_that_is_not_sampled_keeps_its_head_and_deploys_it(make_cell, start, shrink):
    simulation = start(make_cell(shrink("blood-mini", rounds=2, participation=0.4), FedRep, head_epochs=1))
    simulation.round()
    before = {k: simulation.states[k]["private"] for k in simulation.states}
    simulation.round()
    sampled = set(simulation.federation.schedule[1].tolist())
    assert set(before) - sampled  # somebody was sampled in the first round alone
    for k, head in before.items():
        assert same(simulation.states[k]["private"], head) is (k not in sampled)
    for k in range(8):
        own = simulation.states[k]["private"] if k in simulation.states else simulation.initial
        for name, tensor in simulation._personal(k)[0].items():
            assert torch.equal(tensor, (own if name.startswith("head") else simulation.server.params)[name])


@pytest.mark.parametrize("positions", [[0], "one class", [0, 1, 2]], ids=str)
def test_hard_clients_stay_finite(simulate, heart, positions):
    simulation = simulate(heart)
    client = simulation._client(0, 0)
    some = torch.where(client.targets == client.targets[0])[0] if positions == "one class" else torch.tensor(positions)
    hard = replace(client, targets=client.targets[some], read_inputs=lambda: client.inputs[some])
    upload = simulation.method.client_update(hard)
    assert set(upload.params) == {"fc1.weight", "fc1.bias"}
    for tensor in (*upload.params.values(), *hard.state["private"].values()):
        assert torch.isfinite(tensor).all()
