"""FedNova: the weight of steps, its server step by hand and from real uploads, FedAvg where all make as many steps."""

import math

import numpy as np
import pytest
import torch
from fedbench.methods.fednova import FedNova, gradient_weight

from fedbench import Partitioner, Server, Upload
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

    def simulated(task, method=FedNova, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name].double(), tensor.double(), **tolerance, msg=lambda text, n=name: n + text
        )


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_gradients_weight_is_the_recursion_s(momentum):
    speed = weight = 0.0
    for steps in range(1, 60):
        speed = momentum * speed + 1
        weight += speed
        assert gradient_weight(steps, momentum) == pytest.approx(weight, rel=1e-12)


def test_a_server_step_by_hand():
    """p = 0.9, 0.1 and A = 30, 1: tau_eff = 27.1, and w = 1 + 27.1 (0.9 * 6/30 + 0.1 * 1/1) = 8.588."""
    server = Server({"w": torch.ones(1)}, {}, n_clients=2, rounds=1, shared=lambda name: True, streams=Streams(1))
    moved = zip((90, 10), (7.0, 2.0), (30.0, 1.0), strict=True)
    uploads = [Upload(k, n, {"w": torch.tensor([w])}, {"gradient_weight": a}) for k, (n, w, a) in enumerate(moved)]
    FedNova().server_update(server, uploads, [0.9, 0.1])
    assert server.params["w"].item() == pytest.approx(8.588, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_round_of_hospitals_is_the_paper_s_equation(simulate, shrink, make_cell, start, momentum):
    task = shrink("heart", rounds=1, local_epochs=2, momentum=momentum)
    simulation, fresh = simulate(task), start(make_cell(task, FedNova))
    sizes = [len(ids) for ids in fresh.federation.train]
    steps = [2 * math.ceil(n / 12) for n in sizes]
    assert len(set(steps)) == 4
    a = [sum(sum(momentum**i for i in range(step + 1)) for step in range(tau)) for tau in steps]
    p = [n / sum(sizes) for n in sizes]
    models = [fresh.method.client_update(fresh._client(k, 2 * n)).params for k, n in enumerate(sizes)]
    expected = {}
    for name, w in fresh.initial.items():
        directions = [(model[name].double() - w.double()) / a[k] for k, model in enumerate(models)]
        effective = sum(p[k] * a[k] for k in range(4))
        expected[name] = w.double() + effective * sum(p[k] * d for k, d in enumerate(directions))
    close(simulation.server.params, expected, rtol=0, atol=1e-6)


def test_where_all_make_as_many_steps_it_is_fedavg(simulate, shrink):
    full = shrink("heart", rounds=3, local_epochs=3, batch_size=1000)
    close(simulate(full).server.params, simulate(full, "fedavg").server.params, rtol=0, atol=1e-6)
    usual = shrink("heart", rounds=1, local_epochs=1)
    a, b = simulate(usual).server.params, simulate(usual, "fedavg").server.params
    assert max((a[name] - b[name]).abs().max() for name in a) > 1e-3


def test_traffic_is_fedavg_s_and_a_number(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * 4 * CNN_SMALL] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * (4 * CNN_SMALL + 16)] * 2


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=2, local_test=0.5, participation=1.0)
    simulation = simulate(task)
    assert sorted(len(ids) for ids in simulation.federation.train) == [1, 4, 10, 40]
    assert all(tensor.isfinite().all() for tensor in simulation.server.params.values())


def test_without_epochs_nothing_moves(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=1, local_epochs=0))
    close(simulation.server.params, simulation.initial, rtol=0, atol=0)


def test_running_statistics_are_averaged(simulate, shrink):
    task = shrink("blood-mini", rounds=1, local_epochs=1).but(model="cnn-small-bn")
    found, plain = simulate(task).server.params, simulate(task, "fedavg").server.params
    for name in ("norm1.mean", "norm1.var", "norm2.mean", "norm2.var"):
        assert torch.equal(found[name], plain[name])
    assert not torch.equal(found["norm1.weight"], plain["norm1.weight"])
