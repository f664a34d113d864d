"""The layout of a record. Files are described in `fedbench.records`; names are stable once published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
RUN = "run.json"
ROUNDS = "rounds.parquet"
CLIENTS = "clients.parquet"
PREDICTIONS = "predictions.npz"
MANIFEST = "manifest.json"
FAILURE = "failure.json"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.json"
"""The index of a checkpoint, in its folder."""

FILES = (RUN, ROUNDS, CLIENTS, PREDICTIONS)
"""The files of every record; the manifest, written last, is the mark that a record is whole."""


def checkpoint_folder(record: Path) -> Path:
    """Return where the checkpoint of a record to come stands."""
    return record.with_name(f"{record.name}.partial")


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits over the identity of a cell, given as plain JSON types."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions_of(identity: Mapping[str, Any]) -> dict[str, int]:
    """Return the versions in a cell's identity: of its task, its method and the harness.

    The harness is named from its version 2 on (see `fedbench.cell.HARNESS_VERSION`); what a third party's record does
    not give as a number is left out.
    """
    parts = {part: identity.get(part) for part in ("task", "method")}
    found = {part: value.get("version") for part, value in parts.items() if isinstance(value, Mapping)}
    found["harness"] = identity.get("harness", 1)
    return {part: version for part, version in found.items() if type(version) is int}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SeedIds(_Part):
    """Fingerprints of the task's draws; two cells are paired where all four are equal."""

    partition: str
    init: str
    schedule: str
    order: str


class Environment(_Part):
    """Where a cell ran, and how clients were trained there; no part of its identity."""

    python: str
    packages: dict[str, str]
    platform: str
    processor: str
    cores: int
    threads: int
    device: str
    training: str = "one client at a time"
    commit: str | None


class ModelInfo(_Part):
    """The task's model: parameters, bytes, and FLOPs of one sample's forward pass."""

    name: str
    parameters: int
    bytes: int
    flops: int


class RunInfo(_Part):
    """``run.json``: what was run, where, and what it cost.

    ``identity`` is `fedbench.cell.Cell.identity`; ``hash`` is taken over it. ``cards`` holds the texts of task and
    method, and where the method comes from. ``models`` says which of the three models the method has. ``fedbench``,
    ``cards``, ``environment``, ``started`` and ``seconds`` are no part of the digest, all the rest is.
    """

    schema_version: int
    fedbench: str
    identity: dict[str, Any]
    hash: str
    seed: int
    label: str
    cards: dict[str, str]
    classes: tuple[str, ...]
    primary: str
    seed_ids: SeedIds
    model: ModelInfo
    models: tuple[Literal["global", "local", "personal"], ...]
    bytes_up: int
    bytes_down: int
    train_samples: int
    forward_samples: int
    environment: Environment
    started: str
    seconds: dict[str, float]


class Manifest(_Part):
    """``manifest.json``: SHA-256 of each file, and the digest over the contents that must not depend on timing."""

    schema_version: int
    files: dict[str, str]
    digest: str


class Failure(_Part):
    """``failure.json``: why a cell has no record."""

    schema_version: int = SCHEMA_VERSION
    reason: str
    traceback: str
    at: str


class Tuning(_Part):
    """Where tuned hyperparameters came from: the search, and the SHA-256 of the file that holds what it found."""

    task: str
    metric: str
    budget: int
    seed: int
    digest: str


class PlannedCell(_Part):
    """A cell that a suite asks for: what its method does, why it was skipped and how it was tuned, if it was.

    ``versions`` is `versions_of` its identity; empty in plans from before it was written there.
    """

    task: str
    method: str
    label: str
    family: Literal["global", "personalised", "reference"]
    hash: str
    seed: int
    hyperparameters: dict[str, Any] = {}
    mechanism: str = ""
    versions: dict[str, int] = {}
    skipped: str | None = None
    tuning: Tuning | None = None

    @property
    def path(self) -> str:
        """Where its record stands below the results folder."""
        return f"{self.task}/{self.method}/{self.hash}/seed-{self.seed}"


class Plan(_Part):
    """``plans/<suite>.json`` in a results folder: what a board has to show, present or not."""

    schema_version: int
    suite: str
    title: str
    track: Literal["faithful", "robust"]
    margin: float = Field(default=0.005, gt=0, lt=1)
    cells: tuple[PlannedCell, ...]
