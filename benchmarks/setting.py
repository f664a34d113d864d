"""What the variants of a round share: task, split, schedule and samples, and how a measurement is told.

A variant is a script that runs a few rounds in a fresh process and prints one line of JSON:
``{"runs": [[{"train": s, "evaluate": s, "trained": n, "evaluated": n}, ...], ...]}``, one list a run and one entry a
round. Several runs stand there where they went side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

from fedbench import registry
from fedbench.federation import Federation, federate
from fedbench.task import Dataset, Task


class Round(TypedDict):
    """Seconds of a round for training (with aggregation) and for evaluation, and the samples that passed a model."""

    train: float
    evaluate: float
    trained: int
    evaluated: int


@dataclass(frozen=True)
class Setting:
    """A task cut to a few rounds, its data, and who trains and is tested on what.

    On the faithful track every seed has this split and schedule, so all variants train the same clients in the same
    rounds and evaluate the same samples.
    """

    task: Task
    dataset: Dataset
    federation: Federation

    def evaluated(self, t: int) -> int:
        """Return the samples evaluated in round t, the same in all variants.

        The global model on the global test set, the validation set and every local test set; the models of the
        clients that trained on their own local test sets.
        """
        split = self.federation
        everywhere = len(split.global_test) + len(split.validation) + sum(map(len, split.tests))
        return everywhere + sum(len(split.tests[k]) for k in split.schedule[t])


@lru_cache(maxsize=1)
def setting(name: str, rounds: int) -> Setting:
    """Return the setting of a registered task, cut to its first rounds."""
    task: Task = registry.tasks.get(name)
    task = task.but(protocol=task.protocol.but(rounds=rounds))
    dataset = task.data.load()
    return Setting(task, dataset, federate(task, dataset, "faithful", 1))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every variant has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="blood", help="a task of colour images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds to run (default: %(default)s)")
    return parser


def tell(**measured: object) -> None:
    """Print a measurement as the last line of the output, where the benchmark reads it."""
    sys.stdout.write(json.dumps(measured) + "\n")
