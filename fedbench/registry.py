"""Methods and tasks found through packaging entry points; built-ins are registered like anyone else's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedbench.errors import FedBenchError, PluginError, SpecError, unknown
from fedbench.method import Method
from fedbench.task import Name, Task

OWN = "fedbench"
"""The distribution of what is built in."""


@dataclass
class Registry:
    """The plug-ins of one entry-point group, loaded when first asked for.

    A plug-in that is broken (it cannot be imported, its name is taken, it is something else) keeps its name in the
    list, and is an error for whoever asks for it; all others are as if it were not there.

    Parameters
    ----------
    group : str
        Entry-point group: ``"fedbench.methods"`` or ``"fedbench.tasks"``.
    what : str
        What one entry is called in messages.
    fits : callable, optional
        Says whether what an entry point leads to is such a thing.
    try_out : callable, optional
        ``try_out(name, value)`` uses such a thing as everybody does, and raises where that fails.
    """

    group: str
    what: str
    fits: Callable[[Any], bool] = field(default=lambda value: True, repr=False)
    try_out: Callable[[str, Any], object] = field(default=lambda name, value: None, repr=False)
    _points: dict[str, tuple[metadata.EntryPoint, ...]] | None = field(default=None, repr=False)
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)

    def points(self) -> dict[str, tuple[metadata.EntryPoint, ...]]:
        """Return the entry points by name: one, or several where distributions claim the same name."""
        if self._points is None:
            found: dict[str, dict[str, metadata.EntryPoint]] = {}
            for point in metadata.entry_points(group=self.group):
                found.setdefault(point.name, {}).setdefault(point.value, point)  # seen twice on a path, it is one
            self._points = {
                name: tuple(sorted(points.values(), key=_distribution)) for name, points in sorted(found.items())
            }
        return self._points

    def names(self) -> list[str]:
        """Return all registered names, sorted, those of broken plug-ins among them."""
        return sorted({*self.points(), *self._loaded})

    def installed(self) -> list[str]:
        """Return the names that other distributions than FedBench itself register, sorted."""
        return [name for name, points in self.points().items() if any(_is_foreign(point) for point in points)]

    def origin(self, name: str) -> str:
        """Return the distribution and version that registers ``name``; all of them where several do."""
        return " and ".join(_distribution(point) for point in self.points().get(name, ())) or "this process"

    def get(self, name: str) -> Any:
        """Load and return one plug-in.

        Raises
        ------
        SpecError
            No plug-in has this name; the message suggests the nearest.
        PluginError
            The plug-in fails to import or to work, is of the wrong type, or shares its name with another; the message
            names its distribution.
        """
        if name not in self._loaded:
            if name not in self.points():
                raise unknown(self.what, name, self.names())
            self._loaded[name] = self._load(name, self.points()[name])
        return self._loaded[name]

    def _load(self, name: str, points: Sequence[metadata.EntryPoint]) -> Any:
        if len(points) > 1:
            claims = " and ".join(f"by {_distribution(point)} as {point.value}" for point in points)
            raise PluginError(
                f"{self.what} {name!r} is registered {len(points)} times: {claims}; uninstall all but one."
            )
        (point,) = points
        mend = "mend or uninstall that package."
        try:
            value = point.load()
        except (Exception, SystemExit) as error:  # whatever a package does when it is imported, it does to itself
            raise PluginError(
                f"{self.what} {name!r} of {_distribution(point)} cannot be imported from {point.value}: "
                f"{type(error).__name__}: {error}; {mend}"
            ) from error
        if not self.fits(value):
            raise PluginError(
                f"{point.value} of {_distribution(point)} is registered as the {self.what} {name!r}, but is "
                f"{value!r:.80}; {mend}"
            )
        try:
            self.try_out(name, value)
        except Exception as error:
            told = str(error) if isinstance(error, FedBenchError) else f"{type(error).__name__}: {error}"
            raise PluginError(
                f"{self.what} {name!r} of {_distribution(point)} does not work: {told.removesuffix('.')}; {mend}"
            ) from error
        return value

    def add(self, name: str, value: object) -> None:
        """Register a plug-in for this process only, such as a task read from ``--task-file``.

        Raises
        ------
        PluginError
            The name is taken.
        """
        if name in self._loaded or name in self.points():
            raise PluginError(f"{self.what} {name!r} already exists (from {self.origin(name)}); choose another name.")
        self._loaded[name] = value

    def forget(self, name: str) -> None:
        """Take back a plug-in that `add` registered."""
        self._loaded.pop(name, None)


def _distribution(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else sys.executable


def _is_foreign(point: metadata.EntryPoint) -> bool:
    return point.dist is None or point.dist.name != OWN


def _check_name(name: str) -> None:
    """Check what will be part of the names of folders."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise SpecError("its name is not valid; use lower case letters, digits, dots and hyphens") from None


def _try_method(name: str, value: type[Method]) -> None:
    _check_name(name)
    value.configure(name, {})


def _try_task(name: str, value: Task) -> None:
    if value.name != name:
        raise SpecError(f"it calls itself {value.name!r}; register it under that name, or rename it")


def _is_method(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Method)


methods = Registry("fedbench.methods", "method", _is_method, _try_method)
tasks = Registry("fedbench.tasks", "task", lambda value: isinstance(value, Task), _try_task)
