"""Ditto: FedAvg's global model to the bit, the personal model against plain torch and against local training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.ditto import Ditto

from fedbench import Partitioner, Size
from fedbench.together import Together


class Hard(Partitioner):
    """One training sample (and one to test); six of one class; eight mixed, fewer than a batch; the rest."""

    def split(self, targets, sites, n_classes, rng):
        members = np.flatnonzero(targets == np.bincount(targets).argmax())
        rest = np.setdiff1d(np.arange(len(targets)), members[:11])
        return [members[:2], members[2:11], rest[:12], rest[12:]]


@pytest.fixture(scope="module")
def run(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def runs(task, method, *, trainer=None, **hyperparameters):
        simulation = start(make_cell(task, method, **hyperparameters), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return runs


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=3, local_epochs=1)


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1, participation=0.25)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def arrays(simulation, name):
    return np.stack(simulation.arrays[name])


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
@pytest.mark.parametrize("values", [{}, {"lam": 0.0}, {"lam": 10.0, "personal_epochs": 3}], ids=str)
def test_the_global_model_is_fedavgs_bit_for_bit(run, shrink, name, values):
    task = shrink(name, rounds=2, local_epochs=1, participation=0.5)
    a, b = run(task, Ditto, **values), run(task, "fedavg")
    assert equal(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    for array in ("global_test_predictions", "global_client_correct"):
        assert np.array_equal(arrays(a, array), arrays(b, array))


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_lambda_the_personal_model_is_local_trainings_bit_for_bit(run, shrink, name):
    task = shrink(name, rounds=3, local_epochs=1, participation=0.5)
    a, b = run(task, Ditto, lam=0.0), run(task, "local")
    for k in range(len(a.federation.train)):
        if k in b.states:
            assert equal(a.states[k]["own"], b.states[k]["private"])
        else:
            assert k not in a.states
    for array in ("local_client_correct", "personal_client_correct"):
        assert np.array_equal(arrays(a, array), arrays(b, array))


def test_a_step_is_the_papers(make_cell, start, shrink):
    """v <- v - lr (grad L(v) + lambda (v - w)), w as received and not as trained; all samples in one batch."""
    task = shrink("heart", local_epochs=2, batch_size=1000, momentum=0.0)
    client = start(make_cell(task, Ditto))._client(0, 2 * 202)
    v = {name: 1.5 * tensor for name, tensor in client.initial.items()}
    client.state = {"own": v}
    upload = Ditto(lam=3.0).client_update(client)
    for _ in range(2):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in v.items()}
        hidden = torch.relu(client.inputs @ leaves["fc1.weight"].T + leaves["fc1.bias"])
        F.cross_entropy(hidden @ leaves["head.weight"].T + leaves["head.bias"], client.targets).backward()
        v = {n: w.detach() - 0.01 * (w.grad + 3 * (w.detach() - client.initial[n])) for n, w in leaves.items()}
    for name, tensor in v.items():
        torch.testing.assert_close(client.state["own"][name], tensor, rtol=0, atol=1e-6)
        assert not torch.equal(upload.params[name], client.state["own"][name])
    assert not upload.extra
    assert equal(client.local, client.state["own"])


def test_a_stronger_pull_stays_closer(run, shrink):
    task, distances = shrink("heart", rounds=1, momentum=0.0), []
    for lam in (0.0, 1.0, 10.0, 50.0):
        simulation = run(task, Ditto, lam=lam)
        own = [simulation.states[k]["own"] for k in range(4)]
        distances.append(sum((v[n] - w).square().sum().item() for v in own for n, w in simulation.initial.items()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 2


def test_personal_epochs_are_those_asked_for(run, shrink):
    task = shrink("heart", rounds=1, local_epochs=2)
    n = sum(len(ids) for ids in run(task, "fedavg").federation.train)
    passes = [run(task, Ditto, **values).rounds["train_samples"][0] for values in ({}, {"personal_epochs": 1})]
    assert passes == [4 * n, 3 * n]


def test_who_is_not_sampled_keeps_its_model(make_cell, start, blood):
    simulation = start(make_cell(blood, Ditto))
    simulation.round()
    kept = {k: dict(simulation.states[k]["own"]) for k in simulation.states}
    simulation.round()
    first, second = (set(ids.tolist()) for ids in simulation.federation.schedule)
    assert first - second
    assert all(equal(simulation.states[k]["own"], kept[k]) for k in first - second)
    for k in range(8):
        personal = simulation.method.personal(simulation._client(k, 0, evaluation=True))
        expected = simulation.states[k]["own"] if k in first | second else simulation.initial
        assert all(torch.equal(personal[name], tensor) for name, tensor in expected.items())


def test_traffic_is_fedavgs(run, blood):
    simulation = run(blood, Ditto)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = Ditto().traffic(Size(size, size, 8, 64))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [2 * down] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [2 * up] * 2


def test_hard_clients_stay_finite(run, shrink):
    simulation = run(shrink("heart", partitioner=Hard(), rounds=3, local_epochs=1), Ditto)
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 6, 8]
    models = [simulation.server.params, *(simulation.states[k]["own"] for k in range(4))]
    assert all(torch.isfinite(tensor).all() for model in models for tensor in model.values())


def test_clients_are_trained_together(run, heart):
    trainer = Together(lanes=3)
    found, expected = run(heart, Ditto, trainer=trainer), run(heart, Ditto)
    for name, tensor in expected.server.params.items():
        torch.testing.assert_close(found.server.params[name], tensor, rtol=1e-4, atol=1e-5)
    for k in range(4):
        for name, tensor in expected.states[k]["own"].items():
            torch.testing.assert_close(found.states[k]["own"][name], tensor, rtol=1e-4, atol=1e-5)
    assert "one client at a time" not in trainer.describe()
