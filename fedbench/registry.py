"""Methods and tasks found through packaging entry points; built-ins are registered like anyone else's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from fedbench.errors import PluginError, unknown
from fedbench.method import Method
from fedbench.task import Task


@dataclass
class Registry:
    """The plug-ins of one entry-point group, loaded when first asked for.

    Parameters
    ----------
    group : str
        Entry-point group: ``"fedbench.methods"`` or ``"fedbench.tasks"``.
    what : str
        What one entry is called in messages.
    fits : callable, optional
        Says whether what an entry point leads to is such a thing.
    """

    group: str
    what: str
    fits: Callable[[Any], bool] = field(default=lambda value: True, repr=False)
    _points: dict[str, metadata.EntryPoint] | None = field(default=None, repr=False)
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)

    def points(self) -> dict[str, metadata.EntryPoint]:
        """Return the entry points by name.

        Raises
        ------
        PluginError
            Two distributions register one name; the message names both.
        """
        if self._points is None:
            points: dict[str, metadata.EntryPoint] = {}
            for point in metadata.entry_points(group=self.group):
                other = points.get(point.name)
                if other is not None and other.value != point.value:
                    raise PluginError(
                        f"{self.what} {point.name!r} is registered twice: by {_distribution(other)} as {other.value} "
                        f"and by {_distribution(point)} as {point.value}; uninstall one of the two."
                    )
                points[point.name] = point
            self._points = dict(sorted(points.items()))
        return self._points

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        return sorted({*self.points(), *self._loaded})

    def origin(self, name: str) -> str:
        """Return the distribution and version that registers ``name``."""
        point = self.points().get(name)
        return _distribution(point) if point is not None else "this process"

    def get(self, name: str) -> Any:
        """Load and return one plug-in.

        Raises
        ------
        SpecError
            No plug-in has this name; the message suggests the nearest.
        PluginError
            The plug-in fails to import or is of the wrong type; the message names its distribution.
        """
        if name not in self._loaded:
            if name not in self.points():
                raise unknown(self.what, name, self.names())
            point = self.points()[name]
            try:
                value = point.load()
            except Exception as error:
                raise PluginError(
                    f"{self.what} {name!r} of {_distribution(point)} cannot be imported from {point.value}: "
                    f"{type(error).__name__}: {error}; mend or uninstall that package."
                ) from error
            if not self.fits(value):
                raise PluginError(
                    f"{point.value} of {_distribution(point)} is registered as a {self.what}, but is {value!r:.80}; "
                    "mend or uninstall that package."
                )
            self._loaded[name] = value
        return self._loaded[name]

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


methods = Registry("fedbench.methods", "method", lambda value: isinstance(value, type) and issubclass(value, Method))
tasks = Registry("fedbench.tasks", "task", lambda value: isinstance(value, Task))
