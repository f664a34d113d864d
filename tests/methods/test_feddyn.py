"""FedDyn: its rounds in plain torch, what the server keeps, FedProx in the first round."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.feddyn import FedDyn
from fedbench.methods.fedprox import FedProx

from fedbench import Method, Partitioner, Server, SpecError, Upload
from fedbench.seeds import Streams
from fedbench.together import Together

CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)


class Uniform(Method):
    """FedAvg without weights."""

    def weights(self, server, uploads):
        return [1 / len(uploads)] * len(uploads)


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=FedDyn, *, trainer=None, rounds=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(rounds or task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name].double(), tensor.double(), **tolerance, msg=lambda text, n=name: n + text
        )


def test_rounds_are_those_of_plain_torch(simulate, shrink):
    """Two full-batch steps a hospital: w <- w - lr (grad - g_k + alpha (w - w_t)); g_k, h and w as in Algorithm 1."""
    alpha, steps = 0.3, {"local_epochs": 2, "batch_size": 1000, "momentum": 0.0, "weight_decay": 0.0}
    task = shrink("heart", rounds=3, **steps)
    simulation = simulate(task, alpha=alpha)
    w = {name: tensor.double() for name, tensor in simulation.initial.items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in w.items()}
    g, h = [zeros] * 4, zeros
    for _ in range(3):
        models = []
        for k, ids in enumerate(simulation.federation.train):
            x, y = simulation.inputs[ids].double(), simulation.targets[ids]
            own = w
            for _ in range(2):
                leaves = {name: tensor.clone().requires_grad_() for name, tensor in own.items()}
                hidden = torch.relu(x @ leaves["fc1.weight"].T + leaves["fc1.bias"])
                F.cross_entropy(hidden @ leaves["head.weight"].T + leaves["head.bias"], y).backward()
                pull = {n: leaf.grad - g[k][n] + alpha * (own[n] - w[n]) for n, leaf in leaves.items()}
                own = {name: own[name] - task.protocol.lr * pull[name] for name in own}
            g[k] = {name: g[k][name] - alpha * (own[name] - w[name]) for name in w}
            models.append(own)
        h = {name: h[name] - alpha / 4 * sum(model[name] - w[name] for model in models) for name in w}
        w = {name: sum(model[name] for model in models) / 4 - h[name] / alpha for name in w}
    close(simulation.server.params, w, rtol=0, atol=2e-6)
    close(simulation.server.state["h"], h, rtol=0, atol=1e-6)
    for k, state in simulation.states.items():
        close(state["g"], g[k], rtol=0, atol=1e-6)


def test_the_server_keeps_the_mean_of_what_clients_keep(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=4, local_epochs=1), rounds=1)
    for _ in range(3):
        simulation.round()
        kept = [state["g"] for _, state in simulation.states.items()]  # of the other clients it is zero
        mean = {name: sum(g[name].double() for g in kept) / 8 for name in simulation.initial}
        close(simulation.server.state["h"], mean, rtol=1e-4, atol=1e-8)


def test_a_server_step_by_hand():
    """Two of four clients: h = 0.5 - 0.25/4 (1 + 3) = 0.25; w = mean(2, 4) - 0.25/0.25 = 2."""
    server = Server({"w": torch.ones(1)}, {}, n_clients=4, rounds=3, shared=lambda name: True, streams=Streams(1))
    server.state = {"h": {"w": torch.tensor([0.5])}}
    method, uploads = FedDyn(alpha=0.25), [Upload(k, 9**k, {"w": torch.tensor([w])}) for k, w in enumerate((2.0, 4.0))]
    assert method.weights(server, uploads) == [0.5, 0.5]
    method.server_update(server, uploads, [0.5, 0.5])
    assert server.state["h"]["w"].item() == pytest.approx(0.25, rel=1e-6)
    assert server.params["w"].item() == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("task", ["heart", "blood-mini"])
def test_at_its_first_visit_a_client_trains_as_in_fedprox(make_cell, start, shrink, task):
    simulation = start(make_cell(shrink(task, rounds=1, local_epochs=1), FedDyn))
    sent = [method.client_update(simulation._client(1, 300)) for method in (FedDyn(alpha=0.7), FedProx(mu=0.7))]
    close(sent[0].params, sent[1].params, rtol=1e-5, atol=1e-7)


def test_the_regulariser_acts(simulate, shrink):
    task = shrink("heart", rounds=2, local_epochs=1)
    found, plain = simulate(task), simulate(task, Uniform)
    losses = [np.concatenate(simulation.rounds["train_loss"]) for simulation in (found, plain)]
    assert (losses[0] != losses[1]).all()
    with pytest.raises(SpecError, match="alpha"):
        FedDyn(alpha=0.0)


def test_traffic_is_fedavg_s(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * 4 * CNN_SMALL] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * (4 * CNN_SMALL + 8)] * 2


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=2, local_test=0.5, participation=1.0)
    simulation = simulate(task)
    assert sorted(len(ids) for ids in simulation.federation.train) == [1, 4, 10, 40]
    assert all(tensor.isfinite().all() for tensor in simulation.server.params.values())


def test_running_statistics_are_averaged(simulate, shrink):
    """With alpha near zero the first round's local models are FedAvg's, up to rounding."""
    task = shrink("blood-mini", rounds=2, local_epochs=1).but(model="cnn-small-bn")
    found, plain = simulate(task, rounds=1, alpha=1e-9), simulate(task, Uniform, rounds=1)
    statistics = {"norm1.mean", "norm1.var", "norm2.mean", "norm2.var"}
    for name in statistics:
        torch.testing.assert_close(found.server.params[name], plain.server.params[name], rtol=1e-3, atol=1e-5)
    assert found.server.state["h"].keys() == found.initial.keys() - statistics
    assert all(state["g"].keys() == found.server.state["h"].keys() for _, state in found.states.items())


def test_clients_trained_together_are_those_trained_alone(simulate, shrink):
    task, trainer = shrink("heart", rounds=3, local_epochs=1), Together()
    close(simulate(task, trainer=trainer).server.params, simulate(task).server.params, rtol=1e-4, atol=1e-6)
    assert trainer.describe() == "up to 4 clients at a time, batches of 12"
