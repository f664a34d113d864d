"""Partitioners: how training samples are dealt to clients. Pure functions of labels, sites and a stream."""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedbench.errors import PartitionError
from fedbench.federation import apportion
from fedbench.task import Indices, Partitioner

Shares = npt.NDArray[np.float64]


class _Artificial(Partitioner, abc.ABC):
    """Clients that are made, not found; each has enough samples."""

    clients: int = Field(ge=1)
    min_size: int = Field(default=10, ge=1)

    def split(self, targets: Indices, sites: Indices | None, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        n, k = len(targets), self.clients
        if k * self.min_size > n:
            raise PartitionError(
                f"{k} clients of at least {self.min_size} samples need {k * self.min_size}, the training data has {n}; "
                f"use {max(n // self.min_size, 1)} client(s) at most, or a smaller min_size."
            )
        return self._deal(targets, n_classes, rng)

    @abc.abstractmethod
    def _deal(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        """Return the split of data that has room for all clients."""


class _Redrawn(_Artificial, abc.ABC):
    """Draws whole splits until the smallest client of one has enough samples."""

    max_tries: int = Field(default=2000, ge=1)
    mend: ClassVar[str]

    def _deal(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        largest = 0
        for _ in range(self.max_tries):
            parts = self._draw(targets, n_classes, rng)
            smallest = min(len(part) for part in parts)
            if smallest >= self.min_size:
                return [rng.permutation(part) for part in parts]
            largest = max(largest, smallest)
        raise PartitionError(
            f"no split of {len(targets)} samples over {self.clients} clients at {self._skew()} gave every client "
            f"{self.min_size} samples in {self.max_tries} draws (best: {largest}); use {self.mend}, fewer clients or a "
            "smaller min_size."
        )

    @abc.abstractmethod
    def _draw(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        """Return one draw."""

    @abc.abstractmethod
    def _skew(self) -> str:
        """Return the parameter that makes clients unequal, as in a sentence."""


class Dirichlet(_Redrawn):
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
    mend: ClassVar[str] = "a larger alpha"

    def _skew(self) -> str:
        return f"alpha {self.alpha:g}"

    def _has_room(self, sizes: Indices, n: int) -> npt.NDArray[np.bool_]:
        """Return which clients are dealt samples of the next class."""
        return sizes < n / self.clients

    def _draw(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        n, k = len(targets), self.clients
        parts: list[list[Indices]] = [[] for _ in range(k)]
        sizes = np.zeros(k, dtype=np.int64)
        for label in range(n_classes):
            members = rng.permutation(np.flatnonzero(targets == label))
            if len(members) == 0:  # nothing to deal, and all clients may be full by now
                continue
            room = self._has_room(sizes, n)
            shares = rng.dirichlet(np.full(k, self.alpha)) * room
            if not shares.sum() > 0:  # at a very small alpha all mass may sit on full clients
                shares = room.astype(float)
            cuts = (np.cumsum(shares / shares.sum()) * len(members)).astype(np.int64)[:-1]
            for client, piece in enumerate(np.split(members, cuts)):
                parts[client].append(piece)
                sizes[client] += len(piece)
        return [np.concatenate(pieces) for pieces in parts]


class PlainDirichlet(Dirichlet):
    """Label skew: each class is cut over the clients by a draw from Dirichlet(alpha), and nothing is balanced.

    Source: M. Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019, section 4,
    and the text, not the code, of Q. Li et al., "Federated Learning on Non-IID Data Silos" (NIID-Bench), ICDE 2022: for
    each class p ~ Dirichlet(alpha), and client k gets the share p_k of it. Sizes are thus skewed as well: one client's
    share of the data has the mean 1/K and, with C classes of equal size, the variance (K - 1) / (C K^2 (K alpha + 1)).

    Deviations: the whole draw is repeated until the smallest client has ``min_size`` samples.

    Parameters
    ----------
    alpha, clients, min_size, max_tries
        As in `Dirichlet`. A small alpha over many clients leaves some with next to nothing, so it may find no split
        where `Dirichlet` does.
    """

    def _has_room(self, sizes: Indices, n: int) -> npt.NDArray[np.bool_]:
        return np.ones(len(sizes), dtype=np.bool_)


class Shards(_Artificial):
    """Label skew: every client holds the same number of classes, and nearly as many samples as any other.

    The data is cut into K k shards of one class each, a class into as many as keep its shards from being larger than
    the others'; each client gets k shards of k different classes, at random.

    Source: the shards of H. B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", AISTATS 2017, section 3, with the exact number of classes of NIID-Bench's ``#C = k``.

    Deviations: McMahan's shards are cut from samples sorted by class, so one may hold two classes, and a client's two
    shards may be of the same; NIID-Bench deals classes blindly and cuts each over whoever holds it, so clients of a
    large class are large. Here neither happens.

    Parameters
    ----------
    classes : int, >= 1
        Classes of a client (k).
    clients : int, >= 1
        Number of clients (K); K k must be at least the number of classes, or some class would have no client.
    min_size : int, >= 1
        Fewest samples a client may have, before its local test set is cut off.
    """

    classes: int = Field(ge=1)

    def _deal(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        sizes = np.bincount(targets, minlength=n_classes)
        shards = self._shards(sizes)
        members = [rng.permutation(np.flatnonzero(targets == label)) for label in range(n_classes)]
        stacks = [np.array_split(ids, count) if count else [] for ids, count in zip(members, shards, strict=True)]
        parts: list[list[Indices]] = [[] for _ in range(self.clients)]
        left = shards.copy()
        for client in rng.permutation(self.clients):
            for label in self._hand(left, rng):
                parts[client].append(stacks[label].pop())
                left[label] -= 1
        smallest = min(sum(map(len, pieces)) for pieces in parts)
        if smallest < self.min_size:
            raise PartitionError(
                f"{self.clients} clients of {self.classes} class(es) each leave one with {smallest} sample(s), fewer "
                f"than {self.min_size}; use fewer clients, more classes a client or a smaller min_size."
            )
        return [np.concatenate(pieces) for pieces in parts]

    def _shards(self, sizes: Indices) -> Indices:
        """Return into how many shards each class is cut: one more, ever again, for the class of the largest shards."""
        present = np.count_nonzero(sizes)
        total = self.clients * self.classes
        if self.classes > present:
            raise PartitionError(
                f"{self.classes} classes a client, but the training data has {present}; use {present} at most."
            )
        if total < present:
            raise PartitionError(
                f"{self.clients} clients of {self.classes} class(es) each cannot hold all {present} classes; use "
                f"{-(-present // self.classes)} clients or {-(-present // self.clients)} classes a client at least."
            )
        shards = (sizes > 0).astype(np.int64)
        while shards.sum() < total:
            # No class has more shards than there are clients, since no client takes two of one class.
            largest = np.where((shards > 0) & (shards < self.clients), sizes / np.maximum(shards, 1), -1.0)
            shards[largest.argmax()] += 1
        if (sizes < shards).any():
            scarce = int((sizes < shards).argmax())
            raise PartitionError(
                f"class {scarce} has {sizes[scarce]} sample(s), too few for {shards[scarce]} clients to hold it; use "
                "fewer clients or fewer classes a client."
            )
        return shards

    def _hand(self, left: Indices, rng: np.random.Generator) -> Indices:
        """Return the classes of the next client, given how many shards are left of each.

        A class of which every client still to come must take a shard is taken; so the last clients find what they need.
        """
        still = int(left.sum()) // self.classes
        forced = np.flatnonzero(left == still)
        free = np.flatnonzero((left > 0) & (left < still))
        weights = left[free] / max(int(left[free].sum()), 1)
        chosen = rng.choice(free, self.classes - len(forced), replace=False, p=weights) if len(free) else free
        return np.concatenate([forced, chosen])


class IID(_Artificial):
    """No skew: the samples are shuffled and cut into parts whose sizes differ by one at most.

    Source: the IID split of H. B. McMahan et al., AISTATS 2017. Deviations: none.

    Parameters
    ----------
    clients : int, >= 1
        Number of clients (K).
    min_size : int, >= 1
        Fewest samples a client may have, before its local test set is cut off.
    """

    def _deal(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        return np.array_split(rng.permutation(len(targets)), self.clients)


class _Sizes(_Redrawn, abc.ABC):
    """Quantity skew: the samples are shuffled and cut into parts of drawn sizes, rounded by largest remainder."""

    @abc.abstractmethod
    def _shares(self, rng: np.random.Generator) -> Shares:
        """Return one positive number a client, to which its size is proportional."""

    def _draw(self, targets: Indices, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        n = len(targets)
        sizes = apportion(self._shares(rng), n, np.full(self.clients, n))
        return np.split(rng.permutation(n), np.cumsum(sizes)[:-1])


class LogNormalSizes(_Sizes):
    """Quantity skew: the clients' sizes are log-normal, their labels alike.

    Client k has a share of the samples proportional to exp(sigma z_k), z_k ~ N(0, 1). A client one standard deviation
    above the median is exp(sigma) times as large as it.

    Source: the sizes of the synthetic data of T. Li et al., "Federated Optimization in Heterogeneous Networks"
    (FedProx), MLSys 2020, whose code draws them with sigma = 2.

    Deviations: there 50 samples are added to each size; here the draw is repeated until the smallest client has
    ``min_size`` samples.

    Parameters
    ----------
    sigma : float, >= 0
        Standard deviation of the logarithm of a size (sigma); at 0 all sizes are equal.
    clients : int, >= 1
        Number of clients (K).
    min_size : int, >= 1
        Fewest samples a client may have, before its local test set is cut off.
    max_tries : int, >= 1
        Draws before giving up.
    """

    sigma: float = Field(ge=0, allow_inf_nan=False)
    mend: ClassVar[str] = "a smaller sigma"

    def _skew(self) -> str:
        return f"sigma {self.sigma:g}"

    def _shares(self, rng: np.random.Generator) -> Shares:
        logs = self.sigma * rng.standard_normal(self.clients)
        shares: Shares = np.exp(logs - logs.max())
        return shares


class DirichletSizes(_Sizes):
    """Quantity skew: the clients' shares of the samples are a draw from Dirichlet(alpha), their labels alike.

    Source: NIID-Bench, "quantity skew" (there beta for alpha). Deviations: shares become sizes by largest remainder,
    which adds up, where the original cuts at the floor of their running sum.

    Parameters
    ----------
    alpha : float, > 0
        Concentration (alpha): small means few large and many small clients. One client's share has the mean 1/K and the
        variance (K - 1) / (K^2 (K alpha + 1)).
    clients : int, >= 1
        Number of clients (K).
    min_size : int, >= 1
        Fewest samples a client may have, before its local test set is cut off.
    max_tries : int, >= 1
        Draws before giving up.
    """

    alpha: float = Field(gt=0, allow_inf_nan=False)
    mend: ClassVar[str] = "a larger alpha"

    def _skew(self) -> str:
        return f"alpha {self.alpha:g}"

    def _shares(self, rng: np.random.Generator) -> Shares:
        return rng.dirichlet(np.full(self.clients, self.alpha))


class Natural(Partitioner):
    """One client a site (hospital), as the data came."""

    def split(self, targets: Indices, sites: Indices | None, n_classes: int, rng: np.random.Generator) -> list[Indices]:
        if sites is None:
            raise PartitionError(
                "a natural split needs a site for each sample, and this data names none; use Dirichlet."
            )
        return [np.flatnonzero(sites == site) for site in np.unique(sites)]
