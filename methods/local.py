"""Local training without communication: the reference point that personalisation has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbench import Method

if TYPE_CHECKING:
    from fedbench import Client, Predictor, Server


@dataclass(frozen=True, kw_only=True)
class Local(Method):
    """Every client trains a model of its own, in the rounds in which it is sampled, from the common start.

    Source: the usual lower reference of personalised federated learning. Deviations: none.

    Nothing is shared, so nothing crosses the wire but n_k, and there is no global model. A client that was never
    sampled still holds the common start.

    Cost: no traffic; a model of state a client.
    """

    family = "reference"
    mechanism = "no communication"

    def shared(self, name: str) -> bool:
        return False

    def predictor(self, server: Server) -> Predictor | None:
        return None

    def personal(self, client: Client) -> Predictor | None:
        return client.params
