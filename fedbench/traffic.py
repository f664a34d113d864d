"""What crosses the wire: copied, counted and checked from the real payloads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from fedbench.errors import MethodError
from fedbench.method import Download, Upload

Sent = TypeVar("Sent", bound=Download | Upload | Mapping[str, Any])

NUMBER_BYTES = 8
"""Bytes of one number on the wire, n_k among them."""


def payload_bytes(payload: Download | Upload) -> int:
    """Return the bytes of what is sent: tensors as they are, a number as 8, and n_k with every upload."""
    own = NUMBER_BYTES if isinstance(payload, Upload) else 0
    return own + _bytes(payload.params) + _bytes(payload.extra)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(item) for item in value)
    if isinstance(value, bool | int | float):
        return NUMBER_BYTES
    raise MethodError(f"a {type(value).__name__} cannot be sent; send tensors, mappings of tensors or numbers.")


def copied(value: Sent) -> Sent:
    """Return a payload or a state with its own tensors: nobody can be changed through what they sent or were sent."""
    if isinstance(value, Download):
        return replace(value, params=copied(value.params), extra=copied(value.extra))
    if isinstance(value, Upload):
        return replace(value, params=copied(value.params), extra=copied(value.extra))
    return cast(Sent, _copy(value))


class CopiedWhenRead(Mapping[str, Tensor]):
    """Tensors of which each is copied when it is first asked for, as most clients never ask."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._copies: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._copies:
            self._copies[name] = self._tensors[name].clone()
        return self._copies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def not_finite(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of what is infinite or NaN: tensors and numbers, nested ones under their joined names."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                yield prefix + name
        elif isinstance(value, float):
            if not math.isfinite(value):
                yield prefix + name
        elif isinstance(value, Mapping):
            yield from not_finite(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield from not_finite({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}.")


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value
