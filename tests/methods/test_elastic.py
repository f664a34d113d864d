"""Elastic aggregation: the factor of an update by hand, the sensitivity in plain torch, where it is FedAvg."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.elastic import Elastic
from hypothesis import given
from hypothesis import strategies as st

from fedbench import Partitioner, Server, Upload, simplex
from fedbench.seeds import Streams

CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=Elastic, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **tolerance, msg=lambda text, n=name: n + text)


def test_a_server_step_by_hand():
    """p = 1/4, 3/4; mean Omega over largest: 1, (1 + 0)/4, (1 + 6)/8, none; the mean of the moves is 1 everywhere."""
    server = Server({"w": torch.zeros(4)}, {}, n_clients=2, rounds=1, shared=lambda name: True, streams=Streams(1))
    omegas = torch.tensor([5.0, 4.0, 4.0, 0.0]), torch.tensor([5.0, 0.0, 8.0, 0.0])
    moves = torch.tensor([1.0, 1.0, 4.0, 1.0]), torch.tensor([1.0, 1.0, 0.0, 1.0])
    uploads = [Upload(k, 1, {"w": moves[k]}, {"sensitivity": {"w": omegas[k]}}) for k in range(2)]
    Elastic(tau=0.5).server_update(server, uploads, [0.25, 0.75])
    expected = torch.tensor([1.5 - 1, 1.5 - 1 / 4, 1.5 - 7 / 8, 1.0])
    torch.testing.assert_close(server.params["w"], expected, rtol=1e-6, atol=0)


@given(
    st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0, 2),
)
def test_the_factor_is_between_tau_and_one_more(omegas, tau):
    omegas = [[omega + 1 for omega in each] for each in omegas]  # where all are zero the factor is 1
    weights = simplex(range(1, len(omegas) + 1))
    zeta = Elastic(tau=tau).zeta([torch.tensor(omega, dtype=torch.float32) for omega in omegas], weights)
    assert (zeta >= tau - 1e-6).all()
    assert (zeta <= 1 + tau + 1e-6).all()


def test_clients_of_equal_sensitivity_move_by_tau():
    omega = torch.rand(50, generator=torch.Generator().manual_seed(1)) + 0.1
    zeta = Elastic(tau=0.3).zeta([omega] * 3, [0.2, 0.3, 0.5])
    torch.testing.assert_close(zeta, torch.full((50,), 0.3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("task", ["heart", "blood-mini"])
def test_the_sensitivity_is_that_of_plain_torch(make_cell, start, shrink, task):
    """A moving average over batches of the gradient's size, at the model received, of a share of the inputs."""
    simulation = start(make_cell(shrink(task, rounds=1, local_epochs=1), Elastic, mu=0.6, share=0.5))
    k = max(range(4), key=lambda k: len(simulation.federation.train[k]))
    client = simulation._client(k, 50)
    sent = simulation.method.client_update(client)["sensitivity"]
    drawn = torch.from_numpy(simulation._client(k, 50).rng("sensitivity").permutation(client.n))
    batches = drawn[: round(0.5 * client.n)].split(12)
    assert len(batches) > 1
    expected = {name: torch.zeros_like(w) for name, w in simulation.initial.items()}
    for index in batches:
        leaves = {name: w.clone().requires_grad_() for name, w in simulation.initial.items()}
        logits = simulation.model(leaves, simulation.inputs[simulation.federation.train[k][index]]).logits
        ((logits**2).sum() / len(index)).backward()
        expected = {name: 0.6 * expected[name] + 0.4 * leaf.grad.abs() for name, leaf in leaves.items()}
    close(sent, expected, rtol=1e-4, atol=1e-6)


def test_the_sensitivity_needs_no_labels(make_cell, start, shrink):
    simulation = start(make_cell(shrink("heart", rounds=1), Elastic))
    client = simulation._client(0, 10)
    other = replace(client, targets=1 - client.targets)
    sent = [simulation.method.client_update(who) for who in (client, other)]
    assert all(torch.equal(sent[0]["sensitivity"][name], omega) for name, omega in sent[1]["sensitivity"].items())
    assert not torch.equal(sent[0].params["head.bias"], sent[1].params["head.bias"])


def test_one_client_with_tau_1_is_fedavg(simulate, shrink):
    """Its own sensitivity is the largest everywhere."""
    task = shrink("blood-mini", rounds=2, local_epochs=1, participation=0.125)
    close(simulate(task, tau=1.0).server.params, simulate(task, "fedavg").server.params, rtol=1e-3, atol=1e-5)


def test_sensitivity_tells_parameters_apart(simulate, shrink):
    task = shrink("heart", rounds=1, local_epochs=1)
    found, plain = simulate(task), simulate(task, "fedavg").server.params
    moved = {name: plain[name] - w for name, w in found.initial.items()}
    zeta = torch.cat([
        ((found.server.params[name] - w) / moved[name])[moved[name].abs() > 1e-3] for name, w in found.initial.items()
    ])  # fmt: skip
    assert len(zeta) > 100
    assert 0.5 - 1e-3 <= zeta.min() < 0.9
    assert 0.9 < zeta.max() <= 1.5 + 1e-3


def test_traffic_and_work(simulate, shrink):
    simulation, plain = (simulate(shrink("blood-mini", rounds=2, local_epochs=1), m) for m in (Elastic, "fedavg"))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * 4 * CNN_SMALL] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * (8 * CNN_SMALL + 8)] * 2
    extra = np.concatenate(simulation.rounds["train_samples"]) - np.concatenate(plain.rounds["train_samples"])
    sizes = [[len(simulation.federation.train[k]) for k in ids] for ids in simulation.federation.schedule]
    assert extra.tolist() == [sum(round(0.3 * n) for n in row) for row in sizes]


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=2, local_test=0.5, participation=1.0)
    simulation = simulate(task)
    assert sorted(len(ids) for ids in simulation.federation.train) == [1, 4, 10, 40]
    assert all(tensor.isfinite().all() for tensor in simulation.server.params.values())


def test_running_statistics_have_no_sensitivity_and_are_averaged(make_cell, start, shrink):
    """On a model with batch normalisation, from which only what is trained has a gradient."""
    task = shrink("blood-mini", rounds=1, local_epochs=1).but(model="cnn-small-bn")
    simulation = start(make_cell(task, Elastic))
    statistics = {"norm1.mean", "norm1.var", "norm2.mean", "norm2.var"}
    uploads = [simulation.method.client_update(simulation._client(k, 30)) for k in range(2)]
    assert all(upload["sensitivity"].keys() == simulation.initial.keys() - statistics for upload in uploads)
    server = simulation.server
    simulation.method.server_update(server, uploads, [0.25, 0.75])
    assert server.params.keys() == simulation.initial.keys()
    for name in statistics:
        mean = 0.25 * uploads[0].params[name] + 0.75 * uploads[1].params[name]
        assert not torch.equal(mean, simulation.initial[name])
        torch.testing.assert_close(server.params[name], mean, rtol=1e-5, atol=1e-7)


def test_sensitivity_with_batch_normalisation_is_that_of_plain_torch(make_cell, start, shrink):
    """At the running statistics of the model received, as on evaluation: the batch of a measurement changes nothing."""
    task = shrink("blood-mini", rounds=1, local_epochs=1, batch_size=1000).but(model="cnn-small-bn")
    simulation = start(make_cell(task, Elastic, mu=0.0, share=1.0))
    sent = simulation.method.client_update(simulation._client(0, 10))["sensitivity"]
    w = {name: tensor.clone().requires_grad_(name in sent) for name, tensor in simulation.initial.items()}
    x = simulation.inputs[simulation.federation.train[0]].permute(0, 3, 1, 2)
    for i in (1, 2):
        x = F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"], padding=2)
        x = F.batch_norm(x, *(w[f"norm{i}.{part}"] for part in ("mean", "var", "weight", "bias")), training=False)
        x = F.max_pool2d(x.relu(), 2)
    hidden = (x.flatten(1) @ w["fc1.weight"].T + w["fc1.bias"]).relu()
    ((hidden @ w["head.weight"].T + w["head.bias"]) ** 2).sum(1).mean().backward()
    close(sent, {name: w[name].grad.abs() for name in sent}, rtol=1e-3, atol=1e-6)
