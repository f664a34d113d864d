"""FedProto: prototypes, their mean and the pull towards them by hand, and local training without it."""

import numpy as np
import pytest
import torch
from fedbench.methods.fedproto import FedProto

from fedbench import Batch, Partitioner, Server, Size, Upload
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

    def simulated(task, method=FedProto, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_a_pull_it_is_local_training_bit_for_bit(simulate, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1)
    found, local = simulate(task, lam=0.0), simulate(task, "local")
    assert same(found.server.params, local.server.params)
    assert found.rounds["train_loss"] == local.rounds["train_loss"]
    for name, values in local.arrays.items():
        assert np.array_equal(np.stack(found.arrays[name]), np.stack(values)), name
    for k, state in local.states.items():
        assert same(found.states[k].get("private", {}), state.get("private", {}))


def test_the_first_round_is_local_training_and_the_second_is_not(simulate, shrink):
    task = shrink("heart", rounds=2, local_epochs=1)
    found, local = simulate(task), simulate(task, "local")
    first, second = zip(found.rounds["train_loss"], local.rounds["train_loss"], strict=True)
    assert first[0] == first[1]
    assert second[0] > second[1]


def test_the_pull_by_hand(make_cell, start, shrink):
    """Class 0 has a prototype, class 1 has none: its samples add nothing but are counted in the mean."""
    simulation = start(make_cell(shrink("heart", rounds=1), FedProto, lam=2.0))
    client = simulation._client(1, 10)
    index = torch.cat([torch.nonzero(client.targets == c)[:n, 0] for c, n in ((0, 4), (1, 5))])
    given = {"prototypes": torch.linspace(0, 1, 32).reshape(2, 16), "known": torch.tensor([True, False])}
    args = (client.model, client.kind, dict(client.initial), client.inputs[index], client.targets[index], index)
    batch = Batch(*args, given)
    pull = 0.0
    for row, label in zip(batch.features.tolist(), batch.y.tolist(), strict=True):
        if label == 0:
            gaps = [(a - b) ** 2 for a, b in zip(row, given["prototypes"][0].tolist(), strict=True)]
            pull += sum(gaps) / 16 / 9
    plain = FedProto(lam=0.0).loss(client, batch).item()
    assert simulation.method.loss(client, batch).item() == pytest.approx(plain + 2.0 * pull, rel=1e-5)


def test_a_client_sends_the_mean_features_of_its_classes_after_training(make_cell, start, blood):
    simulation = start(make_cell(blood, FedProto))
    ids = simulation.federation.train[0]
    client = simulation._client(0, len(ids))
    sent = simulation.method.client_update(client)
    features = simulation.model(client.local, simulation.inputs[ids]).features
    labels = simulation.targets[ids]
    present = sorted(set(labels.tolist()))
    assert 1 < len(present) < 8
    assert list(sent["prototypes"]) == list(sent["counts"]) == [str(c) for c in present]
    for c in present:
        assert sent["counts"][str(c)] == (labels == c).sum()
        torch.testing.assert_close(sent["prototypes"][str(c)], features[labels == c].mean(dim=0))
    assert sent.params == {}


def test_the_server_averages_by_samples_and_keeps_what_nobody_has():
    method = FedProto()
    server = Server({}, {}, n_clients=3, rounds=2, shared=method.shared, streams=Streams(1))
    method.init_server(server)
    assert method.broadcast(server, 0)["prototypes"] == {}

    def send(k, **classes):
        counts = {c[1:]: n for c, (n, _) in classes.items()}
        return Upload(
            k, 1, {}, {"prototypes": {c[1:]: torch.tensor(p) for c, (_, p) in classes.items()}, "counts": counts}
        )

    method.server_update(server, [send(0, c0=(1, [4.0, 0.0]), c2=(5, [1.0, 1.0])), send(1, c0=(3, [0.0, 8.0]))], [])
    sent = method.broadcast(server, 0)["prototypes"]
    assert {c: p.tolist() for c, p in sent.items()} == {"0": [1.0, 6.0], "2": [1.0, 1.0]}
    method.server_update(server, [send(2, c0=(7, [3.0, 3.0]))], [])
    sent = method.broadcast(server, 0)["prototypes"]
    assert {c: p.tolist() for c, p in sent.items()} == {"0": [3.0, 3.0], "2": [1.0, 1.0]}


def test_only_prototypes_are_sent(simulate, blood, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=0, participation=1.0))
    down, up = FedProto().traffic(Size(shared=0, model=1, classes=8, features=64))
    assert up is None
    assert [value.tolist() for value in simulation.rounds["bytes_down"]] == [[0], [8 * down]]
    labels = simulation.targets.numpy()
    classes = sum(len(set(labels[ids])) for ids in simulation.federation.train)
    assert [value.tolist() for value in simulation.rounds["bytes_up"]] == [[8 * 8 + classes * (4 * 64 + 8)]] * 2
    assert "global_test_predictions" not in simulation.arrays


def test_the_nearest_prototype_predicts(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=2, local_epochs=1), nearest=True)
    client = simulation._client(2, 0, evaluation=True)
    predictor, x = simulation.method.personal(client), simulation.inputs[:50]
    features = simulation.model(simulation.states[2]["private"], x).features
    prototypes = simulation.server.state["prototypes"]
    nearest = [min((0, 1), key=lambda c: (row - prototypes[str(c)]).norm().item()) for row in features]
    assert predictor(x).argmax(dim=1).tolist() == nearest
    assert "personal_client_correct" in simulation.arrays


def test_a_class_without_a_prototype_is_never_predicted(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=1, local_epochs=1), nearest=True)
    simulation.server.state = {"prototypes": {"1": simulation.server.state["prototypes"]["1"]}}
    logits = simulation.method.personal(simulation._client(0, 0, evaluation=True))(simulation.inputs[:20])
    assert torch.isfinite(logits).all()
    assert set(logits.argmax(dim=1).tolist()) == {1}


@pytest.mark.parametrize("nearest", [False, True])
def test_hard_clients(simulate, shrink, nearest):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=1, participation=1.0, local_test=0.5)
    simulation = simulate(task, nearest=nearest)
    simulation.save()
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 10, 4]
    assert np.isfinite(np.stack(simulation.clients["train_loss"])).all()


def test_clients_can_be_trained_together(simulate, shrink):
    task, trainer = shrink("heart", rounds=2, local_epochs=1), Together()
    found, plain = simulate(task, trainer=trainer), simulate(task)
    assert "one client" not in trainer.describe()
    for k, state in plain.states.items():
        for name, w in state["private"].items():
            torch.testing.assert_close(found.states[k]["private"][name], w, rtol=1e-4, atol=1e-6)
