"""FedNTD: its loss against the paper's sum, what must not change it, its neutral points."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fedbench.methods.fedntd import FedNTD

from fedbench import Batch, Partitioner, Size
from fedbench.models import Output
from fedbench.together import Together

STUDENT = torch.tensor([[0.5, -1.0, 2.0, 0.1], [1.5, 0.3, -0.2, 0.0], [-0.7, 0.9, 0.4, 1.1]])
TEACHER = torch.tensor([[1.0, 0.2, -0.5, 0.3], [0.1, -2.0, 0.8, 0.6], [0.2, 0.5, 1.9, -1.0]])
LABELS = torch.tensor([2, 0, 3])


class Hard(Partitioner):
    """One sample; seven of one class; seven mixed, fewer than a batch; the rest."""

    def split(self, targets, sites, n_classes, rng):
        members = np.flatnonzero(targets == np.bincount(targets).argmax())
        rest = np.setdiff1d(np.arange(len(targets)), members[:8])
        return [members[:1], members[1:8], rest[:7], rest[7:]]


@pytest.fixture(scope="module")
def run(make_cell, start):
    """Return a function that runs a cell's rounds and returns its simulation."""

    def runs(task, method, *, track="faithful", trainer=None, **hyperparameters):
        simulation = start(make_cell(task, method, track=track, **hyperparameters), trainer=trainer)
        for _ in range(task.protocol.rounds):
            simulation.round()
        return simulation

    return runs


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1, participation=0.25)


@pytest.fixture(scope="module")
def model(make_cell, start, blood):
    return start(make_cell(blood, FedNTD))


def same(a, b):
    equal = all(torch.equal(tensor, b.server.params[name]) for name, tensor in a.server.params.items())
    return equal and np.array_equal(a.rounds["train_loss"], b.rounds["train_loss"])


def loss(model, student, teacher, **hyperparameters):
    """Return the loss of three samples for given outputs."""
    batch = Batch(model.model, model.kind, {}, torch.empty(3, 0), LABELS, torch.arange(3))
    batch.output = Output(student, torch.empty(3, 0))
    client = SimpleNamespace(params={}, frozen=lambda params: LookUp(teacher))
    return FedNTD(**hyperparameters).loss(client, batch)


class LookUp:
    def __init__(self, logits):
        self.logits = logits

    def __getitem__(self, batch):
        return SimpleNamespace(logits=self.logits)


def softmax(row, tau):
    exps = [math.exp(value / tau) for value in row]
    return [value / sum(exps) for value in exps]


@pytest.mark.parametrize(("beta", "tau"), [(1.0, 1.0), (0.3, 1.0), (2.0, 3.0)])
def test_the_loss_is_the_papers(model, beta, tau):
    """Written with loops: the true logit is taken out of both lists, then the softmaxes are compared."""
    expected = 0.0
    for s, q, y in zip(STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist(), strict=True):
        expected -= math.log(softmax(s, 1.0)[y])
        del s[y], q[y]
        pairs = zip(softmax(q, tau), softmax(s, tau), strict=True)
        expected += beta * tau**2 * sum(qc * math.log(qc / sc) for qc, sc in pairs)
    assert loss(model, STUDENT, TEACHER, beta=beta, tau=tau).item() == pytest.approx(expected / 3, rel=1e-5)


def test_true_logits_do_not_enter_the_term(model):
    def term(student, teacher):
        both = (loss(model, student, teacher, beta=beta) for beta in (1.0, 0.0))
        return next(both).item() - next(both).item()

    true = 3.0 * torch.nn.functional.one_hot(LABELS, 4)
    assert term(STUDENT + true, TEACHER) == pytest.approx(term(STUDENT, TEACHER), abs=1e-6)
    assert term(STUDENT, TEACHER + true) == pytest.approx(term(STUDENT, TEACHER), abs=1e-6)
    assert term(STUDENT, TEACHER) > 0.1

    gradients = []
    for beta in (5.0, 0.0):
        student = STUDENT.clone().requires_grad_()
        loss(model, student, TEACHER, beta=beta).backward()
        gradients.append(student.grad)
    difference = gradients[0] - gradients[1]
    assert (difference.gather(1, LABELS[:, None]) == 0).all()
    assert (difference.abs() > 1e-3).sum() == 9  # all others


def test_a_student_at_its_teacher_feels_nothing(model):
    student = STUDENT.clone().requires_grad_()
    loss(model, student, STUDENT.clone(), beta=10.0).backward()
    plain = STUDENT.clone().requires_grad_()
    torch.nn.functional.cross_entropy(plain, LABELS).backward()
    torch.testing.assert_close(student.grad, plain.grad, rtol=0, atol=1e-6)


def test_so_the_first_step_is_fedavgs(run, shrink):
    task = shrink("blood-mini", rounds=1, local_epochs=1, batch_size=2000)
    a, b = run(task, FedNTD, beta=10.0), run(task, "fedavg")
    for name, tensor in b.server.params.items():
        torch.testing.assert_close(a.server.params[name], tensor, rtol=0, atol=1e-6)


def test_without_beta_it_is_fedavg_bit_for_bit(run, blood):
    a, b = run(blood, FedNTD, beta=0.0), run(blood, "fedavg")
    assert same(a, b)
    assert a.rounds["forward_samples"] == b.rounds["forward_samples"]


def test_with_two_classes_it_is_fedavg_bit_for_bit(run, shrink):
    heart = shrink("heart", rounds=3)
    assert same(run(heart, FedNTD, beta=5.0, tau=2.0), run(heart, "fedavg"))


def test_otherwise_it_is_not_and_asks_the_teacher_once_a_round(run, blood):
    a, b = run(blood, FedNTD), run(blood, "fedavg")
    assert not same(a, b)
    for t, ids in enumerate(a.federation.schedule):
        assert a.rounds["forward_samples"][t] == sum(len(a.federation.train[k]) for k in ids)


def test_traffic_is_fedavgs(run, blood):
    simulation = run(blood, FedNTD)
    size = sum(tensor.nbytes for tensor in simulation.initial.values())
    down, up = FedNTD().traffic(Size(size, size, 8, 64))
    assert np.concatenate(simulation.rounds["bytes_down"]).tolist() == [2 * down] * 2
    assert np.concatenate(simulation.rounds["bytes_up"]).tolist() == [2 * up] * 2


def test_hard_clients_stay_finite(run, shrink):
    task = shrink("blood-mini", partitioner=Hard(), rounds=2, local_epochs=1, participation=1.0)
    simulation = run(task, FedNTD, track="robust", beta=10.0)
    assert [len(ids) for ids in simulation.federation.train[:3]] == [1, 7, 7]
    assert all(torch.isfinite(tensor).all() for tensor in simulation.server.params.values())


def test_clients_are_trained_together(run, shrink):
    task, trainer = shrink("blood-mini", rounds=1, local_epochs=1, participation=0.25), Together(lanes=3)
    found, expected = run(task, FedNTD, trainer=trainer, beta=5.0), run(task, FedNTD, beta=5.0)
    for name, tensor in expected.server.params.items():
        torch.testing.assert_close(found.server.params[name], tensor, rtol=1e-3, atol=1e-5)
    assert "one client at a time" not in trainer.describe()
