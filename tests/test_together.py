"""Training together: the plain loop's results, whoever else is trained, and what is trained one client at a time."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedbench import Download, Method, MethodError, Protocol
from fedbench.client import Client
from fedbench.kinds import KINDS
from fedbench.models import Model
from fedbench.seeds import Streams
from fedbench.simulation import run_cell
from fedbench.together import Together, deterministic
from fedbench.training import OneByOne

SEEDS = (1, 2, 3)
CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # float32 sums in another order, over a round
CLOSE_IMAGES = {"rtol": 1e-3, "atol": 1e-5}  # where a maximum or a ReLU may fall on the other side
LOSS = Method().loss


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=2, local_epochs=1, lr_decay=0.5)


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=1, local_epochs=1)


@pytest.fixture(scope="module")
def simulate(start):
    """Return a function that runs cells, together or one by one, and returns their simulations."""

    def simulated(cells, trainer=None, **options):
        trainer = trainer or OneByOne()
        simulations = [start(cell, trainer=trainer, **options) for cell in cells]

        def run(simulation):
            for _ in range(simulation.protocol.rounds):
                simulation.round()
            return simulation

        return trainer.each([lambda simulation=simulation: run(simulation) for simulation in simulations])

    return simulated


def models(simulation):
    """Return all tensors that training has left: the server's and the clients'."""
    found = dict(simulation.server.params)
    for k, state in simulation.states.items():
        for name, value in state.items():
            values = value if isinstance(value, dict) else {"": value}
            found |= {f"client {k} {name} {leaf}": torch.as_tensor(tensor) for leaf, tensor in values.items()}
    return found


def assert_close(simulation, plain, **tolerance):
    found, expected = models(simulation), models(plain)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **(tolerance or CLOSE), msg=lambda text, n=name: f"{n}: {text}")
    for name in ("train_samples", "forward_samples", "bytes_up", "bytes_down"):
        assert np.array_equal(simulation.rounds[name], plain.rounds[name]), name
    losses = (np.stack(run.clients["train_loss"]) for run in (simulation, plain))
    np.testing.assert_allclose(*losses, rtol=1e-4)


def same(a, b):
    a, b = models(a), models(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the same result as the plain loop ------------------------------------------------------------------------------

METHODS = [
    ("fedavg", {}),
    ("fedprox", {}),
    ("fedkper", {}),
    ("fedkper", {"tau": 2.0, "lambda_max": 0.5, "weighting": False}),
    ("fedkper", {"distil": False}),
    ("local", {}),
]


@pytest.mark.parametrize(("method", "values"), METHODS, ids=lambda value: str(value))
def test_cells_trained_together_are_those_trained_alone(simulate, make_cell, heart, method, values):
    cells = [make_cell(heart, method, seed=seed, **values) for seed in SEEDS]
    trainer = Together(lanes=5)  # 12 clients are waiting: the 5 lanes are used in turns
    for found, cell in zip(simulate(cells, trainer), cells, strict=True):
        assert_close(found, *simulate([cell]))
    assert trainer.describe() == "up to 5 clients at a time, batches of 12"


@pytest.mark.parametrize(("method", "values"), METHODS, ids=lambda value: str(value))
def test_images_too(simulate, make_cell, blood, method, values):
    cells = [make_cell(blood, method, seed=seed, **values) for seed in SEEDS[:2]]
    trainer = Together(lanes=3)
    for found, cell in zip(simulate(cells, trainer), cells, strict=True):
        assert_close(found, *simulate([cell]), **CLOSE_IMAGES)
    assert trainer.describe() == "up to 3 clients at a time, batches of 12"


@dataclass(frozen=True, kw_only=True)
class Busy(Method):
    """Uses everything that a method may be given and may keep, in functions that hold nothing."""

    def init_server(self, server):
        server.state["c"] = {name: 0.01 * torch.ones_like(tensor) for name, tensor in server.params.items()}

    def broadcast(self, server, client_id):
        return server.download(c=server.state["c"], scale=0.5 + 0.1 * client_id)

    def init_client(self, client):
        client.state = {"visits": 0, "own": {name: 0.5 * tensor for name, tensor in client.initial.items()}}

    def loss(self, client, batch):
        own = client.frozen(client.state["own"])[batch]
        received = client.frozen(client.received.params)[batch]
        shares = client.class_counts / client.n
        logits = batch.logits + client.received["scale"] * shares.clamp(min=0.01).log()
        distances = (batch.x - batch.given["centre"]).square().mean(dim=1)
        gap = (batch.features - own.features).square().mean(dim=1) + (batch.logits - received.logits).square().sum(
            dim=1
        )
        pull = sum((w - client.initial[name]).square().sum() for name, w in batch.params.items())
        progress = (client.round + 1) / client.rounds + client.lr + client.protocol.momentum / client.n_classes
        weights = torch.exp(-distances) * (1 + 0.1 * client.state["visits"])
        return batch.mean(weights * batch.task_loss(logits)) + 0.01 * progress * (batch.mean(gap) + pull)

    def corrected(self, client, name, gradient, w):
        return gradient - client.received["c"][name] + 0.01 * client.state["own"][name] + 0.001 * w

    def bounded(self, client, params):
        return {name: torch.minimum(w, client.initial[name] + 0.02) for name, w in params.items()}

    def client_update(self, client):
        fit = client.fit(
            client.params,
            self.loss,
            train=lambda name: name != "fc1.bias",
            edit_gradients=self.corrected,
            project=self.bounded,
            given={"centre": client.inputs.mean(dim=0)},
            weight_decay=0.01,
        )
        after = client.fit(fit.params, self.loss, given={"centre": client.inputs[0]}, stream="second", momentum=0.0)
        client.state = {"visits": client.state["visits"] + 1, "own": fit.params}
        return client.upload(after.params, loss=fit.loss, steps=fit.steps)


def test_everything_a_method_may_use(simulate, make_cell, shrink):
    task = shrink("heart", rounds=3, local_epochs=1)
    cells, trainer = [make_cell(task, Busy, seed=seed) for seed in SEEDS], Together()
    for found, cell in zip(simulate(cells, trainer), cells, strict=True):
        assert_close(found, *simulate([cell]), **CLOSE_IMAGES)
    assert trainer.describe() == "up to 12 clients at a time, batches of 12"


def test_cells_in_different_rounds_keep_their_own_numbers(start, make_cell, heart):
    """One cell is a round ahead, as after a resume: rate and round of each are its own."""
    trainer = Together()
    for method in ("fedavg", Busy):
        pairs = [[start(make_cell(heart, method, seed=seed), trainer=t) for seed in SEEDS] for t in (trainer, None)]
        for simulations in pairs:
            simulations[0].round()
        trainer.each([simulation.round for simulation in pairs[0]])
        for simulation in pairs[1]:
            simulation.round()
        for found, plain in zip(*pairs, strict=True):
            assert_close(found, plain)


class FineTunes(Method):
    def personal(self, client):
        return client.fit(client.params, self.loss, stream="adapt").params


def test_models_adapted_for_an_evaluation_are_trained_too(start, make_cell, shrink):
    """These are asked for one after the other, by each cell itself."""
    task = shrink("heart", rounds=1, local_epochs=1)
    trainer = Together()
    cells = [make_cell(task, FineTunes, seed=seed) for seed in SEEDS]
    found, plain = ([start(cell, trainer=t) for cell in cells] for t in (trainer, None))
    trainer.each([simulation.round for simulation in found])
    for a, b in zip(found, plain, strict=True):
        b.round()
        assert_close(a, b)
        assert np.array_equal(a.rounds["adapt_samples"], b.rounds["adapt_samples"])
        bits = (np.unpackbits(run.arrays["personal_client_correct"][0]) for run in (a, b))
        assert np.not_equal(*bits).sum() <= 1
    assert trainer.describe() == "up to 12 clients at a time, batches of 12"


# --- single trainings, on random points -----------------------------------------------------------------------------

FEATURES, CLASSES = 5, 3


@pytest.fixture
def make_clients():
    """Return a factory of clients with so many random points each, of a common trainer."""

    def make(trainer, sizes, **protocol):
        settings = Protocol(
            **{"rounds": 2, "participation": 1, "local_epochs": 2, "batch_size": 4, "lr": 0.1} | protocol
        )
        model = Model("mlp", (FEATURES,), CLASSES)
        initial = model.initial(Streams(3))
        clients = []
        for k, n in enumerate(sizes):
            rng = np.random.Generator(np.random.PCG64(k))
            inputs = torch.from_numpy(rng.normal(size=(n, FEATURES)).astype(np.float32))
            clients.append(
                Client(
                    id=k,
                    round=0,
                    rounds=2,
                    read_inputs=lambda inputs=inputs: inputs,
                    targets=torch.from_numpy(rng.integers(CLASSES, size=n)),
                    n_classes=CLASSES,
                    received=Download(initial),
                    initial=initial,
                    state={},
                    passes=settings.local_epochs * n,
                    protocol=settings,
                    model=model,
                    kind=KINDS["classification"],
                    shared=lambda name: True,
                    streams=Streams(1),
                    trainer=trainer,
                )
            )
        return clients

    return make


def fits(trainer, clients, loss=LOSS, **options):
    return trainer.each([lambda client=client: client.fit(client.params, loss, **options) for client in clients])


def test_a_step_of_clients_of_any_size_is_gradient_descent(make_clients):
    """One full-batch step each, by hand: w - lr (grad + decay w); the loss is that at the start."""
    sizes, trainer = [7, 1, 3, 12], Together(lanes=3)
    clients = make_clients(trainer, sizes, batch_size=20, local_epochs=1, momentum=0.9, weight_decay=0.01)
    for client, fit in zip(clients, fits(trainer, clients), strict=True):
        w = {name: tensor.clone().requires_grad_() for name, tensor in client.initial.items()}
        hidden = torch.relu(client.inputs @ w["fc1.weight"].T + w["fc1.bias"])
        loss = F.cross_entropy(hidden @ w["head.weight"].T + w["head.bias"], client.targets)
        loss.backward()
        assert (fit.steps, fit.lr) == (1, 0.1)
        assert fit.loss == pytest.approx(loss.item(), rel=1e-6)
        for name, leaf in w.items():
            expected = leaf.detach() - 0.1 * (leaf.grad + 0.01 * leaf.detach())
            torch.testing.assert_close(fit.params[name], expected, rtol=0, atol=1e-6)
    assert trainer.describe() == "up to 3 clients at a time, batches of 12"


def test_a_client_is_the_same_in_any_company(make_clients):
    sizes, trainer = [9, 30, 1, 2, 17], Together(lanes=2)
    clients = make_clients(trainer, sizes, momentum=0.9)
    company = fits(trainer, clients)
    assert [fit.steps for fit in company] == [2 * -(-n // 4) for n in sizes]
    for client, fit in zip(clients, company, strict=True):
        (alone,) = fits(Together(), [client])
        for name, tensor in alone.params.items():
            torch.testing.assert_close(fit.params[name], tensor, **CLOSE)


def test_results_share_no_memory_with_the_lanes(make_clients):
    trainer = Together()
    clients = make_clients(trainer, [4, 5])
    before = fits(trainer, clients)
    kept = [{name: tensor.clone() for name, tensor in fit.params.items()} for fit in before]
    fits(trainer, clients, lr=5.0)
    for fit, params in zip(before, kept, strict=True):
        assert all(torch.equal(fit.params[name], tensor) for name, tensor in params.items())


def half(client, batch):
    """A loss that does not depend on the first layer."""
    params = {name: tensor.detach() if name.startswith("fc1") else tensor for name, tensor in batch.params.items()}
    return batch.mean(batch.task_loss(batch.forward(params).logits))


def test_what_the_loss_does_not_depend_on_does_not_decay(make_clients):
    trainer = Together()
    clients = make_clients(trainer, [6, 9], weight_decay=0.1, momentum=0.9)
    alone = OneByOne()
    plains = fits(alone, make_clients(alone, [6, 9], weight_decay=0.1, momentum=0.9), half)
    for client, fit, plain in zip(clients, fits(trainer, clients, half), plains, strict=True):
        assert torch.equal(fit.params["fc1.weight"], client.initial["fc1.weight"])
        for name, tensor in plain.params.items():
            torch.testing.assert_close(fit.params[name], tensor, **CLOSE)
    assert "one client" not in trainer.describe()


def test_a_function_without_a_class_is_common_to_all(make_clients):
    trainer = Together()
    clients = make_clients(trainer, [6, 9])
    asked = [lambda client=client: client.fit(client.params, lambda c, b: Method().loss(c, b)) for client in clients]
    for fit, plain in zip(trainer.each(asked), fits(trainer, clients), strict=True):
        assert all(torch.equal(fit.params[name], tensor) for name, tensor in plain.params.items())
    assert trainer.describe() == "up to 2 clients at a time, batches of 4"


def test_without_samples_to_visit_nothing_is_trained(make_clients):
    trainer = Together()
    (client,) = make_clients(trainer, [6])
    (fit,) = fits(trainer, [client], epochs=0)
    assert (fit.steps, fit.loss, trainer.describe()) == (0, None, "no training")


def test_a_training_outside_of_each(make_clients):
    trainer = Together()
    clients = make_clients(trainer, [6, 9])
    single = [client.fit(client.params, LOSS) for client in clients]
    for fit, other in zip(single, fits(trainer, clients), strict=True):
        for name, tensor in other.params.items():
            torch.testing.assert_close(fit.params[name], tensor, **CLOSE)


class Remembers(Method):
    """Pulls towards what the client kept, or towards the common start where it kept nothing yet."""

    def loss(self, client, batch):
        kept = client.state.get("kept", client.initial)
        return super().loss(client, batch) + sum((w - kept[name]).square().sum() for name, w in batch.params.items())


def test_clients_that_keep_different_things_are_trained_apart_only_if_the_loss_looks(make_clients):
    def visited(trainer):
        clients = make_clients(trainer, [6, 9, 5, 8])
        for client in clients[::2]:
            client.state = {"kept": {name: tensor - 0.1 for name, tensor in client.initial.items()}}
        return clients

    for loss, lanes in ((Remembers().loss, 2), (LOSS, 4)):
        trainer, plain = Together(), OneByOne()
        for fit, alone in zip(fits(trainer, visited(trainer), loss), fits(plain, visited(plain), loss), strict=True):
            for name, tensor in alone.params.items():
                torch.testing.assert_close(fit.params[name], tensor, **CLOSE)
        assert trainer.describe() == f"up to {lanes} clients at a time, batches of 4"


def test_a_reduction_of_its_own_is_found_out_whoever_comes_first(make_clients):
    trainer, plain = Together(), OneByOne()
    found = fits(trainer, make_clients(trainer, [1, 9]), OwnMean().loss)
    for fit, alone in zip(found, fits(plain, make_clients(plain, [1, 9]), OwnMean().loss), strict=True):
        assert all(torch.equal(fit.params[name], tensor) for name, tensor in alone.params.items())
    assert trainer.describe().startswith("one client at a time")


# --- the same bits in every repetition ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedkper", Busy])
def test_a_repetition_gives_the_same_bits(simulate, make_cell, heart, method):
    cells = [make_cell(heart, method, seed=seed) for seed in SEEDS]
    first, second = (simulate(cells, Together(lanes=5)) for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


class Stop(BaseException):
    """Ends a run as Ctrl-C does."""


def stop_after(rounds):
    def watch(done, total):
        if done == rounds:
            raise Stop

    return watch


def test_records_of_cells_say_how_they_were_trained_and_resume_to_the_same_bits(make_cell, heart, tmp_path):
    cells = [make_cell(heart, "fedkper", seed=seed) for seed in SEEDS]

    def run(results, **options):
        trainer = Together()
        return trainer.each([lambda c=cell: run_cell(c, results, trainer=trainer, **options) for cell in cells])

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "stopped", checkpoint_seconds=0, watch=stop_after(1))
    assert [record.digest for record in run(tmp_path / "stopped")] == [record.digest for record in whole]
    assert {record.info.environment.training for record in whole} == {"up to 12 clients at a time, batches of 12"}


# --- what is trained one client at a time ---------------------------------------------------------------------------


class Closure(Method):
    def client_update(self, client):
        anchor = client.params["head.bias"]

        def loss(client, batch):
            return self.loss(client, batch) + (batch.params["head.bias"] - anchor).square().sum()

        return client.upload(client.fit(client.params, loss).params)


class Default(Method):
    def client_update(self, client):
        def loss(client, batch, scale=1 / client.n):
            return scale * Method().loss(client, batch)

        return client.upload(client.fit(client.params, loss).params)


class Edits(Method):
    def client_update(self, client):
        edit = lambda _, name, gradient, w: gradient + 0.01 * client.initial[name]  # noqa: E731
        return client.upload(client.fit(client.params, self.loss, edit_gradients=edit).params)


class Item(Method):
    def loss(self, client, batch):
        loss = super().loss(client, batch)
        return loss * (1 + 0.1 * loss.item())


class Branch(Method):
    def loss(self, client, batch):
        loss = super().loss(client, batch)
        return 2 * loss if loss > 0.5 else loss


class LooksAround(Method):
    def loss(self, client, batch):
        return super().loss(client, batch) / (1 + client.inputs.abs().mean())


class OwnTeacher(Method):
    def loss(self, client, batch):
        teacher = client.frozen({**client.params})[batch].logits
        return super().loss(client, batch) + batch.mean((batch.logits - teacher).square().sum(dim=1))


class OwnMean(Method):
    def loss(self, client, batch):
        return batch.task_loss(batch.logits).mean()


class InPlace(Method):
    def init_client(self, client):
        client.state = {"steps": torch.ones(1)}

    def loss(self, client, batch):
        return super().loss(client, batch) / client.state["steps"].add_(1).squeeze()


class Until(Method):
    def client_update(self, client):
        fit = client.fit(client.params, self.loss, until=lambda losses: len(losses) == 3)
        return client.upload(fit.params)


class Draws(Method):
    def loss(self, client, batch):
        return super().loss(client, batch) * (1 + client.rng("noise").random())


FALLS_BACK = [
    (Closure, "Closure.client_update.loss holds values of one client (a closure)"),
    (Default, "Default.client_update.loss holds values of one client (a closure)"),
    (
        Edits,
        "Method.loss is trained with Edits.client_update.<lambda>, which holds values of one client (a closure)",
    ),
    (Item, "Item.loss calls .item() or branches on a tensor"),
    (Branch, "Branch.loss calls .item() or branches on a tensor"),
    (LooksAround, "LooksAround.loss reads client.inputs"),
    (OwnTeacher, "OwnTeacher.loss freezes a model that it makes itself"),
    (OwnMean, "OwnMean.loss reduces over a batch by other means than batch.mean"),
    (InPlace, "InPlace.loss changes a tensor of its client in place"),
    (Until, "Method.loss is asked after each step whether to stop"),
    (Draws, "Draws.loss reads client.rng"),
]


@pytest.mark.parametrize(("method", "reason"), FALLS_BACK, ids=lambda value: getattr(value, "__name__", ""))
def test_the_rest_is_trained_one_by_one_to_the_same_bits(simulate, make_cell, heart, method, reason):
    cells, trainer = [make_cell(heart, method, seed=seed) for seed in SEEDS[:2]], Together()
    for found, cell in zip(simulate(cells, trainer), cells, strict=True):
        (plain,) = simulate([cell])
        assert same(found, plain)
        assert found.rounds["forward_samples"] == plain.rounds["forward_samples"]
    assert trainer.describe() == f"one client at a time: {reason}"


class Mixed(Method):
    def client_update(self, client):
        first = client.fit(client.params, self.loss, until=lambda losses: len(losses) == 2, stream="first")
        return client.upload(client.fit(first.params, self.loss).params)


def test_a_method_may_be_trained_in_both_ways(simulate, make_cell, heart):
    trainer = Together()
    (found,) = simulate([make_cell(heart, Mixed)], trainer)
    assert_close(found, *simulate([make_cell(heart, Mixed)]))
    assert trainer.describe() == (
        "up to 4 clients at a time, batches of 12; "
        "one client at a time: Method.loss is asked after each step whether to stop"
    )


# --- errors and interrupts ------------------------------------------------------------------------------------------


def kept(procedure):
    def run():
        try:
            return procedure()
        except MethodError as error:
            return error

    return run


def test_a_cell_that_fails_costs_only_itself(start, make_cell, heart):
    """The second cell's model is NaN from its second round on; the third has a method that then raises."""
    trainer = Together()
    cells = [make_cell(heart, "fedprox", seed=seed) for seed in (*SEEDS, 4)]
    simulations = [start(cell, trainer=trainer) for cell in cells]

    def run(simulation):
        simulation.round()
        if simulation is simulations[1]:
            simulation.server.params = {name: tensor * np.nan for name, tensor in simulation.server.params.items()}
        if simulation is simulations[2]:
            raise MethodError("broken")
        simulation.round()

    outcomes = trainer.each([kept(lambda simulation=simulation: run(simulation)) for simulation in simulations])
    assert [type(outcome) for outcome in outcomes] == [type(None), MethodError, MethodError, type(None)]
    assert str(outcomes[1]).startswith("the loss of client 0 in round 1 became nan")
    for i in (0, 3):
        plain = start(cells[i])
        for _ in range(2):
            plain.round()
        assert_close(simulations[i], plain)


class Vector(Method):
    def loss(self, client, batch):
        return batch.task_loss(batch.logits)


class Constant(Method):
    def loss(self, client, batch):
        return batch.x.mean()


class Forgetful(Method):
    def loss(self, client, batch):
        return super().loss(client, batch) * client.state["scale"]


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (Vector, MethodError, r"loss of client 0 in round 0 is a tensor of shape \(12,\)"),
        (Constant, MethodError, r"loss of client 0 in round 0 is a tensor without a gradient"),
        (Forgetful, KeyError, "scale"),
    ],
)
def test_a_broken_loss_is_stopped_as_it_is_alone(simulate, make_cell, heart, method, error, message):
    with pytest.raises(error, match=message):
        simulate([make_cell(heart, method)], Together())


def test_the_first_of_several_errors_is_raised_after_all_have_ended(make_clients):
    trainer = Together()
    clients, ended = make_clients(trainer, [5, 6, 7, 8]), []

    def procedure(client):
        client.fit(client.params, LOSS)
        if client.id in (1, 2):
            raise ValueError(f"client {client.id}")
        client.fit(client.params, LOSS)
        ended.append(client.id)

    def cell(some):
        return trainer.each([lambda client=client: procedure(client) for client in some])

    def other():
        with pytest.raises(ValueError, match="client 2"):
            cell(clients[2:])
        return "went on"

    with pytest.raises(ValueError, match="client 1"):
        trainer.each([lambda: cell(clients[:2]), other, lambda: ended.append("last")])
    assert ended == ["last", 0, 3]


def test_an_interrupt_ends_all_and_leaves_a_trainer_that_works(make_clients):
    trainer, closed = Together(), []
    clients = make_clients(trainer, [5, 6])

    def waits():
        try:
            clients[0].fit(clients[0].params, LOSS)
        finally:
            closed.append(True)

    def interrupted():
        raise Stop

    with pytest.raises(Stop):
        trainer.each([waits, interrupted, waits])
    assert closed == [True]  # the third had not begun
    assert trainer.each([lambda: trainer.each([]), lambda: 1]) == [[], 1]
    assert len(fits(trainer, clients)) == 2


def test_each_procedure_keeps_its_own_gradient_mode(make_clients):
    trainer = Together()
    clients, seen = make_clients(trainer, [5, 6]), []

    def quiet():
        with torch.no_grad():
            clients[0].fit(clients[0].params, LOSS)
            seen.append(torch.is_grad_enabled())

    def loud():
        clients[1].fit(clients[1].params, LOSS)
        seen.append(torch.is_grad_enabled())

    trainer.each([quiet, loud])
    assert seen == [False, True]
    assert torch.is_grad_enabled()


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedkper", "local"])
@pytest.mark.parametrize("task", ["heart", "blood"])
def test_on_a_gpu_a_graph_gives_the_plain_result_and_the_same_bits_again(simulate, make_cell, request, task, method):
    deterministic("cuda")
    cells = [make_cell(request.getfixturevalue(task), method, seed=seed) for seed in SEEDS]
    trainer = Together("cuda", lanes=5)
    first, second = simulate(cells, trainer, device="cuda"), simulate(cells, Together("cuda", lanes=5), device="cuda")
    for found, again, cell in zip(first, second, cells, strict=True):
        assert_close(found, *simulate([cell], device="cuda"), **CLOSE_IMAGES)
        assert same(found, again)
    assert trainer.describe() == "up to 5 clients at a time, batches of 12, as a CUDA graph"


@pytest.mark.gpu
def test_on_a_gpu_everything_a_method_may_use(simulate, make_cell, shrink):
    deterministic("cuda")
    cells = [make_cell(shrink("heart", rounds=3, local_epochs=1), Busy, seed=seed) for seed in SEEDS]
    for found, cell in zip(simulate(cells, Together("cuda"), device="cuda"), cells, strict=True):
        assert_close(found, *simulate([cell], device="cuda"), **CLOSE_IMAGES)


def test_determinism_is_for_cuda_alone():
    before = torch.are_deterministic_algorithms_enabled()
    deterministic("cpu")
    assert torch.are_deterministic_algorithms_enabled() == before
