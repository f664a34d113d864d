"""The simulation: same bits again, resume, isolation, broken methods, what a record holds."""

import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedbench import Download, Method, MethodError, Record, RecordError, Upload
from fedbench.checkpoint import States
from fedbench.metrics import evaluate
from fedbench.schema import Manifest, RunInfo
from fedbench.simulation import run_cell


@pytest.fixture(scope="module")
def heart(shrink):
    return shrink("heart", rounds=4, local_epochs=1, personal_every=2)


@pytest.fixture(scope="module")
def blood(shrink):
    return shrink("blood-mini", rounds=2, local_epochs=1)


@dataclass(frozen=True, kw_only=True)
class ServerMomentum(Method):
    """FedAvg with a momentum at the server: a method with state there."""

    def init_server(self, server):
        server.state["speed"] = {name: torch.zeros_like(tensor) for name, tensor in server.params.items()}
        server.state["updates"] = 0

    def server_update(self, server, uploads, weights):
        mean = server.average(uploads, weights)
        speed = {n: 0.9 * v + mean[n] - server.params[n] for n, v in server.state["speed"].items()}
        server.state = {"speed": speed, "updates": server.state["updates"] + 1}
        server.params = {name: tensor + speed[name] for name, tensor in server.params.items()}


class Stop(BaseException):
    """Ends a run as Ctrl-C does."""


def stop_after(rounds):
    def watch(done, total):
        if done == rounds:
            raise Stop

    return watch


@pytest.mark.parametrize("track", ["faithful", "robust"])
def test_a_repeat_gives_the_same_digest_and_another_seed_does_not(make_cell, heart, tmp_path, track):
    first = run_cell(make_cell(heart, track=track), tmp_path / "a")
    again = run_cell(make_cell(heart, track=track), tmp_path / "b")
    other = run_cell(make_cell(heart, track=track, seed=2), tmp_path / "a")
    assert first.digest == again.digest != other.digest
    ids, others = first.info.seed_ids, other.info.seed_ids
    assert ids.init != others.init
    assert (ids.partition == others.partition) is (track == "faithful")


@pytest.mark.parametrize("method", ["fedavg", "fedkper", "local", "majority", ServerMomentum])
def test_a_run_stopped_at_any_round_goes_on_to_the_same_bits(make_cell, heart, tmp_path, method):
    cell = make_cell(heart, method)
    whole = run_cell(cell, tmp_path / "whole")
    for rounds in range(1, heart.protocol.rounds):
        results = tmp_path / f"stopped-{rounds}"
        with pytest.raises(Stop):
            run_cell(cell, results, checkpoint_seconds=0, watch=stop_after(rounds + 1))
        started = []
        resumed = run_cell(cell, results, watch=lambda done, total, log=started: log.append(done))
        assert started[0] == rounds
        assert resumed.digest == whole.digest
        assert [path.name for path in cell.folder(results).parent.iterdir()] == ["seed-1"]


class FullDisk(Method):
    def weights(self, server, uploads):
        if server.round == 2:
            raise OSError(28, "No space left on device")
        return super().weights(server, uploads)


class Wrong(Method):
    def weights(self, server, uploads):
        if server.round == 2:
            raise IndexError("wrong")
        return super().weights(server, uploads)


@pytest.mark.parametrize(("method", "error", "kept"), [(FullDisk, OSError, True), (Wrong, IndexError, False)])
def test_a_full_disk_keeps_the_checkpoint_and_a_broken_method_does_not(make_cell, heart, tmp_path, method, error, kept):
    cell = make_cell(heart, method)
    with pytest.raises(error):
        run_cell(cell, tmp_path, checkpoint_seconds=0)
    assert cell.folder(tmp_path).with_name("seed-1.partial").exists() is kept


def test_a_checkpoint_of_other_versions_is_not_gone_on_from(make_cell, heart, tmp_path, monkeypatch):
    cell, started = make_cell(heart), []
    with pytest.raises(Stop):
        run_cell(cell, tmp_path, checkpoint_seconds=0, watch=stop_after(3))
    monkeypatch.setattr("fedbench.simulation.versions", lambda: "fedbench 99")
    run_cell(cell, tmp_path, watch=lambda done, total: started.append(done))
    assert started[0] == 0


def test_images_resume_to_the_same_bits(make_cell, blood, tmp_path):
    cell = make_cell(blood, "fedkper")
    whole = run_cell(cell, tmp_path / "whole")
    with pytest.raises(Stop):
        run_cell(cell, tmp_path / "stopped", checkpoint_seconds=0, watch=stop_after(2))
    assert run_cell(cell, tmp_path / "stopped").digest == whole.digest


def test_when_the_time_is_up_the_checkpoint_keeps_what_is_done(make_cell, heart, tmp_path, monkeypatch):
    cell, started = make_cell(heart, "fedkper"), []
    whole = run_cell(cell, tmp_path / "whole")
    clock = SimpleNamespace(time=iter([1.0, 2.0, 3.0]).__next__, monotonic=time.monotonic, perf_counter=lambda: 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("fedbench.simulation.time", clock)
        assert run_cell(cell, tmp_path / "stopped", stop_at=3.0) is None
    resumed = run_cell(cell, tmp_path / "stopped", watch=lambda done, total: started.append(done))
    assert started[0] == 2
    assert resumed.digest == whole.digest


def test_states_that_do_not_fit_into_memory_give_the_same_bits(make_cell, heart, tmp_path, monkeypatch):
    """With no room at all every state is a file as soon as the next one comes; then also with a stop between."""
    cell = make_cell(heart, "local")
    whole = run_cell(cell, tmp_path / "whole")
    monkeypatch.setattr("fedbench.simulation.States", partial(States, memory=0))
    assert run_cell(cell, tmp_path / "small").digest == whole.digest
    with pytest.raises(Stop):
        run_cell(cell, tmp_path / "stopped", checkpoint_seconds=0, watch=stop_after(2))
    assert run_cell(cell, tmp_path / "stopped").digest == whole.digest
    assert not cell.folder(tmp_path / "stopped").with_name("seed-1.partial").exists()


def test_an_unchanged_personal_model_is_not_evaluated_again(make_cell, shrink, start):
    """Local training on two of eight clients a round: the others' models were evaluated the round before."""
    simulation = start(make_cell(shrink("blood-mini", rounds=2, local_epochs=1, participation=0.25), "local"))
    seen = [[], []]
    apply = simulation.evaluator._apply
    for t in range(2):
        simulation.evaluator._apply = lambda predictor, x, t=t: seen[t].append(len(x)) or apply(predictor, x)
        simulation.protocol = simulation.protocol.but(personal_every=1)
        simulation.round()
    tests = [len(ids) for ids in simulation.federation.tests]
    sampled = [sum(tests[k] for k in ids) for ids in simulation.federation.schedule]
    assert sum(seen[0]) == sampled[0] + sum(tests)  # local models of the sampled, personal models of all
    assert sum(seen[1]) == 2 * sampled[1]


def test_methods_share_the_tasks_draws(make_cell, heart, tmp_path):
    ids = {run_cell(make_cell(heart, name), tmp_path).info.seed_ids for name in ("fedavg", "fedkper", "local")}
    assert len(ids) == 1


def test_a_record_holds_what_happened(start, make_cell, blood, tmp_path):
    record = run_cell(make_cell(blood), tmp_path, keep_weights=True)
    data = blood.data.load()
    outcome, info, arrays = record.outcome, record.info, record.arrays
    assert info.identity["method"] == {"name": "fedavg", "version": 1, "family": "global", "hyperparameters": {}}
    assert info.models == ("global", "local", "personal")
    assert arrays["test_labels"].tolist() == data.targets[data.test].tolist()
    assert arrays["global_test_predictions"].shape == (2, len(data.test))
    assert outcome.sampled.sum(axis=1).tolist() == [4, 4]
    assert not (set(arrays["client_test_ids"]) & set(data.test))  # the paper's local tests are training images
    assert arrays["train_class_counts"].sum() + len(arrays["client_test_ids"]) == len(data.train)
    sampled = outcome.sampled
    rows = record.clients.to_pydict()
    for t, k, weight, local in zip(rows["round"], rows["client"], rows["weight"], rows["local_accuracy"], strict=True):
        assert (weight is not None) == (local is not None) == bool(sampled[t, k])
    counts = arrays["train_class_counts"].sum(axis=1)
    expected = counts * sampled[0] / (counts * sampled[0]).sum()
    assert [w or 0.0 for w in rows["weight"][:8]] == pytest.approx(expected.tolist())

    weights = load_file(record.folder / "weights.safetensors")
    params = {name.removeprefix("global/"): t for name, t in weights.items() if name.startswith("global/")}
    simulation = start(make_cell(blood))
    predictions = simulation.evaluator.everywhere(params).predictions
    assert (predictions == arrays["global_test_predictions"][-1]).all()
    assert {name.split("/")[0] for name in weights} == {"global", *(f"client-{k}" for k in range(8))}


def test_stored_accuracies_are_those_of_the_stored_predictions(make_cell, blood, tmp_path):
    record = run_cell(make_cell(blood), tmp_path)
    rounds, outcome = record.rounds.to_pydict(), record.outcome
    right = outcome.test_predictions == outcome.test_labels
    assert rounds["global_accuracy"] == right.mean(axis=1).tolist()
    assert rounds["validation_accuracy"] == outcome.validation.mean(axis=1).tolist()
    on_clients = np.array(record.clients.to_pydict()["global_accuracy"]).reshape(2, 8)
    assert np.allclose(on_clients, outcome.per_client(outcome.on_clients))
    values = evaluate(outcome)
    assert values["global_accuracy_mean"] == pytest.approx(right.mean())
    assert 0 <= values["global_auc"] <= 1


def test_personal_models_of_a_global_method_are_the_global_model(make_cell, heart, tmp_path):
    outcome = run_cell(make_cell(heart), tmp_path).outcome
    assert outcome.personal_rounds.tolist() == [1, 3]
    assert (outcome.personal == outcome.on_clients[[1, 3]]).all()


def test_evaluation_changes_nothing(make_cell, shrink, tmp_path):
    """Evaluating personal models in every round, or in the last alone, gives the same models."""
    often, once = shrink("heart", rounds=3, personal_every=1), shrink("heart", rounds=3, personal_every=0)
    runs = [run_cell(make_cell(task, "local"), tmp_path, keep_weights=True) for task in (often, once)]
    a, b = (load_file(record.folder / "weights.safetensors") for record in runs)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# --- broken methods: each is stopped with the rule that it breaks ------------------------------------------------


class NanWeights(Method):
    def weights(self, server, uploads):
        return [float("nan")] * len(uploads)


class HeavyWeights(Method):
    def weights(self, server, uploads):
        return [1.0] * len(uploads)


class TooFewWeights(Method):
    def weights(self, server, uploads):
        return [1.0]


class NotFinite(Method):
    def server_update(self, server, uploads, weights):
        server.params = {name: tensor * float("inf") for name, tensor in server.params.items()}


class SometimesLocal(Method):
    def client_update(self, client):
        return client.upload(client.params if client.round else {})

    def server_update(self, server, uploads, weights):
        pass


class NoLocalModelSomewhere(Method):
    def client_update(self, client):
        upload = super().client_update(client)
        client.local = None if client.id == 0 else client.local
        return upload


class NoPersonalModelSomewhere(Method):
    def personal(self, client):
        return client.params if client.id else None


class Pretender(Method):
    def client_update(self, client):
        return Upload(client.id, 10**9, client.params)


class SendsNothing(Method):
    def client_update(self, client):
        return None


class SendsNan(Method):
    def client_update(self, client):
        return client.upload(client.params, score=float("nan"))


class Exploding(Method):
    def client_update(self, client):
        return client.upload({name: tensor / 0 for name, tensor in client.params.items()})


class Leaking(Method):
    def shared(self, name):
        return not name.startswith("head")

    def client_update(self, client):
        return Upload(client.id, client.n, client.params)


class SendsText(Method):
    def client_update(self, client):
        return client.upload(client.params, note="hello")


class KeepsObjects(Method):
    def client_update(self, client):
        client.state = {"seen": {1, 2}}
        return client.upload(client.params)


class QueriesInVain(Method):
    def query(self, server):
        return [0]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (NanWeights, r"nanweights: the weights of round 0 are \[nan, nan, nan, nan\].*finite"),
        (HeavyWeights, r"the weights of round 0 are .*sum to one"),
        (TooFewWeights, r"\[1.0\] for 4 uploads"),
        (NotFinite, r"outputs of an evaluated model are not finite"),
        (SometimesLocal, r"sometimeslocal: a local model in 3 of 4 rounds; a method has one in every round, or none"),
        (NoLocalModelSomewhere, r"clients \[0\] have no local model in round 0, others have"),
        (NoPersonalModelSomewhere, r"clients \[0\] have no personal model in round 1, others have"),
        (Pretender, r"upload of client 0 in round 0 claims to be of client 0 with 1000000000 samples, not 202"),
        (SendsNothing, r"sendsnothing: the upload of client 0 in round 0 is a NoneType; make it with client.upload"),
        (SendsNan, r"sendsnan: the upload of client 0 in round 0 is not finite in score"),
        (Exploding, r"exploding: the upload of client 0 in round 0 is not finite in fc1.weight"),
        (Leaking, r"leaking: the upload of client 0 in round 0 holds the private tensors \['head.weight'"),
        (SendsText, r"a str cannot be sent"),
        (KeepsObjects, r"state: seen is a set"),
        (QueriesInVain, r"queries clients but defines no report"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_method_is_stopped_by_name(make_cell, heart, tmp_path, method, message):
    cell = make_cell(heart, method)
    with pytest.raises(MethodError, match=message):
        run_cell(cell, tmp_path, checkpoint_seconds=0)
    assert not list(tmp_path.rglob("seed-*"))


class Vandal(Method):
    """Overwrites in place everything that it is handed."""

    def client_update(self, client):
        upload = super().client_update(client)
        for tensor in client.received.params.values():
            tensor.zero_()
        return upload


def test_a_client_cannot_change_what_the_next_one_is_sent(start, make_cell, heart, tmp_path):
    vandal, honest = (start(make_cell(heart, kind)) for kind in (Vandal, Method))
    for simulation in (vandal, honest):
        simulation.round()
    assert all(torch.equal(vandal.server.params[name], tensor) for name, tensor in honest.server.params.items())


class Counting(Method):
    """Client state that counts visits, to see that it is kept for each client alone."""

    def init_client(self, client):
        client.state["visits"] = torch.zeros(1)

    def client_update(self, client):
        client.state = {**client.state, "visits": client.state["visits"] + 1}
        return super().client_update(client)


def test_state_is_kept_for_each_client_alone(start, make_cell, blood):
    simulation = start(make_cell(blood, Counting))
    for _ in range(2):
        simulation.round()
    visits = {k: int(state["visits"]) for k, state in simulation.states.items()}
    schedule = np.concatenate(simulation.federation.schedule)
    assert visits == {k: int((schedule == k).sum()) for k in set(schedule.tolist())}


class Chatty(Method):
    """Sends two numbers down and a tensor up, to see that they are counted."""

    def broadcast(self, server, client_id):
        return Download(server.download().params, {"temperature": 1.0, "table": {"row": torch.zeros(3)}})

    def client_update(self, client):
        return client.upload(client.fit(client.params, self.loss).params, extra=torch.zeros(5, dtype=torch.float64))


def test_traffic_is_counted_from_real_payloads(start, make_cell, heart):
    simulation = start(make_cell(heart, Chatty))
    simulation.round()
    model = 4 * sum(tensor.numel() for tensor in simulation.initial.values())
    assert simulation.rounds["bytes_down"][0] == 4 * (model + 8 + 12)
    assert simulation.rounds["bytes_up"][0] == 4 * (model + 40 + 8)


def both(start, make_cell, task, *methods):
    simulations = [start(make_cell(task, method)) for method in methods]
    for simulation in simulations:
        for _ in range(task.protocol.rounds):
            simulation.round()
    return simulations


def arrays(simulation, name):
    return np.stack(simulation.arrays[name])


class EvaluatesItsStart(Method):
    """Its global model for evaluation is not the one that clients hold."""

    def predictor(self, server):
        return dict(server.initial)


def test_personal_models_are_what_clients_hold_whatever_the_global_one_is(start, make_cell, heart):
    odd, plain = both(start, make_cell, heart, EvaluatesItsStart, Method)
    assert (arrays(odd, "personal_client_correct") == arrays(plain, "personal_client_correct")).all()
    assert (arrays(odd, "global_client_correct") != arrays(plain, "global_client_correct")).any()


class SpoilsUploads(Method):
    def server_update(self, server, uploads, weights):
        super().server_update(server, uploads, weights)
        for upload in uploads:
            for tensor in upload.params.values():
                tensor.zero_()


def test_the_server_cannot_change_what_a_client_holds(start, make_cell, heart):
    odd, plain = both(start, make_cell, heart, SpoilsUploads, Method)
    assert (arrays(odd, "local_client_correct") == arrays(plain, "local_client_correct")).all()


class SpoilsItsState(Method):
    """Trains a model a client, and overwrites it in place when it is asked for the personal model."""

    def shared(self, name):
        return name.startswith("fc1")

    def personal(self, client):
        for tensor in client.state.get("private", {}).values():
            tensor.zero_()
        for tensor in client.initial.values():
            tensor.zero_()
        return client.params


def test_evaluation_cannot_change_training(start, make_cell, shrink):
    tasks = [shrink("heart", rounds=3, personal_every=every) for every in (0, 1)]
    a, b = (both(start, make_cell, task, SpoilsItsState)[0].server.params for task in tasks)
    assert all(torch.equal(a[name], b[name]) for name in a)


class FineTunes(Method):
    def personal(self, client):
        return client.fit(client.params, self.loss, stream="adapt").params


def test_stored_personal_models_are_those_that_were_evaluated(start, make_cell, heart, tmp_path):
    cell = make_cell(heart, FineTunes)
    record = run_cell(cell, tmp_path, keep_weights=True)
    weights = load_file(record.folder / "weights.safetensors")
    simulation, outcome = start(cell), record.outcome
    for k in range(4):
        model = {n.removeprefix(f"client-{k}/"): t for n, t in weights.items() if n.startswith(f"client-{k}/")}
        stored = outcome.personal[-1][outcome.offsets[k] : outcome.offsets[k + 1]]
        assert (simulation.evaluator.on_client(model, k) == stored).all()
    adapted = record.rounds.column("adapt_samples").to_pylist()
    assert adapted == [None, sum(len(ids) for ids in simulation.federation.train)] * 2


class DrawsAtStart(Method):
    def init_client(self, client):
        client.state["draw"] = float(client.rng("start", every_round=False).normal())


def test_a_draw_at_the_first_visit_does_not_depend_on_when_that_is(start, make_cell, blood):
    simulation = start(make_cell(blood, DrawsAtStart))
    draws = []
    for t in range(2):
        simulation.server.round = t
        draws.append(simulation._client(0, 10).state["draw"])
    assert draws[0] == draws[1] != simulation._client(1, 10).state["draw"]


def test_pooling_is_for_reference_points_only(make_cell, heart):
    class Cheater(Method):
        pooled = True

    with pytest.raises(MethodError, match="Cheater pools all clients' data: that is for reference points only"):
        make_cell(heart, Cheater)


@pytest.mark.parametrize("method", ["fedkper", "majority"])
def test_what_clients_sent_adds_up_to_the_round(make_cell, heart, tmp_path, method):
    record = run_cell(make_cell(heart, method), tmp_path)
    record.verify()
    rounds, clients = record.rounds.to_pydict(), record.clients.to_pydict()
    for column in ("bytes_up", "bytes_down"):
        sums = [0] * len(rounds["round"])
        for t, sent in zip(clients["round"], clients[column], strict=True):
            sums[t] += sent or 0
        assert sums == rounds[column]


def test_the_number_of_threads_of_the_caller_does_not_matter(make_cell, blood, tmp_path):
    cell, before = make_cell(blood), torch.get_num_threads()
    one = run_cell(cell, tmp_path / "one")
    torch.set_num_threads(2)
    try:
        two = run_cell(cell, tmp_path / "two")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert one.digest == two.digest


def test_a_tampered_digest_or_hash_is_found(make_cell, heart, tmp_path):
    record = run_cell(make_cell(heart), tmp_path)
    for name, old, message in (("manifest.json", record.digest, "digest"), ("run.json", record.info.hash, "hash")):
        path = record.folder / name
        text = path.read_text()
        path.write_text(text.replace(old, "f" * len(old)))
        changed = Record(record.folder, *(read(record.folder) for read in (read_info, read_manifest)))
        with pytest.raises(RecordError, match=message):
            changed.verify()
        path.write_text(text)


def read_info(folder):
    return RunInfo.model_validate_json((folder / "run.json").read_text())


def read_manifest(folder):
    return Manifest.model_validate_json((folder / "manifest.json").read_text())
