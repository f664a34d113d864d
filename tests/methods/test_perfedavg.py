"""PerFedAvg: its meta-gradients by plain autograd, the halves of a batch, and adaptation for an evaluation."""

import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.perfedavg import PerFedAvg

from fedbench import Batch, Dirichlet, Method, Size
from fedbench.together import Together


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=PerFedAvg, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1)


@pytest.fixture
def client(make_cell, start, heart):
    return start(make_cell(heart, PerFedAvg))._client(0, 100)


def risk(w, x, y):
    hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    return F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y)


def found(method, client, n, real=None):
    """Gradients of the method's loss on the first n samples."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
    index = torch.arange(n)
    batch = Batch(client.model, client.kind, leaves, client.inputs[index], client.targets[index], index, real=real)
    method.loss(client, batch).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def meta_gradients(client, n, alpha, *, first_order):
    """Gradients of L(w - alpha grad L(w; odd positions); even positions)."""
    w = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
    x, y = client.inputs[:n], client.targets[:n]
    inner = torch.autograd.grad(risk(w, x[1::2], y[1::2]), list(w.values()), create_graph=not first_order)
    moved = {name: tensor - alpha * g for (name, tensor), g in zip(w.items(), inner, strict=True)}
    gradients = torch.autograd.grad(risk(moved, x[::2], y[::2]), list(w.values()))
    return dict(zip(w, gradients, strict=True))


@pytest.mark.parametrize("n", [2, 7, 24])
@pytest.mark.parametrize("first_order", [True, False])
def test_the_gradient_is_the_meta_gradient(client, n, first_order):
    expected = meta_gradients(client, n, 0.5, first_order=first_order)
    for name, gradient in found(PerFedAvg(alpha=0.5, first_order=first_order), client, n).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_orders_differ(client):
    first, second = (meta_gradients(client, 24, 0.5, first_order=order) for order in (True, False))
    assert not torch.allclose(first["fc1.weight"], second["fc1.weight"], rtol=1e-3)


def test_without_an_inner_step_the_other_halves_are_plain_training(client):
    index = torch.arange(0, 10, 2)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
    risk(leaves, client.inputs[index], client.targets[index]).backward()
    for name, gradient in found(PerFedAvg(alpha=0.0), client, 10).items():
        torch.testing.assert_close(gradient, leaves[name].grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_padding_changes_nothing_and_a_single_sample_takes_a_plain_step(client, n):
    method = PerFedAvg(alpha=0.5)
    plain = found(method, client, n)
    for name, gradient in found(method, client, 8, real=torch.arange(8) < n).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-6)
    if n == 1:
        for name, gradient in found(Method(), client, 1).items():
            assert torch.equal(plain[name], gradient)


def test_a_step_sees_two_batches(client):
    client.passes = client.n
    fits = []
    fit = client.fit
    client.fit = lambda *args, **options: fits.append(fit(*args, **options)) or fits[-1]
    PerFedAvg().client_update(client)
    assert [f.steps for f in fits] == [-(-client.n // 24)]
    assert client.work.trained == client.n


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_personal_model_is_so_many_full_gradient_steps_away(client, steps):
    method = PerFedAvg(alpha=0.2, adapt_steps=steps)
    before = {name: tensor.clone() for name, tensor in client.params.items()}
    expected = before
    for _ in range(steps):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in expected.items()}
        risk(leaves, client.inputs, client.targets).backward()
        expected = {name: leaf.detach() - 0.2 * leaf.grad for name, leaf in leaves.items()}
    for name, tensor in method.personal(client).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
    assert client.state == {}
    assert all(torch.equal(client.params[name], tensor) for name, tensor in before.items())


def test_clients_count_alike_and_none_is_fedavg(simulate, heart):
    simulation = simulate(heart)
    assert (simulation.clients["weight"][0] == 0.25).all()
    other = simulate(heart, "fedavg").server.params
    assert not all(torch.equal(simulation.server.params[name], tensor) for name, tensor in other.items())


@pytest.mark.parametrize("first_order", [True, False])
def test_tiny_clients_of_one_class_train(simulate, shrink, first_order):
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    simulation = simulate(task, first_order=first_order)
    assert min(len(ids) for ids in simulation.federation.train) == 1
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


@pytest.mark.parametrize("first_order", [True, False])
def test_clients_are_trained_together_to_the_same_result(simulate, heart, first_order):
    trainer = Together(lanes=3)
    together, alone = (simulate(heart, trainer=t, alpha=0.1, first_order=first_order) for t in (trainer, None))
    assert "one client" not in trainer.describe()
    assert "up to 3 clients at a time" in trainer.describe()
    for name, tensor in alone.server.params.items():
        torch.testing.assert_close(together.server.params[name], tensor, rtol=1e-3, atol=1e-5)


def test_tiny_clients_are_trained_together_to_the_same_result(simulate, shrink):
    task = shrink("heart", partitioner=Dirichlet(alpha=0.5, clients=30, min_size=2), rounds=1, local_epochs=1)
    together, alone = (simulate(task, trainer=t, alpha=0.1) for t in (Together(lanes=8), None))
    for name, tensor in alone.server.params.items():
        torch.testing.assert_close(together.server.params[name], tensor, rtol=1e-3, atol=1e-5)


def test_running_statistics_are_those_of_the_pass_at_w(make_cell, start, shrink):
    """After one step of the whole client: a tenth of what the first layer gives at the start, whose mean is zero."""
    task = shrink("blood-mini", local_epochs=1, batch_size=1000).but(model="cnn-small-bn")
    simulation = start(make_cell(task, PerFedAvg))
    client = min((simulation._client(k, 1) for k in range(8)), key=lambda client: client.n)
    client.passes = client.n
    after = PerFedAvg().client_update(client).params
    images = client.inputs.permute(0, 3, 1, 2)
    first = F.conv2d(images, client.params["conv1.weight"], client.params["conv1.bias"], padding=2)
    torch.testing.assert_close(after["norm1.mean"], 0.1 * first.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_traffic_is_as_declared(simulate, heart):
    simulation = simulate(heart)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = PerFedAvg().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [4 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [4 * up] * 2
