"""The built-in methods: declared limits, closed forms, invariants of their cards."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fedbench.methods.fedkper import label_entropy

from fedbench import Batch, Dirichlet, Upload, registry

BUILT_IN = ["centralised", "fedavg", "fedkper", "fedprox", "local", "majority"]
LIMITS = [(name, limit) for name in BUILT_IN for limit in registry.methods.get(name).limits]
CNN_SMALL = (8 * 75 + 8) + (16 * 200 + 16) + (784 * 64 + 64) + (64 * 8 + 8)


@pytest.fixture(scope="module")
def simulate(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def simulated(task, method="fedavg", **given):
        cell = make_cell(task, method, **given)
        simulation = start(cell)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return simulated


def models(simulation):
    return simulation.server.params


def column(simulation, name):
    return np.concatenate(simulation.rounds[name]).tolist()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=3)


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1)


@pytest.mark.parametrize(("name", "limit"), LIMITS, ids=lambda value: str(value))
@pytest.mark.parametrize("task", ["heart", "blood"])
def test_declared_limits_hold_bit_for_bit(simulate, request, task, name, limit):
    task = request.getfixturevalue(task)
    assert limit.exact
    a, b = simulate(task, name, **limit.at), simulate(task, limit.equals)
    assert same(models(a), models(b))
    assert a.rounds["train_loss"] == b.rounds["train_loss"]
    for array, values in b.arrays.items():
        assert np.array_equal(np.stack(values), np.stack(a.arrays[array])), array


@pytest.mark.parametrize("name", ["fedprox", "fedkper", "local", "centralised", "majority"])
def test_away_from_its_limits_a_method_is_not_fedavg(simulate, heart, name):
    assert not same(models(simulate(heart, name)), models(simulate(heart)))


@pytest.mark.parametrize("ablation", [{"distil": False}, {"weighting": False}])
def test_each_half_of_fedkper_acts_on_its_own(simulate, heart, ablation):
    whole, half, none = simulate(heart, "fedkper"), simulate(heart, "fedkper", **ablation), simulate(heart)
    assert not same(models(half), models(whole))
    assert not same(models(half), models(none))


def test_one_client_is_centralised_training_bit_for_bit(simulate, shrink):
    alone = shrink("blood-mini", partitioner=Dirichlet(alpha=1.0, clients=1), rounds=2, local_epochs=1)
    assert same(models(simulate(alone)), models(simulate(alone, "centralised")))


def test_centralised_training_makes_the_federations_passes(simulate, blood):
    federated, pooled = simulate(blood), simulate(blood, "centralised")
    assert pooled.rounds["train_samples"] == federated.rounds["train_samples"]
    assert "local_client_correct" not in pooled.arrays
    assert "personal_client_correct" not in pooled.arrays
    assert {*column(pooled, "bytes_down"), *column(pooled, "bytes_up")} == {0}


def test_no_epochs_leave_the_global_model(simulate, shrink):
    still = simulate(shrink("heart", rounds=1, local_epochs=0))
    for name, tensor in still.initial.items():  # a weighted mean of equals is equal up to rounding
        torch.testing.assert_close(models(still)[name], tensor, rtol=1e-6, atol=0)


def test_fedavg_is_the_mean_of_local_models_by_training_samples(simulate, make_cell, shrink):
    """One full-batch step a hospital, computed a second time with plain torch: w - lr sum_k p_k grad_k."""
    task = shrink("heart", rounds=1, local_epochs=1, batch_size=1000, momentum=0.0, weight_decay=0.0)
    simulation = simulate(task)
    sizes = [len(ids) for ids in simulation.federation.train]
    expected = {name: tensor.clone().double() for name, tensor in simulation.initial.items()}
    for size, ids in zip(sizes, simulation.federation.train, strict=True):
        x, y = simulation.inputs[ids], simulation.targets[ids]
        w = {name: tensor.clone().requires_grad_() for name, tensor in simulation.initial.items()}
        hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
        F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], y).backward()
        for name, leaf in w.items():
            expected[name] -= size / sum(sizes) * task.protocol.lr * leaf.grad.double()
    for name, tensor in expected.items():
        torch.testing.assert_close(models(simulation)[name].double(), tensor, rtol=0, atol=1e-7)


def test_traffic_is_one_model_each_way_and_one_number(simulate, blood):
    for name, numbers in (("fedavg", 1), ("fedprox", 1), ("fedkper", 2)):
        simulation = simulate(blood, name)
        assert column(simulation, "bytes_down") == [4 * 4 * CNN_SMALL] * 2, name
        assert column(simulation, "bytes_up") == [4 * (4 * CNN_SMALL + 8 * numbers)] * 2, name


# --- FedProx --------------------------------------------------------------------------------------------------------


def point(client, params):
    index = torch.arange(4)
    return Batch(client.model, client.kind, params, client.inputs[index], client.targets[index], index)


@pytest.fixture(scope="module")
def client(simulate, heart):
    simulation = simulate(heart)
    return simulation._client(0, 10)


def gradient(method, client, params):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    method.loss(client, point(client, leaves)).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def test_fedprox_adds_mu_times_the_distance_to_the_gradient(client):
    moved = {name: tensor + 0.1 * torch.ones_like(tensor) for name, tensor in client.params.items()}
    plain = gradient(registry.methods.get("fedavg")(), client, moved)
    pulled = gradient(registry.methods.get("fedprox")(mu=0.7), client, moved)
    for name in plain:
        torch.testing.assert_close(pulled[name] - plain[name], torch.full_like(plain[name], 0.07), atol=1e-6, rtol=0)


def test_fedprox_takes_fedavgs_first_step(simulate, shrink):
    one_step = shrink("heart", rounds=1, local_epochs=1, batch_size=1000)
    assert same(models(simulate(one_step, "fedprox", mu=5.0)), models(simulate(one_step)))


def test_a_stronger_pull_moves_less(simulate, shrink):
    task = shrink("heart", rounds=1, momentum=0.0)
    moves = []
    for mu in (0.0, 0.1, 1.0, 10.0):
        simulation = simulate(task, "fedprox", mu=mu)
        moves.append(sum((models(simulation)[n] - w).square().sum() for n, w in simulation.initial.items()).item())
    assert moves == sorted(moves, reverse=True)


# --- FedKPer --------------------------------------------------------------------------------------------------------


def kper(**values):
    return registry.methods.get("fedkper")(**values)


def plain_loss(student, teacher, labels, tau, lambda_max):
    """Loss of one batch, written from the paper with loops: CE + min(1/CE_g, lambda_max) tau^2 KL(q || s)."""

    def softmax(row, temperature):
        exps = [math.exp(value / temperature) for value in row]
        return [value / sum(exps) for value in exps]

    def entropy(rows):
        return sum(-math.log(softmax(row, 1.0)[label]) for row, label in zip(rows, labels, strict=True)) / len(labels)

    trust = min(1 / (entropy(teacher) + 1e-8), lambda_max)
    gap = 0.0
    for s_row, q_row in zip(student, teacher, strict=True):
        s, q = softmax(s_row, tau), softmax(q_row, tau)
        gap += sum(qc * math.log(qc / sc) for qc, sc in zip(q, s, strict=True))
    return entropy(student) + trust * tau**2 * gap / len(labels)


@pytest.mark.parametrize(("tau", "lambda_max"), [(1.0, 10.0), (2.0, 10.0), (1.0, 0.3)])
def test_fedkper_loss_is_the_papers(client, tau, lambda_max):
    moved = {name: tensor * 1.3 for name, tensor in client.params.items()}
    batch = point(client, moved)
    teacher = client.model(client.params, batch.x).logits
    expected = plain_loss(batch.logits.tolist(), teacher.tolist(), batch.y.tolist(), tau, lambda_max)
    assert kper(tau=tau, lambda_max=lambda_max).loss(client, batch).item() == pytest.approx(expected, rel=1e-5)


def test_a_student_at_its_teacher_feels_no_distillation(client):
    plain = gradient(registry.methods.get("fedavg")(), client, client.params)
    distilled = gradient(kper(), client, client.params)
    for name in plain:
        torch.testing.assert_close(distilled[name], plain[name], atol=1e-6, rtol=0)


def test_trust_in_a_good_teacher_is_capped(client):
    """A teacher that is right with certainty has CE near 0, so 1/CE is far above the cap of 10."""
    batch = point(client, {name: tensor.clone() for name, tensor in client.params.items()})
    sure = F.one_hot(batch.y, 2).float() * 30
    watched = SimpleNamespace(params=client.params, frozen=lambda params: LookUp(sure))
    ce = F.cross_entropy(batch.logits, batch.y)
    kl = F.kl_div(F.log_softmax(batch.logits, 1), F.softmax(sure, 1), reduction="batchmean")
    assert kper().loss(watched, batch).item() == pytest.approx((ce + 10 * kl).item(), rel=1e-5)


class LookUp:
    def __init__(self, logits):
        self.logits = logits

    def __getitem__(self, batch):
        return SimpleNamespace(logits=self.logits)


def test_label_entropy_is_normalised():
    assert label_entropy([5, 5, 5, 5]) == pytest.approx(1.0, abs=1e-9)
    assert label_entropy([7, 0, 0, 0]) == pytest.approx(0.0, abs=1e-9)
    assert label_entropy([1, 2, 3]) == pytest.approx(label_entropy([30, 10, 20]), abs=1e-12)
    assert label_entropy([1, 1, 0, 0]) == pytest.approx(0.5, abs=1e-9)


def uploads(*scores, sizes=(10, 30)):
    return [Upload(k, n, {}, {"score": score}) for k, (n, score) in enumerate(zip(sizes, scores, strict=True))]


def test_fedkper_weighs_by_score_and_not_by_size():
    assert kper().weights(None, uploads(0.3, 0.1)) == pytest.approx([0.75, 0.25])
    assert kper().weights(None, uploads(0.03, 0.01)) == pytest.approx([0.75, 0.25])
    assert kper().weights(None, uploads(0.2, 0.2)) == [0.5, 0.5]


@pytest.mark.parametrize("scores", [(math.nan, 0.1), (0.0, 0.0)])
def test_fedkper_without_scores_falls_back_to_sizes(scores):
    assert kper().weights(None, uploads(*scores)) == [0.25, 0.75]


def test_fedkper_scores_what_its_card_says(simulate, shrink):
    simulation = simulate(shrink("heart", rounds=1), "fedkper")
    method, server = simulation.method, simulation.server
    server.params = dict(simulation.initial)
    server.round = 0
    client = simulation._client(1, 100)
    sent = method.client_update(client)
    predicted = client.model(client.local, client.inputs).logits.argmax(1)
    accuracy = round((predicted == client.targets).double().mean().item(), 4)
    shares = np.bincount(client.targets.numpy(), minlength=2) / client.n
    entropy = -(shares * np.log(shares)).sum() / np.log(2)
    assert sent["score"] == pytest.approx(accuracy * (1e-6 + entropy), rel=1e-6)


# --- reference points -----------------------------------------------------------------------------------------------


def test_local_training_sends_no_model_and_has_no_global_one(simulate, blood):
    simulation = simulate(blood, "local")
    assert set(column(simulation, "bytes_down")) == {0}
    assert set(column(simulation, "bytes_up")) == {4 * 8}
    assert "global_test_predictions" not in simulation.arrays
    assert "personal_client_correct" in simulation.arrays


def test_a_client_training_locally_is_what_it_would_be_alone(simulate, shrink, make_cell):
    """Client 0's model after two rounds, trained a second time by two bare calls of its local loop."""
    task = shrink("heart", rounds=2)
    simulation = simulate(task, "local")
    model = simulation.initial
    for t in range(2):
        simulation.server.round = t
        alone = simulation._client(0, int(simulation.plan.passes[t][0]))
        model = alone.fit(model, simulation.method.loss).params
    assert same(simulation.states[0]["private"], model)


def test_unsampled_clients_keep_the_common_start(simulate, blood):
    simulation = simulate(blood, "local")
    sampled = {k for ids in simulation.federation.schedule for k in ids.tolist()}
    kept = {k for k, state in simulation.states.items() if "private" in state}
    assert kept == sampled


def test_majority_predicts_the_most_frequent_training_label(simulate, blood):
    simulation = simulate(blood, "majority")
    labels = np.concatenate([simulation.targets.numpy()[ids] for ids in simulation.federation.train])
    assert set(np.stack(simulation.arrays["global_test_predictions"]).ravel()) == {np.bincount(labels).argmax()}
    bits = np.unpackbits(simulation.arrays["local_client_correct"][0])
    k = int(simulation.federation.schedule[0][0])
    own = np.bincount(simulation.targets.numpy()[simulation.federation.train[k]]).argmax()
    columns = simulation._columns(k)
    expected = simulation.targets.numpy()[simulation.federation.tests[k]] == own
    assert (bits[columns].astype(bool) == expected).all()
    assert column(simulation, "bytes_up") == [8 * (8 + 8 * 8) + 4 * 8, 4 * 8]
