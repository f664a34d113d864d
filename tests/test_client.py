"""The client: the one local loop, frozen teachers, and what is sent."""

import numpy as np
import pytest
import torch

from fedbench import Download, Method, MethodError, Protocol
from fedbench.client import Client
from fedbench.kinds import KINDS
from fedbench.models import Model
from fedbench.seeds import Streams

N, FEATURES, CLASSES = 25, 5, 3
LOSS = Method().loss


@pytest.fixture
def make_client():
    """Return a factory of clients over 25 random points in 3 classes."""

    def make(*, n=N, client_id=0, round=0, state=None, shared=lambda name: True, received=None, **protocol):
        rng = np.random.Generator(np.random.PCG64(7))
        values = {"rounds": 4, "participation": 1.0, "local_epochs": 2, "batch_size": 10, "lr": 0.1, **protocol}
        settings = Protocol(**values)
        model = Model("mlp", (FEATURES,), CLASSES)
        initial = model.initial(Streams(3))
        inputs = torch.from_numpy(rng.normal(size=(n, FEATURES)).astype(np.float32))
        return Client(
            id=client_id,
            round=round,
            rounds=settings.rounds,
            read_inputs=lambda: inputs,
            targets=torch.from_numpy(rng.integers(CLASSES, size=n)),
            n_classes=CLASSES,
            received=Download(initial if received is None else received),
            initial=initial,
            state=state or {},
            passes=settings.local_epochs * n,
            protocol=settings,
            model=model,
            kind=KINDS["classification"],
            shared=shared,
            streams=Streams(1),
        )

    return make


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_full_batch_step_is_gradient_descent(make_client):
    client = make_client(batch_size=N, local_epochs=1)
    weights = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
    hidden = torch.relu(client.inputs @ weights["fc1.weight"].T + weights["fc1.bias"])
    logits = hidden @ weights["head.weight"].T + weights["head.bias"]
    loss = -torch.log_softmax(logits, 1)[torch.arange(N), client.targets].mean()
    loss.backward()
    fit = client.fit(client.params, LOSS)
    assert fit.steps == 1
    assert fit.loss == pytest.approx(loss.item(), rel=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(fit.params[name], tensor.detach() - 0.1 * tensor.grad, rtol=0, atol=1e-6)


def test_momentum_and_weight_decay_follow_sgd(make_client):
    """Two full-batch steps by hand: v <- 0.9 v + g + 0.01 w; w <- w - 0.1 v, with v = 0 at the start."""
    client = make_client(batch_size=N, local_epochs=2, momentum=0.9, weight_decay=0.01)
    weights = {name: tensor.clone() for name, tensor in client.params.items()}
    speed = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for _ in range(2):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        torch.nn.functional.cross_entropy(client.model(leaves, client.inputs).logits, client.targets).backward()
        for name, leaf in leaves.items():
            speed[name] = 0.9 * speed[name] + leaf.grad + 0.01 * weights[name]
            weights[name] = weights[name] - 0.1 * speed[name]
    fit = client.fit(client.params, LOSS)
    for name, tensor in weights.items():
        torch.testing.assert_close(fit.params[name], tensor, rtol=0, atol=1e-6)


def test_each_epoch_visits_each_sample_once_and_keeps_the_last_short_batch(make_client):
    client, seen = make_client(), []

    def loss(client, batch):
        seen.append(batch.index.tolist())
        return LOSS(client, batch)

    fit = client.fit(client.params, loss)
    assert [len(index) for index in seen] == [10, 10, 5, 10, 10, 5]
    first, second = ([i for index in epoch for i in index] for epoch in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second
    assert fit.steps == 6
    assert client.work.trained == 2 * N


def test_a_client_with_fewer_samples_than_a_batch_trains(make_client):
    client = make_client(n=1)
    fit = client.fit(client.params, LOSS)
    assert fit.steps == 2
    assert not equal(fit.params, client.params)


def test_order_depends_on_client_round_and_stream_only(make_client):
    def order(stream="order", **who):
        client, seen = make_client(**who), []

        def loss(client, batch):
            seen.extend(batch.index.tolist())
            return LOSS(client, batch)

        client.fit(client.params, loss, stream=stream)
        return seen

    assert order() == order()
    assert order() != order(client_id=1)
    assert order() != order(round=1)
    assert order() != order(stream="second")


def test_fit_leaves_its_start_and_global_generators_alone(make_client):
    client = make_client()
    before = {name: tensor.clone() for name, tensor in client.params.items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    client.fit(client.params, LOSS)
    assert equal(before, client.params)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_only_named_tensors_are_trained(make_client):
    client = make_client(momentum=0.9, weight_decay=0.1)
    fit = client.fit(client.params, LOSS, train=lambda name: name.startswith("head"))
    assert torch.equal(fit.params["fc1.weight"], client.params["fc1.weight"])
    assert torch.equal(fit.params["fc1.bias"], client.params["fc1.bias"])
    assert not torch.equal(fit.params["head.weight"], client.params["head.weight"])


def test_zero_epochs_change_nothing(make_client):
    client = make_client()
    fit = client.fit(client.params, LOSS, epochs=0)
    assert fit.steps == 0
    assert equal(fit.params, client.params)


def test_edited_gradients_are_what_the_optimiser_sees(make_client):
    client = make_client(local_epochs=1, batch_size=N)
    fit = client.fit(client.params, LOSS, edit_gradients=lambda client, name, gradient, w: torch.ones_like(w))
    for name, tensor in client.params.items():
        torch.testing.assert_close(fit.params[name], tensor - 0.1, rtol=0, atol=1e-7)


def test_a_subset_is_all_that_is_trained_on(make_client):
    client, seen, subset = make_client(), set(), np.array([3, 4, 8])

    def loss(client, batch):
        seen.update(batch.index.tolist())
        return LOSS(client, batch)

    client.fit(client.params, loss, data=subset)
    assert seen == {3, 4, 8}
    assert client.work.trained == 2 * 3


def test_the_learning_rate_follows_the_global_round(make_client):
    assert make_client(lr_decay=0.5, round=3).lr == 0.1 * 0.5**3


def test_a_loss_that_is_not_finite_stops_the_cell(make_client):
    client = make_client()
    with pytest.raises(MethodError, match=r"loss of client 0 in round 0 became nan after 6 steps"):
        client.fit(client.params, lambda client, batch: LOSS(client, batch) * float("nan"))


def test_frozen_outputs_are_computed_once_and_looked_up_by_sample(make_client):
    client = make_client(evaluation_batch=8)
    direct = client.model(client.params, client.inputs)

    def loss(client, batch):
        frozen = client.frozen(client.params)[batch]
        torch.testing.assert_close(frozen.logits, direct.logits[batch.index])
        torch.testing.assert_close(frozen.features, direct.features[batch.index])
        assert not frozen.logits.requires_grad
        return LOSS(client, batch)

    client.fit(client.params, loss)
    assert client.work.forward == N


def test_score_is_the_training_accuracy(make_client):
    client = make_client()
    predicted = client.model(client.params, client.inputs).logits.argmax(1)
    assert client.score(client.params) == (predicted == client.targets).double().mean().item()


def test_upload_sends_what_is_shared_and_keeps_the_rest(make_client):
    client = make_client(shared=lambda name: not name.startswith("head"))
    model = client.fit(client.params, LOSS).params
    upload = client.upload(model, score=0.5)
    assert set(upload.params) == {"fc1.weight", "fc1.bias"}
    assert set(client.state["private"]) == {"head.weight", "head.bias"}
    assert (upload.n, upload["score"], client.local) == (N, 0.5, model)

    received = {name: torch.zeros_like(tensor) for name, tensor in upload.params.items()}
    later = make_client(round=1, state=client.state, received=received)
    assert torch.equal(later.params["head.weight"], model["head.weight"])
    assert not later.params["fc1.weight"].any()


def test_class_counts_cover_absent_classes(make_client):
    client = make_client(n=1)
    assert client.class_counts.shape == (CLASSES,)
    assert int(client.class_counts.sum()) == 1


def test_projection_is_applied_after_each_step(make_client):
    client, steps = make_client(lr=10.0), []

    def project(client, params):
        steps.append(1)
        return {name: tensor.clamp(-0.125, 0.125) for name, tensor in params.items()}

    fit = client.fit(client.params, LOSS, project=project)
    assert len(steps) == fit.steps == 6
    assert all(float(tensor.abs().max()) <= 0.125 for tensor in fit.params.values())


def test_a_training_may_end_before_its_epochs(make_client):
    client = make_client()
    fit = client.fit(client.params, LOSS, epochs=50, until=lambda losses: len(losses) == 4)
    assert fit.steps == 4
    assert client.work.trained == 10 + 10 + 5 + 10


def test_measured_values_and_gradients_are_those_of_plain_torch(make_client):
    client = make_client()
    losses = client.measure(
        lambda client, batch: batch.task_loss(batch.logits).sum(), params=client.params, batch_size=8
    )
    logits = client.model(client.params, client.inputs).logits
    whole = torch.nn.functional.cross_entropy(logits, client.targets, reduction="sum")
    assert len(losses) == 4
    torch.testing.assert_close(sum(losses), whole)

    (gradients,) = client.measure(LOSS, params=client.params, gradients=True)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in client.params.items()}
    torch.nn.functional.cross_entropy(client.model(leaves, client.inputs).logits, client.targets).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(gradients[name], leaf.grad)
    assert (client.work.forward, client.work.trained) == (N, N)


def test_a_subset_is_all_that_is_measured(make_client):
    client, seen = make_client(), []
    client.measure(lambda client, batch: seen.extend(batch.index.tolist()), params=client.params, data=np.array([2, 5]))
    assert seen == [2, 5]


def test_a_split_is_the_same_in_every_round_and_another_for_each_client(make_client):
    first, later, other = make_client(), make_client(round=3), make_client(client_id=1)
    train, held = first.split(0.2, "validation")
    assert (len(train), len(held)) == (20, 5)
    assert sorted([*train, *held]) == list(range(N))
    assert all((a == b).all() for a, b in zip((train, held), later.split(0.2, "validation"), strict=True))
    assert held.tolist() != other.split(0.2, "validation")[1].tolist()
    assert [len(part) for part in make_client(n=2).split(0.2, "validation")] == [1, 1]


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda client, batch: None, "a NoneType"),
        (lambda client, batch: batch.task_loss(batch.logits), r"a tensor of shape \(10,\)"),
        (lambda client, batch: torch.tensor(1.0), "a tensor without a gradient"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_named(make_client, loss, what):
    client = make_client()
    with pytest.raises(MethodError, match=f"the loss of client 0 in round 0 is {what}; it must be a scalar"):
        client.fit(client.params, loss)


def test_a_part_of_a_batch_is_a_batch_of_its_own(make_client):
    """Every other sample: its means are over these alone; where all of them are padding, they are zero."""
    client = make_client()
    whole = client.batch(client.params, torch.arange(7))
    values = torch.arange(7.0)
    odd = whole.part(slice(1, None, 2))
    assert odd.index.tolist() == [1, 3, 5]
    assert torch.equal(odd.x, client.inputs[[1, 3, 5]])
    assert torch.equal(odd.y, client.targets[[1, 3, 5]])
    assert odd.mean(values[1::2]) == 3
    torch.testing.assert_close(odd.logits, whole.logits[1::2])
    whole.real = torch.arange(7) < 4
    assert whole.part(slice(1, None, 2)).mean(values[1::2]) == 2
    assert whole.part(slice(4, None)).mean(values[4:]) == 0
