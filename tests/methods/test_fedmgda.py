"""FedMGDA+: its quadratic program against closed forms and a grid, and what its step does not depend on."""

import numpy as np
import pytest
import torch
from fedbench.methods.fedmgda import FedMGDA, min_norm

from fedbench import Dirichlet, Size, Upload


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=FedMGDA, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1)


@pytest.fixture
def server(make_cell, start, heart):
    return start(make_cell(heart, FedMGDA)).server


def uploads(server, moves):
    """One upload for each move, in a direction of its own at each client."""
    sent = []
    for k, scale in enumerate(moves):
        rng = np.random.Generator(np.random.PCG64(k))
        steps = {n: scale * torch.from_numpy(rng.normal(0.3, size=w.shape)) for n, w in server.params.items()}
        sent.append(Upload(k, 5 + k, {n: w + steps[n].float() for n, w in server.params.items()}))
    return sent


def flat(params):
    return torch.cat([tensor.flatten().double() for tensor in params.values()])


def units(m, d, seed):
    vectors = np.random.Generator(np.random.PCG64(seed)).normal(0.2, size=(m, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("a", "b", "c"), [(1, 1, 0.3), (2, 1, -0.5), (5, 1, 0.8), (1, 3, 1.5)])
def test_two_clients_have_the_closed_form(a, b, c):
    """The minimum of l^2 a + 2 l (1 - l) c + (1 - l)^2 b over [0, 1]."""
    expected = np.clip((b - c) / (a + b - 2 * c), 0, 1)
    assert min_norm(np.array([[a, c], [c, b]], dtype=float), 1.0) == pytest.approx([expected, 1 - expected], abs=1e-9)


@pytest.mark.parametrize("eps", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_point_of_a_grid_is_better(seed, eps):
    u = units(3, 4, seed)
    products = u @ u.T
    weights = min_norm(products, eps)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (abs(weights - 1 / 3) <= eps + 1e-9).all()
    assert (weights >= 0).all()
    best = weights @ products @ weights
    for a in np.linspace(0, 1, 101):
        for b in np.linspace(0, 1 - a, 101):
            other = np.array([a, b, 1 - a - b])
            if (abs(other - 1 / 3) <= eps).all():
                assert best <= other @ products @ other + 1e-9


@pytest.mark.parametrize(("m", "d", "eps"), [(8, 3, 1.0), (20, 6, 1.0), (20, 30, 0.02), (5, 1, 1.0)])
def test_at_the_minimum_no_client_is_harmed(m, d, eps):
    """First-order conditions: a weight that may grow has no smaller slope than one that may shrink."""
    u = units(m, d, seed=m)
    weights = min_norm(u @ u.T, eps)
    slopes = u @ u.T @ weights
    low, high = max(1 / m - eps, 0), min(1 / m + eps, 1)
    assert slopes[weights < high - 1e-9].min() >= slopes[weights > low + 1e-9].max() - 1e-8
    if eps == 1:
        assert slopes.min() >= weights @ slopes - 1e-8


def test_without_eps_it_is_the_mean_of_directions(server):
    method, sent = FedMGDA(eps=0.0, eta=0.7, decay=0.5), uploads(server, [0.1, 2.0, 0.01])
    server.round = 2
    before = flat(server.params)
    directions = [flat(upload.params) - before for upload in sent]
    weights = method.weights(server, sent)
    assert weights == pytest.approx([1 / 3] * 3)
    method.server_update(server, sent, weights)
    expected = sum(direction / direction.norm() for direction in directions) / 3
    torch.testing.assert_close(flat(server.params) - before, 0.7 * 0.25 * expected, rtol=1e-4, atol=1e-6)


def test_the_length_of_an_update_does_not_matter(server):
    start, found = dict(server.params), []
    for moves in ([0.1, 0.1, 0.1], [0.02, 1.0, 0.5]):
        server.params, method = dict(start), FedMGDA(eps=0.5)
        sent = uploads(server, moves)
        weights = method.weights(server, sent)
        method.server_update(server, sent, weights)
        found.append((weights, flat(server.params)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_a_client_that_did_not_move_is_left_out(server):
    method, start = FedMGDA(eps=0.2), dict(server.params)
    assert method.weights(server, uploads(server, [0.1, 0.0, 0.2]))[1] == 0
    without = [upload for upload in uploads(server, [0.1, 0.0, 0.2]) if upload.client != 1]
    assert [w for w in method.weights(server, uploads(server, [0.1, 0.0, 0.2])) if w] == method.weights(server, without)
    still = uploads(server, [0.0, 0.0])
    weights = method.weights(server, still)
    assert sum(weights) == pytest.approx(1)
    method.server_update(server, still, weights)
    assert all(torch.equal(server.params[name], tensor) for name, tensor in start.items())


def test_a_step_is_no_longer_than_its_rate(simulate, shrink):
    task = shrink("heart", rounds=1, local_epochs=1)
    simulation = simulate(task, eta=0.3)
    length = (flat(simulation.server.params) - flat(simulation.initial)).norm().item()
    assert 0.01 < length <= 0.3 + 1e-5


def test_tiny_clients_of_one_class_train(simulate, shrink):
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    simulation = simulate(task, eps=1.0)
    assert min(len(ids) for ids in simulation.federation.train) == 1
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_traffic_is_as_declared(simulate, heart):
    simulation = simulate(heart)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedMGDA().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [4 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [4 * up] * 2
