"""FedALA: the learning of W against plain torch, the mixture's ends, when it is learned and for how long."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedala import FedALA, settled

from fedbench import Dirichlet, Partitioner, Size
from fedbench.together import Together

HEAD = ["head.weight", "head.bias"]


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
def full(shrink):
    return shrink("heart", batch_size=1000)


@pytest.fixture
def client(make_cell, start, full):
    """A client in a federation of full batches that has a model and mixing weights of its own."""
    client = start(make_cell(full, FedALA))._client(0, 202)
    draw = torch.Generator().manual_seed(0)
    own = {name: w + 0.3 * torch.randn(w.shape, generator=draw) for name, w in client.initial.items()}
    client.state = {"own": own, "W": {name: torch.rand(own[name].shape, generator=draw) for name in HEAD}}
    return client


def same(a, b):
    equal = all(torch.equal(tensor, b.server.params[name]) for name, tensor in a.server.params.items())
    return equal and np.array_equal(a.rounds["train_loss"], b.rounds["train_loss"])


def test_a_step_on_the_weights_is_the_papers(client):
    """W <- clip(W - eta * g * (w - own)), g the gradient at the mixture by plain torch; some of W is clipped."""
    own, new, weights = client.state["own"], client.params, client.state["W"]
    mixture = {**new, **{n: (own[n] + (new[n] - own[n]) * weights[n]).requires_grad_() for n in HEAD}}
    hidden = torch.relu(client.inputs @ new["fc1.weight"].T + new["fc1.bias"])
    F.cross_entropy(hidden @ mixture["head.weight"].T + mixture["head.bias"], client.targets).backward()
    expected = {n: (weights[n] - 200 * mixture[n].grad * (new[n] - own[n])).clamp(0, 1) for n in HEAD}
    start = FedALA(eta=200.0, share=1.0).start(client)
    for name in HEAD:
        torch.testing.assert_close(client.state["W"][name], expected[name], rtol=0, atol=1e-5)
        torch.testing.assert_close(start[name], own[name] + (new[name] - own[name]) * expected[name])
    flat = torch.cat([tensor.flatten() for tensor in expected.values()])
    assert ((flat == 0) | (flat == 1)).any()
    assert ((flat > 0) & (flat < 1)).any()


def test_lower_layers_are_the_global_ones(client):
    start = FedALA().start(client)
    assert start.keys() == client.params.keys()
    for name in ("fc1.weight", "fc1.bias"):
        assert torch.equal(start[name], client.params[name])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_mixtures_ends_are_exact(client, weight):
    weights = {name: torch.full_like(client.params[name], weight) for name in HEAD}
    mixture = FedALA().mixed(client, weights)
    for name in HEAD:
        assert torch.equal(mixture[name], (client.params if weight else client.state["own"])[name])


def test_top_layers_are_layers_and_not_normalisation():
    names = [f"{layer}.{kind}" for layer in ("conv1", "conv2", "fc1", "head") for kind in ("weight", "bias")]
    names += [f"norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias", "mean", "var")]
    assert FedALA().top(names) == ["head.weight", "head.bias"]
    assert FedALA(layers=2).top(names) == ["fc1.weight", "fc1.bias", "head.weight", "head.bias"]
    assert FedALA(layers=9).top(names) == names[:8]


def test_losses_settle_by_hand():
    """Epochs of two steps: eleven are needed, and the spread of the last ten means decides."""
    assert not settled([1.0] * 20, steps=2)
    assert settled([1.0] * 22, steps=2)
    assert not settled([1.0] * 21, steps=2)  # in the middle of an epoch
    assert settled([9.0] * 4 + [0.0, 2.0] * 10, steps=2)  # within an epoch losses may differ
    alternating = [1.0, 1.0, 1.25, 1.25] * 6  # means 1 and 1.25: a standard deviation of 0.125
    assert not settled(alternating, steps=2)
    assert settled([1 + (loss - 1) / 2 for loss in alternating], steps=2)


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_eta_it_is_fedavg_bit_for_bit(run, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1, participation=0.5)
    a, b = run(task, FedALA, eta=0.0), run(task, "fedavg")
    assert same(a, b)
    assert a.rounds["train_samples"] == b.rounds["train_samples"]


def test_a_first_participation_is_fedavgs_and_the_second_is_not(run, shrink):
    one, two = (shrink("heart", rounds=rounds, local_epochs=1) for rounds in (1, 2))
    assert same(run(one, FedALA), run(one, "fedavg"))
    assert not same(run(two, FedALA), run(two, "fedavg"))


def test_a_single_client_finds_its_own_model_again(run, shrink):
    """What it receives is what it sent, so there is nothing to mix."""
    alone = shrink("heart", partitioner=Dirichlet(alpha=1.0, clients=1), rounds=3, local_epochs=1)
    a, b = run(alone, FedALA), run(alone, "fedavg")
    assert same(a, b)
    assert a.rounds["train_samples"] == b.rounds["train_samples"]


def test_weights_are_learned_at_length_once_and_then_for_one_epoch(run, heart):
    simulation = run(heart, FedALA)
    n = [len(ids) for ids in simulation.federation.train]
    some = [int(0.8 * k) for k in n]
    first, second, third = (int(values[0]) for values in simulation.rounds["train_samples"])
    assert first == sum(n)
    assert sum(n) + 11 * sum(some) <= second <= sum(n) + 100 * sum(some)
    assert third == sum(n) + sum(some)


def test_mixing_weights_stay_in_range_and_move(run, shrink):
    simulation = run(shrink("heart", rounds=3, local_epochs=1), FedALA, eta=50.0, layers=2)
    for k in range(4):
        weights = simulation.states[k]["W"]
        assert list(weights) == ["fc1.weight", "fc1.bias", "head.weight", "head.bias"]
        assert all(((w >= 0) & (w <= 1)).all() for w in weights.values())
        assert any((w < 1).any() for w in weights.values())


def test_only_sampled_clients_learn_and_all_deploy_their_own_last_model(make_cell, start, shrink):
    simulation = start(make_cell(shrink("blood-mini", rounds=3, local_epochs=1, participation=0.25), FedALA, eta=10.0))
    seen = set()
    for ids in simulation.federation.schedule:
        before = {k: dict(simulation.states[k]) for k in simulation.states}
        simulation.round()
        for k in seen - set(ids.tolist()):
            for part, model in before[k].items():
                assert all(torch.equal(simulation.states[k][part][name], tensor) for name, tensor in model.items())
        assert all(("W" in simulation.states[k]) == (k in seen) for k in ids.tolist())
        seen |= set(ids.tolist())
    for k in range(8):
        personal = simulation.method.personal(simulation._client(k, 0, evaluation=True))
        expected = simulation.states[k]["own"] if k in seen else simulation.server.params
        assert all(torch.equal(personal[name], tensor) for name, tensor in expected.items())


def test_traffic_is_fedavgs(run, heart):
    simulation = run(heart, FedALA)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedALA().traffic(Size(size, size, 2, 16))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * down] * 3
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * up] * 3


def test_hard_clients_stay_finite(run, shrink):
    simulation = run(shrink("heart", partitioner=Hard(), rounds=3, local_epochs=1), FedALA, eta=10.0)
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 6, 8]
    models = [simulation.server.params, *(simulation.states[k]["W"] for k in range(4))]
    assert all(torch.isfinite(tensor).all() for model in models for tensor in model.values())


def test_clients_are_trained_together_where_they_need_not_be_asked(run, heart):
    trainer = Together(lanes=4)
    found, expected = run(heart, FedALA, trainer=trainer), run(heart, FedALA)
    for name, tensor in expected.server.params.items():
        torch.testing.assert_close(found.server.params[name], tensor, rtol=1e-3, atol=1e-5)
    assert trainer.describe() == (
        "up to 4 clients at a time, batches of 12; "
        "one client at a time: FedALA.mixed_loss is asked after each step whether to stop"
    )
