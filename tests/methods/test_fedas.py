"""FedAS: alignment and Fisher weights against plain torch, whose head is whose, the limit to partial sharing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedas import FedAS

from fedbench import Batch, Method, Partitioner, Size, Upload
from fedbench.together import Together

OFF = {"align_epochs": 0, "weighting": False}


class Hard(Partitioner):
    """One training sample (and one to test); six of one class; eight mixed, fewer than a batch; the rest."""

    def split(self, targets, sites, n_classes, rng):
        members = np.flatnonzero(targets == np.bincount(targets).argmax())
        rest = np.setdiff1d(np.arange(len(targets)), members[:11])
        return [members[:2], members[2:11], rest[:12], rest[12:]]


@dataclass(frozen=True, kw_only=True)
class OwnHead(Method):
    """Partial sharing and nothing else."""

    def shared(self, name):
        return not name.startswith("head.")

    def predictor(self, server):
        return None


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


def same(a, b):
    heads = all(equal(a.states[k]["private"], b.states[k]["private"]) for k in a.states)
    losses = np.array_equal(a.rounds["train_loss"], b.rounds["train_loss"])
    return equal(a.server.params, b.server.params) and heads and losses


def hidden(w, x):
    return torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])


def outputs(w, x):
    return hidden(w, x) @ w["head.weight"].T + w["head.bias"]


def distance(features, prototypes, labels):
    """Return the alignment loss, a class at a time."""
    classes = labels.unique().tolist()
    return sum((features[labels == c] - prototypes[c]).square().mean() for c in classes)


@pytest.fixture
def client(make_cell, start, heart):
    """A client whose last base is not the one that it receives."""
    client = start(make_cell(heart, FedAS))._client(0, 202)
    base = {name: 1.5 * tensor for name, tensor in client.initial.items() if not name.startswith("head.")}
    client.state = {
        "base": base,
        "private": {f"head.{k}": 0.5 * client.initial[f"head.{k}"] for k in ("weight", "bias")},
    }
    return client


@pytest.fixture
def prototypes(client):
    """Mean features of each class by the client's last base."""
    features = hidden(client.state["base"], client.inputs)
    return torch.stack([features[client.targets == c].mean(dim=0) for c in range(2)])


@pytest.mark.parametrize("size", [1, 7, 202])
def test_the_distance_is_the_sum_over_classes_of_means(client, prototypes, size):
    index = torch.arange(size)
    given = {"prototypes": prototypes}
    batch = Batch(client.model, client.kind, client.params, client.inputs[index], client.targets[index], index, given)
    expected = distance(hidden(client.params, batch.x), prototypes, batch.y)
    torch.testing.assert_close(FedAS().distance(client, batch), expected)


def test_at_its_own_last_base_a_client_is_as_far_as_its_classes_are_wide(client):
    """The mean over dimensions of the variance within each class, summed over classes: not zero."""
    features = hidden(client.initial, client.inputs)
    groups = [features[client.targets == c] for c in range(2)]
    given = {"prototypes": torch.stack([group.mean(dim=0) for group in groups])}
    index = torch.arange(client.n)
    batch = Batch(client.model, client.kind, client.params, client.inputs, client.targets, index, given)
    expected = sum(group.var(dim=0, correction=0).mean() for group in groups)
    torch.testing.assert_close(FedAS().distance(client, batch), expected)
    assert expected > 0.01


def test_alignment_is_plain_descent_on_that_distance(client, prototypes):
    """Two steps of all samples, with a momentum in the protocol that must not count."""
    assert client.protocol.momentum > 0
    w = dict(client.params)
    for _ in range(2):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in w.items()}
        distance(hidden(leaves, client.inputs), prototypes, client.targets).backward()
        w = {n: leaf.detach() - 0.3 * leaf.grad if n.startswith("fc1.") else w[n] for n, leaf in leaves.items()}
    aligned = FedAS(align_epochs=2, align_batch=1000, align_lr=0.3).aligned(client)
    for name, tensor in w.items():
        torch.testing.assert_close(aligned[name], tensor, rtol=0, atol=1e-6)
    assert not torch.equal(aligned["fc1.weight"], client.params["fc1.weight"])


def test_alignment_leaves_the_head_and_what_the_server_has(make_cell, start, heart):
    simulation = start(make_cell(heart, FedAS))
    before = {name: tensor.clone() for name, tensor in simulation.server.params.items()}
    client = simulation._client(0, 202)
    aligned = simulation.method.aligned(client)
    assert all(torch.equal(aligned[name], client.params[name]) for name in ("head.weight", "head.bias"))
    simulation.method.client_update(client)
    assert equal(simulation.server.params, before)


def test_clients_weigh_as_their_fisher_traces(run, shrink):
    """Squared gradients of batches of 12 in order, by plain torch at the models that training left."""
    simulation = run(shrink("heart", rounds=1, local_epochs=1), FedAS)
    traces = []
    for k, ids in enumerate(simulation.federation.train):
        model, trace = {**simulation.states[k]["base"], **simulation.states[k]["private"]}, 0.0
        for piece in torch.from_numpy(ids).split(12):
            w = {name: tensor.clone().requires_grad_() for name, tensor in model.items()}
            F.cross_entropy(outputs(w, simulation.inputs[piece]), simulation.targets[piece]).backward()
            trace += sum(leaf.grad.double().square().sum().item() for leaf in w.values())
        traces.append(trace)
    expected = [trace / sum(traces) for trace in traces]
    assert simulation.clients["weight"][0].tolist() == pytest.approx(expected, rel=1e-4)
    mean = sum(weight * simulation.states[k]["base"]["fc1.bias"] for k, weight in enumerate(expected))
    torch.testing.assert_close(simulation.server.params["fc1.bias"], mean, rtol=1e-4, atol=1e-6)


def test_weights_by_hand():
    def uploads(*traces):
        return [Upload(k, n, {}, {"trace": t}) for k, (n, t) in enumerate(zip((10, 30), traces, strict=True))]

    assert FedAS().weights(None, uploads(3.0, 1.0)) == [0.75, 0.25]
    assert FedAS().weights(None, uploads(0.0, 0.0)) == [0.25, 0.75]
    assert FedAS(weighting=False).weights(None, uploads(3.0, 1.0)) == [0.25, 0.75]


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_its_two_parts_it_is_partial_sharing_bit_for_bit(run, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1, participation=0.5)
    a, b = run(task, FedAS, **OFF), run(task, OwnHead)
    assert same(a, b)
    assert a.rounds["train_samples"] == b.rounds["train_samples"]
    assert a.rounds["forward_samples"] == b.rounds["forward_samples"]


@pytest.mark.parametrize("part", [{"align_epochs": 0}, {"weighting": False}])
def test_each_part_acts_on_its_own(run, heart, part):
    both, one, none = run(heart, FedAS, align_lr=0.1), run(heart, FedAS, align_lr=0.1, **part), run(heart, FedAS, **OFF)
    assert not same(one, both)
    assert not same(one, none)


def test_heads_stay_with_their_clients(make_cell, start, blood):
    simulation = start(make_cell(blood, FedAS))
    simulation.round()
    kept = {k: {part: dict(model) for part, model in simulation.states[k].items()} for k in simulation.states}
    simulation.round()
    first, second = (set(ids.tolist()) for ids in simulation.federation.schedule)
    assert first - second
    for k in first - second:
        assert all(equal(simulation.states[k][part], model) for part, model in kept[k].items())
    for k in first & second:
        assert not torch.equal(simulation.states[k]["private"]["head.bias"], kept[k]["private"]["head.bias"])
    assert torch.equal(simulation.server.params["head.weight"], simulation.initial["head.weight"])
    assert simulation.method.predictor(simulation.server) is None


def test_a_client_deploys_what_it_last_trained_or_the_newest_base(run, blood):
    simulation = run(blood, FedAS)
    for k in range(8):
        personal = simulation.method.personal(simulation._client(k, 0, evaluation=True))
        state = simulation.states.get(k)
        start = {n: simulation.initial[n] for n in ("head.weight", "head.bias")}
        expected = {**state["base"], **state["private"]} if state else {**simulation.server.params, **start}
        assert all(torch.equal(personal[name], tensor) for name, tensor in expected.items())


def test_traffic_is_the_base_and_a_number(run, blood):
    simulation = run(blood, FedAS)
    model = sum(tensor.nbytes for tensor in simulation.initial.values())
    size = Size(model - 4 * (64 * 8 + 8), model, 8, 64)
    down, up = FedAS().traffic(size)
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [2 * down] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [2 * up] * 2
    assert FedAS(weighting=False).traffic(size)[1] == up - 8


def test_passes_are_counted(run, shrink):
    """A pass of training, one of alignment, one of gradients; one forward for the prototypes."""
    simulation = run(shrink("heart", rounds=1, local_epochs=1), FedAS)
    n = sum(len(ids) for ids in simulation.federation.train)
    assert (simulation.rounds["train_samples"][0], simulation.rounds["forward_samples"][0]) == (3 * n, n)


def test_hard_clients_stay_finite(run, shrink):
    simulation = run(shrink("heart", partitioner=Hard(), rounds=3, local_epochs=1), FedAS, align_lr=0.1)
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 6, 8]
    models = [simulation.server.params, *(simulation.states[k]["base"] for k in range(4))]
    assert all(torch.isfinite(tensor).all() for model in models for tensor in model.values())


@pytest.mark.parametrize("partitioner", [None, Hard()], ids=["hospitals", "hard"])
def test_clients_are_trained_together(run, shrink, partitioner):
    """With hard clients too: padding is of a class that the batch may not have."""
    task, trainer = shrink("heart", partitioner=partitioner, rounds=2, local_epochs=1), Together(lanes=4)
    found, expected = run(task, FedAS, trainer=trainer, align_lr=0.1), run(task, FedAS, align_lr=0.1)
    for name, tensor in expected.server.params.items():
        torch.testing.assert_close(found.server.params[name], tensor, rtol=1e-3, atol=1e-5)
    assert "one client at a time" not in trainer.describe()
