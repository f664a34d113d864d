"""A cell: one task, method, hyperparameters, track and seed; and suites, which are lists of cells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fedbench import registry, toml
from fedbench.errors import SpecError, unknown
from fedbench.method import Method
from fedbench.schema import Tuning, identity_hash
from fedbench.task import Name, Spec, Task, Track

HARNESS_VERSION = 1
"""Bumped by any change outside tasks and methods that can change a score; see ``tests/versions.py``."""


@dataclass(frozen=True)
class Cell:
    """One run to be made.

    Parameters
    ----------
    task : Task
        Data, split, model, protocol.
    method_name : str
        The name under which the method is registered.
    method : Method
        The method with its hyperparameters.
    track : {"faithful", "robust"}
        What a seed redraws.
    seed : int, >= 0
        Base of all random streams.
    tuning : Tuning or None
        The search that found the hyperparameters; no part of what the cell is, and so not compared.
    """

    task: Task
    method_name: str
    method: Method
    track: Track
    seed: int
    tuning: Tuning | None = field(default=None, compare=False)

    def identity(self) -> dict[str, Any]:
        """Return all that decides the cell's numbers but for the seed, as plain JSON types.

        The harness is named from its version 2 on, so that cells from before it had a version keep their identity.
        """
        harness = {"harness": HARNESS_VERSION} if HARNESS_VERSION > 1 else {}
        return {
            **harness,
            "task": self.task.identity(),
            "method": {
                "name": self.method_name,
                "version": type(self.method).version,
                "family": self.method.family,
                "hyperparameters": self.method.hyperparameters(),
            },
            "track": self.track,
        }

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits over the identity: the same for all seeds and for all suites."""
        return identity_hash(self.identity())

    @property
    def label(self) -> str:
        """The method's name, with those hyperparameters that are not at their default."""
        defaults = self.method.defaults()
        changed = {k: v for k, v in sorted(self.method.hyperparameters().items()) if v != defaults[k]}
        inner = ",".join(f"{key}={value}" for key, value in changed.items())
        return f"{self.method_name}[{inner}]" if inner else self.method_name

    def __str__(self) -> str:
        return f"{self.task.name}/{self.label}/seed-{self.seed}"

    def folder(self, results: Path) -> Path:
        """Return where the record of this cell stands below a results folder."""
        return results / self.task.name / self.method_name / self.hash / f"seed-{self.seed}"


class TrialScore(Spec):
    """One trial of a search.

    Parameters
    ----------
    hyperparameters : mapping of str to value
        Those that are searched.
    score : float
        What it reached, as a fraction; the worst possible, if it failed.
    failed : bool
        Whether it gave no score, as its loss was not finite or the method stopped with an error.
    """

    hyperparameters: dict[str, Any]
    score: float = Field(allow_inf_nan=False)
    failed: bool = False


class Tuned(Spec):
    """What a search for hyperparameters found, as a small TOML file that a suite can name; see `fedbench.tuning`.

    Parameters
    ----------
    fedbench, sampler : str
        Version that made it, and what proposed the trials.
    method, method_version
        Whose hyperparameters they are.
    task, task_hash : str
        The task, and the hash of what it was then.
    track : {"faithful", "robust"}
        Of the cells that were run.
    seed : int, >= 0
        Base seed of these cells and of the search.
    metric : str
        What was optimised, on validation data.
    budget : int, >= 2
        Trials that were granted.
    trials : int
        Trials that were made: the budget, or fewer where these are all that the space has.
    configurations, failed : int
        How many of them were different, and how many gave no score.
    default_score, best_score : float
        What the method's defaults reached, the first trial, and what the best trial reached.
    hyperparameters : mapping of str to value
        Those of the best trial, with the ones that were not searched.
    searched : mapping of str to mapping
        Bounds or values, and source, of each range.
    trial : tuple of TrialScore
        All trials, in the order in which they were proposed.
    """

    fedbench: str
    sampler: str
    method: str
    method_version: int = Field(ge=1)
    task: Name
    task_hash: str
    track: Track
    seed: int = Field(ge=0)
    metric: str
    budget: int = Field(ge=2)
    trials: int
    configurations: int
    failed: int
    default_score: float = Field(allow_inf_nan=False)
    best_score: float = Field(allow_inf_nan=False)
    hyperparameters: dict[str, Any]
    searched: dict[str, dict[str, Any]]
    trial: tuple[TrialScore, ...]

    @property
    def command(self) -> str:
        """What to type to make it again."""
        return (
            f"fedbench tune {self.method} --task {self.task} --budget {self.budget} --seed {self.seed} "
            f"--metric {self.metric} --track {self.track}"
        )

    def check(self, track: Track, seeds: Sequence[int]) -> None:
        """Check that it is about what is installed, and can serve cells of a track and of some seeds.

        Raises
        ------
        SpecError
            The method or the task is unknown or has changed since, the track is another, or the search has seen a seed.
        """
        if self.method not in registry.methods.names():
            raise unknown("method", self.method, registry.methods.names())
        if self.task not in registry.tasks.names():
            raise unknown("task", self.task, registry.tasks.names())
        version = registry.methods.get(self.method).version
        again = f"tune it again: `{self.command}`"
        if version != self.method_version:
            raise SpecError(f"{self.method} was tuned at version {self.method_version}, and is now {version}; {again}")
        if identity_hash(registry.tasks.get(self.task).identity()) != self.task_hash:
            raise SpecError(f"the task {self.task} has changed since {self.method} was tuned on it; {again}")
        if track != self.track:
            raise SpecError(f"tuned on the {self.track} track, but the suite is {track}; tune it with --track {track}")
        if self.seed in seeds:
            raise SpecError(
                f"tuned with seed {self.seed}, which the suite evaluates as well; tune it with another --seed"
            )


def load_tuned(path: str | Path) -> tuple[Tuned, Tuning]:
    """Return what a file of `fedbench tune` holds, and how to refer to it.

    Raises
    ------
    SpecError
        There is no such file, or it is none of these.
    """
    try:
        content = Path(path).read_bytes()
        found = Tuned(**toml.parse(content))
    except OSError as error:
        raise SpecError(f"tuned file {path}: {error.strerror}; make it with `fedbench tune`.") from None
    except SpecError as error:
        raise SpecError(f"tuned file {path}: {error}; make it with `fedbench tune`.") from None
    digest = hashlib.sha256(content).hexdigest()
    about = Tuning(task=found.task, metric=found.metric, budget=found.budget, seed=found.seed, digest=digest)
    return found, about


class Suite(Spec):
    """A named list of tasks, methods and seeds.

    Parameters
    ----------
    name, title : str
        Identity and one line about it.
    track : {"faithful", "robust"}
        What a seed redraws.
    tasks, methods : tuple of str
        Registered names.
    seeds : tuple of int
        Base seeds.
    overrides : mapping of method name to hyperparameters
        Hyperparameters that differ from a method's defaults.
    tuned : tuple of str
        Files of ``fedbench tune``, by their path from the suite's file: the hyperparameters of one method on one task
        each. Where an override names the same hyperparameter, the override counts.
    margin : float, between 0 and 1
        Largest difference between two methods that counts as none, a fraction; half a point unless it says otherwise.
    """

    name: Name
    title: str
    track: Track
    tasks: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    tuned: tuple[str, ...] = ()
    margin: float = Field(default=0.005, gt=0, lt=1)

    def cells(
        self,
        tasks: Sequence[str] = (),
        methods: Sequence[str] = (),
        seeds: Sequence[int] = (),
        overrides: dict[str, dict[str, Any]] | None = None,
    ) -> list[Cell]:
        """Return the suite's cells, or only those of some tasks, methods and seeds, in a fixed order.

        A name or seed that the suite does not list, but that exists, is added: a suite is a default, no fence.

        Raises
        ------
        SpecError
            A name is unknown, a hyperparameter of a method that is not among the chosen ones is set, or a tuned file
            does not fit.
        """
        chosen = tuple(methods) or self.methods
        changes = {name: {**self.overrides.get(name, {}), **(overrides or {}).get(name, {})} for name in chosen}
        for name in self.overrides:
            if name not in registry.methods.names():
                raise unknown(f"method in the overrides of suite {self.name}:", name, registry.methods.names())
        for name in overrides or {}:
            if name not in chosen:
                raise unknown("method to set a hyperparameter of", name, chosen)
        for seed in seeds:
            if seed < 0:
                raise SpecError(f"seed: must not be negative, got {seed}")
        tuned = self._tuned([*self.seeds, *seeds])
        return [
            self._cell(task, name, seed, changes[name], tuned.get((task.name, name)))
            for task in (registry.tasks.get(task) for task in dict.fromkeys(tasks or self.tasks))
            for name in dict.fromkeys(chosen)
            for seed in dict.fromkeys(seeds or self.seeds)
        ]

    def _cell(
        self, task: Task, name: str, seed: int, changes: Mapping[str, Any], tuned: tuple[Tuned, Tuning] | None
    ) -> Cell:
        kind = registry.methods.get(name)
        if tuned is None:
            return Cell(task, name, kind.configure(name, changes), self.track, seed)
        found, about = tuned
        method = kind.configure(name, {**found.hyperparameters, **changes})
        as_found = method == kind.configure(name, found.hyperparameters)
        return Cell(task, name, method, self.track, seed, about if as_found else None)

    def _tuned(self, seeds: Sequence[int]) -> dict[tuple[str, str], tuple[Tuned, Tuning]]:
        """Return what the tuned files hold, by task and method."""
        held: dict[tuple[str, str], tuple[Tuned, Tuning]] = {}
        for path in self.tuned:
            found, about = load_tuned(path)
            try:
                found.check(self.track, seeds)
            except SpecError as error:
                raise SpecError(f"tuned file {path} of suite {self.name}: {error}") from None
            key = found.task, found.method
            if key in held:
                raise SpecError(
                    f"suite {self.name} names two tuned files of {found.method} on {found.task}, the second is {path}; "
                    "leave one of them out."
                )
            held[key] = found, about
        return held


def suite_names() -> list[str]:
    """Return the names of the suites that come with FedBench."""
    files = resources.files("fedbench.tasks").joinpath("suites").iterdir()
    return sorted(item.name.removesuffix(".toml") for item in files if item.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """Return a suite by name, or from the path of a TOML file.

    Raises
    ------
    SpecError
        No suite of that name, or the file is not a valid suite.
    """
    if name.endswith(".toml"):
        folder = Path(name).parent
        try:
            content = Path(name).read_bytes()
        except OSError as error:
            raise SpecError(f"suite file {name}: {error.strerror}; give the path of a TOML file.") from None
    elif name in suite_names():
        folder = Path(str(resources.files("fedbench.tasks").joinpath("suites")))
        content = (folder / f"{name}.toml").read_bytes()
    else:
        raise unknown("suite", name, suite_names())
    try:
        suite = Suite(**toml.parse(content))
    except SpecError as error:
        raise SpecError(f"suite {name}: {error}") from None
    return suite.model_copy(update={"tuned": tuple(str(folder / path) for path in suite.tuned)})
