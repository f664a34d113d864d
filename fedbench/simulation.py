"""The simulation of one cell: rounds, local training, evaluation, checkpoints, record."""

from __future__ import annotations

import inspect
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
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
from fedbench.checkpoint import Checkpoint, States, pack, unpack
from fedbench.client import Client, Work
from fedbench.environment import environment, versions
from fedbench.errors import MethodError, of_machine
from fedbench.evaluation import Evaluator
from fedbench.federation import federate
from fedbench.kinds import KINDS
from fedbench.method import Method, Upload
from fedbench.models import Model
from fedbench.records import CLIENT_COLUMNS, ROUND_COLUMNS, Record, write
from fedbench.resident import load_data
from fedbench.schema import SCHEMA_VERSION, ModelInfo, RunInfo, SeedIds, checkpoint_folder
from fedbench.seeds import Streams, fingerprint
from fedbench.server import Server
from fedbench.task import Dataset
from fedbench.traffic import CopiedWhenRead, copied, not_finite, payload_bytes
from fedbench.training import OneByOne, Trainer

if TYPE_CHECKING:
    from fedbench.method import Predictor

LARGE_BATCH = 4096
"""Samples a forward pass of an evaluation on a GPU, which a batch of the protocol's size would not fill."""

Watch = Callable[[int, int], None]
Columns = dict[str, list[npt.NDArray[np.float64]]]
"""For each column an array a round, of one value or of one a client; what is not defined is NaN."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as worker processes do: the number of threads may change the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def run_cell(
    cell: Cell,
    results: Path,
    *,
    dataset: Dataset | None = None,
    data_dir: Path | None = None,
    device: str = "cpu",
    trainer: Trainer | None = None,
    keep_weights: bool = False,
    checkpoint_seconds: float = 20.0,
    checkpoint_rounds: int = 25,
    stop_at: float = math.inf,
    watch: Watch = lambda done, rounds: None,
    saved: Callable[[Path], None] = lambda folder: None,
) -> Record | None:
    """Run one cell, from its checkpoint if there is one, and write its record.

    Parameters
    ----------
    cell : Cell
        What to run.
    results : Path
        Results folder.
    dataset : Dataset, optional
        The task's samples as `fedbench.resident.load_data` gives them; read, if not given.
    data_dir : Path, optional
        Where to look for data first.
    device : str
        Where to compute: ``"cpu"``, ``"cuda"`` or ``"mps"``.
    trainer : Trainer, optional
        What trains clients; one by one, if not given.
    keep_weights : bool
        Store the final global and personal models beside the record, as safetensors.
    checkpoint_seconds : float, >= 0
        Time between two checkpoints, of which the first round that ends after it makes one; 0 makes one after every
        round. It changes no result.
    checkpoint_rounds : int, >= 1
        Rounds between two checkpoints at most, however fast they are. It changes no result.
    stop_at : float
        Time (seconds since the epoch) from which on no further round is begun; the checkpoint keeps what is done.
    watch : callable
        Called with rounds done and all rounds, after each round.
    saved : callable
        Called with the checkpoint's folder after each save.

    Returns
    -------
    Record or None
        The record, opened and checked; None where the time was up before it was whole.

    Raises
    ------
    FedBenchError
        Data is missing or damaged, the split cannot be made, or the method broke its contract.
    """
    folder = cell.folder(results)
    checkpoint = Checkpoint(checkpoint_folder(folder), made_by=f"{versions()}, {device}")
    dataset = load_data(cell.task.data, data_dir) if dataset is None else dataset
    simulation = Simulation(cell, dataset, checkpoint, device=device, trainer=trainer)
    simulation.resume()
    rounds, saved_round, saved_time = cell.task.protocol.rounds, simulation.done, time.monotonic()
    watch(simulation.done, rounds)
    while simulation.done < rounds:
        in_time = time.time() < stop_at
        if in_time:
            with _forgetting(checkpoint):
                simulation.round()
            watch(simulation.done, rounds)
        due = simulation.done - saved_round >= checkpoint_rounds or time.monotonic() - saved_time >= checkpoint_seconds
        if saved_round < simulation.done < rounds and (due or not in_time):
            simulation.save()
            saved(checkpoint.folder)
            saved_round, saved_time = simulation.done, time.monotonic()
        if not in_time:
            return None
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
    except Exception as error:
        if not of_machine(error):
            checkpoint.remove()
        raise


@lru_cache(maxsize=2)
def _on_device(dataset: Dataset, device: str) -> tuple[Tensor, Tensor]:
    """Return inputs and targets where they are computed with, once for all cells of a process."""
    return torch.from_numpy(dataset.inputs).to(device), torch.from_numpy(dataset.targets).to(device)


@dataclass(frozen=True)
class _Visit:
    """What is left of a client once it has been trained in a round."""

    client: int
    upload: Upload
    local: Predictor | None
    train_loss: float | None
    work: Work
    seconds: float


@dataclass
class _Row:
    """What one round adds to the series: its own values, and an array over all clients for each column."""

    round: dict[str, Any]
    clients: dict[str, npt.NDArray[np.float64]]


class Simulation:
    """One cell while it runs.

    Parameters
    ----------
    cell : Cell
        What to run.
    dataset : Dataset
        The task's samples, normalised.
    checkpoint : Checkpoint
        Where it is saved, and where states of clients go that do not fit into memory.
    device : str
        Where to compute.
    trainer : Trainer, optional
        What trains clients; one by one, if not given.
    """

    def __init__(
        self,
        cell: Cell,
        dataset: Dataset,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        trainer: Trainer | None = None,
    ) -> None:
        task = cell.task
        self.cell, self.method, self.protocol = cell, cell.method, task.protocol
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.device, self.trainer = torch.device(device), trainer or OneByOne()
        self.kind = KINDS[task.kind]
        self.model = Model(task.model, dataset.inputs.shape[1:], self.kind.outputs(task.n_classes))
        self.inputs, self.targets = _on_device(dataset, device)
        self.federation = federate(task, dataset, cell.track, cell.seed)
        self.plan = self.federation.pooled() if self.method.pooled else self.federation
        self.streams = Streams(cell.seed)
        batch = self.protocol.evaluation_batch if self.device.type == "cpu" else LARGE_BATCH
        self.evaluator = Evaluator(self.inputs, self.targets, self.federation, self.model, self.kind, batch)
        self.initial = {name: tensor.to(self.device) for name, tensor in self.model.initial(self.streams).items()}
        self.server = Server(
            params=dict(self.initial),
            initial=self.initial,
            n_clients=self.plan.trainers,
            rounds=self.protocol.rounds,
            shared=self.method.shared,
            streams=self.streams,
            model=self.model,
        )
        self.method.init_server(self.server)
        self.checkpoint = checkpoint
        self.states = States(checkpoint, self.device)
        self.done = 0
        self._written: dict[str, int] = {}  # how much of each series the checkpoint has
        self.rounds: Columns = {name: [] for name in ROUND_COLUMNS}
        self.clients: Columns = {name: [] for name in CLIENT_COLUMNS}
        self.arrays: dict[str, list[npt.NDArray[Any]]] = {}
        self.probabilities: npt.NDArray[np.float16] | None = None
        self.final: dict[str, npt.NDArray[Any]] = {}

    # --- one round ----------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Run the next round: traffic, local training, aggregation, evaluation."""
        t, method, server = self.done, self.method, self.server
        server.round = t
        begin = time.perf_counter()
        row = self._empty_row(t)
        queried = self._query(t, row)
        sampled = zip(self.plan.schedule[t].tolist(), self.plan.passes[t].tolist(), strict=True)
        visits = self.trainer.each([partial(self._visit, k, passes, row) for k, passes in sampled])
        weights = self._weights([visit.upload for visit in visits], t)
        method.server_update(server, [visit.upload for visit in visits], weights)
        trained = self._now()
        for visit, weight in zip(visits, weights, strict=True):
            row.clients["weight"][visit.client] = weight
            row.clients["train_loss"][visit.client] = _number(visit.train_loss)
            row.clients["seconds_train"][visit.client] = visit.seconds
        row.round |= {
            "lr": self.protocol.lr_at(t),
            "sampled": len(visits),
            "train_loss": _mean([visit.train_loss for visit in visits if visit.train_loss is not None]),
            "bytes_down": int(np.nansum(row.clients["bytes_down"])),
            "bytes_up": int(np.nansum(row.clients["bytes_up"])),
            "train_samples": sum(work.trained for work in (*queried, *(visit.work for visit in visits))),
            "forward_samples": sum(work.forward for work in (*queried, *(visit.work for visit in visits))),
        }
        self._evaluate(t, visits, row)
        row.round |= {"seconds_train": trained - begin, "seconds_evaluate": self._now() - trained}
        for name, values in self.rounds.items():
            values.append(np.array([_number(row.round.get(name))]))
        for name, values in self.clients.items():
            values.append(row.clients[name])
        self.done += 1

    def _visit(self, k: int, passes: int, row: _Row) -> _Visit:
        """Run a client's procedure and take in what it sends; of the client itself nothing else is kept."""
        client = self._client(k, passes)
        start = self._now()
        upload = self.method.client_update(client)
        seconds = self._now() - start
        return _Visit(k, self._received(upload, client, row), client.local, client.train_loss, client.work, seconds)

    def _now(self) -> float:
        """Return a time in seconds at which all work that was asked for is done."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def _empty_row(self, t: int) -> _Row:
        n_clients = len(self.federation.tests)
        clients = {name: np.full(n_clients, np.nan) for name in CLIENT_COLUMNS}
        clients["round"], clients["client"] = np.full(n_clients, float(t)), np.arange(float(n_clients))
        return _Row({"round": t}, clients)

    def _client(self, k: int, passes: int, *, evaluation: bool = False) -> Client:
        """Return client k in the current round, with what the server sends it.

        What it holds are copies: neither another client nor the server can be changed through them, and for an
        evaluation not even its own state.
        """
        state = self.states.get(k, {})
        client = Client(
            id=k,
            round=self.server.round,
            rounds=self.protocol.rounds,
            targets=self.targets[self.plan.train[k]],
            read_inputs=partial(self._training_inputs, k),
            n_classes=self.cell.task.n_classes,
            received=copied(self.method.broadcast(self.server, k)),
            initial=CopiedWhenRead(self.initial),
            state=copied(state) if evaluation else dict(state),
            passes=passes,
            protocol=self.protocol,
            model=self.model,
            kind=self.kind,
            shared=self.method.shared,
            streams=self.streams,
            trainer=self.trainer,
        )
        if k not in self.states:
            self.method.init_client(client)
        return client

    def _training_inputs(self, k: int) -> Tensor:
        """Return the training inputs of a trainer, each in the style of the client that has it."""
        ids, federation = self.plan.train[k], self.federation
        if not self.plan.pool:
            return federation.styled(self.inputs[ids], k, "train")
        inputs = self.inputs[ids]
        for client in range(federation.trainers) if federation.styles else ():
            own = federation.train[client]
            inputs[np.searchsorted(ids, own)] = federation.styled(self.inputs[own], client, "train")
        return inputs

    def _query(self, t: int, row: _Row) -> list[Work]:
        """Run the counted traffic outside the normal round; return the work of who was asked."""
        queried, reports = [], []
        asked = sorted(self.method.query(self.server))
        if strangers := [k for k in asked if not 0 <= k < self.server.n_clients]:
            raise MethodError(
                f"{self.cell.method_name}: the query in round {t} asks the clients {strangers}; ask some of "
                f"range(server.n_clients), which is {self.server.n_clients}: no other takes part."
            )
        for k in asked:
            client = self._client(k, self.protocol.local_epochs * len(self.plan.train[k]))
            reports.append(self._received(self.method.report(client), client, row))
            queried.append(client.work)
        if reports:
            self.method.receive(self.server, reports)
        return queried

    def _received(self, upload: Upload, client: Client, row: _Row) -> Upload:
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
        self.states.put(client.id, client.state, self.done + 1)
        if not self.plan.pool:  # where all data is in one place, nothing is sent
            for name, sent in (("bytes_down", client.received), ("bytes_up", upload)):
                row.clients[name][client.id] = np.nansum([row.clients[name][client.id], payload_bytes(sent)])
        return copied(upload)

    def _finish(self) -> None:
        """Run the traffic that a method asks for after the last round, and evaluate what it makes of the model."""
        self.server.round = self.protocol.rounds
        row = self._empty_row(self.protocol.rounds)
        queried = self._query(self.protocol.rounds, row)
        self.server.round = self.protocol.rounds - 1  # what is deployed is that of the last round
        if not queried:
            return
        for name in ("bytes_down", "bytes_up"):
            self.final[f"final_{name}"] = np.nan_to_num(row.clients[name]).astype(np.int64)
        predictor = self.method.predictor(self.server)
        if predictor is not None:
            result = self.evaluator.everywhere(predictor)
            self.final["final_test_predictions"] = result.predictions
            self.final["final_client_correct"] = np.packbits(result.clients)

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

    def _evaluate(self, t: int, visits: Sequence[_Visit], row: _Row) -> None:
        predictor = self.method.predictor(self.server)
        on_clients = None
        if predictor is not None:
            result = self.evaluator.everywhere(predictor)
            on_clients = result.clients
            row.round["global_accuracy"] = float(result.correct.mean())
            if len(result.validation):
                row.round["validation_accuracy"] = float(result.validation.mean())
            self._append("global_test_predictions", result.predictions)
            self._append("global_validation_correct", np.packbits(result.validation))
            self._append_on_clients("global", on_clients, self._everybody, row)
            if t == self.protocol.rounds - 1:
                self.probabilities = torch.softmax(result.logits, dim=1).cpu().numpy().astype(np.float16)
        if self.plan.pool:
            return
        self._on_own_tests(t, "local", [visit.client for visit in visits], [visit.local for visit in visits], row)
        if t in self.protocol.personal_rounds():
            kind = type(self.method)
            plain = all(getattr(kind, name) is getattr(Method, name) for name in ("personal", "broadcast", "predictor"))
            if plain and on_clients is not None and all(self.method.shared(name) for name in self.initial):
                # What every client would deploy is the global model, evaluated already.
                self._append_on_clients("personal", on_clients, self._everybody, row)
                self._append("personal_rounds", np.array(t))
                row.round["adapt_samples"] = 0
                return
            row.round["adapt_samples"] = 0
            if self._on_own_tests(t, "personal", self._everybody, self._personals(row), row):
                self._append("personal_rounds", np.array(t))

    @property
    def _everybody(self) -> range:
        return range(len(self.federation.tests))

    def _personals(self, row: _Row) -> Iterator[Predictor | None]:
        """Yield what each client would deploy now, one at a time, and count the samples spent on adapting it."""
        for k in self._everybody:
            model, spent = self._personal(k)
            row.round["adapt_samples"] += spent
            yield model

    def _personal(self, k: int) -> tuple[Predictor | None, int]:
        """Return what a client would deploy now, and the samples spent on adapting it."""
        client = self._client(k, self.protocol.local_epochs * len(self.plan.train[k]), evaluation=True)
        model = self.method.personal(client)
        return model, client.work.trained + client.work.forward

    def _on_own_tests(
        self, t: int, what: str, ids: Sequence[int], models: Iterable[Predictor | None], row: _Row
    ) -> bool:
        """Evaluate clients' models on their own local tests; say whether the method has such models."""
        bits = np.zeros(self.evaluator.offsets[-1], dtype=bool)
        lacking = []
        for k, model in zip(ids, models, strict=True):
            if model is None:
                lacking.append(k)
            else:
                bits[self._columns(k)] = self.evaluator.on_client(model, k, remember=what == "personal")
        if lacking and len(lacking) < len(ids):
            raise MethodError(
                f"{self.cell.method_name}: clients {lacking} have no {what} model in round {t}, others have; a method "
                "has one for every client, or for none."
            )
        if not lacking:
            self._append_on_clients(what, bits, ids, row)
        return not lacking

    def _columns(self, k: int) -> slice:
        return slice(self.evaluator.offsets[k], self.evaluator.offsets[k + 1])

    def _append(self, name: str, value: npt.NDArray[Any]) -> None:
        self.arrays.setdefault(name, []).append(value)

    def _append_on_clients(self, model: str, bits: npt.NDArray[np.bool_], ids: Sequence[int], row: _Row) -> None:
        self._append(f"{model}_client_correct", np.packbits(bits))
        offsets, before = self.evaluator.offsets, np.concatenate([[0], np.cumsum(bits)])
        accuracy = (before[offsets[1:]] - before[offsets[:-1]]) / np.diff(offsets)  # no client's test set is empty
        row.clients[f"{model}_accuracy"][list(ids)] = accuracy[list(ids)]

    # --- checkpoint ---------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Make the rounds done the checkpoint; of the series only those since the last save are written."""
        new = {key: values[self._written.get(key, 0) :] for key, values in self._series().items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{key: np.stack(values) for key, values in new.items() if values})
        server = {"params": self.server.params, "state": self.server.state, "started": self.started}
        self.states.write()
        self.checkpoint.save(self.done, {"server": pack(server), f"series-{self.done}": buffer.getvalue()})
        self._written = {key: len(values) for key, values in self._series().items()}

    def _series(self) -> dict[str, list[npt.NDArray[Any]]]:
        kinds = {"rounds": self.rounds, "clients": self.clients, "arrays": self.arrays}
        return {f"{kind}/{name}": values for kind, series in kinds.items() for name, values in series.items()}

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        loaded = self.checkpoint.load()
        if loaded is None:
            return
        self.done, parts = loaded
        server = unpack(parts["server"], self.device)
        self.server.params, self.server.state, self.started = server["params"], server["state"], server["started"]
        self.states.restore(parts)
        rounds = sorted(int(part.removeprefix("series-")) for part in parts if part.startswith("series-"))
        for part in (f"series-{done}" for done in rounds):
            with np.load(io.BytesIO(parts[part]), allow_pickle=False) as saved:
                for name in saved.files:
                    kind, _, column = name.partition("/")
                    series = {"rounds": self.rounds, "clients": self.clients, "arrays": self.arrays}[kind]
                    series.setdefault(column, []).extend(saved[name])
        self._written = {key: len(values) for key, values in self._series().items()}

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
        self._finish()
        federation, targets = self.federation, self.targets.cpu().numpy()
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
            **self.final,
        }
        if federation.held_out:
            arrays["held_out"] = np.arange(n_clients) >= federation.trainers
        if self.probabilities is not None:
            arrays["global_test_probabilities"] = self.probabilities
        return write(
            folder,
            self._info(arrays),
            _table(self.rounds, ROUND_COLUMNS),
            _table(self.clients, CLIENT_COLUMNS),
            arrays,
            self._weights_file() if keep_weights else None,
        )

    def _info(self, arrays: Mapping[str, npt.NDArray[Any]]) -> RunInfo:
        cell = self.cell
        total = {name: np.concatenate(values).sum() for name, values in self.rounds.items()}
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
                "source": (inspect.getdoc(inspect.getmodule(type(self.method))) or "").strip(),
            },
            classes=cell.task.data.classes,
            primary=cell.task.primary,
            seed_ids=SeedIds(
                partition=self.federation.partition_id(),
                init=fingerprint(self.initial[name].cpu().numpy() for name in sorted(self.initial)),
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
            bytes_up=int(total["bytes_up"]) + int(self.final.get("final_bytes_up", np.zeros(1)).sum()),
            bytes_down=int(total["bytes_down"]) + int(self.final.get("final_bytes_down", np.zeros(1)).sum()),
            train_samples=int(total["train_samples"]),
            forward_samples=int(total["forward_samples"]),
            environment=environment(str(self.device)).model_copy(update={"training": self.trainer.describe()}),
            started=self.started,
            seconds={"train": float(total["seconds_train"]), "evaluate": float(total["seconds_evaluate"])},
        )

    def _weights_file(self) -> bytes:
        models = {"global": self.method.predictor(self.server)}
        if not self.plan.pool:
            models |= {f"client-{k}": self._personal(k)[0] for k in range(len(self.federation.tests))}
        return bytes(
            save(
                {
                    f"{who}/{name}": tensor.cpu().contiguous().clone()
                    for who, model in models.items()
                    if isinstance(model, Mapping)
                    for name, tensor in model.items()
                }
            )
        )


def _table(columns: Columns, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return columns of an Arrow table; what is not a number is null there."""
    table = {}
    for name, kind in kinds.items():
        values = np.concatenate(columns[name])
        lacking = np.isnan(values)
        table[name] = pa.array(np.where(lacking, 0, values).astype(kind), type=kind, mask=lacking)
    return table


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
