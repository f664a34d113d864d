"""FedDecorr: its term by NumPy's correlations, what does not change it, and FedAvg at beta = 0."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fedbench.methods.feddecorr import FedDecorr, correlation

from fedbench import Batch, Dirichlet, Size
from fedbench.models import Output
from fedbench.together import Together


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=FedDecorr, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def of(features):
    return SimpleNamespace(features=features, mean=lambda values: values.mean(dim=0))


def drawn(n, d, seed=5):
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 * rng.normal(size=d)


def test_at_beta_zero_it_is_fedavg_bit_for_bit(simulate, heart):
    a, b = simulate(heart, beta=0.0), simulate(heart, "fedavg")
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    assert not same(simulate(heart).server.params, b.server.params)


@pytest.mark.parametrize(("n", "d"), [(12, 30), (64, 8), (2, 5)])
def test_the_term_is_that_of_the_authors_code(n, d):
    """(N - 1)^2 / N times the mean squared correlation of two different features."""
    features = drawn(n, d)
    squared = np.corrcoef(features, rowvar=False) ** 2
    expected = (n - 1) ** 2 / n * squared[~np.eye(d, dtype=bool)].mean()
    assert correlation(of(torch.from_numpy(features))).item() == pytest.approx(expected, rel=1e-6)


def test_scale_and_shift_of_a_feature_do_not_matter():
    features = torch.from_numpy(drawn(12, 7))
    moved = features * torch.linspace(0.5, 40, 7) + torch.linspace(-5, 5, 7)
    torch.testing.assert_close(correlation(of(moved)), correlation(of(features)), rtol=1e-6, atol=0)


def test_uncorrelated_features_and_single_samples_have_none():
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])[:, 1:]
    assert correlation(of(3 * signs + 1)).item() == pytest.approx(0, abs=1e-5)
    assert correlation(of(torch.tensor([[3.0, 1, 2]]))).item() == 0


def test_padding_does_not_count():
    features = torch.from_numpy(drawn(12, 6)).float()
    padded = torch.cat([features, 100 * features[:5]])
    none = torch.zeros(17)
    batch = Batch(None, None, {}, none, none, none, real=torch.arange(17) < 12)
    batch.output = Output(padded, padded)
    torch.testing.assert_close(correlation(batch), correlation(of(features)))


def test_units_that_are_off_stay_finite():
    features = torch.relu(torch.from_numpy(drawn(6, 5)).float())
    features[:, 2] = 0
    features.requires_grad_()
    correlation(of(features)).backward()
    assert torch.isfinite(features.grad).all()
    assert not features.grad[:, 2].any()


def test_a_step_against_the_term_lowers_it():
    features = torch.from_numpy(drawn(12, 6)).requires_grad_()
    before = correlation(of(features))
    before.backward()
    assert correlation(of(features.detach() - 0.01 * features.grad)) < before


def test_tiny_clients_of_one_class_train(simulate, shrink):
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    simulation = simulate(task)
    assert min(len(ids) for ids in simulation.federation.train) == 1
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_clients_are_trained_together_to_the_same_result(simulate, heart):
    trainer = Together(lanes=3)
    together, alone = simulate(heart, trainer=trainer), simulate(heart)
    assert trainer.describe() == "up to 3 clients at a time, batches of 12"
    for name, tensor in alone.server.params.items():
        torch.testing.assert_close(together.server.params[name], tensor, rtol=1e-3, atol=1e-5)


def test_traffic_is_as_declared(simulate, heart):
    simulation = simulate(heart)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedDecorr().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [4 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [4 * up] * 2
