"""Partitioners: how training samples are dealt to clients. Pure functions of labels, sites and a stream."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedbench.errors import PartitionError
from fedbench.task import Indices, Partitioner


class Dirichlet(Partitioner):
    """Label skew: each class is cut over the clients by a draw from Dirichlet(alpha), with balancing and a minimum.

    Source: the recipe of NIID-Bench, as the FedKPer code has it. For each class in order its samples are shuffled and
    shares are drawn; the share of every client that already holds N/K samples is set to zero; the rest is renormalised.
    The whole draw is repeated until the smallest client has ``min_size`` samples.

    Deviations: the number of tries is bounded, where the original can loop for ever.

    Parameters
    ----------
    alpha : float, > 0
        Concentration (alpha): small means that a client holds few classes.
    clients : int, >= 1
        Number of clients (K).
    min_size : int, >= 1
        Fewest samples a client may have, before its local test set is cut off.
    max_tries : int, >= 1
        Draws before giving up.
    """

    alpha: float = Field(gt=0, allow_inf_nan=False)
    clients: int = Field(ge=1)
    min_size: int = Field(default=10, ge=1)
    max_tries: int = Field(default=2000, ge=1)

    def split(self, targets: Indices, sites: Indices | None, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        n, k = len(targets), self.clients
        if k * self.min_size > n:
            raise PartitionError(
                f"{k} clients of at least {self.min_size} samples need {k * self.min_size}, the training data has {n}; "
                f"use {max(n // self.min_size, 1)} client(s) at most, or a smaller min_size."
            )
        largest = 0
        for _ in range(self.max_tries):
            parts = self._draw(targets, n_classes, rng)
            smallest = min(len(part) for part in parts)
            if smallest >= self.min_size:
                return [rng.permutation(part) for part in parts]
            largest = max(largest, smallest)
        raise PartitionError(
            f"no split of {n} samples over {k} clients at alpha {self.alpha:g} gave every client {self.min_size} "
            f"samples in {self.max_tries} draws (best: {largest}); use a larger alpha, fewer clients or a smaller "
            "min_size."
        )

    def _draw(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        n, k = len(targets), self.clients
        parts: list[list[Indices]] = [[] for _ in range(k)]
        sizes = np.zeros(k, dtype=np.int64)
        for label in range(n_classes):
            members = rng.permutation(np.flatnonzero(targets == label))
            if len(members) == 0:  # nothing to deal, and all clients may be full by now
                continue
            shares = rng.dirichlet(np.full(k, self.alpha)) * (sizes < n / k)
            if not shares.sum() > 0:  # at a very small alpha all mass may sit on full clients
                shares = (sizes < n / k).astype(float)
            cuts = (np.cumsum(shares / shares.sum()) * len(members)).astype(np.int64)[:-1]
            for client, piece in enumerate(np.split(members, cuts)):
                parts[client].append(piece)
                sizes[client] += len(piece)
        return [np.concatenate(pieces) for pieces in parts]


class Natural(Partitioner):
    """One client a site (hospital), as the data came."""

    def split(self, targets: Indices, sites: Indices | None, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        if sites is None:
            raise PartitionError(
                "a natural split needs a site for each sample, and this data names none; use Dirichlet."
            )
        return [np.flatnonzero(sites == site) for site in np.unique(sites)]
