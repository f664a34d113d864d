"""What server code sees: the global model, its own state, and uploads. No sample, no client's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedbench.method import Download, Upload
from fedbench.models import Model, Params
from fedbench.seeds import Streams


@dataclass
class Server:
    """The server of one run, handed to a method's server procedures.

    Parameters
    ----------
    params : dict of str to tensor
        The global model. Replace it, do not change its tensors in place.
    initial : mapping of str to tensor
        The common start.
    n_clients : int
        Clients of the federation (K).
    round, rounds : int
        Current round, counted from 0, and all (T).
    shared : callable
        Says which tensors cross the wire.
    streams : Streams
        Source of `rng`.
    model : Model
        The task's, for predictors of a method's own.
    state : dict
        What lasts between rounds: tensors, dicts of tensors, numbers, by name. Replace, do not change in place.
    """

    params: Params
    initial: Mapping[str, Tensor]
    n_clients: int
    rounds: int
    shared: Callable[[str], bool]
    streams: Streams
    model: Model = None  # type: ignore[assignment]  # the arithmetic of a method can be tried without
    round: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    def download(self, **extra: Any) -> Download:
        """Return the shared part of the global model, with anything else by name."""
        return Download({k: v for k, v in self.params.items() if self.shared(k)}, extra)

    def average(self, uploads: Sequence[Upload], weights: Sequence[float]) -> Params:
        """Return the global model with its shared tensors replaced by the weighted mean of the uploads'.

        Sums run in float64 and in the order of the uploads, so that rounding does not depend on their number.
        """
        shared = {
            name: _weighted_sum([upload.params[name] for upload in uploads], weights)
            for name in self.params
            if self.shared(name)
        }
        return {**self.params, **shared}

    def change(self, uploads: Sequence[Upload], weights: Sequence[float]) -> Params:
        """Return the weighted sum of the uploads' differences from the global model, for the shared tensors.

        With weights that sum to one it is the average minus the global model: to server optimisers, a negative
        gradient. It is exactly zero where no upload differs. Sums run in float64, as in `average`.
        """
        return {
            name: _weighted_sum([upload.params[name].to(torch.float64) - w for upload in uploads], weights).to(w.dtype)
            for name, w in self.params.items()
            if self.shared(name)
        }

    def rng(self, name: str, client: int | None = None) -> np.random.Generator:
        """Return a method's own stream for this round, or for this round and client."""
        depends = {} if client is None else {"client": client}
        return self.streams.rng(f"method/{name}", round=self.round, **depends)


def _weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight * tensor.to(torch.float64)
    return total.to(tensors[0].dtype)
