"""The constant predictor: what a board's numbers look like when nothing is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedbench import Download, Method, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Client, Predictor, Server


@dataclass(frozen=True)
class Constant:
    """Predicts the class shares of some training labels for every input."""

    counts: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        return (self.counts / self.counts.sum()).log().clamp(min=-30.0).expand(len(inputs), -1)


@dataclass(frozen=True, kw_only=True)
class Majority(Method):
    """Global: the most frequent training label of all clients. Local and personal: that of the client alone.

    Source: the usual floor of a classification board. Deviations: none.

    Its backward transfer and consistency are perfect, which is why these are never read without accuracy.

    Cost: the label counts of every client, once, and n_k with every upload; no model crosses the wire, no training.
    """

    family = "reference"
    mechanism = "no training"

    def shared(self, name: str) -> bool:
        return False

    def query(self, server: Server) -> Sequence[int]:
        return range(server.n_clients) if server.round == 0 else ()

    def report(self, client: Client) -> Upload:
        return client.upload({}, counts=client.class_counts)

    def receive(self, server: Server, reports: Sequence[Upload]) -> None:
        server.state = {"counts": torch.stack([report["counts"] for report in reports]).sum(dim=0)}

    def client_update(self, client: Client) -> Upload:
        client.local = Constant(client.class_counts)
        return client.upload({})

    def personal(self, client: Client) -> Predictor | None:
        return Constant(client.class_counts)

    def broadcast(self, server: Server, client_id: int) -> Download:
        return Download({})

    def predictor(self, server: Server) -> Predictor | None:
        return Constant(server.state["counts"])
