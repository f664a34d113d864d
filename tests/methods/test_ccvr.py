"""CCVR: pooled moments are those of all features, only the head changes, and only after the last round."""

import numpy as np
import pytest
import torch
from fedbench.methods.ccvr import CCVR, moments, pooled

from fedbench import Dirichlet, Upload


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=CCVR, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1)


def drawn(n, d=5, seed=3):
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=d))


@pytest.mark.parametrize("sizes", [(40,), (20, 20), (1, 30, 9), (1,) * 7])
def test_pooled_moments_are_those_of_the_union(sizes):
    features = drawn(sum(sizes))
    mean, covariance = pooled([moments(group) for group in features.split(sizes)])
    np.testing.assert_allclose(mean, features.mean(dim=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(features, rowvar=False), rtol=1e-4, atol=1e-5)


def test_one_sample_has_no_spread():
    features = drawn(1)
    mean, covariance = pooled([moments(features)])
    torch.testing.assert_close(mean, features[0], rtol=1e-6, atol=1e-6)
    assert not covariance.any()


def test_rounds_are_fedavgs_and_the_last_word_changes_the_head_alone(simulate, heart):
    simulation, plain = simulate(heart), simulate(heart, "fedavg")
    before = dict(simulation.server.params)
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.server.params.items())
    assert simulation.final == {}
    simulation._finish()
    for name, tensor in simulation.server.params.items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head.")), name
    assert len(simulation.final["final_test_predictions"]) == len(simulation.federation.global_test)


def test_without_epochs_nothing_is_asked_for(simulate, heart):
    simulation, plain = simulate(heart, epochs=0), simulate(heart, "fedavg")
    simulation._finish()
    assert simulation.final == {}
    assert all(torch.equal(simulation.server.params[name], w) for name, w in plain.server.params.items())


def test_traffic_of_the_query_is_the_model_down_and_moments_up(simulate, shrink):
    """All clients, sampled or not: for each class that one has a number, a mean and a scatter matrix; and n_k."""
    simulation = simulate(shrink("heart", rounds=1, local_epochs=1, participation=0.5))
    simulation._finish()
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    counts = [len(simulation.targets[ids].unique()) for ids in simulation.federation.train]
    assert simulation.final["final_bytes_down"].tolist() == [size] * 4
    assert simulation.final["final_bytes_up"].tolist() == [8 + count * (8 + 4 * 16 + 4 * 16 * 16) for count in counts]


def test_reports_are_the_moments_of_features_under_the_final_model(simulate, heart):
    simulation = simulate(heart)
    client = simulation._client(2, 1)
    w = simulation.server.params
    features = torch.relu(client.inputs @ w["fc1.weight"].T + w["fc1.bias"])
    report = CCVR().report(client)
    assert report.params == {}
    for c in client.targets.unique().tolist():
        own = features[client.targets == c]
        assert report[str(c)]["n"] == len(own)
        torch.testing.assert_close(report[str(c)]["mean"], own.mean(dim=0), rtol=1e-5, atol=1e-6)


def test_a_retrained_head_tells_separate_classes_apart(make_cell, start, heart):
    """Far apart and narrow: every feature is on the side of its own class, whatever the head was before."""
    server = start(make_cell(heart, CCVR)).server
    rng = np.random.Generator(np.random.PCG64(0))
    centres = torch.tensor([[3.0] * 16, [-3.0] * 16])
    features = {c: centres[c] + torch.from_numpy(0.1 * rng.normal(size=(20, 16))) for c in range(2)}
    server.params = {**server.params, "head.weight": torch.tensor([[-0.1] * 16, [0.1] * 16])}
    reports = [Upload(k, 20, {}, {str(c): moments(features[c][10 * k : 10 * k + 10]) for c in (0, 1)}) for k in (0, 1)]
    CCVR().receive(server, reports)
    for c in range(2):
        logits = features[c].float() @ server.params["head.weight"].T + server.params["head.bias"]
        assert (logits.argmax(dim=1) == c).all()
    assert not server.params["head.weight"].requires_grad


def test_virtual_features_have_the_pooled_moments(make_cell, start, heart, monkeypatch):
    """Of 20,000 of them, as the retraining sees them: the moments come back up to the error of sampling."""
    server, seen = start(make_cell(heart, CCVR)).server, []
    linear = torch.nn.functional.linear
    monkeypatch.setattr("torch.nn.functional.linear", lambda x, w, b: seen.append(x) or linear(x, w, b))
    features = drawn(400, d=16)
    CCVR(samples=20_000, epochs=1).receive(server, [Upload(0, 400, {}, {"1": moments(features)})])
    virtual = torch.cat(seen).double()
    assert virtual.shape == (20_000, 16)
    spread = features.std(dim=0)
    assert ((virtual.mean(dim=0) - features.mean(dim=0)).abs() < 0.05 * spread).all()
    correlation = np.corrcoef(virtual, rowvar=False) - np.corrcoef(features, rowvar=False)
    assert abs(correlation).max() < 0.05


def test_tiny_clients_of_one_class_are_no_obstacle(simulate, shrink):
    """Covariances of fewer samples than features are singular."""
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    simulation = simulate(task)
    assert min(len(ids) for ids in simulation.federation.train) == 1
    simulation._finish()
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_the_same_cell_gives_the_same_head(simulate, heart):
    heads = []
    for _ in range(2):
        simulation = simulate(heart)
        simulation._finish()
        heads.append(simulation.server.params["head.weight"])
    assert torch.equal(*heads)
