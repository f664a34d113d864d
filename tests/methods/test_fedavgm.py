"""FedAvgM: its server step by hand, FedAvg without momentum."""

import numpy as np
import pytest
import torch
from fedbench.methods.fedavgm import FedAvgM

from fedbench import Server, Upload
from fedbench.seeds import Streams

CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=FedAvgM, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **tolerance, msg=lambda text, n=name: n + text)


def test_server_steps_by_hand():
    """d = 1, 1, -2 with beta 0.5 and eta 2: m = 1, 1.5, -1.25 and w = 3 + 2, + 3, - 2.5."""
    server = Server({"w": torch.tensor([3.0])}, {}, n_clients=2, rounds=3, shared=lambda name: True, streams=Streams(1))
    method = FedAvgM(beta=0.5, eta=2.0)
    method.init_server(server)
    for d, expected in ((1.0, 5.0), (1.0, 8.0), (-2.0, 5.5)):
        pair = [Upload(k, 1, {"w": server.params["w"] + d + spread}) for k, spread in enumerate((-0.5, 0.5))]
        method.server_update(server, pair, [0.5, 0.5])
        assert server.params["w"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("task", "rounds"), [("heart", 3), ("blood-mini", 2)])
def test_without_momentum_it_is_fedavg(simulate, shrink, task, rounds):
    task = shrink(task, rounds=rounds, local_epochs=1)
    found, plain = simulate(task, beta=0.0), simulate(task, "fedavg")
    close(found.server.params, plain.server.params, rtol=1e-4, atol=1e-6)


def test_momentum_acts_from_the_second_round_on(simulate, shrink):
    first, second = (shrink("heart", rounds=rounds, local_epochs=1) for rounds in (1, 2))
    close(simulate(first).server.params, simulate(first, "fedavg").server.params, rtol=0, atol=1e-7)
    a, b = simulate(second).server.params, simulate(second, "fedavg").server.params
    assert max((a[name] - b[name]).abs().max() for name in a) > 1e-3


def test_traffic_is_fedavg_s(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * 4 * CNN_SMALL] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * (4 * CNN_SMALL + 8)] * 2


def test_running_statistics_are_averaged(simulate, shrink):
    task = shrink("blood-mini", rounds=1, local_epochs=1).but(model="cnn-small-bn")
    found, plain = simulate(task, eta=0.5), simulate(task, "fedavg").server.params
    statistics = {"norm1.mean", "norm1.var", "norm2.mean", "norm2.var"}
    assert all(torch.equal(found.server.params[name], plain[name]) for name in statistics)
    assert found.server.state["m"].keys() == found.initial.keys() - statistics
