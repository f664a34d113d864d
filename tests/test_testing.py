"""The conformance suite: built-ins keep to every rule, and each broken method breaks the one that it was made for."""

import colorsys
import random
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pytest
import torch
from annotated_types import Ge

from fedbench import (
    Client,
    Download,
    Limit,
    Method,
    MethodError,
    Range,
    Upload,
    is_running_statistic,
    registry,
    simplex,
)
from fedbench.federation import federate
from fedbench.simulation import one_thread
from fedbench.testing import HARD, HARD_IMAGES, RULES, TABLE, Finding, assert_conforms, check, check_method, elsewhere

CARD = """Pull every weight a little towards zero.

Source: made up for this test, 2026. Deviations: none.

Cost: as FedAvg.
"""
BROKEN = []


def breaks(rule):
    """Enter a method among the broken ones, with the one rule that it breaks."""

    def entered(method):
        if method.__doc__ is None or method.__doc__.startswith(f"{method.__name__}("):
            method.__doc__ = CARD
        BROKEN.append(pytest.param(method, rule, id=method.__name__))
        return method

    return entered


def sound(method):
    method.__doc__ = CARD
    return method


@sound
class Sound(Method):
    def loss(self, client, batch):
        return super().loss(client, batch) + 0.05 * sum(w.square().sum() for w in batch.params.values())

    def trained(self, client):
        return client.fit(client.params, self.loss).params


class Personal(Sound):
    def shared(self, name):
        return not name.startswith("head.")


# --- what is written ------------------------------------------------------------------------------------------------


@breaks("hyperparameters")
@dataclass(frozen=True, kw_only=True)
class NoDefault(Sound):
    mu: float


@breaks("hyperparameters")
class NotDecorated(Sound):
    mu: float = 1.0


@breaks("space")
class SearchesInVain(Sound):
    space = (Range("nu", 0.1, 1.0, source="the paper"),)


def card(parameters):
    return CARD.replace("Cost", f"Parameters\n----------\n{parameters}\n\nCost")


@breaks("space")
@dataclass(frozen=True, kw_only=True)
class SearchesBelowItsRange(Sound):
    __doc__ = card("mu : float, >= 0\n    Strength.")
    mu: Annotated[float, Ge(0)] = 1.0
    space = (Range("mu", -1.0, 1.0, source="the paper"),)


class NoDocstring(Sound):
    pass


BROKEN.append(pytest.param(NoDocstring, "documentation", id="NoDocstring"))


@breaks("documentation")
class NoCost(Sound):
    __doc__ = CARD.replace("Cost", "Price")


@breaks("documentation")
class NoSource(Sound):
    __doc__ = CARD.replace(", 2026", "")


@breaks("documentation")
@dataclass(frozen=True, kw_only=True)
class NoSymbol(Sound):
    __doc__ = card("mu : float\n    Strength.")
    mu: float = 1.0


# --- one run --------------------------------------------------------------------------------------------------------


@breaks("weights")
class HeavyWeights(Sound):
    def weights(self, server, uploads):
        return [2 / len(uploads)] * len(uploads)


@breaks("weights")
class NegativeWeights(Sound):
    def weights(self, server, uploads):
        return [2.0, -1.0]


@breaks("weights")
class NoWeights(Sound):
    def weights(self, server, uploads):
        return simplex(0 for _ in uploads)


@breaks("private")
class SendsItsHead(Personal):
    def client_update(self, client):
        return Upload(client.id, client.n, self.trained(client))


@breaks("private")
class IsSentAHead(Personal):
    def broadcast(self, server, client_id):
        return Download(server.params)


@breaks("finite")
class NanLoss(Sound):
    def loss(self, client, batch):
        return super().loss(client, batch) * (float("nan") if client.round else 1.0)


@breaks("finite")
class NanUpload(Sound):
    def client_update(self, client):
        return client.upload({name: tensor / 0 for name, tensor in self.trained(client).items()})


@breaks("finite")
class NanScore(Sound):
    def client_update(self, client):
        return client.upload(self.trained(client), score=float("nan"))


@breaks("finite")
class InfiniteServer(Sound):
    def server_update(self, server, uploads, weights):
        server.params = {name: tensor * float("inf") for name, tensor in server.params.items()}


@breaks("state")
class KeepsASet(Sound):
    def client_update(self, client):
        client.state = {"seen": {1, 2}}
        return super().client_update(client)


@breaks("state")
class KeepsAList(Sound):
    def server_update(self, server, uploads, weights):
        super().server_update(server, uploads, weights)
        server.state = {"seen": [upload.client for upload in uploads]}


@breaks("state")
class KeepsGradients(Sound):
    def client_update(self, client):
        leaf = torch.ones(3, requires_grad=True)
        client.state = {"leaf": 2 * leaf}
        return super().client_update(client)


@breaks("run")
class Stumbles(Sound):
    def client_update(self, client):
        return super().client_update(client) if client.round < 2 else [][client.id]


@breaks("run")
class CannotStart(Sound):
    def init_server(self, server):
        server.state = {"c": server.params["fc2.weight"]}


@breaks("run")
class Pretends(Sound):
    def client_update(self, client):
        return Upload(client.id, 10**9, self.trained(client))


@breaks("traffic")
class ClaimsHalf(Sound):
    def traffic(self, size):
        return size.shared // 2, size.shared + 8


@breaks("traffic")
class ForgetsANumber(Sound):
    def client_update(self, client):
        return client.upload(self.trained(client), score=1.0)


@breaks("traffic")
class CannotTell(Sound):
    def traffic(self, size):
        return size.shared / 0


@breaks("in-place")
class CountsInPlace(Sound):
    """Two names for one tensor: a resume makes two tensors of them, and the second no longer counts.

    Source: made up for this test, 2026. Deviations: none. Cost: as FedAvg.
    """

    def init_client(self, client):
        zero = torch.zeros(1)
        client.state = {"visits": zero, "seen": zero}

    def client_update(self, client):
        client.state["visits"].add_(1)
        return client.upload({name: w * (1 - 0.01 * client.state["seen"]) for name, w in self.trained(client).items()})


@breaks("in-place")
class FillsItsTable(Sound):
    def init_server(self, server):
        server.state = {"models": {}}

    def server_update(self, server, uploads, weights):
        super().server_update(server, uploads, weights)
        for upload in uploads:
            server.state["models"][str(upload.client)] = upload.params


@breaks("in-place")
class OverwritesTheModel(Sound):
    def server_update(self, server, uploads, weights):
        for name, tensor in server.average(uploads, weights).items():
            server.params[name].copy_(tensor)


@breaks("in-place")
class SpoilsTheStart(Sound):
    def init_server(self, server):
        for tensor in server.initial.values():
            tensor.zero_()


@breaks("read-only")
class ShrinksWhatItBroadcasts(Sound):
    def broadcast(self, server, client_id):
        for tensor in server.params.values():
            tensor.mul_(0.9)
        return server.download()


@breaks("read-only")
class CountsBroadcasts(Sound):
    def init_server(self, server):
        server.state = {"asked": 0}

    def broadcast(self, server, client_id):
        server.state = {"asked": server.state["asked"] + 1}
        return server.download()


@breaks("read-only")
class WritesToOthers(Personal):
    def client_update(self, client):
        states = simulation_of(client).states
        for k, state in list(states.items()):
            if k != client.id:
                states.put(k, {**state, "private": {n: 0 * w for n, w in state.get("private", {}).items()}}, 0)
        return super().client_update(client)


# --- several runs ---------------------------------------------------------------------------------------------------


@breaks("stateless")
class RemembersOnItsClass(Sound):
    seen: ClassVar[dict] = {}

    def client_update(self, client):
        model = self.trained(client)
        last = self.seen.get("model", model)
        self.seen["model"] = model
        return client.upload({name: 0.9 * w + 0.1 * last[name] for name, w in model.items()})


@breaks("stateless")
class RemembersOnItself(Sound):
    def client_update(self, client):
        object.__setattr__(self, "last", client.id)
        return super().client_update(client)


LAST = []


@breaks("stateless")
class RemembersInItsModule(Sound):
    def client_update(self, client):
        LAST.append(client.id)
        return super().client_update(client)


@breaks("stateless")
class RemembersInADefault(Sound):
    def client_update(self, client, seen=[]):  # noqa: B006 - the defect
        seen.append(client.id)
        return super().client_update(client)


@breaks("stateless")
class DrawsFromItsClass(Sound):
    source = np.random.default_rng(0)

    def client_update(self, client):
        return client.upload({name: w + 1e-3 * self.source.normal() for name, w in self.trained(client).items()})


@breaks("deterministic")
class DrawsFreshEntropy(Sound):
    def client_update(self, client):
        noise = np.random.default_rng().normal()
        return client.upload({name: w + 1e-3 * noise for name, w in self.trained(client).items()})


@breaks("random")
class DrawsFromTorch(Sound):
    def client_update(self, client):
        return client.upload({name: w + 1e-3 * torch.randn(w.shape) for name, w in self.trained(client).items()})


@breaks("random")
class DrawsFromNumpy(Sound):
    def server_update(self, server, uploads, weights):
        super().server_update(server, uploads, weights)
        server.params = {name: w + 1e-3 * np.random.rand() for name, w in server.params.items()}  # noqa: NPY002


@breaks("random")
class DrawsFromPython(Sound):
    def weights(self, server, uploads):
        return simplex(random.random() for _ in uploads)


@breaks("random")
class SeedsTorch(Sound):
    def client_update(self, client):
        torch.manual_seed(client.round)
        return super().client_update(client)


@breaks("random")
class DrawsAndTidiesUp(Sound):
    def client_update(self, client):
        with torch.random.fork_rng():
            noise = torch.randn(1)
        return client.upload({name: w + 1e-3 * noise for name, w in self.trained(client).items()})


@breaks("interleaved")
class RemembersElsewhere(Sound):
    """Keeps the last model where nobody looks, and forgets it when a run begins.

    Source: made up for this test, 2026. Deviations: none. Cost: as FedAvg.
    """

    def client_update(self, client):
        model = self.trained(client)
        last = getattr(colorsys, "last", model) if client.round else model
        colorsys.last = model
        return client.upload({name: 0.9 * w + 0.1 * last[name] for name, w in model.items()})


@breaks("resume")
class AsksWhichObject(Sound):
    def init_client(self, client):
        start = dict(client.initial)
        client.state = {"start": start, "own": start}

    def client_update(self, client):
        model = self.trained(client)
        untouched = client.state["own"] is client.state["start"]
        return client.upload(model if untouched else {name: 0.9 * w for name, w in model.items()})


def simulation_of(client):
    """Return the simulation that runs a client, which no method should get at."""
    return client.read_inputs.func.__self__


@breaks("isolation")
class PeeksAtTestSamples(Sound):
    def client_update(self, client):
        simulation = simulation_of(client)
        shift = 1e-3 * simulation.inputs[simulation.federation.global_test].mean()
        return client.upload({name: w + shift for name, w in self.trained(client).items()})


@breaks("isolation")
class PeeksAtTestLabels(Sound):
    def client_update(self, client):
        simulation = simulation_of(client)
        tests = simulation.federation.tests[client.id]
        return client.upload({n: w + 1e-3 * int(simulation.targets[tests[0]]) for n, w in self.trained(client).items()})


@breaks("isolation")
class PeeksAtOtherClients(Sound):
    def client_update(self, client):
        simulation = simulation_of(client)
        others = np.concatenate([ids for k, ids in enumerate(simulation.federation.train) if k != client.id])
        shift = 1e-3 * simulation.inputs[others].mean()
        return client.upload({name: w + shift for name, w in self.trained(client).items()})


@breaks("isolation")
class PeeksAtOtherStates(Sound):
    def client_update(self, client):
        known = len(simulation_of(client).states)
        client.state = {"visited": 1}
        return client.upload({name: w * (1 - 1e-3 * known) for name, w in self.trained(client).items()})


@breaks("order")
class TakesTheFirst(Sound):
    def server_update(self, server, uploads, weights):
        server.params = {**server.params, **uploads[0].params}


@breaks("hard-clients")
class DividesBySpread(Sound):
    def client_update(self, client):
        return client.upload(self.trained(client), spread=float(client.inputs.var(dim=0).mean()))

    def traffic(self, size):
        return size.shared, size.shared + 16


@breaks("batch-norm")
class ShiftsStatistics(Sound):
    def client_update(self, client):
        return client.upload({n: w - 5 if is_running_statistic(n) else w for n, w in self.trained(client).items()})


@breaks("limits")
@dataclass(frozen=True, kw_only=True)
class NeverFedAvg(Sound):
    __doc__ = card("mu : float, >= 0\n    Strength.")
    mu: float = 1.0
    limits = (Limit(at={"mu": 0.0}, equals="fedavg"),)


@breaks("limits")
class UnknownLimit(Sound):
    limits = (Limit(at={}, equals="fedavgg"),)


@breaks("active")
@dataclass(frozen=True, kw_only=True)
class AddsNothing(Method):
    __doc__ = card("mu : float, >= 0\n    Strength.")
    mu: float = 0.0

    def loss(self, client, batch):
        return super().loss(client, batch) + self.mu * sum(w.square().sum() for w in batch.params.values())


@breaks("together")
class LooksAtItsClient(Sound):
    def loss(self, client, batch):
        return super().loss(client, batch) * (2.0 if isinstance(client, Client) else 1.0)


@cache
def found(method):
    return tuple(check_method(method))


@pytest.mark.parametrize(("method", "rule"), BROKEN)
def test_a_broken_method_breaks_one_rule_and_no_other(method, rule):
    findings = found(method)
    assert {finding.rule for finding in findings} == {rule}, "\n".join(map(str, findings))
    assert all(finding.evidence and finding.mend for finding in findings)


def test_every_rule_is_broken_by_some_method():
    assert {param.values[1] for param in BROKEN} | {"processes"} == set(RULES)


HASHES_TEXT = f'''"""{CARD}"""
from fedbench import Method


class HashesText(Method):
    """Made up. Deviations: none. Cost: as FedAvg."""

    def client_update(self, client):
        shift = 1e-3 * (hash("noise") % 2**20) / 2**20
        model = client.fit(client.params, self.loss).params
        return client.upload({{name: w + shift for name, w in model.items()}})
'''


def test_a_method_that_depends_on_its_process(plugged):
    """Hashes of text, and so the order of sets of it, are others in every process."""
    plugged("acme-fl", HASHES_TEXT, methods={"hashes-text": "HashesText"})
    (finding,) = check_method(registry.methods.get("hashes-text"), name="hashes-text")
    assert finding.rule == "processes"
    assert "in another process the record has the digest " in finding.evidence
    assert "sets of text" in finding.mend


def test_a_method_that_does_not_work_in_another_process(plugged, monkeypatch):
    code = f"{HASHES_TEXT}\n\nimport sys\n\nif not hasattr(sys, 'licence'):\n    raise OSError('no licence')\n"
    plugged("acme-fl", code, methods={"hashes-text": "HashesText"})
    monkeypatch.setattr(sys, "licence", "here", raising=False)
    (finding,) = check_method(registry.methods.get("hashes-text"), name="hashes-text")
    assert finding.rule == "processes"
    assert "another process ended with fedbench.errors.PluginError: method 'hashes-text' of acme-fl 1.2 cannot be " in (
        finding.evidence
    )
    assert "OSError: no licence" in finding.evidence


def test_a_rule_can_be_left_out_and_what_is_not_registered_is_said(plugged):
    plugged("acme-fl", HASHES_TEXT, methods={"hashes-text": "HashesText"})
    method = registry.methods.get("hashes-text")
    assert "processes" not in {verdict.rule for verdict in check(method, name="hashes-text", without={"processes"})}
    verdicts = {verdict.rule: verdict for verdict in check(method, name="another")}
    assert verdicts["processes"].note == "not tried: no installed package registers it as another"


# --- what is in order -----------------------------------------------------------------------------------------------


BUILT_IN = [name for name in registry.methods.names() if name not in registry.methods.installed()]
SLOW = {"fedetf"}  # more than two seconds of a core


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in SLOW)) for n in BUILT_IN])
def test_built_in_methods_conform(name):
    assert_conforms(registry.methods.get(name), name=name, without={"processes"})


@pytest.mark.long
def test_built_in_methods_give_the_same_bits_in_another_process(make_cell, start, tmp_path):
    there = elsewhere([(name, {}) for name in BUILT_IN])
    for name, digest in zip(BUILT_IN, there, strict=True):
        simulation = start(make_cell(TABLE, name))
        with one_thread():
            for _ in range(TABLE.protocol.rounds):
                simulation.round()
            assert simulation.record(tmp_path / name, keep_weights=False).digest == digest, name


@sound
class SpoilsItsDownload(Sound):
    """Overwrites what it was sent, which is a copy."""

    def client_update(self, client):
        upload = super().client_update(client)
        for tensor in (*client.received.params.values(), *client.initial.values()):
            tensor.zero_()
        return upload


@sound
class SpoilsUploads(Sound):
    """Overwrites what the server received, which are copies."""

    def server_update(self, server, uploads, weights):
        super().server_update(server, uploads, weights)
        for upload in uploads:
            for tensor in upload.params.values():
                tensor.zero_()


@sound
class Rich(Personal):
    """Has private tensors, states at both ends, queries, draws from named streams, and adapts for evaluation."""

    def init_server(self, server):
        server.state = {"speed": {name: torch.zeros_like(w) for name, w in server.params.items()}, "counts": {}}

    def query(self, server):
        return range(server.n_clients) if server.round in (0, server.rounds) else ()

    def report(self, client):
        client.state = {**client.state, "asked": client.state.get("asked", 0) + 1}
        return client.upload({}, counts=client.class_counts)

    def receive(self, server, reports):
        server.state = {**server.state, "counts": {str(report.client): report["counts"] for report in reports}}

    def client_update(self, client):
        noise = 1e-3 * client.rng("noise").normal()
        return client.upload({name: w + noise for name, w in self.trained(client).items()})

    def server_update(self, server, uploads, weights):
        mean = server.average(uploads, weights)
        speed = {name: 0.5 * v + mean[name] - server.params[name] for name, v in server.state["speed"].items()}
        server.params = {name: w + speed[name] for name, w in server.params.items()}
        server.state = {**server.state, "speed": speed}

    def personal(self, client):
        return client.fit(client.params, self.loss, epochs=1, stream="adapt").params


@sound
class Caches(Sound):
    """Changes nothing that could be told apart: a logger, and a number that depends on hyperparameters alone."""

    import logging

    log = logging.getLogger("fedbench.tests.caches")

    def client_update(self, client):
        self.log.debug("client %d", client.id)
        return super().client_update(client)


@pytest.mark.parametrize("method", [Sound, SpoilsItsDownload, SpoilsUploads, Rich, Caches])
def test_a_sound_method_conforms(method):
    assert_conforms(method)


def test_at_its_neutral_point_a_method_may_be_another():
    assert_conforms(registry.methods.get("fedprox")(mu=0.0), without={"processes"})


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_finding_names_rule_evidence_and_mend():
    assert str(Finding("weights", "they sum to 2", "halve them")) == "weights: they sum to 2; halve them."
    (finding,) = found(HeavyWeights)
    assert finding.evidence.startswith("heavyweights: the weights of round 0 are [1.0, 1.0] for 2 uploads")
    assert "fedbench.simplex" in finding.mend


@pytest.mark.parametrize(
    ("method", "evidence"),
    [
        (NoDefault, "NoDefault.mu has no default"),
        (NotDecorated, "NotDecorated.mu is annotated but no hyperparameter"),
        (SearchesInVain, "the search space of nu is of no hyperparameter"),
        (SendsItsHead, "client_update of client 1 in round 0 sends the private tensors head.weight, head.bias"),
        (NanLoss, "the loss of client 0 in round 1 became nan"),
        (NanUpload, "client_update of client 1 in round 0 sends fc1.weight, which is not finite"),
        (KeepsASet, "client.state after client_update of client 1 in round 0: state: seen is a set"),
        (KeepsGradients, "leaf holds on to its gradient"),
        (Stumbles, "client_update of client 1 in round 2: IndexError: list index out of range (test_testing.py, line"),
        (CannotStart, "init_server: KeyError: 'fc2.weight' (test_testing.py, line"),
        (CannotTell, "ZeroDivisionError: division by zero (test_testing.py, line"),
        (FillsItsTable, "server_update in round 0 changed server.state/models in place"),
        (CountsBroadcasts, "after the visit of client 1 in round 0, server/state/asked differs in 1 of 1: 0 and 1"),
        (RemembersOnItsClass, "RemembersOnItsClass.seen is not what it was before the run"),
        (DrawsFromNumpy, "the global generator of numpy is in another state after a run"),
        (AsksWhichObject, "stopped after"),
        (PeeksAtTestSamples, "with other test samples"),
        (PeeksAtOtherClients, "client_update of client 1 in round 0, with other data at all others: upload/"),
        (NeverFedAvg, "at mu=0.0 it does not equal fedavg: train_loss by client of round 0"),
        (AddsNothing, "every model and loss has the bits of fedavg"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_evidence_says_where(method, evidence):
    assert evidence in found(method)[0].evidence


def test_declared_and_measured_bytes_are_told():
    """The model of 16 features, 16 hidden units and 3 classes has 323 numbers of 4 bytes."""
    down, up = found(ClaimsHalf), found(ForgetsANumber)
    assert [finding.evidence.partition(": ")[2] for finding in down] == ["1292 bytes down, declared 646"]
    assert [finding.evidence.partition(": ")[2] for finding in up] == ["1308 bytes up, declared 1300"]


def test_what_a_broken_rule_makes_meaningless_is_not_tried():
    verdicts = {verdict.rule: verdict for verdict in check(NanUpload)}
    assert list(verdicts) == list(RULES)
    assert str(verdicts["weights"]).startswith("ok     weights: ")
    assert str(verdicts["finite"]).startswith("FOUND  finite: ")
    assert str(verdicts["resume"]) == "-      resume: not checked until finite is mended"


@sound
class StopsEarly(Sound):
    """Is asked after each step whether to stop, and refuses batch normalisation."""

    def client_update(self, client):
        return client.upload(client.fit(client.params, self.loss, until=lambda losses: len(losses) == 3).params)

    def init_server(self, server):
        if any(is_running_statistic(name) for name in server.params):
            raise MethodError("StopsEarly does not know running statistics; use a model without batch normalisation.")


def test_what_is_trained_one_by_one_and_what_is_refused_is_noted_and_no_finding():
    verdicts = {verdict.rule: verdict for verdict in check(StopsEarly)}
    assert not any(verdict.findings for verdict in verdicts.values())
    note = "one client at a time: Sound.loss is asked after each step whether to stop"
    assert verdicts["together"].note == note
    assert str(verdicts["together"]).endswith(f"\n       note: {note}")
    assert verdicts["batch-norm"].note.startswith("StopsEarly does not know running statistics; use a model")


def test_all_findings_are_in_the_message():
    class Both(HeavyWeights):
        """Neither documented nor right."""

    with pytest.raises(AssertionError) as caught:
        assert_conforms(Both)
    assert str(caught.value).startswith("4 finding(s):\ndocumentation: ")
    assert "\nweights: both: the weights of round 0" in str(caught.value)


# --- what is left behind --------------------------------------------------------------------------------------------


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state(), torch.get_num_threads()  # noqa: NPY002
    check_method(DrawsFromTorch)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.get_num_threads() == before[3]
    assert list(Path(tmp_path).iterdir()) == []


def test_the_tasks_are_what_they_say():
    split = federate(TABLE, TABLE.data.load(), "faithful", 1)
    labels = [TABLE.data.load().targets[ids] for ids in split.train]
    assert [np.bincount(own, minlength=3).tolist() for own in labels] == [[8, 8, 8], [0, 20, 0], labels_of(labels[2])]
    assert [len(own) for own in labels] == [24, 20, 7]
    assert [len(ids) for ids in split.schedule] == [2, 2, 2, 2]
    assert {k for ids in split.schedule[:2] for k in ids.tolist()} == {0, 1, 2}
    for task in (HARD, HARD_IMAGES):
        data = task.data.load()
        split = federate(task, data, "faithful", 1)
        counts = [np.bincount(data.targets[ids], minlength=4).tolist() for ids in split.train]
        assert counts == [[1, 0, 0, 0], [0, 7, 0, 0], [1, 1, 1, 0]]


def labels_of(own):
    return np.bincount(own, minlength=3).tolist()
