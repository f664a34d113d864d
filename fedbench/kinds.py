"""What a target is, by kind of task: loss of a sample, prediction, score."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Kind(Protocol):
    """What the harness asks about targets; nothing outside a kind assumes that a target is one integer."""

    def outputs(self, n_classes: int) -> int:
        """Return the width of a model's last layer."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the task loss of each sample, of shape (B,)."""

    def predict(self, logits: Tensor) -> Tensor:
        """Return predictions."""

    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the score of each sample in [0, 1], of shape (B,)."""


class Classification:
    """One class of C a sample; cross entropy; right or wrong."""

    def outputs(self, n_classes: int) -> int:
        return n_classes

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1)

    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (self.predict(logits) == targets).to(torch.float64)


KINDS: dict[str, Kind] = {"classification": Classification()}
