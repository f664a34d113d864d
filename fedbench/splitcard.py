"""A task's split in text: how large, how mixed and how far apart its clients are, and a table to see it in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from fedbench.errors import DataError, PartitionError
from fedbench.federation import Federation, federate
from fedbench.task import Indices, Task

Counts = npt.NDArray[np.int64]

BUBBLES = " .oO@"
"""Of five sizes: nothing, and up to 1/4, 1/2, 3/4 and all of the largest diameter. Any terminal can show them."""
NAME = 12  # columns for the name of a class


def split_card(task: Task, data_dir: Path | None = None, width: int = 60) -> str:
    """Return facts about a task's split and a table of it, class by client, or one sentence why it cannot be had.

    It is the split of the faithful track, which serves all seeds.

    Parameters
    ----------
    task : Task
        Whose split.
    data_dir : Path, optional
        Where to look for data first.
    width : int, >= 40
        Columns of the widest line.
    """
    try:
        data = task.data.load(data_dir)
        federation = federate(task, data, "faithful", 0)
    except (DataError, PartitionError) as error:
        return f"The split is not drawn: {error}"
    counts = class_counts(federation, data.targets, task.n_classes)
    facts = dict(_facts(federation, counts))
    longest = max(map(len, facts))
    lines = [f"{key:<{longest}}  {value}" for key, value in facts.items()]
    return "\n".join([*lines, "", *_table(counts, task.data.classes, width)])


def class_counts(federation: Federation, targets: Indices, n_classes: int) -> Counts:
    """Return the training samples of each client and class, of shape (K, C)."""
    return np.stack([np.bincount(targets[ids], minlength=n_classes) for ids in federation.train])


def label_divergence(counts: Counts) -> float:
    """Return how much the label mixes of two clients differ: Jensen-Shannon divergence in bits, mean over all pairs.

    It is 0 where all clients have the same mix, and 1 where no two of them have a class in common.

    Parameters
    ----------
    counts : int64 array (K, C)
        Samples of each client and class; two clients at least.

    Examples
    --------
    >>> label_divergence(np.array([[5, 0], [0, 3]]))
    1.0
    >>> label_divergence(np.array([[1, 1], [20, 20], [7, 7]]))
    0.0
    """
    mixes = counts / counts.sum(axis=1, keepdims=True)
    one, other = (mixes[ids] for ids in np.triu_indices(len(mixes), k=1))
    apart = _entropy((one + other) / 2) - (_entropy(one) + _entropy(other)) / 2
    return max(float(apart.mean()), 0.0)


def _entropy(mixes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the entropy of each row in bits."""
    bits: npt.NDArray[np.float64] = entr(mixes).sum(axis=1) / np.log(2)
    return bits


def _facts(federation: Federation, counts: Counts) -> Iterator[tuple[str, str]]:
    sizes, held = counts.sum(axis=1), np.count_nonzero(counts, axis=1)
    tests = np.array([len(ids) for ids in federation.tests])
    n = len(sizes)
    yield "clients", f"{n}" + (f", the last {federation.held_out} held out" if federation.held_out else "")
    yield "training samples", f"{sizes.min():,} to {sizes.max():,} a client, median {np.median(sizes):,.0f}"
    yield "classes", f"{held.min()} to {held.max()} of {counts.shape[1]} a client, mean {held.mean():.1f}"
    if n > 1:
        yield "label divergence", f"{label_divergence(counts):.2f} bit (0: alike, 1: nothing shared)"
    yield "local test sets", f"{tests.min():,} to {tests.max():,} samples, the smallest client {tests.argmin()}'s"
    yield "global test set", f"{len(federation.global_test):,} samples"
    if federation.styles is not None:
        yield "images", "in another style at every client"


def _table(counts: Counts, classes: tuple[str, ...], width: int) -> Iterator[str]:
    """Yield the lines of a table with a bubble for each class and client, in as many blocks as the width asks for."""
    labels = [f"{number:>2} {name[:NAME]:<{NAME}}  " for number, name in enumerate(classes)]
    gutter, n, most, sizes = len(labels[0]), len(counts), int(counts.max()), counts.sum(axis=1)
    step = 2 if 2 * n <= width - gutter else 1
    for clients in np.array_split(np.arange(n), -(-n // ((width - gutter) // step))):
        if n > 10:
            tens = "".join(f"{client // 10:<{10 * step}}" if client % 10 == 0 else "" for client in clients)
            yield (" " * (gutter + step * int(-clients[0] % 10)) + tens)[:width].rstrip()
        yield _row(f"{'class, client':<{gutter}}", (str(client % 10) for client in clients), step)
        for label, row in zip(labels, counts.T[:, clients], strict=True):
            yield _row(label, (_bubble(count, most) for count in row), step)
        yield _row(f"{'   all classes':<{gutter}}", (_bubble(size, sizes.max()) for size in sizes[clients]), step)
        yield ""
    yield f"Area is number: {BUBBLES[-1]} up to {most:,} samples, {BUBBLES[-2]} to 9/16 of that,"
    yield f"{BUBBLES[-3]} to 1/4, {BUBBLES[-4]} to 1/16; all classes: of {sizes.max():,}."


def _row(label: str, cells: Iterable[str], step: int) -> str:
    return (label + "".join(f"{cell:<{step}}" for cell in cells)).rstrip()


def _bubble(count: int, most: int) -> str:
    """Return the bubble whose diameter, the root of the share, is the next larger quarter."""
    return BUBBLES[int(np.ceil(4 * np.sqrt(count / most)))] if count else BUBBLES[0]
