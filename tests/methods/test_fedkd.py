"""FedKD: the joint loss, the codec, and students that are the same everywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedkd import TEACHER, FedKD, compressed, expanded

from fedbench import Batch, Download, Method, MethodError, Size
from fedbench.checkpoint import pack, unpack
from fedbench.together import Together
from fedbench.traffic import payload_bytes

CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)
SHAPES = {"conv": (16, 8, 5, 5), "wide": (20, 300), "tall": (300, 20), "head": (8, 64), "bias": (16,)}


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def simulated(task, method=FedKD, *, trainer=None, **given):
        simulation = start(make_cell(task, method, **given), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=3, local_epochs=2)


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=3, local_epochs=1, participation=0.25)


@pytest.fixture(scope="module")
def simulation(simulate, heart):
    return simulate(heart)


@pytest.fixture
def client(simulation):
    return simulation._client(0, 10)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def joint(student, teacher, mixing):
    return {**student, **{TEACHER + name: tensor for name, tensor in teacher.items()}, "map": mixing}


def scaled(model, factor):
    return {name: factor * tensor for name, tensor in model.items()}


# --- the loss -------------------------------------------------------------------------------------------------------


def test_loss_is_the_authors(client):
    """Both losses apart, with torch's own divergences; the authors backpropagate their sum."""
    student, teacher = scaled(client.initial, 1.3), scaled(client.initial, 0.6)
    mixing = torch.eye(16) + 0.1 * torch.arange(256.0).reshape(16, 16).sin()
    x, y = client.inputs[:7], client.targets[:7]

    def forward(w):
        features = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
        return features, features @ w["head.weight"].T + w["head.bias"]

    (f_s, z_s), (f_t, z_t) = forward(student), forward(teacher)
    ce_s, ce_t = F.cross_entropy(z_s, y), F.cross_entropy(z_t, y)
    hidden = F.mse_loss(f_t, f_s @ mixing) / (ce_s + ce_t)

    def divergence(p, q):
        return F.kl_div(F.log_softmax(q, dim=1), F.softmax(p, dim=1), reduction="none").mean() / (ce_s + ce_t)

    expected = (ce_t + divergence(z_s, z_t) + hidden) + (ce_s + divergence(z_t, z_s) + hidden)
    batch = Batch(client.model, client.kind, joint(student, teacher, mixing), x, y, torch.arange(7))
    assert hidden > 0.01
    torch.testing.assert_close(FedKD().loss(client, batch), expected, rtol=1e-5, atol=0)


def test_models_that_agree_do_not_distil(client):
    """Equal models and the identity: the gradient of each is that of its own cross entropy."""
    params = {n: t.clone().requires_grad_() for n, t in joint(client.initial, client.initial, torch.eye(16)).items()}
    batch = Batch(client.model, client.kind, params, client.inputs, client.targets, torch.arange(client.n))
    FedKD().loss(client, batch).backward()
    plain = {n: t.clone().requires_grad_() for n, t in client.initial.items()}
    Method().loss(client, replace_params(batch, plain)).backward()
    assert not params["map"].grad.abs().max() > 1e-7
    for name, tensor in plain.items():
        torch.testing.assert_close(params[name].grad, tensor.grad, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(params[TEACHER + name].grad, tensor.grad, rtol=1e-5, atol=1e-7)


def replace_params(batch, params):
    return Batch(batch.model, batch.kind, params, batch.x, batch.y, batch.index)


def test_a_perfect_prediction_does_not_divide_by_zero(client):
    """Cross entropy is exactly zero where the logits of the right class are far ahead."""
    sure = {name: torch.zeros_like(tensor) for name, tensor in client.initial.items()}
    sure["head.bias"] = torch.tensor([0.0, 500.0])
    ones = torch.where(client.targets == 1)[0][:4]
    params = joint(sure, sure, torch.eye(16))
    batch = Batch(client.model, client.kind, params, client.inputs[ones], client.targets[ones], ones)
    assert FedKD().loss(client, batch).item() == 0.0


def test_a_gradient_is_clipped_by_its_norm_and_keeps_its_direction():
    method, long = FedKD(clip=2.0), torch.tensor([[3.0, 4.0], [0.0, 12.0]])
    torch.testing.assert_close(method.clipped(None, "w", long, None), long * 2 / 13)
    short = torch.tensor([1.0, 1.1])
    assert torch.equal(method.clipped(None, "b", short, None), short)


# --- the codec ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def change():
    """Return matrices with decaying singular values, as updates have, and a vector."""
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in SHAPES.items():
        flat = rng.standard_normal((shape[0], int(np.prod(shape[1:], dtype=int))))
        u, s, v = np.linalg.svd(flat, full_matrices=False)
        tensors[name] = torch.from_numpy(u * (s * 0.7 ** np.arange(len(s))) @ v).float().reshape(shape)
    return tensors


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.95, 0.98, 0.999, 1.0])
def test_the_rank_is_the_smallest_that_keeps_the_energy(change, energy):
    """Held against numpy's singular values."""
    sent = compressed(change, energy)
    back = expanded(sent, change)
    assert torch.equal(sent["bias"], change["bias"])
    for name, tensor in change.items():
        flat = tensor.flatten(1).double() if tensor.dim() > 1 else None
        if flat is None:
            continue
        squares = np.linalg.svd(flat.numpy(), compute_uv=False) ** 2
        kept = np.cumsum(squares) / squares.sum()
        lost = ((back[name] - tensor).square().sum() / tensor.square().sum()).item()
        assert lost <= 1 - energy + 1e-6
        if isinstance(sent[name], torch.Tensor):
            assert torch.equal(sent[name], tensor)  # raw: factors of the right rank would be larger
            rank = int(np.searchsorted(kept, energy - 1e-12)) + 1
            assert rank * sum(flat.shape) >= flat.numel()
        else:
            rank = sent[name]["left"].shape[1]
            assert sent[name]["right"].shape[0] == rank
            assert kept[rank - 1] >= energy - 1e-6
            assert rank == 1 or kept[rank - 2] < energy + 1e-6
            assert lost == pytest.approx(1 - kept[rank - 1], abs=1e-6)


def test_at_full_energy_nothing_is_lost(change):
    back = expanded(compressed(change, 1.0), change)
    for name, tensor in change.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=1e-5)


def test_less_energy_is_never_more_bytes(change):
    sizes = [sent_bytes(compressed(change, energy)) for energy in (0.3, 0.6, 0.9, 0.95, 0.98, 0.999, 1.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == sent_bytes(change)


def sent_bytes(sent):
    return payload_bytes(Download({}, sent))


def test_a_matrix_of_rank_one_costs_a_row_and_a_column():
    flat = torch.outer(torch.arange(1.0, 17.0), torch.arange(1.0, 201.0).cos())
    sent = compressed({"conv": flat.reshape(16, 8, 5, 5)}, 0.95)["conv"]
    assert (sent["left"].shape, sent["right"].shape) == ((16, 1), (1, 200))
    torch.testing.assert_close(expanded({"conv": sent}, {"conv": flat})["conv"], flat, rtol=1e-5, atol=1e-4)


def test_no_change_at_all_stays_none():
    nothing = {"w": torch.zeros(8, 30)}
    assert torch.equal(expanded(compressed(nothing, 0.95), nothing)["w"], nothing["w"])


def test_the_energy_rises_to_its_end_in_the_last_round():
    method = FedKD(t_start=0.9, t_end=1.0)
    assert [method.energy(t, 4) for t in range(4)] == pytest.approx([0.925, 0.95, 0.975, 1.0])


# --- rounds ---------------------------------------------------------------------------------------------------------


def test_at_full_energy_the_student_is_the_plain_mean_of_students(simulate, make_cell, start, heart):
    """Each client's change is computed once more; all weigh the same, whatever their size."""
    simulation = start(make_cell(heart, FedKD, t_start=1.0, t_end=1.0))
    for t in range(heart.protocol.rounds):
        simulation.server.round, before = t, dict(simulation.server.params)
        sent = []
        for k in range(4):
            client = simulation._client(k, int(simulation.plan.passes[t][k]))
            sent.append(simulation.method.client_update(client)["change"])
        simulation.round()
        for name, tensor in simulation.server.params.items():
            expected = before[name] + torch.stack([change[name] for change in sent]).mean(dim=0)
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)
    assert set(np.concatenate(simulation.clients["weight"])) == {0.25}


def test_a_first_visit_trains_the_student_and_the_teacher_alike(simulate, shrink):
    """They start equal and with the identity between them, so nothing tells them apart: both are FedAvg's model."""
    task = shrink("heart", rounds=1, local_epochs=1, batch_size=1000)
    a, b = simulate(task, t_start=1.0, t_end=1.0), simulate(task, "local")
    for k in range(4):
        for name, tensor in b.states[k]["private"].items():
            torch.testing.assert_close(a.states[k]["teacher"][name], tensor, rtol=0, atol=1e-6)


def test_from_the_second_visit_on_a_client_learns_from_its_student(simulate, heart, simulation):
    local = simulate(heart, "local")
    gap = simulation.states[0]["teacher"]["fc1.weight"] - local.states[0]["private"]["fc1.weight"]
    assert gap.abs().max() > 1e-4
    assert not torch.equal(simulation.states[0]["map"], torch.eye(16))


def test_whoever_is_sampled_holds_the_servers_student_bit_for_bit(make_cell, start, blood):
    """However it came: whole, to who missed a broadcast, or as a compressed change."""
    simulation, came = start(make_cell(blood, FedKD)), set()
    last = dict.fromkeys(range(8), -2)
    for t in range(blood.protocol.rounds):
        student = dict(simulation.server.params)
        change = simulation.server.state.get("change", {})
        simulation.round()
        down, up = (simulation.clients[name][t] for name in ("bytes_down", "bytes_up"))
        for k in simulation.federation.schedule[t].tolist():
            assert same(simulation.states[k]["student"], student)
            whole = last[k] < t - 1
            assert down[k] == (4 * CNN_SMALL if whole else sent_bytes(change))
            assert up[k] < 4 * CNN_SMALL + 8
            came.add(whole)
            last[k] = t
    assert came == {True, False}
    assert sent_bytes(simulation.server.state["change"]) < 2 * CNN_SMALL  # less than half a model
    assert simulation.method.traffic(Size(4 * CNN_SMALL, 4 * CNN_SMALL, 8, 64)) == (None, None)


def test_no_teacher_and_no_map_crosses_the_wire(client, simulation):
    upload = simulation.method.client_update(client)
    assert upload.params == {}
    assert set(upload.extra) == {"change"}
    assert set(upload["change"]) == set(simulation.initial)


def test_a_client_deploys_its_teacher_and_the_server_the_student(make_cell, start, shrink):
    simulation = start(make_cell(shrink("blood-mini", rounds=1, local_epochs=1), FedKD))
    simulation.round()
    for k in range(8):
        expected = simulation.states[k]["teacher"] if k in simulation.states else simulation.initial
        model, spent = simulation._personal(k)
        assert same(model, expected)
        assert spent == 0
    assert simulation.method.predictor(simulation.server) is simulation.server.params
    assert set(simulation.states) == set(simulation.federation.schedule[0].tolist())


def test_its_state_can_be_stored(simulation):
    for state in (simulation.server.state, simulation.states[1]):
        back = unpack(pack(state))
        assert str(back) == str(state)


def test_a_client_that_never_trains_deploys_the_initial_teacher(simulate, heart):
    held_out = simulate(heart.but(held_out=0.25))
    assert sorted(held_out.states) == [0, 1, 2]
    assert same(held_out._personal(3)[0], held_out.initial)


def test_running_statistics_are_refused(simulate, blood):
    with pytest.raises(MethodError, match=r"FedKD trains two models in one, which leaves norm1\.mean behind"):
        simulate(blood.but(model="cnn-small-bn"))


@pytest.mark.parametrize("positions", [[0], "one class", [0, 1, 2]], ids=str)
def test_hard_clients_stay_finite(simulation, client, positions):
    some = torch.where(client.targets == client.targets[0])[0] if positions == "one class" else torch.tensor(positions)
    hard = replace(client, targets=client.targets[some], read_inputs=lambda: client.inputs[some], passes=20 * len(some))
    change = expanded(simulation.method.client_update(hard)["change"], simulation.initial)
    for tensor in (*change.values(), *hard.state["teacher"].values(), hard.state["map"]):
        assert torch.isfinite(tensor).all()


def test_clients_can_be_trained_together(simulate, heart, simulation):
    trainer = Together(lanes=3)
    together = simulate(heart, trainer=trainer, t_start=1.0, t_end=1.0)
    alone = simulate(heart, t_start=1.0, t_end=1.0)
    assert trainer.describe() == "up to 3 clients at a time, batches of 12"
    for name, tensor in alone.server.params.items():
        torch.testing.assert_close(together.server.params[name], tensor, rtol=1e-4, atol=1e-5)
