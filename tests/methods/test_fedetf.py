"""FedETF: the frame, the loss, the predictor and the personal tuning, each computed a second time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedetf import FedETF

from fedbench import Batch, Partitioner, Size
from fedbench.together import Together

STEP = {"local_epochs": 1, "batch_size": 1000, "momentum": 0.0, "lr": 0.5}


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


@pytest.fixture(scope="module")
def begin(make_cell, start):
    """Return a function that starts the simulation of a task."""

    def begun(task, seed=1, trainer=None, **values):
        simulation = start(make_cell(task, FedETF, seed=seed, **values), trainer=trainer)
        simulation.server.model = simulation.model
        return simulation

    return begun


@pytest.fixture(scope="module")
def simulate(begin):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, **values):
        simulation = begin(task, **values)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1)


def scores(w, x):
    """Return the scaled cosines of the table's model in plain torch."""
    features = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    z = features @ w["head.weight"].T + w["head.bias"]
    return w["scale"] * (z / (z**2).sum(dim=1, keepdim=True).sqrt()) @ w["etf"]


def descended(w, names, rate, loss):
    """Return w after a step of gradient descent on some of its tensors."""
    leaf = {name: tensor.clone().requires_grad_() for name, tensor in w.items()}
    loss(leaf).backward()
    return {n: (leaf[n] - rate * leaf[n].grad if n in names else leaf[n]).detach() for n in w}


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_directions_are_as_far_apart_as_can_be(begin, shrink, name):
    etf = begin(shrink(name)).server.params["etf"]
    classes = len(etf)
    gram = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(etf.T @ etf, gram, rtol=0, atol=1e-6)


def test_the_frame_is_everybodys_in_all_rounds_and_drawn_anew_with_the_seed(begin, blood):
    simulation, other = begin(blood, turns=0), begin(blood, seed=2)
    before = simulation.server.params["etf"].clone()
    assert not torch.allclose(before, other.server.params["etf"])
    for _ in range(2):
        for k in range(8):
            assert torch.equal(simulation._client(k, 0).received["etf"], before)
        simulation.round()
    assert torch.equal(simulation.server.params["etf"], before)
    assert all("etf" not in state for state in simulation.states.values())


def test_the_loss_is_a_balanced_softmax(begin, blood):
    """By hand over the classes that the client has: the others' prior is zero."""
    simulation = begin(blood, scale=3.0)
    client, index = simulation._client(0, 10), torch.arange(12)
    params = {**client.params, "etf": client.received["etf"]}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    batch = Batch(client.model, client.kind, leaves, client.inputs[index], client.targets[index], index)
    loss = simulation.method.loss(client, batch)

    counts = np.bincount(client.targets.numpy(), minlength=8).tolist()
    assert 0 in counts
    expected = 0.0
    for z, label in zip(batch.logits.detach(), batch.y.tolist(), strict=True):
        cosine = (params["etf"].T @ z / z.norm()).tolist()
        terms = [n * math.exp(3.0 * cos) for n, cos in zip(counts, cosine, strict=True)]
        expected -= math.log(terms[label] / sum(terms)) / 12
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for name, leaf in leaves.items():
        assert torch.isfinite(leaf.grad).all(), name


def test_a_round_is_a_mean_of_steps_in_plain_torch(begin, shrink):
    """One full-batch step a hospital; all but the frame is averaged by training samples."""
    simulation = begin(shrink("heart", rounds=2, **STEP), scale=2.0)
    before = dict(simulation.server.params)
    assert before["scale"].item() == 2.0
    simulation.round()
    sizes = [len(ids) for ids in simulation.federation.train]
    expected = {name: torch.zeros_like(w) for name, w in before.items()}
    for n, ids in zip(sizes, simulation.federation.train, strict=True):
        x, y = simulation.inputs[ids], simulation.targets[ids]
        prior = torch.bincount(y, minlength=2).log()
        step = descended(
            before, set(before) - {"etf"}, 0.5, lambda w, x=x, y=y, p=prior: F.cross_entropy(scores(w, x) + p, y)
        )
        expected = {name: total + n / sum(sizes) * step[name] for name, total in expected.items()}
    for name, w in expected.items():
        torch.testing.assert_close(simulation.server.params[name], w, rtol=0, atol=1e-6)
        assert torch.equal(simulation.server.params[name], before[name]) is (name == "etf")


def test_the_global_model_scores_by_cosines_without_the_prior(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=1, local_epochs=1), turns=0)
    found = simulation.method.predictor(simulation.server)(simulation.inputs)
    torch.testing.assert_close(found, scores(simulation.server.params, simulation.inputs), rtol=1e-4, atol=1e-6)
    assert found.abs().max() <= simulation.server.params["scale"].item() * (1 + 1e-6)
    test = simulation.federation.global_test
    assert (simulation.arrays["global_test_predictions"][0] == found[test].argmax(dim=1).numpy()).all()


def test_before_the_last_round_the_personal_model_is_the_global_one(begin, shrink):
    simulation = begin(shrink("heart", rounds=2, local_epochs=1, personal_every=1), turns=1)
    simulation.round()
    assert simulation.rounds["adapt_samples"][0] == 0
    assert np.array_equal(
        simulation.arrays["personal_client_correct"][0], simulation.arrays["global_client_correct"][0]
    )
    simulation.round()
    passes = sum(len(ids) for ids in simulation.federation.train)
    assert simulation.rounds["adapt_samples"][1] == passes * (1 + 1 + 3 + 3)  # trained, read, directions, projection


def test_personal_tuning_in_plain_torch(simulate, shrink):
    """Full batches: a step as in a round, then in turns three steps of the directions and three of the projection."""
    simulation = simulate(shrink("heart", rounds=1, **STEP), turns=2)
    before = {name: w.clone() for name, w in simulation.server.params.items()}
    client = simulation._client(3, len(simulation.federation.train[3]), evaluation=True)
    found = simulation.method.personal(client).params
    x, y, prior = client.inputs, client.targets, client.class_counts.log()
    w = descended(before, set(before) - {"etf"}, 0.5, lambda w: F.cross_entropy(scores(w, x) + prior, y))
    for _ in range(2):
        for names, rate in (({"etf"}, 0.1), ({"head.weight", "head.bias"}, 0.05)):
            for _ in range(3):
                w = descended(w, names, rate, lambda w: F.cross_entropy(scores(w, x), y))
    assert found.keys() == w.keys()
    for name, tensor in w.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
        assert torch.equal(simulation.server.params[name], before[name])


def test_traffic_is_as_declared(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=0, participation=1.0), turns=0)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedETF().traffic(Size(shared=size, model=size, classes=8, features=64))
    assert [value.tolist() for value in simulation.rounds["bytes_down"]] == [[8 * down]] * 2
    assert [value.tolist() for value in simulation.rounds["bytes_up"]] == [[8 * up]] * 2


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=2, local_epochs=1, participation=1.0, local_test=0.5)
    simulation = simulate(task, turns=1)
    simulation.save()
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 10, 4]
    assert np.isfinite(np.stack(simulation.clients["train_loss"])).all()


def test_clients_can_be_trained_together(simulate, shrink):
    task, trainer = shrink("heart", rounds=2, local_epochs=1), Together()
    found, plain = simulate(task, trainer=trainer, turns=1), simulate(task, turns=1)
    assert "one client" not in trainer.describe()
    for name, w in plain.server.params.items():
        torch.testing.assert_close(found.server.params[name], w, rtol=1e-3, atol=5e-5)
