"""The conformance suite: what the harness asks of every method, tested in seconds on three small clients.

For a method of your own, in a test: ``assert_conforms(MyMethod)``. On the command line: ``fedbench check NAME``.

The rules are in `RULES`. Each is a function that says what it found, and each names the rules that must hold before its
own answer means anything: a method that draws from a global generator breaks repeats, resumes and more, and is told
the first of these alone.
"""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from types import CellType, FunctionType, SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedbench import registry
from fedbench.cell import Cell
from fedbench.checkpoint import Checkpoint, State, pack, unpack
from fedbench.client import Client
from fedbench.errors import FedBenchError, MethodError
from fedbench.method import Download, Method, Size, Upload
from fedbench.partition import Natural
from fedbench.seeds import Streams
from fedbench.simulation import Simulation, one_thread
from fedbench.task import Data, Dataset, Indices, Protocol, Task
from fedbench.together import Together
from fedbench.traffic import copied, not_finite, payload_bytes
from fedbench.training import OneByOne, Trainer

Result = TypeVar("Result")

MOST = 3
"""Findings of one rule that are reported; the rest would say the same."""
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}
"""Float32 sums in another order, over a round."""
SOME_ROUNDS = {"rtol": 1e-3, "atol": 1e-5}
"""The same over a run, or where a ReLU may fall on the other side."""
MOST_LOOKED_INTO = 300
"""Containers and objects that are looked into below one name of a plug-in."""


# --- what the author sees -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One thing that a method does and should not.

    Parameters
    ----------
    rule : str
        Name of the rule, a key of `RULES`.
    evidence : str
        What was seen: the round, the client, the tensor, the numbers.
    mend : str
        What to do about it.
    """

    rule: str
    evidence: str
    mend: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.evidence}; {self.mend}."


@dataclass(frozen=True)
class Verdict:
    """What came of one rule.

    Parameters
    ----------
    rule, title : str
        Its name, and what it asks.
    findings : tuple of Finding
        Empty where the method keeps to it.
    waits_for : tuple of str
        Rules that were broken, and without which this one was not tried.
    note : str
        Worth knowing, and no defect.
    """

    rule: str
    title: str
    findings: tuple[Finding, ...] = ()
    waits_for: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        if self.waits_for:
            return f"-      {self.rule}: not checked until {', '.join(self.waits_for)} is mended"
        lines = [f"{'FOUND' if self.findings else 'ok':<6} {self.rule}: {self.title}"]
        lines += [f"       {finding.evidence}; {finding.mend}." for finding in self.findings]
        return "\n".join([*lines, *([f"       note: {self.note}"] if self.note else [])])


def check(
    method: type[Method] | Method, *, name: str | None = None, without: Collection[str] = ()
) -> Iterator[Verdict]:
    """Try a method by every rule, and yield what came of each as soon as it is known.

    Parameters
    ----------
    method : Method, or a class of methods
        What to check; a class is checked at its default hyperparameters.
    name : str, optional
        The name under which it is registered; that of its class, if not given.
    without : collection of str
        Rules that are left out; ``processes`` takes longer than all others together, as it starts a Python.
    """
    with tempfile.TemporaryDirectory(prefix="fedbench-check-") as folder:
        trial = _Trial(method, name, Path(folder))
        blamed: dict[str, tuple[str, ...]] = {}  # rules that do not hold, with the broken ones that this is due to
        for rule, (test, needs) in RULES.items():
            if rule in without:
                continue
            title = (inspect.getdoc(test) or "").partition("\n")[0]
            waits_for = tuple(dict.fromkeys(broken for need in needs for broken in blamed.get(need, ())))
            if waits_for:
                blamed[rule] = waits_for
                yield Verdict(rule, title, waits_for=waits_for)
                continue
            findings = _findings(rule, test, trial)
            if findings:
                blamed[rule] = (rule,)
            yield Verdict(rule, title, findings, note=trial.notes.pop(rule, ""))


def check_method(
    method: type[Method] | Method, *, name: str | None = None, without: Collection[str] = ()
) -> list[Finding]:
    """Return all that is to be mended in a method; nothing, where it conforms.

    Parameters
    ----------
    method, name, without
        See `check`.
    """
    return [finding for verdict in check(method, name=name, without=without) for finding in verdict.findings]


def assert_conforms(method: type[Method] | Method, *, name: str | None = None, without: Collection[str] = ()) -> None:
    """Check a method within a test.

    Parameters
    ----------
    method, name, without
        See `check`.

    Raises
    ------
    AssertionError
        It does not conform; the message has every finding.
    """
    findings = check_method(method, name=name, without=without)
    if findings:
        raise AssertionError("\n".join([f"{len(findings)} finding(s):", *map(str, findings)]))


def _findings(rule: str, test: Rule, trial: _Trial) -> tuple[Finding, ...]:
    with one_thread(), _global_seeds(1):
        found = []
        try:
            for evidence, mend in islice(test(trial), MOST):
                found.append(Finding(rule, evidence, mend))
        except Exception as error:
            found.append(Finding(rule, trial.raised(error), "mend what raises it"))
        return tuple(found)


# --- the tasks ------------------------------------------------------------------------------------------------------


class Synthetic(Data):
    """Samples around a centre of each class, drawn when they are asked for; no file holds them.

    Parameters
    ----------
    clients : tuple of tuple of int
        For each client its samples of each class, before its local test set is cut off.
    """

    clients: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, *clients: tuple[int, ...], shape: tuple[int, ...] = (16,)) -> Synthetic:
        """Declare so many samples of each client and class, and ten of each class for testing, five for validation."""
        n_classes = len(clients[0])
        return cls(
            clients=clients,
            classes=tuple("abcdefgh"[:n_classes]),
            shape=shape,
            counts={"train": sum(map(sum, clients)), "validation": 5 * n_classes, "test": 10 * n_classes},
            license="none, made up",
        )

    def locate(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return no file."""
        return ()

    def fetch(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return no file."""
        return ()

    def load(self, data_dir: Path | None = None) -> Dataset:
        """Draw the samples, the same ones every time."""
        classes = np.arange(len(self.classes))
        owned = [np.repeat(classes, counts) for counts in self.clients]
        targets = np.concatenate([*owned, np.repeat(classes, 5), np.repeat(classes, 10)])
        sites = np.zeros(len(targets), dtype=np.int64)
        train, validation, test = np.split(np.arange(len(targets)), np.cumsum([sum(map(len, owned)), 5 * len(classes)]))
        sites[train] = np.repeat(np.arange(len(owned)), [len(labels) for labels in owned])
        rng = Streams(0).rng("synthetic")
        centres = rng.normal(size=(len(classes), *self.shape))
        inputs = (centres[targets] + rng.normal(size=(len(targets), *self.shape))).astype(np.float32)
        return Dataset(inputs, targets, train, validation, test, sites)


_CLIENTS = (10, 10, 10), (0, 25, 0), (3, 3, 2)
_HARD_CLIENTS = (2, 0, 0, 0), (0, 14, 0, 0), (2, 2, 2, 0)

TABLE = Task(
    name="conformance",
    title="three clients: 24 samples of 3 classes, 20 of one class, 7 (fewer than a batch)",
    data=Synthetic.of(*_CLIENTS),
    partitioner=Natural(),
    model="mlp",
    protocol=Protocol(
        rounds=4,
        participation=0.67,
        local_epochs=2,
        batch_size=8,
        lr=0.02,
        momentum=0.9,
        weight_decay=1e-4,
        lr_decay=0.9,
        local_test=0.2,
        personal_every=1,
        evaluation_batch=16,
    ),
    source="synthetic",
)
"""What rules are tried on: two of three clients a round; after two rounds all have been sampled."""

IMAGES = TABLE.but(
    title="the same samples as images of 4 x 4, for a model with batch normalisation",
    data=Synthetic.of(*_CLIENTS, shape=(4, 4, 1)),
    model="cnn-small-bn",
)

HARD = TABLE.but(
    title="clients of 1 sample, of 7 of one class, and of 1 sample each of 3 classes; no client has the fourth class",
    data=Synthetic.of(*_HARD_CLIENTS),
    protocol=TABLE.protocol.but(rounds=2, participation=1.0, local_test=0.5),
)

HARD_IMAGES = HARD.but(
    title="the same samples as images of 4 x 4, for a model with batch normalisation",
    data=Synthetic.of(*_HARD_CLIENTS, shape=(4, 4, 1)),
    model="cnn-small-bn",
)

ROUNDS = TABLE.protocol.rounds


# --- what is watched ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moment:
    """Copies of all that a run keeps."""

    server: dict[str, Any]
    clients: dict[int, State]

    @classmethod
    def of(cls, simulation: Simulation) -> _Moment:
        return cls(copied(_server(simulation)), {k: copied(state) for k, state in simulation.states.items()})

    def flat(self, but: int | None = None) -> dict[str, Any]:
        clients = {f"the state of client {k}": state for k, state in self.clients.items() if k != but}
        return _flat({"server": self.server, **clients})


def _server(simulation: Simulation) -> dict[str, Any]:
    server = simulation.server
    return {"params": server.params, "state": server.state, "initial": simulation.initial}


class _Held:
    """Tensors and inner mappings of a run, with copies: to see later which of them were changed in place."""

    def __init__(self, simulation: Simulation) -> None:
        server = _server(simulation)
        kept = {f"server.{name}": value for name, value in server.items()}
        kept |= {f"the state of client {k}": state for k, state in simulation.states.items()}
        self.leaves = {
            f"{who}/{path}": (leaf, leaf.clone())
            for who, value in kept.items()
            for path, leaf in _flat(value).items()
            if isinstance(leaf, Tensor)
        }
        self.inner = {
            f"{who}/{name}": (inner, dict(inner))
            for who, value in kept.items()
            for name, inner in value.items()
            if isinstance(inner, Mapping)
        }

    def changed(self) -> list[str]:
        tensors = [path for path, (leaf, before) in self.leaves.items() if any(_differences(leaf, before))]
        return tensors + [
            path
            for path, (inner, before) in self.inner.items()
            if inner.keys() != before.keys() or any(inner[name] is not before[name] for name in before)
        ]


@dataclass(frozen=True)
class _Sent:
    """What a client was sent, what it sent, and what it kept."""

    round: int
    client: Client
    upload: Any
    state: State
    query: bool

    @property
    def who(self) -> str:
        return f"{'report' if self.query else 'client_update'} of client {self.client.id} in round {self.round}"

    def flat(self) -> dict[str, Any]:
        return _flat({"upload": self.upload.params, "upload.extra": self.upload.extra, "state": self.state})


@dataclass
class _Log:
    """What was seen in one run.

    Parameters
    ----------
    stage, where : str
        What was called last, and in which words to tell it.
    asking, visiting : dict of int to moment
        All that is kept at the beginning of each round, and when its query is over.
    sent : list
        In order.
    in_place, disturbed : list of str
        What was changed in place by whom it belongs to, and what was changed by whom it does not belong to.
    """

    stage: str = "init_server"
    where: str = "init_server"
    asking: dict[int, _Moment] = field(default_factory=dict)
    visiting: dict[int, _Moment] = field(default_factory=dict)
    sent: list[_Sent] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)

    def at(self, stage: str, where: str) -> None:
        self.stage, self.where = stage, where

    def visits(self, round: int) -> dict[tuple[bool, int], _Sent]:
        """Return what was sent in a round, by whether it was asked for and by client."""
        return {(sent.query, sent.client.id): sent for sent in self.sent if sent.round == round}


class _Watched(Simulation):
    """A simulation that writes down what passes between the method and the harness."""

    def __init__(self, cell: Cell, checkpoint: Path, log: _Log, trainer: Trainer | None) -> None:
        self.log, self.digest = log, ""
        # Drawn anew, and so this run's own: it may write to it.
        super().__init__(cell, cell.task.data.load(), Checkpoint(checkpoint), trainer=trainer)
        fresh = self.model.initial(self.streams)
        changed = [name for name in fresh if any(_differences(self.initial[name], fresh[name]))]
        log.in_place += [f"init_server changed server.initial/{name}" for name in changed]

    def _query(self, t: int, row: Any) -> Any:
        self.log.at("query", f"the query before round {t}")
        self.log.asking[t] = _Moment.of(self)
        held = _Held(self)
        work = super()._query(t, row)
        self.log.in_place += [f"the query before round {t} changed {path}" for path in held.changed()]
        self.log.visiting[t] = _Moment.of(self)
        return work

    def _visit(self, k: int, passes: int, row: Any) -> Any:
        where, own = f"client_update of client {k} in round {self.server.round}", f"the state of client {k}/"
        self.log.at("client_update", where)
        before, held = _Moment.of(self).flat(but=k), _Held(self)
        visit = super()._visit(k, passes, row)
        self.log.in_place += [f"{where} changed {path}" for path in held.changed() if path.startswith(own)]
        after = _Moment.of(self).flat(but=k)
        self.log.disturbed += [
            f"after the visit of client {k} in round {self.server.round}, {line}" for line in _compared(before, after)
        ]
        return visit

    def _received(self, upload: Any, client: Client, row: Any) -> Upload:
        sent = copied(upload) if isinstance(upload, Upload) else upload
        query = self.log.stage == "query"
        self.log.sent.append(_Sent(client.round, client, sent, copied(client.state), query))
        return super()._received(upload, client, row)

    def _weights(self, uploads: Sequence[Upload], t: int) -> list[float]:
        self.log.at("weights", f"weights in round {t}")
        weights = super()._weights(uploads, t)
        self.log.at("server_update", f"server_update in round {t}")
        self._held = _Held(self)
        return weights

    def _evaluate(self, t: int, visits: Any, row: Any) -> None:
        self.log.in_place += [f"server_update in round {t} changed {path}" for path in self._held.changed()]
        self.log.at("evaluation", f"evaluation of round {t}")
        before = _Moment.of(self).flat()
        super()._evaluate(t, visits, row)
        after = _Moment.of(self).flat()
        self.log.disturbed += [f"after the evaluation of round {t}, {line}" for line in _compared(before, after)]


@dataclass(frozen=True)
class _Trace:
    """One whole run, watched.

    Parameters
    ----------
    simulation : Simulation or None
        None where not even its start was reached.
    log : _Log
        What was seen.
    error : Exception or None
        What ended it.
    stopped : dict of int to Path
        A copy of the checkpoint after so many rounds.
    leaked, touched : list of str
        What the plug-in held outside of states and was another thing afterwards; global generators likewise.
    """

    simulation: _Watched | None
    log: _Log
    error: Exception | None
    stopped: Mapping[int, Path]
    leaked: Sequence[str]
    touched: Sequence[str]

    @property
    def whole(self) -> _Watched:
        """The simulation, in rules that come after ``run``."""
        assert self.simulation is not None
        return self.simulation


class _Trial:
    """A method under test, and runs of it.

    Parameters
    ----------
    method : Method, or a class of methods
        Which.
    name : str, optional
        What it is called.
    folder : Path
        For records and checkpoints.

    Attributes
    ----------
    notes : dict of str to str
        What a rule has to say besides its findings.
    """

    def __init__(self, method: type[Method] | Method, name: str | None, folder: Path) -> None:
        self.kind = method if isinstance(method, type) else type(method)
        self.given = None if isinstance(method, type) else method
        self.name = name or self.kind.__name__.lower()
        modules = (inspect.getmodule(owner) for owner in self.kind.__mro__ if owner not in (Method, object))
        self.files = {getattr(module, "__file__", None) for module in modules}
        self.folder, self.notes = folder, dict[str, str]()
        self._numbers = count()

    @cached_property
    def method(self) -> Method:
        """The method with its hyperparameters."""
        return self.kind.configure(self.name, {}) if self.given is None else self.given

    @property
    def is_installed(self) -> bool:
        """Whether an installed package registers the class under this name, so that other processes find it."""
        with suppress(FedBenchError):
            return self.name in registry.methods.points() and registry.methods.get(self.name) is self.kind
        return False

    def raised(self, error: Exception) -> str:
        """Say what was raised, and in which line of the plug-in."""
        if isinstance(error, FedBenchError):
            return str(error).removesuffix(".")
        frames = traceback.extract_tb(error.__traceback__)
        last = ([at for at in frames if at.filename in self.files] or frames)[-1]
        return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"

    def refuses(self, error: Exception) -> bool:
        """Say whether it is the plug-in itself that says no, with an error that names the mend."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        return isinstance(error, MethodError) and last.filename in self.files

    @cached_property
    def trace(self) -> _Trace:
        """A whole run, which most rules read and others repeat."""
        log, stopped = _Log(), dict[int, Path]()
        simulation: _Watched | None = None
        error: Exception | None = None
        belongings = _belongings(self.method)
        with _global_seeds(1):
            generators = _global_states()
            try:
                simulation = self.start(log=log)
                while simulation.done < ROUNDS:
                    simulation.round()
                    simulation.save()
                    stopped[simulation.done] = self._place()
                    shutil.copytree(simulation.checkpoint.folder, stopped[simulation.done])
                self.finish(simulation, record=True)
            except Exception as caught:
                error = caught
            touched = [name for name, state in _global_states().items() if state != generators[name]]
        leaked = [name for name, value in _belongings(self.method).items() if belongings.get(name, ()) != value]
        return _Trace(simulation, log, error, stopped, leaked, touched)

    def start(
        self,
        method: Method | None = None,
        *,
        task: Task = TABLE,
        seed: int = 1,
        checkpoint: Path | None = None,
        log: _Log | None = None,
        trainer: Trainer | None = None,
    ) -> _Watched:
        """Return a simulation without a single round done."""
        cell = Cell(task, self.name, method or self.method, "faithful", seed)
        return _Watched(cell, checkpoint or self._place(), log or _Log(), trainer)

    def finish(self, simulation: _Watched, *, record: bool = False) -> _Watched:
        """Do the rounds that are left, and what comes after the last, with or without a record."""
        while simulation.done < simulation.protocol.rounds:
            simulation.round()
        if record:
            simulation.digest = simulation.record(self._place(), keep_weights=False).digest
        else:
            simulation._finish()
        return simulation

    def run(self, method: Method | None = None, *, task: Task = TABLE, global_seed: int = 1) -> _Watched:
        """Return a finished simulation; ``global_seed`` is that of the global generators."""
        with _global_seeds(global_seed):
            return self.finish(self.start(method, task=task))

    def branch(self, t: int, moment: _Moment, *, only: int | None = None, trainer: Trainer | None = None) -> _Watched:
        """Return another simulation at a moment of the traced one, with all clients' states or with only one's."""
        simulation = self.start(trainer=trainer)
        server = copied(moment.server)
        simulation.server.params, simulation.server.state, simulation.server.round = (
            server["params"],
            server["state"],
            t,
        )
        simulation.done = t
        for k, state in moment.clients.items():
            if only in (None, k):
                simulation.states.put(k, copied(state), t)
        return simulation

    def _place(self) -> Path:
        return self.folder / str(next(self._numbers))


# --- rules about what is written ------------------------------------------------------------------------------------

Told = Iterator[tuple[str, str]]
"""Evidence and mend of each finding."""
Rule = Callable[[_Trial], Told]


def _hyperparameters(trial: _Trial) -> Told:
    """Make every hyperparameter a field of the dataclass, with a default."""
    known = {item.name for item in fields(trial.kind)}
    for name, hint in inspect.get_annotations(trial.kind).items():
        if name not in known and "ClassVar" not in str(hint):
            mend = "decorate the class with @dataclass(frozen=True, kw_only=True), or annotate it as ClassVar"
            yield f"{trial.kind.__name__}.{name} is annotated but no hyperparameter", mend
    try:
        _ = trial.method
    except FedBenchError as error:
        yield trial.raised(error), "give every hyperparameter a default of its own type"


def _space(trial: _Trial) -> Told:
    """Search over hyperparameters that there are, between values that they may have, and say where that comes from."""
    defaults = trial.kind.defaults()
    for item in trial.kind.space:
        where = f"the search space of {item.name}"
        if item.name not in defaults:
            yield f"{where} is of no hyperparameter", f"name one of these: {', '.join(defaults) or 'there are none'}"
            continue
        if not item.values and (item.low is None or item.high is None or not item.low < item.high):
            yield f"{where} has neither values nor low < high", "give one or the other"
            continue
        if item.log and not (item.low is not None and item.low > 0):
            yield f"{where} is logarithmic and begins at {item.low}", "begin above zero"
        for value in item.values or (item.low, item.high):
            try:
                trial.kind.configure(trial.name, {item.name: value})
            except FedBenchError as error:
                yield f"{where} holds a value that is refused: {trial.raised(error)}", "keep to what the method accepts"
        if not item.source:
            yield f"{where} does not say where it comes from", 'write source="paper, section ..." or how it was chosen'


def _documentation(trial: _Trial) -> Told:
    """Name in the docstring the source, deviations, each hyperparameter with its range or symbol, and the cost."""
    kind = trial.kind
    own = kind.__dict__.get("__doc__") or ""
    if not own or own.startswith(f"{kind.__name__}("):  # what dataclass makes up where there is none
        mend = "say what it does as an equation, then Deviations, Parameters and Cost"
        yield f"{kind.__name__} has no docstring", mend
        return
    card = inspect.cleandoc(own)
    module = inspect.getmodule(kind)
    text = f"{card}\n\n{(module.__doc__ if module is not None else None) or ''}"
    source = re.search(r"\bSource:\s*(.*?)(?:\n\s*\n|\Z)", text, re.DOTALL)
    dated = source and re.search(r"\b(19|20)\d\d\b|arxiv|doi\b|https?://|unpublished", source[1], re.IGNORECASE)
    if not dated and not (source and kind.family == "reference"):
        mend = 'write "Source: authors, title, venue, year" with an arXiv number or doi, or "Source: unpublished"'
        yield f"the docstrings of {kind.__name__} and of its module name no source that can be found", mend
    for word, what in (("Deviations", "from the paper and from the authors' code, or none"), ("Cost", "in traffic, "
                       "passes and memory, relative to FedAvg")):  # fmt: skip
        if not re.search(rf"\b{word}\b", text):
            yield f"the docstring of {kind.__name__} has no {word}", f'write "{word}: ..." ({what})'
    entries = re.finditer(r"^(\w+(?:, \w+)*) : (.*(?:\n[ \t]+.*)*)", card, re.MULTILINE)
    described = {name: entry[2] for entry in entries for name in entry[1].split(", ")}
    for name, default in kind.defaults().items():
        if name not in described:
            yield f"{name} is not in the docstring", f'add "{name} : type, range" with its symbol under Parameters'
        elif type(default) in (int, float) and not re.search(r"[<>≤≥{]|\bin [\[(]|\(\\?\w", described[name]):
            yield f"{name} has neither a range nor a symbol in the docstring", f'write "{name} : float, > 0" or "(tau)"'


# --- rules about one run --------------------------------------------------------------------------------------------


def _weights(trial: _Trial) -> Told:
    """Give weights that are finite, not negative, and sum to one."""
    if trial.trace.error is not None and trial.trace.log.stage == "weights":
        yield trial.raised(trial.trace.error), "scale them with fedbench.simplex"


def _private(trial: _Trial) -> Told:
    """Send no tensor for which shared(name) is False, neither up nor down."""
    for sent in trial.trace.log.sent:
        for what, payload in (("sends", sent.upload), ("is sent", sent.client.received)):
            if not isinstance(payload, Download | Upload):
                continue
            private = [name for name in payload.params if not trial.method.shared(name)]
            if private:
                mend = "make payloads with client.upload(...) and server.download(...)"
                yield f"{sent.who} {what} the private tensors {', '.join(private)}", mend
                return


def _finite(trial: _Trial) -> Told:
    """Keep losses, uploads and models finite."""
    mend = "look for a division by zero, a logarithm of zero, or a step that is too large"
    for sent in trial.trace.log.sent:
        if isinstance(sent.upload, Upload):
            for name in [*not_finite(sent.upload.params), *not_finite(sent.upload.extra)]:
                yield f"{sent.who} sends {name}, which is not finite", mend
                return
    for t, moment in trial.trace.log.asking.items():
        for name in not_finite(moment.server["params"]):
            yield f"server.params/{name} is not finite when round {t} begins", mend
            return
    error = trial.trace.error
    if isinstance(error, MethodError) and re.search(r"not finite|became", str(error)):
        yield trial.raised(error), mend


def _state(trial: _Trial) -> Told:
    """Keep in states what comes back from a file as it was."""
    kept = {f"client.state after {sent.who}": sent.state for sent in trial.trace.log.sent}
    if trial.trace.simulation is not None:
        server = trial.trace.simulation.server
        kept |= {"server.params": server.params, "server.state": server.state}
    mend = "keep tensors, mappings of tensors, numbers or text, by names without a slash; detach tensors"
    for where, state in kept.items():
        try:
            back = _flat(unpack(pack(state)))
        except Exception as error:
            yield f"{where}: {trial.raised(error)}", mend
            return
        attached = [path for path, leaf in _flat(state).items() if isinstance(leaf, Tensor) and leaf.requires_grad]
        wrong = [*(f"{path} holds on to its gradient" for path in attached), *_compared(_flat(state), back)]
        if wrong:
            yield f"{where}: {wrong[0]}", mend
            return


def _run(trial: _Trial) -> Told:
    """Come to the end of a run."""
    if trial.trace.error is not None:
        yield f"{trial.trace.log.where}: {trial.raised(trial.trace.error)}", "mend what raises it"


def _traffic(trial: _Trial) -> Told:
    """Send in the last round what traffic() declares, to each client and from it."""
    simulation, method = trial.trace.whole, trial.method
    if method.pooled:
        return
    sizes = {name: tensor.nbytes for name, tensor in simulation.initial.items()}
    shared = sum(size for name, size in sizes.items() if method.shared(name))
    features = simulation.initial["head.weight"].shape[1]
    declared = method.traffic(Size(shared, sum(sizes.values()), simulation.cell.task.n_classes, features))
    for way in ("down", "up"):
        for (query, k), sent in trial.trace.log.visits(ROUNDS - 1).items():
            payload, due = (sent.client.received, declared[0]) if way == "down" else (sent.upload, declared[1])
            if not query and due is not None and payload_bytes(payload) != due:
                evidence = f"client {k} in round {sent.round}: {payload_bytes(payload)} bytes {way}, declared {due}"
                yield evidence, "let traffic() return what is sent, or None where it varies from round to round"
                break


def _in_place(trial: _Trial) -> Told:
    """Replace states and models, and never change them in place."""
    for line in dict.fromkeys(trial.trace.log.in_place):
        yield f"{line} in place", "make a new tensor or mapping and assign it: client.state = {**client.state, ...}"


def _read_only(trial: _Trial) -> Told:
    """Change in a visit no one but its client, and in an evaluation nobody: neither server nor states."""
    for line in trial.trace.log.disturbed:
        yield line, "change the server in server_update or receive, a client in client_update or report, alone"


def _stateless(trial: _Trial) -> Told:
    """Hold nothing in instance, class or module that changes during a run."""
    for name in trial.trace.leaked:
        yield f"{name} is not what it was before the run", "keep it in client.state or server.state"


# --- rules about several runs ---------------------------------------------------------------------------------------


def _deterministic(trial: _Trial) -> Told:
    """Give the same bits in a repeat."""
    again = trial.finish(trial.start(), record=True)
    for line in _unequal(trial.trace.whole, again):
        yield f"in a repeat, {line}", "draw from client.rng(name) or server.rng(name); read no clock and no address"


def _random(trial: _Trial) -> Told:
    """Neither draw from global generators (random, numpy, torch) nor seed them."""
    mend = "draw from client.rng(name) or server.rng(name)"
    for name in trial.trace.touched:
        yield f"the global generator of {name} is in another state after a run", mend
    if not trial.trace.touched:
        for line in _unequal(trial.trace.whole, trial.run(global_seed=2)):
            yield f"with global generators seeded otherwise, {line}", mend


def _interleaved(trial: _Trial) -> Told:
    """Give, a round in turn with another cell of the same process, what the cell gives alone."""
    one, other = trial.start(), trial.start(seed=2)
    for _ in range(ROUNDS):
        other.round()
        one.round()
    for line in _unequal(trial.trace.whole, trial.finish(one)):
        yield f"beside another run, {line}", "keep what lasts in client.state or server.state, and nowhere else"


def _resume(trial: _Trial) -> Told:
    """Go on from a checkpoint after any round to the same bits."""
    for done in range(1, ROUNDS):
        resumed = trial.start(checkpoint=trial.trace.stopped[done])
        resumed.resume()
        for line in _unequal(trial.trace.whole, trial.finish(resumed, record=True)):
            mend = "keep all that lasts in states, and do not ask which object a tensor is"
            yield f"stopped after {done} round(s), {line}", mend
            return


def _isolation(trial: _Trial) -> Told:
    """Train without a test sample, and each client without data and state of another one."""
    other = trial.start()
    _spoil(other, np.concatenate(other.plan.train))
    trial.finish(other)
    mend = "read client.inputs, client.targets, client.received and client.state alone"
    before, after = (_contents(run, evaluated=False) for run in (trial.trace.whole, other))
    for line in _compared(before, after):
        yield f"with other test samples, {line}", mend
        return
    log = trial.trace.log
    for sent in log.sent:
        t, k = sent.round, sent.client.id
        alone = trial.branch(t, (log.asking if sent.query else log.visiting)[t], only=k)
        _spoil(alone, alone.plan.train[k])
        client = alone._client(k, sent.client.passes)
        upload = (trial.method.report if sent.query else trial.method.client_update)(client)
        again = _Sent(t, client, upload, client.state, sent.query)
        for line in _compared(sent.flat(), again.flat()):
            yield f"{sent.who}, with other data at all others: {line}", mend
            return


def _order(trial: _Trial) -> Told:
    """Combine uploads so that their order does not matter beyond rounding."""
    log, mend = trial.trace.log, "combine uploads by sums over all of them, and know clients by upload.client"
    for t in range(ROUNDS):
        other = trial.branch(t, log.asking[t], trainer=_LastFirst())
        other.round()
        before = {"weights": trial.trace.whole.clients["weight"][t], "server": log.asking[t + 1].server}
        after = {"weights": other.clients["weight"][0], "server": _server(other)}
        for line in _compared(_flat(before), _flat(after), **ROUNDING):
            yield f"with the uploads of round {t} in the opposite order, {line}", mend
            return


class _LastFirst(OneByOne):
    """Hands on what clients sent in the opposite order."""

    def each(self, procedures: Sequence[Callable[[], Result]]) -> list[Result]:
        return super().each(procedures)[::-1]


def _processes(trial: _Trial) -> Told:
    """Give the same bits in another process, as where cells run side by side."""
    if not trial.is_installed:
        trial.notes["processes"] = f"not tried: no installed package registers it as {trial.name}"
        return
    try:
        (digest,) = elsewhere([(trial.name, trial.method.hyperparameters())])
    except subprocess.CalledProcessError as error:
        told = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
        yield f"another process ended with {told}", "see that what it imports does not depend on where it runs"
        return
    if digest != trial.trace.whole.digest:
        mend = "walk through lists or sorted names and not through sets of text; ask for no hash(), clock or process"
        yield f"in another process the record has the digest {digest[:12]}, not {trial.trace.whole.digest[:12]}", mend


def elsewhere(methods: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Run registered methods in another process, in which text has other hashes, and return their records' digests.

    Parameters
    ----------
    methods : sequence of pairs
        The name of each, and its hyperparameters.

    Raises
    ------
    subprocess.CalledProcessError
        That process failed; its output says why.
    """
    command = [sys.executable, "-P", "-c", "from fedbench import testing; testing._answer()"]
    others = {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    others["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # what this process finds, that one finds
    asked = json.dumps([[name, dict(values)] for name, values in methods])
    done = subprocess.run(
        command, input=asked, env={**os.environ, **others}, capture_output=True, text=True, check=True
    )
    digests: list[str] = json.loads(done.stdout.splitlines()[-1])  # before it comes what a plug-in printed
    return digests


def _answer() -> None:
    """Do in another process what `elsewhere` asks for."""
    digests = []
    for name, values in json.load(sys.stdin):
        with tempfile.TemporaryDirectory(prefix="fedbench-check-") as folder, one_thread():
            trial = _Trial(registry.methods.get(name).configure(name, values), name, Path(folder))
            digests.append(trial.finish(trial.start(), record=True).digest)
    sys.stdout.write(f"\n{json.dumps(digests)}\n")


def _hard_clients(trial: _Trial) -> Told:
    """Bear clients of one sample, of one class, of fewer samples than a batch, and a class that nobody has."""
    try:
        trial.run(task=HARD)
    except Exception as error:
        mend = "look for a division by a count, the spread of one sample, the mean of none"
        yield f"{HARD.title}: {trial.raised(error)}", mend


def _batch_norm(trial: _Trial) -> Told:
    """Train a model with batch normalisation, or refuse it with a MethodError that says why."""
    try:
        trial.run(task=HARD_IMAGES)
    except Exception as error:
        if trial.refuses(error):
            trial.notes["batch-norm"] = trial.raised(error)
        else:
            mend = "treat running statistics apart: fedbench.is_running_statistic(name), client.model.buffers"
            yield trial.raised(error), mend


def _limits(trial: _Trial) -> Told:
    """Equal another method where that is declared."""
    for limit in trial.kind.limits:
        at = ", ".join(f"{name}={value!r}" for name, value in limit.at.items())
        here = trial.run(trial.kind.configure(trial.name, limit.at))
        there = trial.run(registry.methods.get(limit.equals).configure(limit.equals, {}))
        tolerance = {} if limit.exact else SOME_ROUNDS
        a, b = (_outcome(run, evaluated=limit.exact) for run in (here, there))
        own = ("personal", "adapt")  # what a client deploys is a choice beside the algorithm
        b = {name: value for name, value in b.items() if not name.startswith(own)}
        for line in islice(_compared({name: a[name] for name in b if name in a}, b, **tolerance), 1):
            mend = "leave the extra term out at this point, or declare the limit with exact=False, or not at all"
            yield f"at {at} it does not equal {limit.equals}: {line}", mend


def _active(trial: _Trial) -> Told:
    """Differ from FedAvg, and from each declared limit away from it."""
    hooks = [name for name, value in vars(Method).items() if isinstance(value, FunctionType) and name[0] != "_"]
    if all(getattr(trial.kind, name) is getattr(Method, name) for name in hooks) and not trial.kind.pooled:
        return  # this is FedAvg
    values = trial.method.hyperparameters()
    at = [limit for limit in trial.kind.limits if all(values.get(name) == value for name, value in limit.at.items())]
    others = {limit.equals: registry.methods.get(limit.equals)() for limit in trial.kind.limits if not at}
    if not any(limit.equals == "fedavg" for limit in at):
        others["fedavg"] = Method()
    for name, other in others.items():
        if not any(_compared(_outcome(trial.trace.whole), _outcome(trial.run(other)))):
            same = _compared(*(_outcome(trial.run(method, task=IMAGES)) for method in (None, other)))
            if not any(same):
                mend = "look for a default of zero, a detached term, or a teacher that is the student itself"
                yield f"every model and loss has the bits of {name}", mend


def _together(trial: _Trial) -> Told:
    """End with clients trained together, as on a GPU, where they end one by one, up to rounding."""
    trainer, log = Together(), trial.trace.log
    for t in range(ROUNDS):
        other = trial.branch(t, log.asking[t], trainer=trainer)
        other.round()
        for key, sent in log.visits(t).items():
            before, after = (_trained(visit) for visit in (sent, other.log.visits(t)[key]))
            for line in _compared(before, after, **SOME_ROUNDS):
                mend = (
                    "let what runs in the local loop read tensors of client and batch alone, and reduce by batch.mean"
                )
                yield f"{sent.who}: {line}", mend
                return
    apart = [way for way in trainer.describe().split("; ") if way.startswith("one client at a time")]
    if apart:
        trial.notes["together"] = "; ".join(apart)


def _trained(sent: _Sent) -> dict[str, Any]:
    local = sent.client.local
    return _flat({"upload": sent.upload.params, "client.local": local if isinstance(local, Mapping) else {}})


def _spoil(simulation: _Watched, keep: Indices) -> None:
    """Replace all samples but some, where they lie."""
    rest = torch.from_numpy(np.setdiff1d(np.arange(len(simulation.targets)), keep))
    simulation.inputs[rest] = 5 - 2 * simulation.inputs[rest]
    simulation.targets[rest] = (simulation.targets[rest] + 1) % simulation.cell.task.n_classes


RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "hyperparameters": (_hyperparameters, ()),
    "space": (_space, ("hyperparameters",)),
    "documentation": (_documentation, ("hyperparameters",)),
    "weights": (_weights, ("hyperparameters",)),
    "private": (_private, ("hyperparameters",)),
    "finite": (_finite, ("hyperparameters", "weights")),
    "state": (_state, ("hyperparameters",)),
    "run": (_run, ("weights", "private", "finite", "state")),
    "traffic": (_traffic, ("run",)),
    "in-place": (_in_place, ("run",)),
    "read-only": (_read_only, ("run",)),
    "stateless": (_stateless, ("run",)),
    "deterministic": (_deterministic, ("in-place", "read-only", "stateless")),
    "random": (_random, ("deterministic",)),
    "interleaved": (_interleaved, ("random",)),
    "resume": (_resume, ("interleaved",)),
    "isolation": (_isolation, ("resume",)),
    "order": (_order, ("resume",)),
    "processes": (_processes, ("resume",)),
    "hard-clients": (_hard_clients, ("resume",)),
    "batch-norm": (_batch_norm, ("hard-clients",)),
    "limits": (_limits, ("resume",)),
    "active": (_active, ("resume",)),
    "together": (_together, ("resume",)),
}
"""Every rule, with the rules that it is not tried without. They are tried in this order."""


# --- comparing ------------------------------------------------------------------------------------------------------


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested mappings and sequences as one mapping, by joined names."""
    if isinstance(value, Mapping):
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {path: value}
    return {p: leaf for name, item in items for p, leaf in _flat(item, f"{path}/{name}" if path else name).items()}


def _compared(a: Mapping[str, Any], b: Mapping[str, Any], **tolerance: float) -> Iterator[str]:
    """Yield what differs between two flat mappings; without a tolerance, what is not the same number."""
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            yield f"{name} is there in one case alone"
            continue
        for line in _differences(a[name], b[name], **tolerance):
            yield f"{name} {line}"


def _differences(a: Any, b: Any, **tolerance: float) -> Iterator[str]:
    """Yield in words how two tensors, arrays or plain values differ, if they do."""
    x, y = (_array(value) for value in (a, b))
    if x.shape != y.shape or x.dtype != y.dtype:
        yield f"is {x.dtype} of shape {x.shape} and {y.dtype} of shape {y.shape}"
        return
    numbers = np.issubdtype(x.dtype, np.inexact)
    same = np.isclose(x, y, equal_nan=True, **tolerance) if numbers and tolerance else x == y
    if numbers:
        same = same | (np.isnan(x) & np.isnan(y))
    if not np.all(same):
        first = tuple(int(i) for i in np.argwhere(~np.asarray(same))[0])
        where = f" at {list(first)}" if first else ""
        yield f"differs in {int(np.sum(~np.asarray(same)))} of {x.size}: {x[first]} and {y[first]}{where}"


def _array(value: Any) -> npt.NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _contents(run: _Watched, *, evaluated: bool = True) -> dict[str, Any]:
    """Return all that a run computed, round by round and then as it ended; or what training alone computed."""
    left_out = ("seconds",) if evaluated else ("seconds", "accuracy", "adapt")
    series = {
        f"{column}{whose} of round {t}": values[t]
        for t in range(run.done)
        for whose, columns in ((" by client", run.clients), ("", run.rounds))
        for column, values in columns.items()
        if not any(word in column for word in left_out)
    }
    last = _Moment.of(run).flat()
    return {**series, **(_evaluated(run) if evaluated else {}), **last}


def _outcome(run: _Watched, *, evaluated: bool = True) -> dict[str, Any]:
    """Return what two methods have to share to be the same one: models, losses, and what was evaluated."""
    losses = {f"train_loss by client of round {t}": run.clients["train_loss"][t] for t in range(run.done)}
    spent = {f"adapt_samples of round {t}": run.rounds["adapt_samples"][t] for t in range(run.done) if evaluated}
    models = {f"server.params/{name}": tensor for name, tensor in run.server.params.items()}
    return {**losses, **models, **spent, **(_evaluated(run) if evaluated else {})}


def _evaluated(run: _Watched) -> dict[str, Any]:
    arrays = {f"{name}[{i}]": value for name, values in run.arrays.items() for i, value in enumerate(values)}
    return {**arrays, **{name: value for name, value in run.final.items() if "bytes" not in name}}


def _unequal(run: _Watched, other: _Watched) -> Iterator[str]:
    """Yield the first difference between two runs of one cell, if there is any."""
    digests = {run.digest, other.digest} - {""}
    told = [*islice(_compared(_contents(run), _contents(other)), 1)]
    yield from told or (["the digests of the records differ"] if len(digests) > 1 else [])


# --- what lasts outside of a run ------------------------------------------------------------------------------------


@contextmanager
def _global_seeds(seed: int) -> Iterator[None]:
    """Seed the global generators, and leave them as they were found."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def _global_states() -> dict[str, Any]:
    kind, key, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "random": random.getstate(),
        "numpy": (kind, np.asarray(key).tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def _belongings(method: Method) -> dict[str, Any]:
    """Return an imprint of all that a plug-in can keep things in: its instance, classes, functions and module."""
    kind = type(method)
    module = inspect.getmodule(kind)
    owners: list[tuple[str, Mapping[str, Any]]] = [("self", vars(method))]
    owners += [(owner.__name__, vars(owner)) for owner in kind.__mro__ if owner is not object]
    if module is not None:
        owners.append((module.__name__, vars(module)))
    computed = {name for owner in kind.__mro__ for name, at in vars(owner).items() if isinstance(at, cached_property)}
    return {
        f"{owner}.{name}": _imprint(value, kind.__module__)
        for owner, values in owners
        for name, value in list(values.items())
        if not name.startswith("__")
        and not (owner == "self" and name in computed)
        and not _is_one_of(value, kind.__mro__)
    }


def _imprint(value: Any, home: str, seen: set[int] | None = None) -> Any:
    """Return what can be compared later, while the value itself may change.

    Looked into are containers, functions, classes, and objects of the plug-in's own classes; of other libraries'
    objects (a logger, say) it is none of our business what they remember.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor | np.ndarray):
        array = _array(value)
        return array.dtype.str, array.shape, array.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    inner: list[Any]
    if isinstance(value, Mapping):
        inner = [item for pair in value.items() for item in pair]
    elif isinstance(value, list | tuple | deque):
        inner = list(value)
    elif isinstance(value, FunctionType):
        inner = [value.__defaults__, value.__kwdefaults__, vars(value), *(value.__closure__ or ())]
    elif isinstance(value, staticmethod | classmethod):
        inner = [value.__func__]
    elif isinstance(value, CellType):
        inner = [value.cell_contents] if _is_filled(value) else []
    elif isinstance(value, type) and value.__module__ == home:
        inner = [part for name, item in vars(value).items() if not name.startswith("__") for part in (name, item)]
    elif hasattr(value, "__dict__") and (type(value).__module__ == home or isinstance(value, SimpleNamespace)):
        inner = [vars(value)]
    else:
        plain = type(value).__module__ in ("builtins", "collections", "itertools")
        return repr(value) if plain else type(value).__name__
    if id(value) in seen or len(seen) > MOST_LOOKED_INTO:
        return type(value).__name__
    if not isinstance(value, tuple):  # all else lives on, and so its id is not given to another object meanwhile
        seen.add(id(value))
    return type(value).__name__, len(inner), [_imprint(item, home, seen) for item in inner]


def _is_one_of(value: Any, kinds: Sequence[type]) -> bool:
    return any(value is kind for kind in kinds)


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
