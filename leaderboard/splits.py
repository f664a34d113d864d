"""The picture of a split: a bubble for each class and client, whose area is the number of training samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from fedbench.leaderboard.board import Split

STEP = 22  # user units between two rows or columns
_LARGEST = 10.0


@dataclass(frozen=True)
class Bubble:
    """One bubble.

    Parameters
    ----------
    x, y : int
        Centre.
    r : str
        Radius.
    title : str
        What it stands for, in words.
    held_out : bool
        Whether the client never trains.
    """

    x: int
    y: int
    r: str
    title: str
    held_out: bool


@dataclass(frozen=True)
class Picture:
    """A split, ready to draw: clients are columns, classes rows.

    Parameters
    ----------
    split : Split
        Who holds what.
    classes : tuple of str
        Names of the classes.
    """

    split: Split
    classes: tuple[str, ...]

    @property
    def width(self) -> int:
        """Of the field of bubbles, in user units."""
        return STEP * len(self.split.counts)

    @property
    def height(self) -> int:
        """Of the field of bubbles, in user units."""
        return STEP * len(self.classes)

    @property
    def bubbles(self) -> list[Bubble]:
        """All bubbles, client by client; a class that a client does not have has none."""
        most = max((n for row in self.split.counts for n in row), default=0)
        return [
            Bubble(
                x=STEP * k + STEP // 2,
                y=STEP * c + STEP // 2,
                r=f"{_LARGEST * math.sqrt(n / most):.2f}",
                title=f"client {k}, {name}: {n:,} training samples",
                held_out=self.split.held_out[k],
            )
            for k, row in enumerate(self.split.counts)
            for c, (name, n) in enumerate(zip(self.classes, row, strict=True))
            if n
        ]

    @property
    def description(self) -> str:
        """The split in words, for whoever does not see the picture."""
        counts = np.array(self.split.counts)
        sizes, held = counts.sum(axis=1), np.count_nonzero(counts, axis=1)
        tests = self.split.test_sizes
        parts = [
            f"{len(sizes)} clients",
            f"{sizes.min():,} to {sizes.max():,} training samples a client, median {np.median(sizes):,.0f}",
            f"{held.min()} to {held.max()} of {counts.shape[1]} classes a client",
            f"local test sets of {min(tests):,} to {max(tests):,} samples",
        ]
        if any(self.split.held_out):
            parts.append(f"held out, and never training: {sum(self.split.held_out)}")
        return "; ".join(parts)


def picture(split: Split | None, classes: tuple[str, ...]) -> Picture | None:
    """Return the picture of a split; None where there is none, or where it does not fit the names of the classes."""
    if split is None or not split.counts or any(len(row) != len(classes) for row in split.counts):
        return None
    return Picture(split, classes)
