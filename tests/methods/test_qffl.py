"""QFFL: the server's step from the paper's quantities, equal weights at q = 0, and what a larger q does."""

import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.qffl import QFFL

from fedbench import Dirichlet, Method, Size, Upload


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=QFFL, **values):
        simulation = start(make_cell(task, method, **values))
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1)


class Uniform(Method):
    def weights(self, server, uploads):
        return [1 / len(uploads)] * len(uploads)


def test_at_q_zero_it_is_fedavg_with_equal_weights(simulate, heart):
    fair, uniform = simulate(heart, q=0.0), simulate(heart, Uniform)
    for name, tensor in uniform.server.params.items():
        torch.testing.assert_close(fair.server.params[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("q", [0.1, 1.0, 5.0])
def test_the_servers_step_is_the_papers(simulate, shrink, q):
    """w - sum F^q G / sum h with F, G and h as in the paper, from models that clients train once more."""
    task = shrink("heart", rounds=1, local_epochs=1)
    simulation = simulate(task, q=q)
    w, lr = simulation.initial, task.protocol.lr
    top, bottom = dict.fromkeys(w, 0.0), 0.0
    for k, passes in enumerate(simulation.plan.passes[0].tolist()):
        simulation.server.params, simulation.server.round = dict(w), 0
        client = simulation._client(k, passes)
        hidden = torch.relu(client.inputs @ w["fc1.weight"].T + w["fc1.bias"])
        risk = F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], client.targets).item()
        own = client.fit(client.params, Method().loss).params
        slope = {name: (w[name] - own[name]).double() / lr for name in w}
        top = {name: top[name] + risk**q * slope[name] for name in w}
        squared = sum(tensor.square().sum().item() for tensor in slope.values())
        bottom += q * risk ** (q - 1) * squared + risk**q / lr
    found = simulate(task, q=q).server.params
    for name, tensor in w.items():
        expected = (tensor.double() - top[name] / bottom).float()
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_a_larger_q_listens_more_to_a_high_loss(make_cell, start, heart):
    simulation = start(make_cell(heart, QFFL))
    shares = []
    for q in (0.0, 0.5, 2.0):
        uploads = [QFFL(q=q).client_update(simulation._client(k, 10)) for k in range(4)]
        weights = QFFL(q=q).weights(simulation.server, uploads)
        assert sum(weights) == pytest.approx(1)
        shares.append(weights)
    risks = [client.outputs(client.params).logits for client in (simulation._client(k, 10) for k in range(4))]
    risks = [F.cross_entropy(z, simulation._client(k, 10).targets).item() for k, z in enumerate(risks)]
    worst = max(range(4), key=lambda k: risks[k])
    best = min(range(4), key=lambda k: risks[k])
    assert shares[0] == pytest.approx([0.25] * 4)
    for q, weights in zip((0.5, 2.0), shares[1:], strict=True):
        assert weights[worst] / weights[best] == pytest.approx((risks[worst] / risks[best]) ** q, rel=1e-4)


def test_clients_alike_take_a_shortened_step(simulate, heart):
    """Equal losses and moves: w + (w_k - w) / (1 + q ||w_k - w||^2 / (lr F))."""
    server = simulate(heart).server
    w = server.params
    moved = {name: tensor + 0.01 for name, tensor in w.items()}
    squared = sum(0.01**2 * tensor.numel() for tensor in w.values())
    q, risk, lr = 2.0, 0.7, 0.1
    power = risk**q / lr
    bound = q * risk ** (q - 1) * squared / lr**2 + power
    uploads = [Upload(k, 10 + k, moved, {"power": power, "bound": bound}) for k in range(3)]
    method = QFFL(q=q)
    before = dict(w)
    method.server_update(server, uploads, method.weights(server, uploads))
    for name, tensor in server.params.items():
        expected = before[name] + 0.01 / (1 + q * squared / (lr * risk))
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("q", [0.001, 1.0, 5.0])
def test_a_loss_of_zero_is_no_obstacle(simulate, heart, q):
    client = simulate(heart)._client(0, 10)
    client.targets = torch.ones_like(client.targets)
    client.received.params["head.bias"] = torch.tensor([-1000.0, 1000.0])
    upload = QFFL(q=q).client_update(client)
    assert upload["power"] > 0
    assert upload["bound"] >= upload["power"]


def test_tiny_clients_of_one_class_train(simulate, shrink):
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    simulation = simulate(task, q=1.0)
    assert min(len(ids) for ids in simulation.federation.train) == 1
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_traffic_is_as_declared(simulate, heart):
    simulation = simulate(heart)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = QFFL().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [4 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [4 * up] * 2
