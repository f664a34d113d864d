"""What crosses the wire: copied, counted and checked from the real payloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from fedbench.errors import MethodError
from fedbench.method import Download, Upload

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


def delivered(download: Download) -> Download:
    """Return a download with its own tensors, so that no client can change what the server or another one holds."""
    return Download(_copy(download.params), _copy(download.extra))


def tensors(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a payload with their joined names."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from tensors(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield from tensors({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}.")


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value
