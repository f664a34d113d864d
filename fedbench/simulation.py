"""The simulation of one cell: rounds, local training, evaluation, checkpoints, record."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors.torch import save
from torch import Tensor

import fedbench
from fedbench.cell import Cell
from fedbench.checkpoint import Checkpoint, State, check_state, pack, unpack
from fedbench.client import Client
from fedbench.environment import environment, versions
from fedbench.errors import MethodError
from fedbench.evaluation import Evaluator
from fedbench.federation import federate
from fedbench.kinds import KINDS
from fedbench.method import Method, Upload
from fedbench.models import Model
from fedbench.records import Record, write
from fedbench.schema import SCHEMA_VERSION, ModelInfo, RunInfo, SeedIds
from fedbench.seeds import Streams, fingerprint
from fedbench.server import Server
from fedbench.task import Data, Dataset
from fedbench.traffic import copied, not_finite, payload_bytes

if TYPE_CHECKING:
    from fedbench.method import Predictor

Watch = Callable[[int, int], None]
Row = dict[str, Any]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, as worker processes do: the number of threads may change the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def run_cell(
    cell: Cell,
    results: Path,
    *,
    data_dir: Path | None = None,
    keep_weights: bool = False,
    checkpoint_seconds: float = 20.0,
    watch: Watch = lambda done, rounds: None,
) -> Record:
    """Run one cell, from its checkpoint if there is one, and write its record.

    Parameters
    ----------
    cell : Cell
        What to run.
    results : Path
        Results folder.
    data_dir : Path, optional
        Where to look for data first.
    keep_weights : bool
        Store the final global and personal models beside the record, as safetensors.
    checkpoint_seconds : float, >= 0
        Least time between two checkpoints; 0 makes one after every round. It changes no result.
    watch : callable
        Called with rounds done and all rounds, after each round.

    Returns
    -------
    Record
        The record, opened and checked.

    Raises
    ------
    FedBenchError
        Data is missing or damaged, the split cannot be made, or the method broke its contract.
    """
    folder = cell.folder(results)
    checkpoint = Checkpoint(folder.with_name(f"{folder.name}.partial"), made_by=versions())
    simulation = Simulation(cell, load_data(cell.task.data, data_dir))
    saved = checkpoint.load()
    if saved is not None:
        simulation.restore(*saved)
    rounds, last_save = cell.task.protocol.rounds, time.monotonic()
    watch(simulation.done, rounds)
    while simulation.done < rounds:
        with _forgetting(checkpoint):
            simulation.round()
        watch(simulation.done, rounds)
        if time.monotonic() - last_save >= checkpoint_seconds and simulation.done < rounds:
            checkpoint.save(simulation.done, simulation.changed())
            last_save = time.monotonic()
    with _forgetting(checkpoint):
        record = simulation.record(folder, keep_weights)
    checkpoint.remove()
    return record


@contextmanager
def _forgetting(checkpoint: Checkpoint) -> Iterator[None]:
    """Remove the checkpoint where the method fails: once mended, it must not go on from what it did before.

    Where the machine fails (a full disk, no memory) the checkpoint stays.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception:
        checkpoint.remove()
        raise


@lru_cache(maxsize=2)
def load_data(data: Data, data_dir: Path | None) -> Dataset:
    """Read a data set once a process; cells come sorted by task."""
    return data.load(data_dir)


class Simulation:
    """One cell while it runs.

    Parameters
    ----------
    cell : Cell
        What to run.
    dataset : Dataset
        The task's samples.
    """

    def __init__(self, cell: Cell, dataset: Dataset) -> None:
        task = cell.task
        self.cell, self.method, self.protocol = cell, cell.method, task.protocol
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.kind = KINDS[task.kind]
        self.model = Model(task.model, dataset.inputs.shape[1:], self.kind.outputs(task.n_classes))
        self.inputs, self.targets = normalised(dataset.inputs), torch.from_numpy(dataset.targets)
        self.federation = federate(task, dataset, cell.track, cell.seed)
        self.plan = self.federation.pooled() if self.method.pooled else self.federation
        self.streams = Streams(cell.seed)
        self.evaluator = Evaluator(
            self.inputs, self.targets, self.federation, self.model, self.kind, self.protocol.evaluation_batch
        )
        self.initial = self.model.initial(self.streams)
        self.server = Server(
            params=dict(self.initial),
            initial=self.initial,
            n_clients=len(self.plan.train),
            rounds=self.protocol.rounds,
            shared=self.method.shared,
            streams=self.streams,
        )
        self.method.init_server(self.server)
        self.states: dict[int, State] = {}
        self.done = 0
        self.round_rows: list[Row] = []
        self.client_rows: list[Row] = []
        self.arrays: dict[str, list[npt.NDArray[Any]]] = {}
        self.probabilities: npt.NDArray[np.float16] | None = None
        self._changed: set[int] = set()

    # --- one round ----------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Run the next round: traffic, local training, aggregation, evaluation."""
        t, method, server = self.done, self.method, self.server
        server.round = t
        begin = time.perf_counter()
        rows: dict[int, Row] = {k: {"round": t, "client": k} for k in range(len(self.federation.tests))}
        queried = self._query(t, rows)
        uploads, clients = [], []
        for k, passes in zip(self.plan.schedule[t].tolist(), self.plan.passes[t].tolist(), strict=True):
            client = self._client(k, passes)
            start = time.perf_counter()
            upload = method.client_update(client)
            rows[k] |= {"seconds_train": time.perf_counter() - start, "train_loss": client.train_loss}
            uploads.append(self._received(upload, client, rows[k]))
            clients.append(client)
        weights = self._weights(uploads, t)
        method.server_update(server, uploads, weights)
        trained = time.perf_counter()
        for client, weight in zip(clients, weights, strict=True):
            rows[client.id]["weight"] = weight
        row = {
            "round": t,
            "lr": self.protocol.lr_at(t),
            "sampled": len(uploads),
            "train_loss": _mean([client.train_loss for client in clients if client.train_loss is not None]),
            "bytes_down": sum(row.get("bytes_down", 0) for row in rows.values()),
            "bytes_up": sum(row.get("bytes_up", 0) for row in rows.values()),
            "train_samples": sum(client.work.trained for client in (*queried, *clients)),
            "forward_samples": sum(client.work.forward for client in (*queried, *clients)),
        }
        self._evaluate(t, clients, rows, row)
        row |= {"seconds_train": trained - begin, "seconds_evaluate": time.perf_counter() - trained}
        self.round_rows.append(row)
        self.client_rows.extend(rows[k] for k in sorted(rows))
        self.done += 1

    def _client(self, k: int, passes: int, *, evaluation: bool = False) -> Client:
        """Return client k in the current round, with what the server sends it.

        What it holds are copies: neither another client nor the server can be changed through them, and for an
        evaluation not even its own state.
        """
        ids = self.plan.train[k]
        state = self.states.get(k, {})
        client = Client(
            id=k,
            round=self.server.round,
            rounds=self.protocol.rounds,
            inputs=self.inputs[ids],
            targets=self.targets[ids],
            n_classes=self.cell.task.n_classes,
            received=copied(self.method.broadcast(self.server, k)),
            initial=copied(self.initial),
            state=copied(state) if evaluation else dict(state),
            passes=passes,
            protocol=self.protocol,
            model=self.model,
            kind=self.kind,
            shared=self.method.shared,
            streams=self.streams,
        )
        if k not in self.states:
            self.method.init_client(client)
        return client

    def _query(self, t: int, rows: dict[int, Row]) -> list[Client]:
        """Run the counted traffic outside the normal round; return who was asked."""
        queried, reports = [], []
        for k in sorted(self.method.query(self.server)):
            client = self._client(k, self.protocol.local_epochs * len(self.plan.train[k]))
            reports.append(self._received(self.method.report(client), client, rows[k]))
            queried.append(client)
        if reports:
            self.method.receive(self.server, reports)
        return queried

    def _received(self, upload: Upload, client: Client, row: Row) -> Upload:
        """Keep the client's state, check and count what it sent, and return it as the server receives it: a copy."""
        who = f"{self.cell.method_name}: the upload of client {client.id} in round {client.round}"
        if not isinstance(upload, Upload):
            raise MethodError(f"{who} is a {type(upload).__name__}; make it with client.upload(...).")
        if (upload.client, upload.n) != (client.id, client.n):
            raise MethodError(
                f"{who} claims to be of client {upload.client} with {upload.n} samples, not {client.n}; make it with "
                "client.upload(...)."
            )
        private = [name for name in upload.params if not self.method.shared(name)]
        if private:
            raise MethodError(f"{who} holds the private tensors {private}; make it with client.upload(...).")
        for part in (upload.params, upload.extra):
            for name in not_finite(part):
                raise MethodError(f"{who} is not finite in {name}; a smaller learning rate may mend it.")
        check_state(client.state)
        self.states[client.id] = client.state
        self._changed.add(client.id)
        if not self.plan.pool:  # where all data is in one place, nothing is sent
            row["bytes_down"] = row.get("bytes_down", 0) + payload_bytes(client.received)
            row["bytes_up"] = row.get("bytes_up", 0) + payload_bytes(upload)
        return copied(upload)

    def _weights(self, uploads: Sequence[Upload], t: int) -> list[float]:
        weights = [float(weight) for weight in self.method.weights(self.server, uploads)]
        right = len(weights) == len(uploads) and all(np.isfinite(w) and w >= 0 for w in weights)
        if not right or abs(sum(weights) - 1) > 1e-6:
            raise MethodError(
                f"{self.cell.method_name}: the weights of round {t} are {weights} for {len(uploads)} uploads; they "
                "must be finite, not negative and sum to one (see fedbench.simplex)."
            )
        return weights

    # --- evaluation ---------------------------------------------------------------------------------------------

    def _evaluate(self, t: int, clients: Sequence[Client], rows: dict[int, Row], row: Row) -> None:
        predictor = self.method.predictor(self.server)
        on_clients = None
        if predictor is not None:
            result = self.evaluator.everywhere(predictor)
            on_clients = result.clients
            row["global_accuracy"] = float(result.correct.mean())
            if len(result.validation):
                row["validation_accuracy"] = float(result.validation.mean())
            self._append("global_test_predictions", result.predictions)
            self._append("global_validation_correct", np.packbits(result.validation))
            self._append_on_clients("global", on_clients, range(len(self.federation.tests)), rows)
            if t == self.protocol.rounds - 1:
                self.probabilities = torch.softmax(result.logits, dim=1).numpy().astype(np.float16)
        if self.plan.pool:
            return
        everybody = range(len(self.federation.tests))
        self._on_own_tests(t, "local", {client.id: client.local for client in clients}, rows)
        if t in self.protocol.personal_rounds():
            kind = type(self.method)
            plain = all(getattr(kind, name) is getattr(Method, name) for name in ("personal", "broadcast", "predictor"))
            if plain and on_clients is not None and all(self.method.shared(name) for name in self.initial):
                # What every client would deploy is the global model, evaluated already.
                self._append_on_clients("personal", on_clients, everybody, rows)
                self._append("personal_rounds", np.array(t))
                row["adapt_samples"] = 0
                return
            adapted = {k: self._personal(k) for k in everybody}
            row["adapt_samples"] = sum(samples for _, samples in adapted.values())
            if self._on_own_tests(t, "personal", {k: model for k, (model, _) in adapted.items()}, rows):
                self._append("personal_rounds", np.array(t))

    def _personal(self, k: int) -> tuple[Predictor | None, int]:
        """Return what a client would deploy now, and the samples spent on adapting it."""
        client = self._client(k, self.protocol.local_epochs * len(self.plan.train[k]), evaluation=True)
        model = self.method.personal(client)
        return model, client.work.trained + client.work.forward

    def _on_own_tests(self, t: int, what: str, models: Mapping[int, Predictor | None], rows: dict[int, Row]) -> bool:
        """Evaluate clients' models on their own local tests; say whether the method has such models."""
        present = {k: model for k, model in models.items() if model is not None}
        if present and len(present) < len(models):
            raise MethodError(
                f"{self.cell.method_name}: clients {sorted(set(models) - set(present))} have no {what} model in round "
                f"{t}, others have; a method has one for every client, or for none."
            )
        if present:
            bits = np.zeros(self.evaluator.offsets[-1], dtype=bool)
            for k, model in present.items():
                bits[self._columns(k)] = self.evaluator.on_client(model, k)
            self._append_on_clients(what, bits, present, rows)
        return bool(present)

    def _columns(self, k: int) -> slice:
        return slice(self.evaluator.offsets[k], self.evaluator.offsets[k + 1])

    def _append(self, name: str, value: npt.NDArray[Any]) -> None:
        self.arrays.setdefault(name, []).append(value)

    def _append_on_clients(
        self,
        model: str,
        bits: npt.NDArray[np.bool_],
        clients: Sequence[int] | Mapping[int, Any],
        rows: dict[int, Row],
    ) -> None:
        self._append(f"{model}_client_correct", np.packbits(bits))
        for k in clients:
            rows[k][f"{model}_accuracy"] = float(bits[self._columns(k)].mean())

    # --- checkpoint ---------------------------------------------------------------------------------------------

    def changed(self) -> dict[str, bytes]:
        """Return the parts of a checkpoint that changed since the last call."""
        series = io.BytesIO()
        arrays: dict[str, Any] = {name: np.stack(values) for name, values in self.arrays.items()}
        np.savez(series, **arrays)
        parts = {
            "server": pack({"params": self.server.params, "state": self.server.state}),
            "rows": json.dumps([self.started, self.round_rows, self.client_rows]).encode(),
            "series": series.getvalue(),
        }
        parts |= {f"client-{k}": pack(self.states[k]) for k in sorted(self._changed)}
        self._changed.clear()
        return parts

    def restore(self, done: int, parts: Mapping[str, bytes]) -> None:
        """Go on from a checkpoint."""
        server = unpack(parts["server"])
        self.server.params, self.server.state = server["params"], server["state"]
        self.started, self.round_rows, self.client_rows = json.loads(parts["rows"])
        with np.load(io.BytesIO(parts["series"]), allow_pickle=False) as series:
            self.arrays = {name: list(series[name]) for name in series.files}
        prefix = "client-"
        self.states = {
            int(part.removeprefix(prefix)): unpack(data) for part, data in parts.items() if part.startswith(prefix)
        }
        self.done = done

    # --- record -------------------------------------------------------------------------------------------------

    def record(self, folder: Path, keep_weights: bool) -> Record:
        """Write the record of a finished run.

        Raises
        ------
        MethodError
            The method had a global or a local model in some rounds only.
        """
        due = {"global_test_predictions": self.done, "local_client_correct": self.done}
        due["personal_rounds"] = len(self.protocol.personal_rounds())
        for name, rounds in due.items():
            if name in self.arrays and len(self.arrays[name]) != rounds:
                raise MethodError(
                    f"{self.cell.method_name}: a {name.partition('_')[0]} model in {len(self.arrays[name])} of "
                    f"{rounds} rounds; a method has one in every round, or none."
                )
        federation, targets = self.federation, self.targets.numpy()
        n_clients, tests = len(federation.tests), np.concatenate(federation.tests)
        schedule = np.zeros((self.done, n_clients), dtype=bool)
        if not self.plan.pool:
            for t, ids in enumerate(federation.schedule):
                schedule[t, ids] = True
        counts = [np.bincount(targets[ids], minlength=self.cell.task.n_classes) for ids in federation.train]
        arrays: dict[str, npt.NDArray[Any]] = {
            "schedule": schedule,
            "train_class_counts": np.stack(counts),
            "test_ids": federation.global_test,
            "test_labels": targets[federation.global_test].astype(np.uint8),
            "validation_ids": federation.validation,
            "client_offsets": self.evaluator.offsets,
            "client_test_ids": tests,
            "client_test_labels": targets[tests].astype(np.uint8),
            **{name: np.stack(values) for name, values in self.arrays.items()},
        }
        if self.probabilities is not None:
            arrays["global_test_probabilities"] = self.probabilities
        return write(
            folder,
            self._info(arrays),
            _table(self.round_rows, ROUND_COLUMNS),
            _table(self.client_rows, CLIENT_COLUMNS),
            arrays,
            self._weights_file() if keep_weights else None,
        )

    def _info(self, arrays: Mapping[str, npt.NDArray[Any]]) -> RunInfo:
        cell, rows = self.cell, self.round_rows
        orders = (
            self.streams.rng("order", client=k, round=t).permutation(len(self.federation.train[k]))
            for t, ids in enumerate(self.federation.schedule)
            for k in ids.tolist()
        )
        names = {
            "global": "global_test_predictions",
            "local": "local_client_correct",
            "personal": "personal_rounds",
        }
        return RunInfo(
            schema_version=SCHEMA_VERSION,
            fedbench=fedbench.__version__,
            identity=cell.identity(),
            hash=cell.hash,
            seed=cell.seed,
            label=cell.label,
            cards={
                "task": f"{cell.task.title}\n\n{cell.task.description}".strip(),
                "method": (type(self.method).__doc__ or "").strip(),
            },
            classes=cell.task.data.classes,
            primary=cell.task.primary,
            seed_ids=SeedIds(
                partition=self.federation.partition_id(),
                init=fingerprint(self.initial[name].numpy() for name in sorted(self.initial)),
                schedule=self.federation.schedule_id(),
                order=fingerprint(orders),
            ),
            model=ModelInfo(
                name=self.model.name,
                parameters=sum(tensor.numel() for tensor in self.initial.values()),
                bytes=sum(tensor.nbytes for tensor in self.initial.values()),
                flops=self.model.flops(),
            ),
            models=tuple(model for model, array in names.items() if array in arrays),
            bytes_up=sum(row["bytes_up"] for row in rows),
            bytes_down=sum(row["bytes_down"] for row in rows),
            train_samples=sum(row["train_samples"] for row in rows),
            forward_samples=sum(row["forward_samples"] for row in rows),
            environment=environment(),
            started=self.started,
            seconds={
                "train": sum(row["seconds_train"] for row in rows),
                "evaluate": sum(row["seconds_evaluate"] for row in rows),
            },
        )

    def _weights_file(self) -> bytes:
        models = {"global": self.method.predictor(self.server)}
        if not self.plan.pool:
            models |= {f"client-{k}": self._personal(k)[0] for k in range(len(self.federation.tests))}
        return bytes(
            save(
                {
                    f"{who}/{name}": tensor.contiguous().clone()
                    for who, model in models.items()
                    if isinstance(model, Mapping)
                    for name, tensor in model.items()
                }
            )
        )


ROUND_COLUMNS = {
    "round": "int64", "lr": "float64", "sampled": "int64", "train_loss": "float64", "global_accuracy": "float64",
    "validation_accuracy": "float64", "bytes_down": "int64", "bytes_up": "int64", "train_samples": "int64",
    "forward_samples": "int64", "adapt_samples": "int64", "seconds_train": "float64", "seconds_evaluate": "float64",
}  # fmt: skip
CLIENT_COLUMNS = {
    "round": "int64", "client": "int64", "weight": "float64", "train_loss": "float64", "global_accuracy": "float64",
    "local_accuracy": "float64", "personal_accuracy": "float64", "bytes_down": "int64", "bytes_up": "int64",
    "seconds_train": "float64",
}  # fmt: skip


def _table(rows: Sequence[Row], columns: Mapping[str, str]) -> dict[str, Any]:
    return {name: pa.array([row.get(name) for row in rows], type=kind) for name, kind in columns.items()}


def normalised(inputs: npt.NDArray[Any]) -> Tensor:
    """Return inputs as float32: images of bytes as (x / 255 - 0.5) / 0.5, features as they are.

    Source: the transform of the FedKPer training code, the same for training and testing, without augmentation.
    """
    if inputs.dtype == np.uint8:
        return torch.from_numpy(inputs).to(torch.float32).div_(255).sub_(0.5).div_(0.5)
    return torch.from_numpy(inputs).to(torch.float32)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
