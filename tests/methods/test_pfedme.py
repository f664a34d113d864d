"""PFedMe: its step by plain autograd, its limits, and a personal model that is not the common one."""

import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.pfedme import PFedMe

from fedbench import Batch, Dirichlet, Size, Upload
from fedbench.together import Together


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    def simulated(task, method=PFedMe, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1)


@pytest.fixture
def visit(make_cell, start, shrink):
    """Return a function that has a hospital make one step on all its data, and returns client and upload."""

    def visited(method, **protocol):
        task = shrink("heart", rounds=1, local_epochs=1, batch_size=1000, **protocol)
        simulation = start(make_cell(task, PFedMe))
        client = simulation._client(1, len(simulation.federation.train[1]))
        return client, method.client_update(client)

    return visited


def slopes(params, x, y):
    w = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
    return {name: leaf.grad for name, leaf in w.items()}


def theta(client, w, lam, steps, rate):
    """Algorithm 1's inner steps on all data, by hand."""
    found = dict(w)
    for _ in range(steps):
        g = slopes(found, client.inputs, client.targets)
        found = {name: found[name] - rate * (g[name] + lam * (found[name] - w[name])) for name in w}
    return found


@pytest.mark.parametrize(("lam", "steps", "rate"), [(15.0, 5, 0.05), (2.0, 1, 0.3), (5.0, 3, 0.01)])
def test_a_step_goes_towards_theta(visit, lam, steps, rate):
    """w - lr lam (w - theta), whatever momentum and decay the protocol has; then one inner step is the personal one."""
    client, upload = visit(PFedMe(lam=lam, inner_steps=steps, inner_lr=rate), momentum=0.9, weight_decay=0.1)
    w, near = client.params, theta(client, client.params, lam, steps, rate)
    for name, tensor in upload.params.items():
        torch.testing.assert_close(tensor, w[name] - 0.01 * lam * (w[name] - near[name]), rtol=0, atol=1e-6)
    own = theta(client, upload.params, lam, 1, rate)
    for name, tensor in client.state["theta"].items():
        torch.testing.assert_close(tensor, own[name], rtol=0, atol=1e-6)
    assert client.local is client.state["theta"]


@pytest.mark.parametrize("values", [{"lam": 0.0}, {"inner_steps": 0}])
def test_without_pull_or_inner_steps_the_common_model_stays(visit, values):
    client, upload = visit(PFedMe(**values))
    assert all(torch.equal(tensor, client.params[name]) for name, tensor in upload.params.items())


def test_with_lr_times_lam_of_one_a_step_ends_at_theta(visit):
    client, upload = visit(PFedMe(lam=10.0, inner_lr=0.03), lr=0.1)
    near = theta(client, client.params, 10.0, 5, 0.03)
    for name, tensor in upload.params.items():
        torch.testing.assert_close(tensor, near[name], rtol=0, atol=1e-6)


def test_many_inner_steps_find_the_proximal_point(visit):
    """At the minimum of loss + lam/2 ||theta - w||^2 the gradient at theta is lam (w - theta)."""
    client, upload = visit(PFedMe(lam=20.0, inner_steps=200, inner_lr=0.02))
    w = client.params
    near = {name: w[name] - (w[name] - tensor) / (0.01 * 20) for name, tensor in upload.params.items()}
    for name, gradient in slopes(near, client.inputs, client.targets).items():
        torch.testing.assert_close(gradient, 20 * (w[name] - near[name]), rtol=0.02, atol=2e-4)


def test_the_server_mixes(simulate, heart):
    server = simulate(heart).server
    before = dict(server.params)
    sent = [Upload(k, 10 * (k + 1), {name: w + k + 1 for name, w in before.items()}) for k in range(2)]
    for beta in (1.0, 0.25, 2.0):
        server.params = dict(before)
        PFedMe(beta=beta).server_update(server, sent, [1 / 3, 2 / 3])
        for name, tensor in server.params.items():
            torch.testing.assert_close(tensor, before[name] + beta * 5 / 3, rtol=1e-5, atol=1e-5)


def test_a_personal_model_is_theta_and_stays_while_others_train(simulate, shrink, make_cell, start):
    simulation = simulate(shrink("heart", rounds=3, local_epochs=1, participation=0.25))
    visited = {k for ids in simulation.federation.schedule for k in ids.tolist()}
    assert 0 < len(visited) < 4
    for k in range(4):
        client = simulation._client(k, 1, evaluation=True)
        own = simulation.method.personal(client)
        expected = client.state["theta"] if k in visited else simulation.server.params
        assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())
        assert all(torch.equal(tensor, simulation.server.params[name]) for name, tensor in own.items()) == (
            k not in visited
        )


def test_the_loss_of_a_pulled_model_is_the_envelope(visit):
    client, _ = visit(PFedMe())
    moved = {name: tensor + 0.1 for name, tensor in client.params.items()}
    index = torch.arange(client.n)
    batch = Batch(client.model, client.kind, moved, client.inputs, client.targets, index, dict(client.params))
    hidden = torch.relu(client.inputs @ moved["fc1.weight"].T + moved["fc1.bias"])
    risk = F.cross_entropy(hidden @ moved["head.weight"].T + moved["head.bias"], client.targets)
    far = sum(0.1**2 * tensor.numel() for tensor in moved.values())
    assert PFedMe(lam=3.0).near(client, batch).item() == pytest.approx(risk.item() + 1.5 * far, rel=1e-5)


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
    for k in range(4):
        for name, tensor in alone.states[k]["theta"].items():
            torch.testing.assert_close(together.states[k]["theta"][name], tensor, rtol=1e-3, atol=1e-5)


def test_running_statistics_are_those_of_the_pass_at_w(make_cell, start, shrink):
    """After one step of the whole client: a tenth of what the first layer gives at the start, whose mean is zero."""
    task = shrink("blood-mini", local_epochs=1, batch_size=1000).but(model="cnn-small-bn")
    simulation = start(make_cell(task, PFedMe))
    client = min((simulation._client(k, 1) for k in range(8)), key=lambda client: client.n)
    client.passes = client.n
    after = PFedMe().client_update(client).params
    images = client.inputs.permute(0, 3, 1, 2)
    first = F.conv2d(images, client.params["conv1.weight"], client.params["conv1.bias"], padding=2)
    torch.testing.assert_close(after["norm1.mean"], 0.1 * first.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_traffic_is_as_declared(simulate, heart):
    simulation = simulate(heart)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = PFedMe().traffic(Size(shared=size, model=size, classes=2, features=16))
    assert [rounds.item() for rounds in simulation.rounds["bytes_down"]] == [4 * down] * 2
    assert [rounds.item() for rounds in simulation.rounds["bytes_up"]] == [4 * up] * 2
