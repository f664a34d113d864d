"""FedAdagrad: its server steps by hand, torch's Adagrad."""

import math

import numpy as np
import pytest
import torch
from fedbench.methods.fedadagrad import FedAdagrad

from fedbench import Server, Upload
from fedbench.seeds import Streams

CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=FedAdagrad, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def begun(method, *start):
    """Return the server of a method, with one tensor and two clients."""
    server = Server({"w": torch.tensor(start)}, {}, n_clients=2, rounds=9, shared=lambda n: True, streams=Streams(1))
    method.init_server(server)
    return server


def move(method, server, *d):
    """Let two clients of equal weight move by d on average."""
    pair = [Upload(k, 1, {"w": server.params["w"] + torch.tensor(d) + spread}) for k, spread in enumerate((-0.5, 0.5))]
    method.server_update(server, pair, [0.5, 0.5])


def test_server_steps_by_hand():
    """With beta1 = 0.5, tau = 0.1 and eta = 2, in the order of the paper's lines."""
    method = FedAdagrad(eta=2.0, beta1=0.5, tau=0.1)
    server, w, m, v = begun(method, 3.0), 3.0, 0.0, 0.01
    for d in (1.0, -0.3, 0.0, 0.05):
        move(method, server, d)
        m = 0.5 * m + 0.5 * d
        v += d**2
        w += 2.0 * m / (math.sqrt(v) + 0.1)
        assert server.params["w"].item() == pytest.approx(w, rel=1e-5)
        assert server.state["v"]["w"].item() == pytest.approx(v, rel=1e-5)


def test_without_momentum_it_is_torch_s_adagrad():
    method, rng = FedAdagrad(), np.random.default_rng(1)
    server, w = begun(method, 1.0, -2.0, 0.5), torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    plain = torch.optim.Adagrad([w], lr=0.1, initial_accumulator_value=1e-6, eps=1e-3)
    for _ in range(5):
        d = rng.normal(scale=0.01, size=3).tolist()
        move(method, server, *d)
        w.grad = -torch.tensor(d)
        plain.step()
        torch.testing.assert_close(server.params["w"], w.detach(), rtol=1e-3, atol=1e-6)


def test_where_nothing_moves_the_model_stays():
    method = FedAdagrad()
    server = begun(method, 1.25, -3.0)
    same = [Upload(k, 1, dict(server.params)) for k in range(2)]
    method.server_update(server, same, [0.5, 0.5])
    assert server.params["w"].tolist() == [1.25, -3.0]


def test_it_learns_and_is_not_fedavg(simulate, shrink):
    task = shrink("heart", rounds=10, local_epochs=1)
    found, plain = simulate(task), simulate(task, "fedavg").server.params
    losses = np.concatenate(found.rounds["train_loss"])
    assert losses[-1] < losses[0]
    assert max((found.server.params[name] - plain[name]).abs().max() for name in plain) > 1e-3


def test_traffic_is_fedavg_s(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * 4 * CNN_SMALL] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * (4 * CNN_SMALL + 8)] * 2


def test_running_statistics_are_averaged(simulate, shrink):
    task = shrink("blood-mini", rounds=1, local_epochs=1).but(model="cnn-small-bn")
    found, plain = simulate(task), simulate(task, "fedavg").server.params
    statistics = {"norm1.mean", "norm1.var", "norm2.mean", "norm2.var"}
    assert all(torch.equal(found.server.params[name], plain[name]) for name in statistics)
    assert found.server.state["v"].keys() == found.initial.keys() - statistics
