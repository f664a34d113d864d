"""A cell: one task, method, hyperparameters, track and seed; and suites, which are lists of cells."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fedbench import registry
from fedbench.errors import SpecError, unknown
from fedbench.method import Method
from fedbench.schema import identity_hash
from fedbench.task import Name, Spec, Task, Track


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
    """

    task: Task
    method_name: str
    method: Method
    track: Track
    seed: int

    def identity(self) -> dict[str, Any]:
        """Return all that decides the cell's numbers but for the seed, as plain JSON types."""
        return {
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
    """

    name: Name
    title: str
    track: Track
    tasks: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)

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
            A name is unknown, or a hyperparameter of a method that is not among the chosen ones is set.
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
        return [
            Cell(task, name, registry.methods.get(name).configure(name, changes[name]), self.track, seed)
            for task in (registry.tasks.get(task) for task in dict.fromkeys(tasks or self.tasks))
            for name in dict.fromkeys(chosen)
            for seed in dict.fromkeys(seeds or self.seeds)
        ]


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
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(f"suite file {name}: {error.strerror}; give the path of a TOML file.") from None
        except UnicodeDecodeError:
            raise SpecError(f"suite file {name}: not text in UTF-8; give the path of a TOML file.") from None
    elif name in suite_names():
        text = resources.files("fedbench.tasks").joinpath("suites", f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise unknown("suite", name, suite_names())
    try:
        return Suite(**tomllib.loads(text))
    except (tomllib.TOMLDecodeError, SpecError) as error:
        raise SpecError(f"suite {name}: {error}") from None
