"""Evaluation: each sample passes each model once, and all metrics share the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedbench.errors import MethodError
from fedbench.federation import Federation
from fedbench.kinds import Kind
from fedbench.models import Model
from fedbench.task import Indices

if TYPE_CHECKING:
    from fedbench.method import Predictor


@dataclass(frozen=True)
class GlobalResult:
    """What one global model gives.

    Parameters
    ----------
    predictions : uint8 array (N,)
        On the global test set.
    correct, validation, clients : bool arrays (N,), (V,), (M,)
        On the global test set, the validation set, and all clients' local test sets.
    logits : tensor (N, C)
        On the global test set.
    """

    predictions: npt.NDArray[np.uint8]
    correct: npt.NDArray[np.bool_]
    validation: npt.NDArray[np.bool_]
    clients: npt.NDArray[np.bool_]
    logits: Tensor


class Evaluator:
    """Evaluates predictors on the held-out samples of a federation.

    Each sample is a row: first those of the data set, once each, and then the local tests of clients that have styles,
    where one image is another sample at every client.

    Parameters
    ----------
    inputs, targets : tensors
        All samples of the data set.
    federation : Federation
        Who is tested on what.
    model, kind
        The task's.
    batch : int
        Samples a forward pass.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, federation: Federation, model: Model, kind: Kind, batch: int
    ) -> None:
        self._model, self._kind, self._batch = model, kind, batch
        clients, common = np.concatenate(federation.tests), [federation.global_test, federation.validation]
        # Ids, not samples: a copy of what is tested would be a second one for every worker.
        self._inputs, self._ids = inputs, np.unique(np.concatenate(common if federation.styles else [*common, clients]))
        self._test = np.searchsorted(self._ids, federation.global_test)
        self._validation = np.searchsorted(self._ids, federation.validation)
        if federation.styles:  # here it is no copy, and too dear to be made in every round
            tests = enumerate(federation.tests)
            self._styled = torch.cat([federation.styled(inputs[test], k, "test") for k, test in tests])
            self._clients = len(self._ids) + np.arange(len(clients))
            rows = np.concatenate([self._ids, clients])
        else:
            self._clients, rows = np.searchsorted(self._ids, clients), self._ids
        self._targets = targets[rows]
        self._remembered: dict[int, tuple[bytes, npt.NDArray[np.bool_]]] = {}
        self.offsets = np.cumsum([0, *(len(test) for test in federation.tests)])

    def everywhere(self, predictor: Predictor) -> GlobalResult:
        """Evaluate a global model on every held-out sample, each once."""
        rows = np.arange(len(self._targets))
        logits = self._logits(predictor, rows)
        right = self._right(logits, rows)
        test = logits[self._test]
        return GlobalResult(
            predictions=self._kind.predict(test).cpu().numpy().astype(np.uint8),
            correct=right[self._test],
            validation=right[self._validation],
            clients=right[self._clients],
            logits=test,
        )

    def on_client(self, predictor: Predictor, client: int, *, remember: bool = False) -> npt.NDArray[np.bool_]:
        """Evaluate a local or personal model on the client's own local test set.

        Where ``remember`` is set, a model that is the same as at the client's last time is not evaluated again.
        """
        rows: Indices = self._clients[self.offsets[client] : self.offsets[client + 1]]
        content = _content(predictor) if remember and isinstance(predictor, Mapping) else None
        if content is not None and content == self._remembered.get(client, (None, None))[0]:
            return self._remembered[client][1]
        right = self._right(self._logits(predictor, rows), rows)
        if content is not None:
            self._remembered[client] = (content, right)
        return right

    def _right(self, logits: Tensor, rows: Indices) -> npt.NDArray[np.bool_]:
        return self._kind.score(logits, self._targets[rows]).cpu().numpy() == 1

    def _logits(self, predictor: Predictor, rows: Indices) -> Tensor:
        batches = (rows[start : start + self._batch] for start in range(0, len(rows), self._batch))
        with torch.no_grad():
            logits = torch.cat([self._apply(predictor, self._read(some)) for some in batches])
        if not bool(torch.isfinite(logits).all()):
            raise MethodError("the outputs of an evaluated model are not finite; a smaller learning rate may mend it.")
        return logits

    def _read(self, rows: Indices) -> Tensor:
        first = np.searchsorted(rows, len(self._ids))  # of those with a style
        plain = self._inputs[self._ids[rows[:first]]]
        return plain if first == len(rows) else torch.cat([plain, self._styled[rows[first:] - len(self._ids)]])

    def _apply(self, predictor: Predictor, x: Tensor) -> Tensor:
        return self._model(predictor, x).logits if isinstance(predictor, Mapping) else predictor(x)


def _content(params: Mapping[str, Tensor]) -> bytes:
    """Return a hash of a model: a few milliseconds, where a forward pass over a test set takes tens of them."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in params.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.digest()
