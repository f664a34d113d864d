"""What every result carries: the question that it answers, and how many of what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Question = Literal["Q1", "Q2", "Q3"]
"""Q1: do these two trained models differ on this test set? Q2: do the methods differ on these tasks for a new
seed? Q3: do the methods differ on a new task? An answer to one of them is no answer to another."""

Unit = Literal["test samples", "seeds", "cells", "independent sources", "methods"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of all results.

    Parameters
    ----------
    question : {"Q1", "Q2", "Q3"}
        See `Question`.
    n : int, >= 0
        The size of the sample that the result generalises from.
    unit : str
        What n counts; a cell is one (task, seed).
    """

    question: Question
    n: int
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class NotComputed(Result):
    """In place of a result whose conditions do not hold.

    Parameters
    ----------
    reason : str
        One sentence for the page: ``not computed: 2 independent sources; 8 are needed``.
    """

    reason: str

    def __str__(self) -> str:
        return self.reason
