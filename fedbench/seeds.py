"""Named random streams: the only source of randomness in FedBench.

A stream is derived from the base seed, a purpose and only what the draw may depend on. So a method that adds a draw
of its own cannot shift anybody's batches, and at one seed all methods share the task's draws.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Streams:
    """The random streams of one base seed.

    Parameters
    ----------
    base : int, >= 0
        The base seed, as a suite lists it.

    Examples
    --------
    >>> a = Streams(1).rng("order", client=3, round=0).integers(100, size=4)
    >>> b = Streams(1).rng("order", round=0, client=3).integers(100, size=4)
    >>> bool((a == b).all())
    True
    """

    base: int

    def rng(self, purpose: str, **depends_on: int | str) -> np.random.Generator:
        """Return a fresh generator for ``purpose``; equal arguments give equal draws.

        Parameters
        ----------
        purpose : str
            What is drawn: ``"partition"``, ``"init"``, ``"schedule"``, ``"order"``, ...
        **depends_on : int or str
            All that the draw may depend on besides the seed, such as ``client=3, round=0``.
        """
        key = json.dumps([self.base, purpose, sorted(depends_on.items())])
        words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype=np.uint32)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(word) for word in words])))


def fingerprint(arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    """Return 16 hexadecimal digits over the dtypes, shapes and bytes of some arrays.

    Two cells are paired where the fingerprints of their partition, initial weights, schedule and order are equal.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
