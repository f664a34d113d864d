"""Centralised training on the pooled data: the reference point above."""

from dataclasses import dataclass

from fedbench import Method


@dataclass(frozen=True, kw_only=True)
class Centralised(Method):
    """One client holds all training data and trains in every round; the rest is FedAvg.

    Source: the usual upper reference of federated learning. Deviations: none.

    It is given as many sample passes a round as the clients sampled in that round would make together, in batches of
    the same size and at the same learning rate: the effort is that of the federation, the data is not split. A round's
    passes are drawn without replacement until the data is used up, then anew. There is no local model.

    Cost: no traffic, as nothing is sent; the sample passes of FedAvg.
    """

    family = "reference"
    mechanism = "pooled data"
    pooled = True
