"""FedDisco: the divergence, the weights by hand and in a run, FedAvg at a = b = 0."""

import math

import numpy as np
import pytest
import torch
from fedbench.methods.feddisco import FedDisco, divergence_from_uniform
from scipy.stats import entropy

from fedbench import Partitioner, Upload

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

    def simulated(task, method=FedDisco, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def weigh(method, sizes, divergences):
    uploads = [Upload(k, n, {}, {"divergence": d}) for k, (n, d) in enumerate(zip(sizes, divergences, strict=True))]
    return method.weights(None, uploads)


@pytest.mark.parametrize("counts", [[5, 0], [3, 1], [7, 7, 7], [1, 2, 3, 0, 0, 94]])
def test_the_divergence_is_scipy_s(counts):
    uniform = [1 / len(counts)] * len(counts)
    assert divergence_from_uniform(counts) == pytest.approx(entropy(counts, uniform), abs=1e-12)
    assert 0 <= divergence_from_uniform(counts) <= math.log(len(counts)) + 1e-12


def test_weights_by_hand():
    """p = 1/4, 3/4 and d = 3/4, 1/4: 0.25 - 0.15 + 0.1 = 0.2 and 0.75 - 0.05 + 0.1 = 0.8."""
    assert weigh(FedDisco(a=0.2, b=0.1), (10, 30), (0.6, 0.2)) == pytest.approx([0.2, 0.8])
    assert weigh(FedDisco(a=0.5, b=0.1), (10, 30), (0.6, 0.2)) == [0.0, 1.0]
    assert weigh(FedDisco(a=0.5, b=0.1), (20, 30, 50), (1.0, 0.0, 0.0)) == pytest.approx([0.0, 0.4, 0.6])


def test_equal_discrepancies_cancel_against_b():
    assert weigh(FedDisco(a=0.4, b=0.2), (10, 30), (0.7, 0.7)) == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize(("sizes", "divergences"), [((10, 30), (0.3, 0.4)), ((10,), (0.3,))])
def test_where_no_weight_is_left_they_are_fedavg_s(sizes, divergences):
    assert weigh(FedDisco(a=9.0, b=0.0), sizes, divergences) == [n / sum(sizes) for n in sizes]


def test_balanced_clients_have_no_discrepancy():
    assert weigh(FedDisco(a=0.9, b=0.0), (10, 30), (0.0, 0.0)) == [0.25, 0.75]


@pytest.mark.parametrize(("task", "rounds"), [("heart", 3), ("blood-mini", 2)])
def test_without_a_and_b_it_is_fedavg_bit_for_bit(simulate, shrink, task, rounds):
    task = shrink(task, rounds=rounds, local_epochs=1)
    found, plain = simulate(task, a=0.0, b=0.0), simulate(task, "fedavg")
    assert all(torch.equal(found.server.params[name], w) for name, w in plain.server.params.items())
    assert found.rounds["train_loss"] == plain.rounds["train_loss"]


def test_recorded_weights_come_from_the_labels(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    for ids, recorded in zip(simulation.federation.schedule, simulation.clients["weight"], strict=True):
        counts = [np.bincount(simulation.targets.numpy()[simulation.federation.train[k]], minlength=8) for k in ids]
        divergences = np.array([entropy(row, np.full(8, 1 / 8)) for row in counts])
        p = np.array([row.sum() for row in counts]) / np.sum(counts)
        left = np.maximum(p - 0.5 * divergences / divergences.sum() + 0.1, 0)
        np.testing.assert_allclose(recorded[ids], left / left.sum(), rtol=1e-9)
        assert not np.allclose(recorded[ids], p, rtol=1e-2)


def test_traffic_is_fedavg_s_and_a_number(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * 4 * CNN_SMALL] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * (4 * CNN_SMALL + 16)] * 2


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=2, local_test=0.5, participation=1.0)
    simulation = simulate(task)
    assert sorted(len(ids) for ids in simulation.federation.train) == [1, 4, 10, 40]
    assert all(tensor.isfinite().all() for tensor in simulation.server.params.values())
