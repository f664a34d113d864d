"""The method contract. `Method` is FedAvg; every method inherits from it alone and overrides what differs.

The harness owns sampling, batching, seeds, schedules, byte counting, evaluation, checkpoints and logging. A method
owns what is trained, the loss, what crosses the wire and how it is combined. An instance holds hyperparameters and
nothing else: what lasts between rounds lives in ``client.state`` and ``server.state``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedbench.errors import MethodError, PluginError, SpecError, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fedbench.client import Client
    from fedbench.server import Server
    from fedbench.training import Batch

    Params = dict[str, Tensor]
    Predictor = Mapping[str, Tensor] | Callable[[Tensor], Tensor]
    """What is evaluated: the parameters of the task's model, or any map from inputs to logits."""


@dataclass(frozen=True)
class Limit:
    """An identity that a method claims: at these hyperparameters it equals another one.

    Parameters
    ----------
    at : mapping of str to value
        Hyperparameters of the method that declares the limit.
    equals : str
        Name of the method it then equals.
    exact : bool
        Bit for bit; otherwise up to rounding.
    """

    at: Mapping[str, Any]
    equals: str
    exact: bool = True


@dataclass(frozen=True)
class Range:
    """Where a hyperparameter is searched: between two bounds, or among some values.

    Parameters
    ----------
    name : str
        Of the hyperparameter.
    low, high : float
        Bounds, both included; not given where there are values.
    log : bool
        Whether to search its logarithm.
    values : tuple
        All there is to choose from.
    source : str
        Where the range comes from, such as ``"paper, section 5.1"``.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    values: tuple[Any, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Size:
    """How large things are that cross the wire; see `Method.traffic`.

    Parameters
    ----------
    shared, model : int
        Bytes of the tensors that the method shares, and of the whole model.
    classes, features : int
        Number of classes (C), and of features, the inputs of the last layer (d).
    """

    shared: int
    model: int
    classes: int
    features: int


@dataclass(frozen=True)
class Download:
    """What one client is sent: the shared part of a model, and anything else by name. All of it is counted."""

    params: Mapping[str, Tensor]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.extra[name]


@dataclass(frozen=True)
class Upload:
    """What one client sends back. Made by `Client.upload`; all of it is counted.

    Parameters
    ----------
    client : int
        Who sent it.
    n : int
        Training samples of that client.
    params : mapping of str to tensor
        The shared part of its model.
    extra : mapping of str to tensor, mapping of tensors, or number
        Whatever else the method sends.
    """

    client: int
    n: int
    params: Mapping[str, Tensor]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.extra[name]


def simplex(values: Iterable[float]) -> list[float]:
    """Scale non-negative values to sum to one.

    Raises
    ------
    MethodError
        A value is negative, infinite or NaN, or all are zero.

    Examples
    --------
    >>> simplex([1, 3])
    [0.25, 0.75]
    """
    numbers = [float(value) for value in values]
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or not any(numbers):
        raise MethodError(f"weights must be finite, not negative and not all zero, got {numbers}")
    total = math.fsum(numbers)
    return [number / total for number in numbers]


@dataclass(frozen=True, kw_only=True)
class Method:
    """FedAvg, and the base of every method.

    Class attributes
    ----------------
    version : int
        Bumped by any change that can change a score.
    family : {"global", "personalised", "reference"}
        One global model, a model a client, or a reference point: shown beside the board and never ranked.
    mechanism : str
        What it does differently, in a word or two: ``"regularisation"``, ``"distillation"``, ``"partial sharing"``, ...
    space : tuple of Range
        Where its hyperparameters are searched; those that are not named are not tuned.
    pooled : bool
        Whether one client holds all training data; for reference points only.
    limits : tuple of Limit
        Declared identities; those of the built-in methods are tests.
    bibtex : str
        How to cite it; empty for what has no paper.
    """

    version: ClassVar[int] = 1
    family: ClassVar[Literal["global", "personalised", "reference"]] = "global"
    mechanism: ClassVar[str] = "averaging"
    space: ClassVar[tuple[Range, ...]] = ()
    pooled: ClassVar[bool] = False
    limits: ClassVar[tuple[Limit, ...]] = ()
    bibtex: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.pooled and self.family != "reference":
            raise MethodError(f"{type(self).__name__} pools all clients' data: that is for reference points only.")
        for name, (adapter, _) in _hyperparameters(type(self)).items():
            given = getattr(self, name)
            try:
                object.__setattr__(self, name, adapter.validate_python(given))
            except ValidationError as error:
                raise SpecError(
                    f"{type(self).__name__}.{name}: {error.errors()[0]['msg'].lower()}, got {given!r}"
                ) from None
            try:
                hash(getattr(self, name))
            except TypeError:
                raise SpecError(f"{type(self).__name__}.{name}: must not be changeable; use a tuple.") from None

    @classmethod
    def configure(cls, name: str, values: Mapping[str, Any]) -> Method:
        """Return the method with hyperparameters given by name, as text or as values.

        Raises
        ------
        SpecError
            A hyperparameter is unknown, of the wrong type or out of range.
        """
        known = _hyperparameters(cls)
        for key in values:
            if key not in known:
                raise unknown(f"hyperparameter of {name}", key, known)
        return cls(**values)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return each hyperparameter's default value."""
        return {name: default for name, (_, default) in _hyperparameters(cls).items()}

    def hyperparameters(self) -> dict[str, Any]:
        """Return the resolved hyperparameters, as they are hashed and logged."""
        return dataclasses.asdict(self)

    def traffic(self, size: Size) -> tuple[int | None, int | None]:
        """Return the bytes (down, up) of one sampled client in a round; None where they vary from round to round.

        What is sent once, or asked for by `query`, is not in it. The conformance suite compares it with what was
        measured.
        """
        return size.shared, size.shared + 8  # n_k is a number of 8 bytes

    # --- client -------------------------------------------------------------------------------------------------

    def shared(self, name: str) -> bool:
        """Say whether the tensor of this name crosses the wire; the others stay with their client."""
        return True

    def init_client(self, client: Client) -> None:
        """Fill ``client.state`` at the client's first visit; draw with ``client.rng(name, every_round=False)``."""

    def client_update(self, client: Client) -> Upload:
        """Run the paper's client procedure and return what the client sends."""
        return client.upload(client.fit(client.params, self.loss).params)

    def loss(self, client: Client, batch: Batch) -> Tensor:
        """Return the scalar objective on one batch of one client."""
        return batch.mean(batch.task_loss(batch.logits))

    def personal(self, client: Client) -> Predictor | None:
        """Return what the client would deploy: from its state and the newest download, on copies only."""
        return client.params

    # --- server -------------------------------------------------------------------------------------------------

    def init_server(self, server: Server) -> None:
        """Fill ``server.state`` before the first round."""

    def broadcast(self, server: Server, client_id: int) -> Download:
        """Return what this client is sent."""
        return server.download()

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        """Return a weight for each upload; they sum to one and are recorded."""
        return simplex(upload.n for upload in uploads)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        """Make the next global model from the uploads, which come in the order of client ids."""
        server.params = server.average(uploads, weights)

    def predictor(self, server: Server) -> Predictor | None:
        """Return the global model, or None where the method has none."""
        return server.params

    # --- counted traffic outside the normal round ---------------------------------------------------------------

    def query(self, server: Server) -> Sequence[int]:
        """Return the clients asked for a report before this round (``server.round``, counted from 0).

        Asked once more when the last round is over, with ``server.round == server.rounds``: what the method then
        makes of its model is recorded as ``final``, beside the last round.
        """
        return ()

    def report(self, client: Client) -> Upload:
        """Return what a queried client reports."""
        raise MethodError(f"{type(self).__name__} queries clients but defines no report()")

    def receive(self, server: Server, reports: Sequence[Upload]) -> None:
        """Take in the reports."""


def _hyperparameters(cls: type[Method]) -> dict[str, tuple[TypeAdapter[Any], Any]]:
    hints = get_type_hints(cls, include_extras=True)
    for item in dataclasses.fields(cls):
        if item.default is dataclasses.MISSING:
            raise PluginError(f"{cls.__name__}.{item.name} has no default; give every hyperparameter one.")
    finite = ConfigDict(allow_inf_nan=False)  # JSON, and so a cell's identity, has neither
    return {item.name: (TypeAdapter(hints[item.name], config=finite), item.default) for item in dataclasses.fields(cls)}
