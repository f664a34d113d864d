"""A federation: who trains on which samples, who is tested on which, and who takes part when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedbench.errors import PartitionError
from fedbench.seeds import Streams, fingerprint
from fedbench.task import Dataset, Indices, Styles, Task, Track

if TYPE_CHECKING:
    from torch import Tensor

ROBUST_TEST = 50
"""Fewest images of a client's test set on the robust track."""


@dataclass(frozen=True, eq=False)
class Federation:
    """The split and the schedule of one cell. All ids are rows of the data set.

    Parameters
    ----------
    train : tuple of int64 arrays
        Training samples of each client; those of a client that is held out serve its own adaptation alone.
    tests : tuple of int64 arrays
        Local test samples of each client of the task.
    global_test, validation : int64 arrays
        The global test set, and the validation set, which may be empty.
    schedule : tuple of int64 arrays
        For each round the ids of the sampled clients, ascending.
    passes : tuple of int64 arrays
        For each round and sampled client the samples of its local training: epochs times training samples.
    held_out : int
        How many clients never train. They are the last ones, so the others count from 0 without a gap.
    styles : Styles or None
        How the images of the clients differ.
    base : int
        Base seed of the task's draws; 0 on the faithful track.
    pool : bool
        Whether one client holds everything (see `pooled`), so that trainers are not the clients that are tested.
    """

    train: tuple[Indices, ...]
    tests: tuple[Indices, ...]
    global_test: Indices
    validation: Indices
    schedule: tuple[Indices, ...]
    passes: tuple[Indices, ...]
    held_out: int = 0
    styles: Styles | None = None
    base: int = 0
    pool: bool = False

    @property
    def trainers(self) -> int:
        """How many clients may train; their ids are those below this number."""
        return len(self.train) - self.held_out

    def pooled(self) -> Federation:
        """Return the same federation with one trainer that holds all training data and takes part in every round.

        It makes as many sample passes a round as the clients sampled in that round would make together.
        """
        return replace(
            self,
            train=(np.sort(np.concatenate(self.train[: self.trainers])),),
            schedule=tuple(np.zeros(1, dtype=np.int64) for _ in self.schedule),
            passes=tuple(passes.sum(keepdims=True) for passes in self.passes),
            held_out=0,
            pool=True,
        )

    def styled(self, images: Tensor, client: int, part: Literal["train", "test"]) -> Tensor:
        """Return a client's images in its style; as they are, where the task has no styles.

        Parameters
        ----------
        images : tensor (n, ...)
            All samples of ``train[client]``, or all of ``tests[client]``, in this order.
        client : int
            Whose they are.
        part : {"train", "test"}
            Which of the two: the style is the same, the noise is not.
        """
        if self.styles is None:
            return images
        streams = Streams(self.base)
        noise = streams.rng("style noise", client=client, part=part)
        return self.styles.applied(images, streams.rng("style", client=client), noise)

    def partition_id(self) -> str:
        """Fingerprint of the split."""
        return fingerprint([*self.train, *self.tests, self.global_test, self.validation])

    def schedule_id(self) -> str:
        """Fingerprint of who takes part when."""
        return fingerprint(self.schedule)


def federate(task: Task, data: Dataset, track: Track, seed: int) -> Federation:
    """Split a data set over clients and draw the schedule.

    On the faithful track one partition serves all seeds, local tests are cut from the client's own training samples,
    and the schedule of round t is drawn from a generator seeded with t alone, as the FedKPer code does. On the robust
    track all three are drawn anew with each seed, and local tests come from the official test split.

    Data without an official test split (hospitals) is cut the same way on both tracks: a stratified share of each
    client's samples is its test set, and the union of these is the global test set.

    Clients that are held out, and the styles of all clients, belong to the partition: they are drawn when it is. Held
    out clients come last, in the order of the others among themselves.

    A task that is evaluated on validation data (``Task.evaluated_on``) has the same clients and schedule, but no test
    sample is anywhere in its federation: the official validation set is its global test set, and local tests are cut
    once more, from what is left for training. The real local tests and the clients that are held out are dropped.
    Without an official validation set, the union of the new local tests takes its place.

    Parameters
    ----------
    task : Task
        Partitioner, styles, held-out clients, protocol, and which data it is evaluated on.
    data : Dataset
        Samples.
    track : {"faithful", "robust"}
        What a seed redraws.
    seed : int
        Base seed.

    Raises
    ------
    PartitionError
        The split cannot be made; the message has the numbers and a mend.
    """
    if task.styles is not None and data.inputs.ndim != 4:
        raise PartitionError(
            f"{task.name} has samples of the shape {data.inputs.shape[1:]}, but styles are for images; leave them out."
        )
    base = seed if track == "robust" else 0
    streams = Streams(base)
    sites = None if data.sites is None else data.sites[data.train]
    parts = task.partitioner.split(data.targets[data.train], sites, task.n_classes, streams.rng("partition"))
    held_out = _held_out(task, len(parts), streams.rng("held out"))
    trainers = np.setdiff1d(np.arange(len(parts)), held_out)
    owned = [data.train[parts[k]] for k in (*trainers, *held_out)]
    tests = _local_tests(task, data, track, owned, streams)
    train = _without(owned, tests)
    global_test = data.test if len(data.test) else np.sort(np.concatenate(tests))
    validation = data.validation
    if task.evaluated_on == "validation":
        owned, held_out = train[: len(trainers)], held_out[:0]
        tests = _local_validations(task, data, track, owned, streams)
        train = _without(owned, tests)
        global_test = data.validation if len(data.validation) else np.sort(np.concatenate(tests))
        validation = data.validation[:0]
    schedule = _schedule(len(trainers), task, track, seed)
    return Federation(
        train=tuple(train),
        tests=tuple(tests),
        global_test=global_test,
        validation=validation,
        schedule=schedule,
        passes=tuple(task.protocol.local_epochs * np.array([len(train[k]) for k in ids]) for ids in schedule),
        held_out=len(held_out),
        styles=task.styles,
        base=base,
    )


def _local_tests(task: Task, data: Dataset, track: Track, owned: list[Indices], streams: Streams) -> list[Indices]:
    """Return the local test set of each client: cut from what it owns, or drawn from the official test split."""
    tests = []
    for client, ids in enumerate(owned):
        rng = streams.rng("local test", client=client)
        labels = data.targets[ids]
        if len(data.test) == 0:
            chosen = ids[stratified(labels, task.protocol.local_test, rng)]
        elif track == "faithful":
            chosen = ids[balanced(labels, task.protocol.local_test, rng)]
        else:
            size = max(ROBUST_TEST, round(task.protocol.local_test * len(ids)))
            chosen = data.test[matching(labels, data.targets[data.test], size, task.n_classes, rng)]
        tests.append(_checked(task, client, ids, chosen, "test"))
    return tests


def _local_validations(
    task: Task, data: Dataset, track: Track, owned: list[Indices], streams: Streams
) -> list[Indices]:
    """Return what is cut from the training samples of each client to take the place of its local test set.

    The share is that of the local tests, cut as the track cuts them. Only where these come from the official test split
    is there nothing to follow: a stratified share then, as of data without such a split.
    """
    cut = balanced if track == "faithful" and len(data.test) else stratified
    validations = []
    for client, ids in enumerate(owned):
        rng = streams.rng("local validation", client=client)
        chosen = ids[cut(data.targets[ids], task.protocol.local_test, rng)]
        validations.append(_checked(task, client, ids, chosen, "validation"))
    return validations


def _checked(task: Task, client: int, ids: Indices, chosen: Indices, part: str) -> Indices:
    """Return a client's evaluation set in order of ids, once it is sure that it and the training set have samples."""
    if len(chosen) == 0 or len(np.setdiff1d(ids, chosen)) == 0:
        raise PartitionError(
            f"client {client} of {task.name} has {len(ids)} sample(s): too few for a training set and a local {part} "
            f"set of {task.protocol.local_test:.0%}; use fewer clients or a larger min_size."
        )
    return np.sort(chosen)


def _without(owned: list[Indices], chosen: list[Indices]) -> list[Indices]:
    return [np.sort(np.setdiff1d(ids, some)) for ids, some in zip(owned, chosen, strict=True)]


def _held_out(task: Task, n_clients: int, rng: np.random.Generator) -> Indices:
    """Return which clients of a split never train: the task's share of them, but one at least and not all."""
    if not task.held_out:
        return np.zeros(0, dtype=np.int64)
    if n_clients < 2:
        raise PartitionError(f"{task.name} has a single client, so none can be held out; use more clients.")
    size = min(max(round(task.held_out * n_clients), 1), n_clients - 1)
    return np.sort(rng.choice(n_clients, size, replace=False))


def balanced(labels: Indices, share: float, rng: np.random.Generator) -> Indices:
    """Return positions of a local test set that is nearly balanced over the classes a client has.

    Source: the FedKPer code. With m samples and u classes the quota a class is floor(floor(share m) / u); a class
    smaller than its quota gives floor(share of it); if nothing was drawn, floor(share m) samples at random.
    """
    classes = np.unique(labels)
    quota = int(share * len(labels)) // len(classes)
    drawn = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        size = quota if quota <= len(members) else int(share * len(members))
        drawn.append(rng.choice(members, size, replace=False))
    chosen = np.concatenate(drawn)
    return chosen if len(chosen) else rng.choice(len(labels), int(share * len(labels)), replace=False)


def stratified(labels: Indices, share: float, rng: np.random.Generator) -> Indices:
    """Return positions of a test set with a share of each class, rounded by largest remainder."""
    classes, counts = np.unique(labels, return_counts=True)
    sizes = apportion(counts.astype(float), round(share * len(labels)), counts)
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(labels == label), size, replace=False)
            for label, size in zip(classes, sizes, strict=True)
        ]
    )


def matching(labels: Indices, pool: Indices, size: int, n_classes: int, rng: np.random.Generator) -> Indices:
    """Return positions in a pool of test labels, drawn without replacement with the label mix of ``labels``.

    The set is made smaller where the pool has too few of a class, but not smaller than `ROBUST_TEST`.

    Raises
    ------
    PartitionError
        The pool cannot give `ROBUST_TEST` samples in this mix.
    """
    mix = np.bincount(labels, minlength=n_classes) / len(labels)
    available = np.bincount(pool, minlength=n_classes)
    present = mix > 0
    feasible = int(np.floor((available[present] / mix[present]).min() + 1e-9))
    if feasible < ROBUST_TEST:
        scarce = int(np.flatnonzero(present)[(available[present] / mix[present]).argmin()])
        raise PartitionError(
            f"class {scarce} is {mix[scarce]:.0%} of a client's labels but has {available[scarce]} test samples: too "
            f"few for a test set of {ROBUST_TEST} in that mix; use a larger alpha, or the faithful track."
        )
    sizes = apportion(mix, min(size, feasible), available)
    return np.concatenate(
        [rng.choice(np.flatnonzero(pool == label), count, replace=False) for label, count in enumerate(sizes) if count]
    )


def apportion(weights: np.ndarray, total: int, limits: np.ndarray) -> Indices:
    """Share out ``total`` in proportion to weights by largest remainder, no share above its limit.

    Examples
    --------
    >>> apportion(np.array([2.0, 1.0, 1.0]), 6, np.array([9, 9, 9])).tolist()
    [3, 2, 1]
    """
    exact = weights / weights.sum() * total
    sizes: Indices = np.minimum(np.floor(exact + 1e-9).astype(np.int64), limits)
    order = np.argsort(-(exact - sizes), kind="stable")
    for index in order:
        if sizes.sum() < total and sizes[index] < limits[index] and weights[index] > 0:
            sizes[index] += 1
    return sizes


def _schedule(n_clients: int, task: Task, track: Track, seed: int) -> tuple[Indices, ...]:
    size = task.protocol.sampled(n_clients)
    drawn = []
    for t in range(task.protocol.rounds):
        if track == "faithful":
            # The legacy generator is the one whose stream the FedKPer code draws from after seeding it with t.
            ids = np.random.RandomState(t).choice(n_clients, size, replace=False)
        else:
            ids = Streams(seed).rng("schedule", round=t).choice(n_clients, size, replace=False)
        drawn.append(np.sort(ids).astype(np.int64))
    return tuple(drawn)
