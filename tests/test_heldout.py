"""Clients that never train: what they cannot touch, and how methods are evaluated on them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedbench import Method, MethodError, Record
from fedbench.metrics import evaluate
from fedbench.simulation import run_cell


@pytest.fixture(scope="module")
def hospitals(shrink):
    """Three hospitals that train, and one that does not."""
    return shrink("heart", rounds=3, local_epochs=1, personal_every=1).but(held_out=0.25)


@dataclass(frozen=True, kw_only=True)
class Tuned(Method):
    """FedAvg whose clients tune the model on their own data before they use it."""

    def personal(self, client):
        return client.fit(client.params, self.loss).params


@dataclass(frozen=True, kw_only=True)
class Asks(Method):
    """Asks a client for a report before the first round."""

    who: int = 0

    def query(self, server):
        return [self.who] if server.round == 0 else []

    def report(self, client):
        return client.upload({}, n=client.n)

    def receive(self, server, reports):
        server.state = {"n": reports[0]["n"]}


def run(cell, start):
    simulation = start(cell)
    for _ in range(cell.task.protocol.rounds):
        simulation.round()
    return simulation


@pytest.mark.parametrize("method", ["fedavg", "fedkper", "local", "majority", "centralised", Tuned])
def test_what_a_held_out_client_has_reaches_nobody(make_cell, hospitals, start, method):
    """Its training data are spoiled in a second run: the same model comes out, and so do the others' accuracies."""
    cell = make_cell(hospitals, method)
    simulation = run(cell, start)
    spoiled = start(cell)
    spoiled.inputs = spoiled.inputs.clone()
    spoiled.inputs[spoiled.federation.train[3]] = 0
    spoiled.targets = spoiled.targets.clone()
    spoiled.targets[spoiled.federation.train[3]] = 0
    for _ in range(3):
        spoiled.round()
    assert all(torch.equal(simulation.server.params[name], tensor) for name, tensor in spoiled.server.params.items())
    for column in ("train_loss", "weight", "bytes_down", "bytes_up"):
        values = np.stack(simulation.clients[column])
        np.testing.assert_array_equal(values, np.stack(spoiled.clients[column]))
        assert np.isnan(values[:, 3]).all()
    for column in ("global_accuracy", "local_accuracy", "personal_accuracy"):
        ours, theirs = (np.stack(run.clients[column])[:, :3] for run in (simulation, spoiled))
        np.testing.assert_array_equal(ours, theirs)


def test_a_method_knows_of_those_alone_that_may_train(make_cell, hospitals, start):
    simulation = start(make_cell(hospitals))
    assert simulation.server.n_clients == 3
    assert start(make_cell(hospitals, "centralised")).server.n_clients == 1
    majority = start(make_cell(hospitals, "majority"))
    majority.round()
    trained = np.concatenate(majority.federation.train[:3])
    assert majority.server.state["counts"].tolist() == torch.bincount(majority.targets[trained]).tolist()


def test_a_query_of_a_held_out_client_is_refused(make_cell, hospitals, start):
    simulation = start(make_cell(hospitals, Asks, who=2))
    simulation.round()
    assert simulation.server.state["n"] == len(simulation.federation.train[2])
    for who in (3, -1):
        with pytest.raises(MethodError, match=rf"asks: the query in round 0 asks the clients \[{who}\]; .* which is 3"):
            start(make_cell(hospitals, Asks, who=who)).round()


def test_a_held_out_client_is_served_by_the_method_s_own_rule(make_cell, hospitals, start):
    """The global model, what the client makes of it, or a model that was never trained."""
    for method in ("fedavg", Tuned, "local"):
        simulation = run(make_cell(hospitals, method), start)
        personal, _ = simulation._personal(3)
        moved = {name: not torch.equal(personal[name], simulation.server.params[name]) for name in personal}
        if method == "local":
            assert all(torch.equal(personal[name], simulation.initial[name]) for name in personal)
        else:
            assert any(moved.values()) is (method is Tuned)
        (accuracy,) = np.stack(simulation.clients["personal_accuracy"])[-1:, 3]
        ids = simulation.federation.tests[3]
        logits = simulation.model(personal, simulation.inputs[ids]).logits
        assert accuracy == float((logits.argmax(dim=1) == simulation.targets[ids]).double().mean())


def test_the_record_says_who_was_held_out_and_how_it_fared(make_cell, hospitals, tmp_path):
    record = run_cell(make_cell(hospitals, Tuned), tmp_path)
    outcome, arrays, clients = record.outcome, record.arrays, record.clients.to_pydict()
    assert arrays["held_out"].tolist() == outcome.held_out.tolist() == [False, False, False, True]
    assert not arrays["schedule"][:, 3].any()
    assert arrays["train_class_counts"][3].sum() > 0
    values = evaluate(outcome)
    last = {name: clients[name][-4:] for name in ("personal_accuracy", "global_accuracy")}
    assert values["held_out_accuracy"] == pytest.approx(last["personal_accuracy"][3])
    assert values["held_out_global_accuracy"] == pytest.approx(last["global_accuracy"][3])
    assert values["personal_accuracy"] == pytest.approx(np.mean(last["personal_accuracy"][:3]))
    assert values["worst_all_accuracy"] == pytest.approx(min(last["personal_accuracy"][:3]))
    Record.open(record.folder).verify()


def test_a_record_without_held_out_clients_has_no_such_array(make_cell, shrink, tmp_path):
    record = run_cell(make_cell(shrink("heart", rounds=1, local_epochs=1)), tmp_path)
    assert "held_out" not in record.arrays
    assert record.outcome.held_out is None
    assert "held_out" not in record.info.identity["task"]
    values = evaluate(record.outcome)
    assert values["held_out_accuracy"] is values["held_out_global_accuracy"] is None
    assert values["personal_accuracy"] == pytest.approx(np.mean(record.clients.to_pydict()["personal_accuracy"]))


def test_held_out_accuracy_by_hand(make_outcome):
    # Clients of 1, 2 and 4 samples; the last two are held out: personal 1/2 and 1/4, global 2/2 and 3/4.
    outcome = make_outcome(
        rounds=2,
        sizes=(1, 2, 4),
        sampled=[[1, 0, 0], [1, 0, 0]],
        on_clients=[[0] * 7, [0, 1, 1, 1, 1, 1, 0]],
        personal_rounds=[1],
        personal=[[1, 1, 0, 1, 0, 0, 0]],
        held_out=np.array([False, True, True]),
    )
    values = evaluate(outcome)
    assert values["held_out_accuracy"] == (1 / 2 + 1 / 4) / 2
    assert values["held_out_global_accuracy"] == (1 + 3 / 4) / 2
    assert values["personal_accuracy"] == values["worst_all_accuracy"] == 1.0
    nobody = replace(outcome, held_out=np.zeros(3, dtype=bool))
    assert evaluate(nobody)["held_out_accuracy"] is None
    assert evaluate(nobody)["personal_accuracy"] == evaluate(replace(outcome, held_out=None))["personal_accuracy"]
