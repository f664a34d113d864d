"""What a task is: data, how it is split over clients, model, protocol. No torch, no data is read here."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from fedbench.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

Indices = npt.NDArray[np.int64]
Track = Literal["faithful", "robust"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Spec(BaseModel):
    """Base of everything that is part of a cell's identity: frozen, and no unknown key passes."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SpecError(_explain(type(self).__name__, error)) from None

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.model_dump_json()))

    def but(self, **changes: Any) -> Self:
        """Return a copy with other values, checked like the first."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    def resolved(self) -> dict[str, Any]:
        """Return all values as plain JSON types, with the class where several could stand."""
        return self.model_dump(mode="json")


def _explain(owner: str, error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "value"
        given = f", got {item['input']!r}" if item["type"] not in ("missing", "extra_forbidden") else ""
        lines.append(f"{owner}: {where}: {item['msg'].lower()}{given}")
    return "; ".join(lines)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples in memory with the official splits, if there are any.

    Parameters
    ----------
    inputs : array of shape (N, height, width, channels) uint8, or (N, features) float32
        All samples of all splits. A sample id is a row of this array, here and in every record.
    targets : int64 array of shape (N,)
        Class of each sample.
    train, validation, test : int64 arrays
        Sample ids of the splits; ``test`` is empty where the data has no official test split.
    sites : int64 array of shape (N,) or None
        The natural client (hospital) of each sample.
    """

    inputs: npt.NDArray[Any]
    targets: Indices
    train: Indices
    validation: Indices
    test: Indices
    sites: Indices | None = None


class Data(Spec, abc.ABC):
    """Where a task's samples come from; a plug-in may bring a subclass of its own.

    Everything that ``fedbench ls`` and ``show`` print is declared here, so that no data file is needed for it.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    counts: dict[str, int]
    license: str

    @abc.abstractmethod
    def locate(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the files on this machine.

        Raises
        ------
        DataMissingError
            A file is in none of the places looked in; the message names the places and the mend.
        """

    @abc.abstractmethod
    def fetch(self, data_dir: Path | None = None) -> tuple[Path, ...]:
        """Return the files, downloading and checking what is missing.

        Raises
        ------
        DataMissingError
            A file is missing and cannot be downloaded.
        """

    @abc.abstractmethod
    def load(self, data_dir: Path | None = None) -> Dataset:
        """Read and check the files.

        Raises
        ------
        DataError
            A file is damaged or not what is declared.
        """


class Partitioner(Spec, abc.ABC):
    """How training samples are dealt to clients; a plug-in may bring a subclass of its own."""

    @abc.abstractmethod
    def split(self, targets: Indices, sites: Indices | None, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        """Return for each client the positions of its samples in ``targets``: a disjoint cover.

        Raises
        ------
        PartitionError
            The request cannot be met; the message has the numbers and a mend.
        """


class Styles(Spec, abc.ABC):
    """How the images of one client differ from another's: scanner, stain, camera; a plug-in may bring its own subclass.

    A client's style is drawn anew whenever its images are read, from streams that begin anew as well. So nothing is
    kept of it, and no image is stored twice.
    """

    @abc.abstractmethod
    def applied(self, images: Tensor, style: np.random.Generator, noise: np.random.Generator) -> Tensor:
        """Return images as a client's site would have made them.

        Parameters
        ----------
        images : float32 tensor (n, height, width, channels), in [-1, 1]
            All training images of the client, or all images of its local test set; not to be changed in place.
        style : numpy.random.Generator
            The client's stream, the same for its training and its test images: draw its style from it.
        noise : numpy.random.Generator
            The stream of these images of the client: draw from it what differs from image to image.
        """


class Protocol(Spec):
    """How a federation is trained and evaluated.

    Parameters
    ----------
    rounds : int, >= 1
        Communication rounds (T).
    participation : float in (0, 1]
        Share of the clients sampled each round: ``max(int(K * participation), 1)`` clients, as the FedKPer protocol.
    local_epochs : int, >= 0
        Passes of a sampled client over its training data (E).
    batch_size : int, >= 1
        Samples a step (B); a last short batch is kept.
    lr, momentum, weight_decay : float, >= 0
        SGD of the clients; momentum starts at zero at every participation.
    lr_decay : float in (0, 1]
        Factor on ``lr`` after every global round.
    local_test : float in (0, 1)
        Share of a client's samples cut off as its local test set, where that set comes from its own samples.
    personal_every : int, >= 0
        Personal models are evaluated on every so many rounds and on the last; 0 means on the last only.
    evaluation_batch : int, >= 1
        Samples a forward pass outside training; fixed and recorded, as it may change the last bits.
    """

    rounds: int = Field(ge=1)
    participation: float = Field(gt=0, le=1)
    local_epochs: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    lr: float = Field(ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    lr_decay: float = Field(default=1.0, gt=0, le=1)
    local_test: float = Field(default=0.2, gt=0, lt=1)
    personal_every: int = Field(default=0, ge=0)
    evaluation_batch: int = Field(default=128, ge=1)

    def sampled(self, n_clients: int) -> int:
        """Return how many of ``n_clients`` take part in a round."""
        return max(int(n_clients * self.participation), 1)

    def lr_at(self, round: int) -> float:
        """Return the learning rate of a round, counted from 0."""
        return self.lr * self.lr_decay**round

    def personal_rounds(self) -> list[int]:
        """Return the rounds, counted from 0, after which personal models are evaluated."""
        every = self.personal_every or self.rounds
        return sorted({*range(every - 1, self.rounds, every), self.rounds - 1})


FEDKPER_PROTOCOL = Protocol(
    rounds=100,
    participation=0.1,
    local_epochs=5,
    batch_size=12,
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-5,
    lr_decay=0.99,
    local_test=0.2,
    personal_every=10,
)
"""The protocol of the FedKPer paper (arXiv:2605.00698) and its code, which most tasks follow or scale down.

That personal models are evaluated on every tenth round is FedBench's choice; the paper does not evaluate them.
"""


class Task(Spec):
    """Data, split, model and protocol under one name.

    Parameters
    ----------
    name : str
        Lower case letters, digits, dots, hyphens and underscores.
    version : int, >= 1
        Bumped by any change that can change a score.
    title, description : str
        One line, and the card that goes into each record.
    kind : {"classification"}
        What a target is, its loss and the metrics that apply.
    data : Data
        Samples and their declared facts.
    partitioner : Partitioner
        Split over clients.
    styles : Styles or None
        How the images of the clients differ, in training and in their local test sets. The official validation and test
        sets stay as they are: images of a site that is none of the clients.
    held_out : float in [0, 1)
        Share of the clients that never train, at least one client if it is not zero. A method is evaluated on them as
        it would serve a newcomer: by its global model, and by what ``personal`` makes of a client never sampled.
    evaluated_on : {"test", "validation"}
        Which data evaluates it. With ``"validation"``, for the search for hyperparameters, no test sample is trained on
        or evaluated; see `fedbench.federation.federate`.
    model : str
        Name in `fedbench.models.MODELS`.
    protocol : Protocol
        Training and evaluation.
    primary : str
        The metric that ranks.
    source : str
        The cluster of independent data: tasks of one source count once in claims about new tasks.
    """

    name: Name
    version: int = Field(default=1, ge=1)
    title: str
    description: str = ""
    kind: Literal["classification"] = "classification"
    data: SerializeAsAny[Data]
    partitioner: SerializeAsAny[Partitioner]
    styles: SerializeAsAny[Styles] | None = None
    held_out: float = Field(default=0.0, ge=0, lt=1)
    evaluated_on: Literal["test", "validation"] = "test"
    model: str
    protocol: Protocol
    primary: str = "global_accuracy_mean"
    source: str

    @property
    def n_classes(self) -> int:
        """Number of classes (C)."""
        return len(self.data.classes)

    def identity(self) -> dict[str, Any]:
        """Return what decides the task's numbers, as plain JSON types: no prose, but all the rest.

        A part that the task does without (no styles, no client held out) is left out, so that tasks from before there
        was such a part keep their identity.
        """
        values = self.resolved()
        for prose in ("title", "description"):
            del values[prose]
        for part, without in (("styles", None), ("held_out", 0), ("evaluated_on", "test")):
            if values[part] == without:
                del values[part]
        for part in ("data", "partitioner", "styles"):
            if part in values:
                values[part]["type"] = type(getattr(self, part)).__name__
        return values
