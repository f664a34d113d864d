"""Trains clients of one cell, and of cells that differ by seed alone, together: one step of many models at a time.

A step of one small model keeps a GPU busy for a fraction of the time that it takes to ask for it. So the procedures of
clients run as coroutines, each until it asks for a local training; then all trainings that are asked for are done at
once. Each has a *lane*, a place in buffers of a fixed shape; a step is one call under `torch.func.vmap` over all lanes,
which on CUDA is captured as a graph and replayed.

A loss is still written for one client. What it may read of it here is in `_Lane`; what asks for more, or cannot be
applied to many clients at once, is trained by `OneByOne`, and `Together.describe` says so.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor
from torch.func import grad_and_value, vmap

from fedbench.client import Client
from fedbench.method import Download, Method
from fedbench.training import Batch, Fit, OneByOne, Training, mean_loss

Result = TypeVar("Result")
Path = tuple[str, ...]
"""Where a value stands, from a request on: ("client", "state", "c", "fc1.weight")."""

ALIKE = ("lr", "n_classes", "protocol", "round", "rounds")
"""What a loss reads of its client as it is; clients for which it is not the same are trained apart."""
OWN = ("class_counts", "initial", "n", "params", "received", "state")
"""What a loss reads as tensors, each lane its own."""
KEPT = 4
"""Groups whose lanes are kept: a method may train in turns, and a loss that reads the round is new in each."""


def deterministic(device: str) -> None:
    """Make a CUDA device give the same bits again on the same machine; call it before the device is first used."""
    if torch.device(device).type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


class Together:
    """Trains together whatever the procedures of clients ask for at the same time; see `fedbench.training.Trainer`.

    The result is that of `OneByOne` up to rounding, and the same bits in every repetition.

    Parameters
    ----------
    device : str
        Where the clients' tensors are.
    lanes : int, >= 1
        Clients trained at the same time, at most; where more wait, the next one takes a lane as soon as it is free.
        Fewer lanes are made where no more clients ever waited at once.
    """

    def __init__(self, device: str = "cpu", lanes: int = 64) -> None:
        self.device, self.lanes = torch.device(device), lanes
        self._one_by_one = OneByOne()
        self._hub: Any = None
        self._ready: deque[Any] = deque()
        self._alive: dict[Any, None] = {}
        self._requests: list[_Request] = []
        self._touched: dict[Hashable, frozenset[str]] = {}
        self._reads: dict[Hashable, _Reads] = {}
        self._refused: dict[Hashable, str] = {}
        self._kept: dict[Hashable, _Lanes] = {}
        self._ways: dict[str, _Shape] = {}
        self._reasons: dict[str, None] = {}

    def describe(self) -> str:
        """Say how clients were trained until now: how many at a time, and which ones were not and why."""
        ways = [
            f"up to {shape.lanes} clients at a time, batches of {shape.batch}{w}" for w, shape in self._ways.items()
        ]
        return "; ".join([*ways, *(f"one client at a time: {reason}" for reason in self._reasons)]) or "no training"

    # --- coroutines ---------------------------------------------------------------------------------------------

    def each(self, procedures: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run procedures side by side, each until it waits for a training, and return their results in order.

        A procedure may itself call `each`: that of a cell does so for its clients. What a procedure raises reaches
        the caller of its own `each` alone, after the other procedures ended; of several errors it is the first's.
        """
        caller, left = getcurrent(), len(procedures)
        results: list[Any] = [None] * left
        errors: dict[int, Exception] = {}

        def run(i: int) -> None:
            nonlocal left
            try:
                results[i] = procedures[i]()
            except Exception as error:
                errors[i] = error
            left -= 1
            if not left and caller is not self._hub:
                self._ready.append(caller)

        outermost = self._hub is None
        if outermost:
            self._hub = caller
        begun = [greenlet(partial(run, i), self._hub) for i in range(left)]
        self._ready.extend(begun)
        self._alive |= dict.fromkeys(begun)
        if outermost:
            try:
                self._loop()
            finally:
                self._end()
        elif procedures:
            self._hub.switch()
        if errors:
            raise errors[min(errors)]
        return results

    def fit(self, client: Client, training: Training) -> Fit:
        """Do one local training, together with all others that are waited for."""
        request = _Request(client, training)
        if training.batches and self._hub is None:
            self._train([request])
        elif training.batches:
            request.waiting = getcurrent()
            self._requests.append(request)
            with torch.enable_grad():  # the mode is the thread's, not the coroutine's
                self._hub.switch()
        return request.fit or self._one_by_one.fit(client, training)

    def _loop(self) -> None:
        while self._ready or self._requests:
            while self._ready:
                one = self._ready.popleft()
                one.switch()
                if one.dead:
                    del self._alive[one]
            requests, self._requests = self._requests, []
            self._train(requests)
            self._ready.extend(request.waiting for request in requests)

    def _end(self) -> None:
        """End what an interrupt has left unfinished."""
        for one in reversed(list(self._alive)):
            one.throw()
        self._hub = None
        self._ready.clear()
        self._alive.clear()
        self._requests.clear()

    # --- groups -------------------------------------------------------------------------------------------------

    def _train(self, requests: Sequence[_Request]) -> None:
        """Do the trainings that can be done together; the others stay without a result."""
        groups: dict[Hashable, list[_Request]] = {}
        # The largest client first: what padding does is tried with it, and does not show with a single sample.
        for request in sorted(requests, key=lambda request: -request.client.n):
            with self._noting(request):
                groups.setdefault(self._key(request), []).append(request)
        for key, group in groups.items():
            with self._noting(group[0]):
                lanes = self._lanes_for(key, group)
                lanes.train(group)
                self._ways[lanes.way] = lanes.shape.joined(self._ways.get(lanes.way, lanes.shape))

    def _key(self, request: _Request) -> Hashable:
        """Return what is the same for all trainings that can be done together with this one.

        Part of it is how those attributes of the client are made up that the loss reads; the others may differ.

        Raises
        ------
        Exception
            This training can be done together with no other.
        """
        base = _base(request)
        key = self._with_touched(base, request)
        if key not in self._reads:
            with self._refusing(key):
                reads = _traced(request)
            self._touched[base] = self._touched.get(base, frozenset()) | reads.touched
            key = self._with_touched(base, request)
            self._reads[key] = reads
        return key

    def _with_touched(self, base: Hashable, request: _Request) -> Hashable:
        values = ((name, getattr(request.client, name)) for name in sorted(self._touched.get(base, ())))
        return base, tuple(value if name in ALIKE else _outline(value) for name, value in values)

    def _lanes_for(self, key: Hashable, group: Sequence[_Request]) -> _Lanes:
        """Return lanes with room for a group: those of the round before, unless they have too little."""
        shape, lanes = _Shape.of(group, self.lanes), self._kept.pop(key, None)
        if lanes is None or lanes.shape.joined(shape) != lanes.shape:
            shape, lanes = lanes.shape.joined(shape) if lanes else shape, None  # the old ones go before the new come
            with self._refusing(key):
                lanes = _Lanes(self._reads[key], group[0], shape, self.device)
        self._kept[key] = lanes
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return lanes

    @contextmanager
    def _refusing(self, key: Hashable) -> Iterator[None]:
        """Remember what cannot be done together, so that it is not tried again in every round."""
        if key in self._refused:
            raise _NotTogether(self._refused[key])
        try:
            yield
        except Exception as error:
            self._refused[key] = _why(error)
            raise

    @contextmanager
    def _noting(self, request: _Request) -> Iterator[None]:
        """Note why a training is not done together with others; whoever waits for it then does it alone."""
        try:
            yield
        except Exception as error:
            self._reasons[f"{_name(request.training.loss)} {_why(error)}"] = None


class _NotTogether(Exception):
    """Why a training cannot be done together with others: what follows the name of its loss in a sentence."""


def _why(error: Exception) -> str:
    if isinstance(error, _NotTogether):
        return str(error)
    if "data-dependent control flow" in str(error):
        return "calls .item() or branches on a tensor"
    return f"fails for many at once ({_short(error)})"


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()).partition(". ")[0]
    return f"{type(error).__name__}: {text[:120]}"


def _name(function: Any) -> str:
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name.replace("<locals>.", "")


# --- which trainings can be done together ---------------------------------------------------------------------------


@dataclass(eq=False)
class _Request:
    """A training that is asked for.

    Parameters
    ----------
    client, training
        Whose, and what.
    waiting : greenlet
        Who waits for it.
    first_row : int
        Where its client's samples begin among those of the group.
    fit : Fit or None
        The result; None where it is not done together with others.
    """

    client: Client
    training: Training
    waiting: Any = None
    first_row: int = 0
    fit: Fit | None = None

    def at(self, path: Path) -> Any:
        value: Any = self
        for name in path:
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        return value

    def samples(self, path: Path, name: str) -> Tensor:
        """Return what has an entry for each sample: a tensor of the client, or of the frozen model at a path."""
        owner = self.at(path)
        tensor: Tensor = getattr(self.client.frozen(owner).outputs if isinstance(owner, Mapping) else owner, name)
        return tensor


def _base(request: _Request) -> Hashable:
    """Return what must be the same, as far as it is known before anything is computed."""
    client, training = request.client, request.training
    if training.until is not None:
        raise _NotTogether("is asked after each step whether to stop")
    if client.model.buffers:
        raise _NotTogether("trains a model with running statistics")
    return (
        tuple(_common(what, training) for what in (training.loss, training.edit_gradients, training.project)),
        training.names,
        _outline(training.params),
        _outline(training.given),
        (training.momentum, training.weight_decay),
        (client.model.name, client.model.shape, client.kind),
        _outline(client.targets[:1]),
    )


def _common(function: Any, training: Training) -> Hashable:
    """Return what makes functions of several clients the same one.

    A method of the method may hold what it likes: its class is the same for all clients, and so are the hyperparameters
    of its instance. A function may hold nothing.
    """
    if function is None:
        return None
    owner, code = getattr(function, "__self__", None), getattr(function, "__func__", None)
    if isinstance(owner, Method) and any(code is item for kind in type(owner).__mro__ for item in vars(kind).values()):
        return code, owner
    who = "" if function is training.loss else f"is trained with {_name(function)}, which "
    if not isinstance(function, FunctionType):
        raise _NotTogether(f"{who}is not a method of the method")
    if function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        raise _NotTogether(f"{who}holds values of one client (a closure)")
    return function.__code__, id(function.__globals__)


def _outline(value: Any) -> Hashable:
    """Return how a value is made up, without the numbers themselves."""
    if isinstance(value, Mapping):
        return tuple((name, _outline(item)) for name, item in value.items())
    if isinstance(value, Download):
        return _outline(value.params), _outline(value.extra)
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else type(value).__name__


# --- what a loss sees -----------------------------------------------------------------------------------------------


class _Source(Protocol):
    """Where the tensors come from that a loss reads."""

    def one(self, path: Path) -> Tensor:
        """Return a tensor or a number."""

    def rows(self, path: Path, name: str, index: Tensor) -> Tensor:
        """Return some entries of what has one for each sample; see `_Request.samples`."""


class _Lane:
    """The client as a loss sees it that is computed for many at once.

    It has the attributes of a client that `ALIKE` and `OWN` name, and `frozen`. A number that a client was sent or kept
    is a tensor here.
    """

    def __init__(self, request: _Request, source: _Source) -> None:
        self._request, self._source = request, source
        self._touched: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name not in ALIKE + OWN:
            raise _NotTogether(f"reads client.{name}")
        self._touched.add(name)
        value = getattr(self._request.client, name)
        return value if name in ALIKE else _seen(self._source, ("client", name), value)

    def frozen(self, params: Mapping[str, Tensor]) -> _Frozen:
        """Return the outputs of a model that the client has."""
        if not isinstance(params, _View):
            raise _NotTogether("freezes a model that it makes itself")
        return _Frozen(self._source, params.path)


def _seen(source: _Source, path: Path, value: Any) -> Any:
    if isinstance(value, Download):
        return Download(*(_seen(source, (*path, part), getattr(value, part)) for part in ("params", "extra")))
    return _View(source, path, value) if isinstance(value, Mapping) else source.one(path)


@dataclass(frozen=True, eq=False)
class _View(Mapping[str, Any]):
    """A mapping with the names of a client's own, which are those of all clients of a group, and a lane's tensors."""

    source: _Source
    path: Path
    real: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return _seen(self.source, (*self.path, name), self.real[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.real)

    def __len__(self) -> int:
        return len(self.real)


@dataclass(frozen=True)
class _Frozen:
    """Outputs of a model that does not change; those of a batch are looked up when they are asked for."""

    source: _Source
    path: Path
    index: Tensor | None = None

    def __getitem__(self, batch: Batch) -> _Frozen:
        return replace(self, index=batch.index)

    def __getattr__(self, name: str) -> Tensor:
        if name not in ("logits", "features") or self.index is None:
            raise AttributeError(name)
        return self.source.rows(self.path, name, self.index)


def _batch(
    request: _Request, source: _Source, params: Mapping[str, Tensor], index: Tensor, real: Tensor | None = None
) -> Batch:
    client = request.client
    x, y = (source.rows(("client",), name, index) for name in ("inputs", "targets"))
    given = _View(source, ("training", "given"), request.training.given)
    return Batch(client.model, client.kind, params, x, y, index, given, real)


# --- what a training reads ------------------------------------------------------------------------------------------


class _Reads(NamedTuple):
    """What a training reads: attributes of the client, single tensors, and such with an entry for each sample.

    And `trained`: on which parameters the loss depends. The optimiser leaves the others alone.
    """

    touched: frozenset[str]
    slots: tuple[Path, ...]
    tables: tuple[tuple[Path, str], ...]
    trained: tuple[str, ...]


@dataclass
class _Reader:
    """Gives a loss the tensors of one client, and remembers which."""

    request: _Request
    slots: dict[Path, Tensor] = field(default_factory=dict)
    tables: dict[tuple[Path, str], None] = field(default_factory=dict)

    def one(self, path: Path) -> Tensor:
        if path not in self.slots:
            value = self.request.at(path)
            if not isinstance(value, Tensor | bool | int | float):
                raise _NotTogether(f"reads a {type(value).__name__} of its client")
            self.slots[path] = torch.as_tensor(value, device=self.request.client.targets.device).clone()
        return self.slots[path]

    def rows(self, path: Path, name: str, index: Tensor) -> Tensor:
        self.tables[path, name] = None
        return self.request.samples(path, name)[index]


def _param(name: str) -> Path:
    return ("training", "params", name)


def _traced(request: _Request) -> _Reads:
    """Find out what a training reads: compute its loss, and what follows, for one client as it is.

    Raises
    ------
    Exception
        It cannot be done for many clients at once.
    """
    client, training, reader = request.client, request.training, _Reader(request)
    lane: Any = _Lane(request, reader)
    # Not where the training starts: a student that still equals its teacher, say, would hide what padding does.
    params = {name: 1.25 * reader.one(_param(name)) for name in training.params}
    leaves = {name: params[name].requires_grad_() for name in training.names}
    index = training.batches[0].to(client.targets.device)
    value: Any = training.loss(lane, _batch(request, reader, params, index))
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
        raise _NotTogether("is not a scalar that depends on batch.params")
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    trained = {name: gradient for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}
    with torch.no_grad():
        padded = torch.cat([index, (index + 1) % client.n])
        real = torch.arange(len(padded), device=index.device) < len(index)
        again = training.loss(lane, _batch(request, reader, params, padded, real))
        if training.edit_gradients is not None:
            for name, gradient in trained.items():
                training.edit_gradients(lane, name, gradient, params[name].clone())
        if training.project is not None:
            training.project(lane, {name: leaf.clone() for name, leaf in leaves.items()})
    if any(tensor._version for tensor in reader.slots.values()):
        raise _NotTogether("changes a tensor of its client in place")
    if not torch.allclose(value, again, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise _NotTogether("reduces over a batch by other means than batch.mean")
    slots = (*reader.slots, ("training", "lr"), ("first_row",))
    return _Reads(frozenset(lane._touched), slots, tuple(reader.tables), tuple(trained))


# --- lanes ----------------------------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """Room: lanes, samples of each a step, steps, samples of all clients."""

    lanes: int
    batch: int
    steps: int
    rows: int

    @classmethod
    def of(cls, group: Sequence[_Request], lanes: int) -> _Shape:
        """Return the room that a group needs; powers of two where it differs from round to round."""
        lanes = min(lanes, len(group))
        turns = _turns(group, lanes)
        steps = max(sum(len(request.training.batches) for request in turn) for turn in turns)
        batch = max(len(batch) for request in group for batch in request.training.batches)
        return cls(lanes, batch, _power_of_two(steps), _power_of_two(sum(request.client.n for request in group)))

    def joined(self, other: _Shape) -> _Shape:
        return _Shape(*map(max, self, other))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _turns(group: Sequence[_Request], lanes: int) -> list[list[_Request]]:
    """Deal trainings to lanes, the longest first, each to the lane that is free first."""
    turns: list[list[_Request]] = [[] for _ in range(lanes)]
    free = [0] * lanes
    for request in sorted(group, key=lambda request: -len(request.training.batches)):
        lane = free.index(min(free))
        turns[lane].append(request)
        free[lane] += len(request.training.batches)
    return turns


@dataclass
class _Stacked:
    """Gives a loss the tensors of its lane, under `vmap`."""

    slots: Mapping[Path, Tensor]
    tables: Mapping[tuple[Path, str], Tensor]

    def one(self, path: Path) -> Tensor:
        return self.slots[path]

    def rows(self, path: Path, name: str, index: Tensor) -> Tensor:
        return self.tables[path, name][self.slots[("first_row",)] + index]


class _Lanes:
    """Buffers in which clients are trained together, and the step that trains them.

    Which samples a step of a lane takes is laid down beforehand, and a counter on the device says which step it is: the
    host waits for nothing. A lane that has nothing to do, or nothing more, runs on as padding.

    Parameters
    ----------
    reads : _Reads
        What a training of the group reads.
    request : _Request
        One of the group.
    shape : _Shape
        Room to make.
    device
        Where.

    Raises
    ------
    Exception
        The step cannot be done for many clients at once.
    """

    @torch.no_grad()
    def __init__(self, reads: _Reads, request: _Request, shape: _Shape, device: torch.device) -> None:
        def room(size: int, value: Any) -> Tensor:
            value = torch.as_tensor(value)
            return torch.zeros((size, *value.shape), dtype=value.dtype, device=device)

        self.shape, self.trained = shape, reads.trained
        self.slots = {path: room(shape.lanes, request.at(path)) for path in reads.slots}
        self.tables = {key: room(shape.rows, request.samples(*key)[0]) for key in reads.tables}
        moving = reads.trained if request.training.momentum else ()
        self.speed = {name: torch.zeros_like(self.slots[_param(name)]) for name in moving}
        self.index = torch.zeros((shape.steps, shape.lanes, shape.batch), dtype=torch.int64, device=device)
        self.real = torch.ones_like(self.index, dtype=torch.bool)
        self.losses = torch.zeros((shape.steps, shape.lanes), device=device)
        self.now = torch.zeros(1, dtype=torch.int64, device=device)
        self.way, self.step = "", self._step
        self._load(0, request)
        self._step(request)  # what cannot be done for many at once says so here
        if device.type == "cuda":
            self._capture(request)

    @torch.no_grad()
    def train(self, group: Sequence[_Request]) -> None:
        """Do the trainings of a group and leave the results with them."""
        self._lay_samples(group)
        begin, end = self._lay_steps(_turns(group, self.shape.lanes))
        done = []
        for step in range(max(end) + 1):
            for lane, request in end.get(step, ()):
                done.append((request, step, lane, self._params(lane, request)))
            for lane, request in begin.get(step, ()):
                self._load(lane, request)
            if step < max(end):
                self.step(group[0])
        losses = self.losses.cpu()
        for request, step, lane, params in done:
            steps = len(request.training.batches)
            own = losses[step - steps : step, lane]
            request.fit = Fit(params, steps, request.training.lr, mean_loss(own.unbind()))

    def _lay_samples(self, group: Sequence[_Request]) -> None:
        row = 0
        for request in group:
            request.first_row, row = row, row + request.client.n
            for key, table in self.tables.items():
                table[request.first_row : row] = request.samples(*key)

    def _lay_steps(self, turns: Sequence[Sequence[_Request]]) -> tuple[_Events, _Events]:
        """Lay down which samples each step takes; return which lanes begin and end with whom before which step."""
        begin: _Events = defaultdict(list)
        end: _Events = defaultdict(list)
        index = torch.zeros(self.index.shape, dtype=torch.int64)
        real = torch.zeros(self.real.shape, dtype=torch.bool)
        real[:, :, 0] = True  # a lane without work would divide by no samples
        for lane, turn in enumerate(turns):
            step = 0
            for request in turn:
                sizes = torch.tensor([len(batch) for batch in request.training.batches])
                taken = torch.arange(self.shape.batch) < sizes[:, None]
                steps = slice(step, step + len(sizes))
                index[steps, lane] = torch.zeros(taken.shape, dtype=torch.int64).masked_scatter(
                    taken, torch.cat(request.training.batches)
                )
                real[steps, lane] = taken
                begin[steps.start].append((lane, request))
                end[steps.stop].append((lane, request))
                step = steps.stop
        self.index.copy_(index)
        self.real.copy_(real)
        self.now.zero_()
        return begin, end

    def _load(self, lane: int, request: _Request) -> None:
        for path, slot in self.slots.items():
            slot[lane] = request.at(path)
        for speed in self.speed.values():
            speed[lane] = 0

    def _params(self, lane: int, request: _Request) -> dict[str, Tensor]:
        training = request.training
        return {
            name: self.slots[_param(name)][lane].clone() if name in training.names else tensor.detach().contiguous()
            for name, tensor in training.params.items()
        }

    def _step(self, request: _Request) -> None:
        """Do a step of SGD in every lane; the request, any of the group, says what all have in common."""
        training = request.training
        index, real = (plan.index_select(0, self.now)[0] for plan in (self.index, self.real))
        gradients, losses = vmap(partial(self._gradients, request))(self.slots, index, real)
        for name, gradient in gradients.items():
            w = self.slots[_param(name)]
            if training.weight_decay:
                gradient = gradient.add(w, alpha=training.weight_decay)
            if training.momentum:
                gradient = self.speed[name].mul_(training.momentum).add_(gradient)
            lr = self.slots["training", "lr"].reshape(-1, *[1] * (w.dim() - 1))
            w.addcmul_(gradient, lr.to(w.dtype), value=-1)
        if training.project is not None:
            for name, tensor in vmap(partial(self._projected, request))(self.slots).items():
                self.slots[_param(name)].copy_(tensor)
        self.losses.index_copy_(0, self.now, losses[None].to(self.losses.dtype))
        self.now.add_(1)

    def _gradients(
        self, request: _Request, slots: Mapping[Path, Tensor], index: Tensor, real: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return what the optimiser sees in one lane, and the loss."""
        training, source = request.training, _Stacked(slots, self.tables)
        lane: Any = _Lane(request, source)
        params = {name: slots[_param(name)] for name in training.params}

        def loss(trained: dict[str, Tensor]) -> Tensor:
            return training.loss(lane, _batch(request, source, {**params, **trained}, index, real))

        gradients, value = grad_and_value(loss)({name: params[name] for name in self.trained})
        if training.edit_gradients is not None:
            gradients = {name: training.edit_gradients(lane, name, g, params[name]) for name, g in gradients.items()}
        return gradients, value

    def _projected(self, request: _Request, slots: Mapping[Path, Tensor]) -> dict[str, Tensor]:
        training = request.training
        lane: Any = _Lane(request, _Stacked(slots, self.tables))
        assert training.project is not None
        return dict(training.project(lane, {name: slots[_param(name)] for name in training.names}))

    def _capture(self, request: _Request) -> None:
        """Replace the step by a CUDA graph of it, where that works; the graph reads and writes the same buffers."""
        try:
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # as torch asks for, before anything is captured
                    self.now.zero_()
                    self._step(request)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                self._step(request)
        except RuntimeError as error:
            self.way = f", without a CUDA graph ({_short(error)})"
        else:
            self.way, self.step = ", as a CUDA graph", lambda request: graph.replay()


_Events = defaultdict[int, list[tuple[int, _Request]]]
