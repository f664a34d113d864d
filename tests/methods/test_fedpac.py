"""FedPAC: the statistics, both phases and the combination of heads, each computed a second time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedpac import FedPAC, combination
from hypothesis import given
from hypothesis import strategies as st

from fedbench import Download, Partitioner, Server, Size, Upload
from fedbench.seeds import Streams
from fedbench.together import Together

STEP = {"rounds": 2, "local_epochs": 1, "batch_size": 1000, "momentum": 0.0, "lr": 0.5}
numbers = st.floats(-3, 3, width=16)


class Hard(Partitioner):
    """A client with one training sample, one with one class, one with fewer samples than a batch, and a usual one."""

    def split(self, targets, sites, n_classes, rng):
        of = [np.flatnonzero(targets == label) for label in range(n_classes)]
        few = np.concatenate([ids[30:32] for ids in of[:4]])
        return [of[0][:2], of[1][:20], few, np.concatenate([ids[40:50] for ids in of])]


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs the rounds of a task and returns the simulation."""

    def simulated(task, method=FedPAC, trainer=None, **values):
        simulation = start(make_cell(task, method, **values), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(model, seed):
    rng = torch.Generator().manual_seed(seed)
    return {name: w + 0.3 * torch.randn(w.shape, generator=rng) for name, w in model.items()}


# --- the combination of heads ---------------------------------------------------------------------------------------


def value(shares, mine, h, variance):
    """Return the objective as the paper has it, with the matrix D_i written out entry by entry."""
    matrix = np.diag(variance)
    for j in range(len(h)):
        for k in range(len(h)):
            matrix[j, k] += sum(np.dot(mine[c] - h[j][c], mine[c] - h[k][c]) for c in range(len(mine)))
    return shares @ matrix @ shares


def test_with_equal_features_shares_are_inverse_to_the_variance():
    h = np.ones((3, 2, 4))
    assert combination(h[0], h, np.array([1.0, 2.0, 4.0])) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert combination(h[0], h, np.full(3, 0.3)) == pytest.approx([1 / 3] * 3)


def test_two_clients_by_hand():
    """Minimise a^2 V_0 + (1 - a)^2 (V_1 + D): a = (V_1 + D) / (V_0 + V_1 + D)."""
    h = np.array([[[0.0, 1.0]], [[2.0, 1.0]]])
    assert combination(h[0], h, np.array([3.0, 1.0])) == pytest.approx([5 / 8, 3 / 8])
    assert combination(h[1], h, np.array([3.0, 1.0])) == pytest.approx([1 / 8, 7 / 8])


def test_small_shares_are_left_out():
    h = np.array([[[0.0]], [[100.0]], [[0.0]]])
    assert combination(h[0], h, np.array([1.0, 1.0, 1.0])) == pytest.approx([0.5, 0.0, 0.5])
    assert combination(h[0], h, np.array([1.0, 1.0, 1.0]))[1] == 0


def test_without_any_variance_a_client_keeps_its_own_head():
    h = np.array([[[0.0]], [[1.0]], [[2.0]]])
    assert combination(h[0], h, np.zeros(3)).tolist() == [1, 0, 0]
    assert combination(h[0], h[:1], np.zeros(1)).tolist() == [1]


@given(
    st.lists(st.tuples(st.lists(numbers, min_size=4, max_size=4), st.floats(0.0078125, 4)), min_size=3, max_size=3),
    st.integers(0, 2),
)
def test_no_other_mixture_of_three_is_better(clients, i):
    h = np.array([row for row, _ in clients]).reshape(3, 2, 2)
    variance = np.array([v for _, v in clients])
    found = combination(h[i], h, variance)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1)
    steps = np.linspace(0, 1, 21)
    grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1 + 1e-12]
    best = min(value(shares, h[i], h, variance) for shares in grid)
    assert value(found, h[i], h, variance) <= best + 1e-5 * (1 + np.square(h).sum())


# --- the client -----------------------------------------------------------------------------------------------------


def test_the_statistics_by_hand(make_cell, start, shrink):
    """h is the class share times the class mean at the model received, V the scaled spread around it."""
    simulation = start(make_cell(shrink("blood-mini", rounds=1, local_epochs=1), FedPAC))
    client = simulation._client(0, 50)
    sent = simulation.method.client_update(client)
    x, y = client.inputs, client.targets
    before = simulation.model(simulation.initial, x).features.double()
    after = simulation.model(client.local, x).features
    variance = 0.0
    for c in range(8):
        mine = y == c
        share = mine.double().mean()
        assert sent["counts"][c] == mine.sum()
        if not mine.any():
            assert (sent["h"][c] == 0).all()
            assert (sent["means"][c] == 0).all()
            continue
        torch.testing.assert_close(sent["h"][c].double(), share * before[mine].mean(dim=0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(sent["means"][c], after[mine].mean(dim=0), rtol=1e-4, atol=1e-6)
        variance += share * (before[mine] ** 2).sum(dim=1).mean() - share**2 * (before[mine].mean(dim=0) ** 2).sum()
    assert sent["variance"] == pytest.approx((variance / client.n).item(), rel=1e-4)


@pytest.mark.parametrize("t", [0, 1])
def test_head_then_base_in_plain_torch(make_cell, start, shrink, t):
    """A full-batch step each; of the two classes one has a global mean, for the other it is the client's own."""
    simulation = start(make_cell(shrink("heart", **STEP), FedPAC, lam=2.0, head_lr=0.25))
    simulation.server.round = t
    client = simulation._client(1, len(simulation.federation.train[1]))
    x, y, w = client.inputs, client.targets, moved(client.initial, 3)
    means = torch.linspace(0, 2, 32).reshape(2, 16)
    client.received = Download(w, {"means": means, "known": torch.tensor([True, False])})
    sent = simulation.method.client_update(client)

    def step(w, rate, chosen, targets=None):
        leaf = {name: tensor.clone().requires_grad_() for name, tensor in w.items()}
        features = torch.relu(x @ leaf["fc1.weight"].T + leaf["fc1.bias"])
        loss = F.cross_entropy(features @ leaf["head.weight"].T + leaf["head.bias"], y)
        if targets is not None:
            loss = loss + 2.0 * ((features - targets[y]) ** 2).mean()
        loss.backward()
        return {n: (leaf[n] - rate * leaf[n].grad if n.startswith(chosen) else leaf[n]).detach() for n in w}

    features = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    targets = torch.stack([means[0], features[y == 1].mean(dim=0)])
    expected = step(step(w, 0.25, "head"), 0.5, "fc1", targets if t else None)
    for name, tensor in expected.items():
        torch.testing.assert_close(sent.params[name], tensor, rtol=0, atol=1e-6)
        assert not torch.equal(sent.params[name], w[name])


# --- the server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    initial = {"fc1.weight": torch.zeros(2), "head.weight": torch.zeros(2, 1), "head.bias": torch.zeros(2)}
    server = Server(dict(initial), initial, n_clients=4, rounds=2, shared=lambda name: True, streams=Streams(1))
    FedPAC().init_server(server)
    return server


def upload(k, n, number, counts, means, h=0.0, variance=1.0):
    params = {"fc1.weight": [number] * 2, "head.weight": [[number]] * 2, "head.bias": [number] * 2}
    extra = {"counts": torch.tensor(counts), "means": torch.tensor(means), "h": torch.full((2, 1), h)}
    return Upload(k, n, {name: torch.tensor(p) for name, p in params.items()}, {**extra, "variance": variance})


def test_the_base_is_averaged_and_heads_are_dealt(server):
    """Equal features, variances 1 and 3: both heads are 3/4 of the first and 1/4 of the second."""
    method = FedPAC()
    uploads = [
        upload(0, 1, 4.0, [1, 0], [[2.0], [0.0]], variance=1.0),
        upload(2, 3, 8.0, [3, 0], [[6.0], [0.0]], variance=3.0),
    ]
    method.server_update(server, uploads, method.weights(server, uploads))
    for k, head in ((0, 5.0), (2, 5.0), (1, 0.0)):
        sent = method.broadcast(server, k)
        assert sent.params["fc1.weight"].tolist() == [7.0, 7.0]
        assert sent.params["head.bias"].tolist() == pytest.approx([head] * 2)
        assert sent.params["head.weight"].tolist() == pytest.approx(np.array([[head]] * 2))
        assert sent["means"].tolist() == [[5.0], [0.0]]
        assert sent["known"].tolist() == [True, False]
    method.server_update(server, [upload(1, 2, 1.0, [0, 2], [[0.0], [3.0]])], [1.0])
    assert method.broadcast(server, 1).params["head.bias"].tolist() == [1.0, 1.0]
    assert method.broadcast(server, 2).params["head.bias"].tolist() == pytest.approx([5.0, 5.0])
    assert method.broadcast(server, 2).params["fc1.weight"].tolist() == [1.0, 1.0]
    assert method.broadcast(server, 1)["means"].tolist() == [[5.0], [3.0]]
    assert method.broadcast(server, 1)["known"].tolist() == [True, True]


def test_without_combination_each_keeps_its_head(server):
    method = FedPAC(combine=False)
    uploads = [upload(k, 1, float(k), [1, 0], [[2.0], [0.0]]) for k in (1, 3)]
    method.server_update(server, uploads, [0.5, 0.5])
    for k in (1, 3):
        assert method.broadcast(server, k).params["head.bias"].tolist() == [float(k)] * 2


def test_the_personal_model_is_the_newest_base_with_the_own_head(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=1))
    heads = simulation.server.state["heads"]
    assert len(heads) < 8
    for k in range(8):
        found = simulation.method.personal(simulation._client(k, 0, evaluation=True))
        head = heads.get(str(k), simulation.initial)
        for name, w in simulation.server.params.items():
            assert torch.equal(found[name], head[name] if name.startswith("head.") else w)
    assert "global_test_predictions" not in simulation.arrays


@pytest.mark.parametrize("neutral", [{"combine": False}, {"lam": 0.0}], ids=str)
def test_each_part_acts_on_its_own(simulate, shrink, neutral):
    task = shrink("heart", rounds=3, local_epochs=1)
    assert not same(simulate(task).server.params, simulate(task, **neutral).server.params)


def test_traffic_is_as_declared(simulate, shrink):
    simulation = simulate(shrink("blood-mini", rounds=2, local_epochs=0, participation=1.0))
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedPAC().traffic(Size(shared=size, model=size, classes=8, features=64))
    assert [value.tolist() for value in simulation.rounds["bytes_down"]] == [[8 * down]] * 2
    assert [value.tolist() for value in simulation.rounds["bytes_up"]] == [[8 * up]] * 2


def test_hard_clients(simulate, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=3, local_epochs=1, participation=1.0, local_test=0.5)
    simulation = simulate(task)
    simulation.save()
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 10, 4]
    assert np.isfinite(np.stack(simulation.clients["train_loss"])).all()


def test_clients_can_be_trained_together(simulate, shrink):
    task, trainer = shrink("heart", rounds=2, local_epochs=1), Together()
    found, plain = simulate(task, trainer=trainer), simulate(task)
    assert "one client" not in trainer.describe()
    for k, head in plain.server.state["heads"].items():
        for name, w in head.items():
            torch.testing.assert_close(found.server.state["heads"][k][name], w, rtol=1e-3, atol=1e-5)
