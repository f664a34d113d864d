"""FedSAM: one step by plain autograd, gradients of zero, running statistics, and FedAvg at rho = 0."""

import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedsam import FedSAM

from fedbench import Batch, Dirichlet, Size
from fedbench.together import Together


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=FedSAM, trainer=None, **values):
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


def slopes(params, x, y):
    """Gradient of the cross entropy of the perceptron, by plain autograd."""
    w = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
    return {name: leaf.grad for name, leaf in w.items()}


def test_at_rho_zero_it_is_fedavg_bit_for_bit(simulate, heart):
    a, b = simulate(heart, rho=0.0), simulate(heart, "fedavg")
    assert same(a.server.params, b.server.params)
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    assert not same(simulate(heart).server.params, b.server.params)


def test_a_step_takes_the_gradient_at_the_ascended_point(simulate, shrink):
    """One full-batch step a hospital: w - lr sum_k p_k grad_k(w + rho g_k / ||g_k||)."""
    task = shrink("heart", rounds=1, local_epochs=1, batch_size=1000, momentum=0.0, weight_decay=0.0)
    simulation = simulate(task, rho=0.3)
    start, total = simulation.initial, sum(len(ids) for ids in simulation.federation.train)
    expected = {name: tensor.clone() for name, tensor in start.items()}
    for ids in simulation.federation.train:
        x, y = simulation.inputs[ids], simulation.targets[ids]
        g = slopes(start, x, y)
        norm = sum(tensor.square().sum() for tensor in g.values()) ** 0.5
        there = slopes({name: w + 0.3 * g[name] / norm for name, w in start.items()}, x, y)
        expected = {name: w - len(ids) / total * task.protocol.lr * there[name] for name, w in expected.items()}
    for name, tensor in expected.items():
        torch.testing.assert_close(simulation.server.params[name], tensor, rtol=0, atol=1e-6)


def test_the_loss_is_that_at_the_ascended_point_and_not_smaller(simulate, heart):
    client = simulate(heart)._client(0, 1)
    index = torch.arange(client.n)
    batch = Batch(client.model, client.kind, dict(client.params), client.inputs, client.targets, index)
    losses = [FedSAM(rho=rho).loss(client, batch).item() for rho in (0.0, 0.01, 0.1)]
    assert losses == sorted(losses)
    assert losses[0] < losses[2]


def test_a_gradient_of_zero_gives_a_step_of_zero(simulate, heart):
    client = simulate(heart)._client(0, 1)
    index = (client.targets == 1).nonzero().flatten()[:6]
    sure = {**client.params, "head.bias": torch.tensor([-1000.0, 1000.0])}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in sure.items()}
    batch = Batch(client.model, client.kind, leaves, client.inputs[index], client.targets[index], index)
    FedSAM().loss(client, batch).backward()
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves.values())


def test_running_statistics_are_those_of_the_pass_at_w(make_cell, start, shrink):
    """After one step of the whole client: 0.9 of the start plus 0.1 of what the first layer gives at the start."""
    task = shrink("blood-mini", local_epochs=1, batch_size=1000).but(model="cnn-small-bn")
    simulation = start(make_cell(task, FedSAM, rho=0.5))
    client = min((simulation._client(k, 1) for k in range(8)), key=lambda client: client.n)
    client.passes = client.n
    after = client.fit(client.params, FedSAM(rho=0.5).loss).params
    images = client.inputs.permute(0, 3, 1, 2)
    first = F.conv2d(images, client.params["conv1.weight"], client.params["conv1.bias"], padding=2)
    torch.testing.assert_close(after["norm1.mean"], 0.1 * first.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after["norm1.var"], 0.9 + 0.1 * first.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)


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
    down, up = FedSAM().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [4 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [4 * up] * 2
