"""FedPHP: the loss and the private model by hand, and FedAvg's global model without the former."""

import math

import numpy as np
import pytest
import torch
from fedbench.methods.fedphp import FedPHP

from fedbench import Batch, Partitioner
from fedbench.together import Together


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=FedPHP, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(model, seed):
    rng = torch.Generator().manual_seed(seed)
    return {name: w + 0.3 * torch.randn(w.shape, generator=rng) for name, w in model.items()}


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_teaching_the_global_model_is_fedavgs_bit_for_bit(simulate, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1)
    found, plain = simulate(task, lam=0.0), simulate(task, "fedavg")
    assert same(found.server.params, plain.server.params)
    assert found.rounds["train_loss"] == plain.rounds["train_loss"]
    assert not same(simulate(task).server.params, plain.server.params)


@pytest.mark.parametrize(("lam", "tau"), [(0.05, 4.0), (0.5, 1.0), (1.0, 2.0)])
def test_the_loss_is_the_papers(make_cell, start, shrink, lam, tau):
    simulation = start(make_cell(shrink("heart", rounds=1), FedPHP, lam=lam, tau=tau))
    client = simulation._client(1, 10)
    client.state = {"private_model": moved(client.initial, 1), "visits": 1}
    index, student = torch.arange(6), moved(client.initial, 2)
    batch = Batch(client.model, client.kind, student, client.inputs[index], client.targets[index], index)

    def log_softmax(row, temperature=1.0):
        total = math.log(sum(math.exp(value / temperature) for value in row))
        return [value / temperature - total for value in row]

    task, taught = 0.0, 0.0
    teacher = client.model(client.state["private_model"], batch.x).logits.tolist()
    for s_row, p_row, label in zip(batch.logits.tolist(), teacher, batch.y.tolist(), strict=True):
        s, p = log_softmax(s_row), log_softmax(p_row, tau)
        task -= s[label] / 6
        taught -= sum(math.exp(pc) * sc for pc, sc in zip(p, s, strict=True)) / 6
    expected = (1 - lam) * task + lam * taught
    assert simulation.method.loss(client, batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mu", [0.9, 0.3])
def test_the_private_model_is_a_moving_average(make_cell, start, shrink, mu):
    """Ten rounds at a fifth of the clients: two visits are expected, after which the momentum is mu."""
    task = shrink("heart", rounds=10, local_epochs=1, participation=0.2)
    simulation = start(make_cell(task, FedPHP, mu=mu))
    client = simulation._client(0, 10)
    for momentum in (0.0, mu / 2, mu, mu):
        before = client.state["private_model"]
        client.local = None
        simulation.method.client_update(client)
        for name, w in client.local.items():
            expected = momentum * before[name] + (1 - momentum) * w
            torch.testing.assert_close(client.state["private_model"][name], expected, rtol=1e-6, atol=1e-7)
        if momentum == 0.0:
            assert same(client.state["private_model"], client.local)
    assert client.state["visits"] == 4


def test_the_personal_model_is_the_private_one(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=1, local_epochs=1))
    sampled = simulation.federation.schedule[0].tolist()
    for k in range(8):
        found = simulation.method.personal(simulation._client(k, 0, evaluation=True))
        assert same(found, simulation.states[k]["private_model"] if k in sampled else simulation.server.params)


def test_traffic_is_fedavgs(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=2, local_epochs=1))
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    assert [value.tolist() for value in simulation.rounds["bytes_down"]] == [[4 * size]] * 2
    assert [value.tolist() for value in simulation.rounds["bytes_up"]] == [[4 * (size + 8)]] * 2
    trained, forward = (simulation.rounds[name][0].item() for name in ("train_samples", "forward_samples"))
    assert trained == forward == sum(len(ids) for ids in simulation.federation.train)


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=1, participation=1.0, local_test=0.5)
    simulation = simulate(task)
    simulation.save()
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 10, 4]
    assert np.isfinite(np.stack(simulation.clients["train_loss"])).all()


def test_clients_can_be_trained_together(simulate, shrink):
    task, trainer = shrink("heart", rounds=2, local_epochs=1), Together()
    found, plain = simulate(task, trainer=trainer), simulate(task)
    assert "one client" not in trainer.describe()
    for name, w in plain.server.params.items():
        torch.testing.assert_close(found.server.params[name], w, rtol=1e-4, atol=1e-6)
