"""FedAMP: the messages by hand, the pull in the gradient, and local training without it."""

import math

import numpy as np
import pytest
import torch
from fedbench.methods.fedamp import FedAMP
from hypothesis import given
from hypothesis import strategies as st

from fedbench import Batch, Download, Partitioner, Server, Upload
from fedbench.seeds import Streams
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

    def simulated(task, method=FedAMP, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def server_of(method, *models):
    """Return the server after a round in which these models, of two numbers each, were sent by clients 0, 1, ..."""
    initial = {"w": torch.zeros(2)}
    server = Server(initial, initial, n_clients=9, rounds=2, shared=lambda name: True, streams=Streams(1))
    method.init_server(server)
    method.server_update(server, [Upload(k, 1, {"w": torch.tensor(w)}) for k, w in enumerate(models)], [])
    return server


def message(method, server, k):
    return method.broadcast(server, k).params["w"].tolist()


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_a_pull_it_is_local_training_bit_for_bit(simulate, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1)
    found, local = simulate(task, lam=0.0), simulate(task, "local")
    assert same(found.server.params, local.server.params)
    assert found.rounds["train_loss"] == local.rounds["train_loss"]
    for name, values in local.arrays.items():
        assert np.array_equal(np.stack(found.arrays[name]), np.stack(values)), name
    for k, state in local.states.items():
        if state:
            assert same(found.states[k]["own"], state["private"])


def test_messages_by_hand():
    """Squared distances 1 of (0, 1), 4 of (0, 2), 5 of (1, 2); xi = 0.5/2 exp(-d/2)."""
    method = FedAMP(alpha=0.5, sigma=2.0)
    server = server_of(method, [0.0, 0.0], [1.0, 0.0], [0.0, 2.0])
    a, b, c = (0.25 * math.exp(-square / 2) for square in (1, 4, 5))
    assert message(method, server, 0) == pytest.approx([a * 1, b * 2])
    assert message(method, server, 1) == pytest.approx([(1 - a - c) * 1, c * 2])
    assert message(method, server, 2) == pytest.approx([c * 1, (1 - b - c) * 2])


def test_a_client_that_was_never_sampled_holds_the_common_start():
    method = FedAMP(sigma=2.0)
    server = server_of(method, [1.0, 0.0])
    assert message(method, server, 5) == pytest.approx([0.5 * math.exp(-0.5), 0.0])
    assert message(method, server, 0) == [1.0, 0.0]  # and lends its model to nobody


@given(
    st.lists(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=2), min_size=1, max_size=9),
    st.floats(0.01, 100),
    st.floats(0.01, 100),
    st.booleans(),
)
def test_coefficients_are_on_the_simplex(models, alpha, sigma, heuristic):
    method = FedAMP(alpha=alpha, sigma=sigma, heuristic=heuristic)
    others = {str(k): {"w": torch.tensor(w)} for k, w in enumerate(models[1:])}
    xi = method.attention({"w": torch.tensor(models[0])}, others)
    assert xi.keys() == others.keys()
    assert all(x >= 0 for x in xi.values())
    assert sum(xi.values()) <= 1 + 1e-6


def test_attention_is_mutual():
    method = FedAMP(alpha=0.1, sigma=3.0)
    models = [{"w": torch.tensor(w)} for w in ([0.0, 0.5], [1.0, 2.0], [-1.0, 0.3])]
    xi = [method.attention(mine, {str(k): m for k, m in enumerate(models)}) for mine in models]
    for i in range(3):
        for j in range(3):
            assert xi[i][str(j)] == pytest.approx(xi[j][str(i)])


def test_equal_models_stay_what_they_are_however_many():
    method = FedAMP(alpha=5.0)
    server = server_of(method, *[[0.25, -1.5]] * 9)
    assert message(method, server, 3) == pytest.approx([0.25, -1.5])


def test_a_small_sigma_hears_nobody():
    method = FedAMP(sigma=1e-3)
    server = server_of(method, [0.0, 1.0], [1.0, 0.0])
    assert message(method, server, 0) == [0.0, 1.0]


def test_the_heuristic_attends_by_cosines():
    """Cosines with (1, 0): 1, 0 and -1; a quarter is its own, the rest a softmax of twice these."""
    method = FedAMP(heuristic=True, sigma=2.0, own=0.25)
    server = server_of(method, [1.0, 0.0], [4.0, 0.0], [0.0, 8.0], [-2.0, 0.0])
    weights = [0.75 * math.exp(2 * cos) / sum(math.exp(2 * x) for x in (1, 0, -1)) for cos in (1, 0, -1)]
    expected = [0.25 * 1 + weights[0] * 4 - weights[2] * 2, weights[1] * 8]
    assert message(method, server, 0) == pytest.approx(expected, rel=1e-5)


def test_the_pull_is_lam_over_alpha_times_the_distance(simulate, shrink):
    """Towards the message, in the gradient: a regulariser of detached tensors would have none."""
    client = simulate(shrink("heart", rounds=1))._client(0, 10)
    client.received = Download({name: w - 0.1 for name, w in client.initial.items()})
    index = torch.arange(8)

    def gradient(method):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in client.initial.items()}
        batch = Batch(client.model, client.kind, leaves, client.inputs[index], client.targets[index], index)
        method.loss(client, batch).backward()
        return {name: leaf.grad for name, leaf in leaves.items()}

    plain, pulled = gradient(FedAMP(lam=0.0)), gradient(FedAMP(lam=3.0, alpha=2.0))
    for name in plain:
        expected = torch.full_like(plain[name], 3.0 / 2.0 * 0.1)
        torch.testing.assert_close(pulled[name] - plain[name], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("heuristic", [False, True])
def test_clients_hear_each_other(simulate, shrink, heuristic):
    task = shrink("heart", rounds=2, local_epochs=1)
    found, local = simulate(task, heuristic=heuristic), simulate(task, "local")
    assert "global_test_predictions" not in found.arrays
    assert not same(found.states[0]["own"], local.states[0]["private"])
    models = torch.stack([found.server.state["models"][str(k)]["fc1.weight"] for k in range(4)])
    alone = torch.stack([local.states[k]["private"]["fc1.weight"] for k in range(4)])
    assert models.std(dim=0).mean() < alone.std(dim=0).mean()  # nearer to each other


def test_traffic_is_one_model_each_way(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=2, local_epochs=1))
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    assert [value.tolist() for value in simulation.rounds["bytes_down"]] == [[4 * size]] * 2
    assert [value.tolist() for value in simulation.rounds["bytes_up"]] == [[4 * (size + 8)]] * 2


@pytest.mark.parametrize("heuristic", [False, True])
def test_hard_clients(simulate, shrink, heuristic):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=1, participation=1.0, local_test=0.5)
    simulation = simulate(task, heuristic=heuristic)
    simulation.save()
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 10, 4]
    assert np.isfinite(np.stack(simulation.clients["train_loss"])).all()


def test_clients_can_be_trained_together(simulate, shrink):
    task, trainer = shrink("heart", rounds=2, local_epochs=1), Together()
    found, plain = simulate(task, trainer=trainer), simulate(task)
    assert "one client" not in trainer.describe()
    for k, state in plain.states.items():
        for name, w in state["own"].items():
            torch.testing.assert_close(found.states[k]["own"][name], w, rtol=1e-4, atol=1e-6)
