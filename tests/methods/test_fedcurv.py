"""FedCurv: its term against the double sum, the Fisher information against plain gradients, who pulls whom."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedcurv import FedCurv

from fedbench import Batch, Dirichlet, Download, Method, Partitioner, Size
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


def same(a, b):
    equal = all(torch.equal(tensor, b.server.params[name]) for name, tensor in a.server.params.items())
    return equal and np.array_equal(a.rounds["train_loss"], b.rounds["train_loss"])


def outputs(w, x):
    return torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"]) @ w["head.weight"].T + w["head.bias"]


def test_the_term_is_the_double_sum_without_its_constant(make_cell, start, heart):
    """lambda sum_j sum_i u_ji (w_i - w_ji)^2 over three other clients, written out and differentiated in float64."""
    client = start(make_cell(heart, FedCurv))._client(0, 20)
    draw, shapes = torch.Generator().manual_seed(0), client.params
    w, *others = ({k: torch.randn(t.shape, generator=draw) for k, t in shapes.items()} for _ in range(4))
    fisher = [{k: torch.rand(t.shape, generator=draw) for k, t in shapes.items()} for _ in others]
    p = {k: sum(u[k] for u in fisher) for k in shapes}
    q = {k: sum(u[k] * other[k] for u, other in zip(fisher, others, strict=True)) for k in shapes}
    client.received = Download(client.received.params, {"P": p, "Q": q})

    exact = {k: t.double().requires_grad_() for k, t in w.items()}
    double = sum((u[k] * (exact[k] - o[k]) ** 2).sum() for u, o in zip(fisher, others, strict=True) for k in shapes)
    constant = sum((u[k] * o[k] ** 2).sum() for u, o in zip(fisher, others, strict=True) for k in shapes)
    (0.7 * double).backward()

    values, gradients = [], []
    for method in (FedCurv(lam=0.7), Method()):
        leaves = {k: t.clone().requires_grad_() for k, t in w.items()}
        index = torch.arange(4)
        batch = Batch(client.model, client.kind, leaves, client.inputs[index], client.targets[index], index)
        value = method.loss(client, batch)
        value.backward()
        values.append(value.item())
        gradients.append({k: leaf.grad for k, leaf in leaves.items()})
    assert values[0] - values[1] == pytest.approx(0.7 * (double - constant).item(), rel=1e-4)
    for k in shapes:
        torch.testing.assert_close((gradients[0][k] - gradients[1][k]).double(), exact[k].grad, rtol=1e-4, atol=1e-4)


def test_each_client_is_sent_the_sums_over_all_others(run, heart):
    simulation = run(heart, FedCurv)
    server = simulation.server
    kept = {name: {k: dict(part) for k, part in server.state[name].items()} for name in ("u", "v")}
    for _ in range(2):  # were a sum made in place, the next client's or the next time's would lack something
        for k in range(4):
            download = simulation.method.broadcast(server, k)
            for sent, name in (("P", "u"), ("Q", "v")):
                for tensor, values in download[sent].items():
                    expected = torch.stack([kept[name][str(j)][tensor] for j in range(4) if j != k]).double().sum(0)
                    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-7)


def test_what_is_kept_are_the_last_uploads(run, shrink):
    """With every client in every round; v = u * w, and the mean of the w is the global model."""
    simulation = run(shrink("heart", rounds=2, local_epochs=1), FedCurv)
    state, sizes = simulation.server.state, [len(ids) for ids in simulation.federation.train]
    for name, tensor in simulation.server.params.items():
        u, v = (torch.stack([state[part][str(k)][name] for k in range(4)]).double() for part in ("u", "v"))
        assert (u >= 0).all()
        share = (torch.tensor(sizes).double() / sum(sizes)).reshape(-1, *[1] * tensor.dim())
        known = (u > 1e-12).all(dim=0)  # where no unit is dead, w = v / u
        torch.testing.assert_close((share * v / u).sum(0)[known], tensor.double()[known], rtol=1e-4, atol=1e-5)
        assert known.any()


@pytest.mark.parametrize(("samples", "batches"), [(30, 3), (36, 4), (10_000, 17)])
def test_fisher_is_the_mean_square_of_batch_gradients(make_cell, start, heart, samples, batches):
    """Batches of 12 until more than ``samples`` were seen, or all 202 of Cleveland, with plain torch."""
    simulation = start(make_cell(heart, FedCurv, samples=samples))
    client = simulation._client(0, 202)
    upload = simulation.method.client_update(client)
    order = torch.from_numpy(simulation._client(0, 202).rng("fisher").permutation(202)).split(12)[:batches]
    squares = dict.fromkeys(upload.params, 0.0)
    for index in order:
        w = {name: tensor.clone().requires_grad_() for name, tensor in upload.params.items()}
        F.cross_entropy(outputs(w, client.inputs[index]), client.targets[index]).backward()
        squares = {name: squares[name] + leaf.grad.double() ** 2 / batches for name, leaf in w.items()}
    for name, expected in squares.items():
        torch.testing.assert_close(upload["u"][name].double(), expected, rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(upload["v"][name], upload["u"][name] * upload.params[name])


def test_the_last_round_alone_is_remembered_on_request(run, shrink):
    task = shrink("blood-mini", rounds=2, local_epochs=1, participation=0.25)
    every, last = (run(task, FedCurv, memory=memory, samples=12) for memory in ("all", "last"))
    first, second = (set(map(str, ids)) for ids in every.federation.schedule)
    assert first != second
    assert every.server.state["u"].keys() == first | second
    assert last.server.state["u"].keys() == second


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_without_lambda_it_is_fedavg_bit_for_bit(run, shrink, name):
    task = shrink(name, rounds=2, local_epochs=1, participation=0.5)
    assert same(run(task, FedCurv, lam=0.0, samples=12), run(task, "fedavg"))


def test_the_first_round_is_fedavgs_and_the_second_is_not(run, shrink):
    one, two = (shrink("heart", rounds=rounds, local_epochs=1) for rounds in (1, 2))
    assert same(run(one, FedCurv), run(one, "fedavg"))
    assert not same(run(two, FedCurv), run(two, "fedavg"))


def test_a_single_client_is_pulled_by_nobody(run, shrink):
    alone = shrink("heart", partitioner=Dirichlet(alpha=1.0, clients=1), rounds=2, local_epochs=1)
    assert same(run(alone, FedCurv, lam=10.0), run(alone, "fedavg"))


def test_a_stronger_pull_keeps_clients_closer(run, shrink):
    """Distance of the clients' models from each other, after a second round of plain small steps."""
    task, spreads = shrink("heart", rounds=2, momentum=0.0), []
    for lam in (0.0, 1.0, 10.0):
        state = run(task, FedCurv, lam=lam).server.state
        u, v = (torch.stack([state[part][str(k)]["head.bias"] for k in range(4)]) for part in ("u", "v"))
        spreads.append((v / u).var(dim=0).sum().item())
    assert spreads == sorted(spreads, reverse=True)


def test_traffic_is_three_models_each_way(run, heart):
    simulation = run(heart, FedCurv)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedCurv().traffic(Size(size, size, 2, 16))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [4 * size, 4 * down, 4 * down]
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [4 * up] * 3
    assert (down, up) == (3 * size, 3 * size + 8)


def test_hard_clients_stay_finite(run, shrink):
    simulation = run(shrink("heart", partitioner=Hard(), rounds=3, local_epochs=1), FedCurv)
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 6, 8]
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_clients_are_trained_together(run, heart):
    trainer = Together(lanes=3)
    found, expected = run(heart, FedCurv, trainer=trainer), run(heart, FedCurv)
    for name, tensor in expected.server.params.items():
        torch.testing.assert_close(found.server.params[name], tensor, rtol=1e-4, atol=1e-5)
    assert "one client at a time" not in trainer.describe()
