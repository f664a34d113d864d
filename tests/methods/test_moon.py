"""MOON: its loss against the paper's fraction, what is kept of a client's last model, its neutral points."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.moon import MOON

from fedbench import Batch, Method, Partitioner, Size
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


@pytest.fixture
def client(make_cell, start, heart):
    return start(make_cell(heart, MOON))._client(0, 20)


def same(a, b):
    equal = all(torch.equal(tensor, b.server.params[name]) for name, tensor in a.server.params.items())
    return equal and np.array_equal(a.rounds["train_loss"], b.rounds["train_loss"])


def moved(params, scale):
    """Return another model: every tensor turned over and scaled."""
    return {name: scale * tensor.flip(0) for name, tensor in params.items()}


def first(client, params, count=5):
    index = torch.arange(count)
    return Batch(client.model, client.kind, params, client.inputs[index], client.targets[index], index)


def hidden(params, x):
    return torch.relu(x @ params["fc1.weight"].T + params["fc1.bias"])


def gradient(method, client, params, count=5):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    method.loss(client, first(client, leaves, count)).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize(("mu", "temperature"), [(1.0, 0.5), (5.0, 0.1), (0.3, 2.0)])
def test_the_loss_is_the_papers(client, mu, temperature):
    """Written with loops from the fraction, with features by plain products of matrices."""
    previous, model = moved(client.params, 0.7), moved(client.params, 1.3)
    client.state = {"previous": previous}

    def cosine(a, b):
        return sum(map(lambda x, y: x * y, a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    batch = first(client, model)
    h, h_g, h_p = (hidden(params, batch.x).tolist() for params in (model, client.params, previous))
    contrast = 0.0
    for own, near, far in zip(h, h_g, h_p, strict=True):
        a, b = (math.exp(cosine(own, other) / temperature) for other in (near, far))
        contrast -= math.log(a / (a + b)) / 5
    outputs = torch.tensor(h) @ model["head.weight"].T + model["head.bias"]
    expected = F.cross_entropy(outputs, batch.y).item() + mu * contrast
    assert MOON(mu=mu, temperature=temperature).loss(client, batch).item() == pytest.approx(expected, rel=1e-5)


def test_where_previous_and_global_are_one_the_term_is_a_constant(client):
    client.state = {"previous": {name: tensor.clone() for name, tensor in client.params.items()}}
    model = moved(client.params, 1.3)
    term = MOON(mu=1.0).loss(client, first(client, model)) - Method().loss(client, first(client, model))
    assert term.item() == pytest.approx(math.log(2), rel=1e-6)
    plain, pulled = (gradient(method, client, model) for method in (Method(), MOON(mu=10.0)))
    for name, tensor in plain.items():
        torch.testing.assert_close(pulled[name], tensor, rtol=0, atol=1e-6)


def test_so_it_is_at_an_infinite_temperature(client):
    client.state = {"previous": moved(client.params, 0.7)}
    term = MOON(mu=1.0, temperature=1e6).loss(client, first(client, client.params))
    term = term - Method().loss(client, first(client, client.params))
    assert term.item() == pytest.approx(math.log(2), rel=1e-5)


def test_features_that_are_all_zero_have_a_finite_gradient(client):
    client.state = {"previous": moved(client.params, 0.7)}
    dead = {**client.params, "fc1.bias": torch.full_like(client.params["fc1.bias"], -1e4)}
    assert not hidden(dead, client.inputs[:5]).any()
    assert all(torch.isfinite(tensor).all() for tensor in gradient(MOON(mu=10.0), client, dead).values())


def test_frozen_models_do_not_change_and_the_new_one_is_kept(client):
    previous = moved(client.params, 0.7)
    client.state = {"previous": previous, "other": 1}
    before = [{name: tensor.clone() for name, tensor in model.items()} for model in (client.params, previous)]
    upload = MOON(mu=5.0).client_update(client)
    for model, copy in zip((client.params, previous), before, strict=True):
        assert all(torch.equal(model[name], tensor) for name, tensor in copy.items())
    assert client.state["other"] == 1
    assert all(torch.equal(client.state["previous"][name], tensor) for name, tensor in upload.params.items())


def test_what_is_kept_is_the_upload_and_not_the_aggregate(run, heart):
    simulation = run(heart, MOON, mu=1.0)
    sizes = [len(ids) for ids in simulation.federation.train]
    for name, tensor in simulation.server.params.items():
        kept = [simulation.states[k]["previous"][name].double() for k in range(4)]
        mean = sum(n * w for n, w in zip(sizes, kept, strict=True)) / sum(sizes)
        torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-6)
        assert not torch.equal(tensor, simulation.states[0]["previous"][name])


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_mu_it_is_fedavg_bit_for_bit(run, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1, participation=0.5)
    a, b = run(task, MOON, mu=0.0), run(task, "fedavg")
    assert same(a, b)
    assert a.rounds["forward_samples"] == b.rounds["forward_samples"]


def test_a_first_participation_is_fedavgs_and_the_second_is_not(run, shrink):
    one, two = shrink("heart", rounds=1), shrink("heart", rounds=2)
    assert same(run(one, MOON, mu=5.0), run(one, "fedavg"))
    assert not same(run(two, MOON, mu=5.0), run(two, "fedavg"))


def test_both_teachers_are_asked_once_a_round(run, heart):
    simulation = run(heart, MOON)
    n = sum(len(ids) for ids in simulation.federation.train)
    assert np.concatenate(simulation.rounds["forward_samples"]).tolist() == [0, 2 * n, 2 * n]


def test_traffic_is_fedavgs(run, heart):
    simulation = run(heart, MOON)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = MOON().traffic(Size(size, size, 2, 16))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * down] * 3
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * up] * 3


def test_hard_clients_stay_finite(run, shrink):
    simulation = run(shrink("heart", partitioner=Hard(), rounds=3, local_epochs=1), MOON, mu=10.0, temperature=0.1)
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 6, 8]
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_clients_are_trained_together(run, heart):
    trainer = Together(lanes=3)
    found, expected = run(heart, MOON, trainer=trainer, mu=5.0), run(heart, MOON, mu=5.0)
    for name, tensor in expected.server.params.items():
        torch.testing.assert_close(found.server.params[name], tensor, rtol=1e-4, atol=1e-5)
    assert "one client at a time" not in trainer.describe()
