"""FedFomo: who is sent whose model, the weights by hand, and what is held out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedfomo import FedFomo

from fedbench import Download, Partitioner
from fedbench.together import Together
from fedbench.training import OneByOne


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


class Watched(OneByOne):
    """Trains one by one and remembers which samples were used."""

    def __init__(self):
        self.used = []

    def fit(self, client, training):
        self.used.append((client.id, client.round, set(torch.cat(training.batches).tolist())))
        return super().fit(client, training)


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=FedFomo, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(model, seed, by=0.3):
    rng = torch.Generator().manual_seed(seed)
    return {name: w + by * torch.randn(w.shape, generator=rng) for name, w in model.items()}


def risk(client, model, held):
    x, y = client.inputs[held], client.targets[held]
    hidden = torch.relu(x @ model["fc1.weight"].T + model["fc1.bias"])
    return F.cross_entropy(hidden @ model["head.weight"].T + model["head.bias"], y).item()


@pytest.fixture
def still(make_cell, start, shrink):
    """Return a client that trains for no epoch, so that what it sends is what it would start from."""
    simulation = start(make_cell(shrink("heart", rounds=2, local_epochs=0), FedFomo))
    return simulation.method, simulation._client(0, 0)


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_other_models_it_is_local_training_bit_for_bit(simulate, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1)
    found, local = simulate(task, models=0), simulate(task, "local")
    assert same(found.server.params, local.server.params)
    assert found.rounds["train_loss"] == local.rounds["train_loss"]
    for name, values in local.arrays.items():
        assert np.array_equal(np.stack(found.arrays[name]), np.stack(values)), name
    for k, state in local.states.items():
        if state:
            assert same(found.states[k]["own"], state["private"])


def test_the_start_is_moved_towards_those_who_do_better(still):
    """A gain is what the loss on held-out samples falls by, over the distance; who does worse counts nothing."""
    method, client = still
    _, held = client.split(0.2, stream="validation")
    models = [moved(client.initial, seed) for seed in range(12)]
    models.sort(key=lambda model: risk(client, model, held))
    own = models[-1]
    worse = {name: w.clone() for name, w in own.items()}
    worse["head.bias"] += torch.tensor([30.0, -30.0])
    assert risk(client, worse, held) > risk(client, own, held)
    others = {"1": models[0], "2": models[1], "3": worse, "4": {name: w.clone() for name, w in own.items()}}
    client.state, client.received = {"own": own}, Download({}, others)
    sent = method.client_update(client)

    gains = {}
    for k in ("1", "2"):
        distance = sum(((others[k][name] - w) ** 2).sum().item() for name, w in own.items()) ** 0.5
        gains[k] = (risk(client, own, held) - risk(client, others[k], held)) / distance
    assert min(gains.values()) > 0
    expected = {k: gain / sum(gains.values()) for k, gain in gains.items()}
    assert sent["shares"] == pytest.approx(expected, rel=1e-4)
    assert sum(sent["shares"].values()) == pytest.approx(1)
    for name, w in own.items():
        by_hand = w + sum(expected[k] * (others[k][name] - w) for k in expected)
        torch.testing.assert_close(sent.params[name], by_hand, rtol=1e-4, atol=1e-5)


def test_where_nobody_does_better_the_start_is_the_own_model(still):
    method, client = still
    worse = {name: w.clone() for name, w in client.initial.items()}
    worse["head.bias"] += torch.tensor([30.0, -30.0])
    client.received = Download({}, {"1": worse, "2": dict(client.initial)})
    sent = method.client_update(client)
    assert sent["shares"] == {}
    assert same(sent.params, dict(client.initial))


def test_held_out_samples_are_never_trained_on(simulate, shrink):
    trainer = Watched()
    simulation = simulate(shrink("heart", rounds=3, local_epochs=2), trainer=trainer, validation=0.3)
    assert len(trainer.used) == 12
    for k, t, used in trainer.used:
        n = len(simulation.federation.train[k])
        train, held = simulation._client(k, 0).split(0.3, stream="validation")
        assert used == set(train.tolist()), t
        assert len(held) == int(0.3 * n)


@pytest.fixture
def server(simulate, shrink):
    """Return the server of eight clients of which all have sent a model."""
    server = simulate(shrink("blood-mini", rounds=1, local_epochs=0)).server
    server.state = {**server.state, "models": {str(k): {"w": torch.full((1,), float(k))} for k in range(8)}}
    return server


@pytest.mark.parametrize(("models", "count"), [(0, 0), (3, 3), (7, 7), (50, 7)])
def test_a_client_is_sent_models_of_others(server, models, count):
    for k in range(8):
        sent = FedFomo(models=models, epsilon=1.0).broadcast(server, k).extra
        assert len(sent) == count
        assert str(k) not in sent
        assert all(model["w"].item() == float(name) for name, model in sent.items())


def test_the_server_sends_those_who_helped_most(server):
    server.state = {**server.state, "affinity": {"2": {"1": 0.5, "5": 2.0, "6": 1.0}}}
    greedy = FedFomo(models=2, epsilon=0.0)
    assert set(greedy.broadcast(server, 2).extra) == {"5", "6"}
    curious = FedFomo(models=2, epsilon=1.0)
    seen = set()
    for server.round in range(20):  # a twentieth less curious in each round
        seen |= set(curious.broadcast(server, 2).extra)
    assert len(seen) > 3
    server.round = 20
    assert set(curious.broadcast(server, 2).extra) == {"5", "6"}


def test_ties_are_broken_at_random_by_round_and_client(server):
    method, drawn = FedFomo(models=1, epsilon=0.0), []
    for server.round in range(10):
        drawn += [*method.broadcast(server, 0).extra]
        assert [*method.broadcast(server, 0).extra] == drawn[-1:]  # asked again, as for an evaluation
    assert len(set(drawn)) > 2


def test_the_server_remembers_models_and_shares(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=3, local_epochs=1))
    state = simulation.server.state
    assert sorted(state["models"]) == ["0", "1", "2", "3"]
    for k, own in state["models"].items():
        assert same(own, simulation.states[int(k)]["own"])
        assert same(own, simulation.method.personal(simulation._client(int(k), 0)))
    given = [(k, j, share) for k, helped in state["affinity"].items() for j, share in helped.items()]
    assert given
    assert all(share > 0 and k != j for k, j, share in given)
    for helped in state["affinity"].values():
        assert sum(helped.values()) <= 2 + 1e-9  # in the first round there is nobody to weigh
    assert "global_test_predictions" not in simulation.arrays


def test_what_is_sent_is_counted(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=2, local_epochs=1), models=2, epsilon=0.0)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    assert [value.tolist() for value in simulation.rounds["bytes_down"]] == [[0], [4 * 2 * size]]
    shares = sum(len(helped) for helped in simulation.server.state["affinity"].values())
    assert [value.tolist() for value in simulation.rounds["bytes_up"]] == [
        [4 * (size + 8)],
        [4 * (size + 8) + 8 * shares],
    ]


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
    for k, state in plain.states.items():
        for name, w in state["own"].items():
            torch.testing.assert_close(found.states[k]["own"][name], w, rtol=1e-4, atol=1e-5)
