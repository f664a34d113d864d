"""Checks 8 and 10: the series of rounds and clients are complete, and every number can be one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fedbench.records import CLIENT_COLUMNS, ROUND_COLUMNS
from fedbench.verification.checks import check, fail_if
from fedbench.verification.subject import Column, Contents, Entry

WEIGHTS_SUM = 1e-6  # what the harness allows the weights of a round to be off from one


@check(8, "each round stands once, with each client, as the protocol says", needs=("schema",))
def series(entry: Entry) -> str:
    """Find rounds and clients that are missing, stand twice, or do not follow the schedule and the protocol."""
    contents = entry.contents
    rounds, clients = contents.protocol.rounds, len(contents.arrays["train_class_counts"])
    fail_if(_gaps(contents, rounds, clients))
    fail_if(_unlike_protocol(contents, rounds))
    return f"{rounds} rounds of {clients} clients, {int(contents.rounds['sampled'].values[0])} sampled in each"


def _gaps(contents: Contents, rounds: int, clients: int) -> Iterator[str]:
    """Yield where the rows are not each round once, and each client in it once."""
    numbers = contents.rounds["round"].values
    if not np.array_equal(numbers, np.arange(rounds)):
        lacking = sorted({*range(rounds)} - {int(number) for number in numbers})
        told = f"round {', '.join(map(str, lacking[:3]))} is missing" if lacking else "rounds stand twice or disordered"
        yield f"rounds.parquet: {len(numbers)} rows for {rounds} rounds; {told}"
    by_round, by_client = contents.clients["round"].values, contents.clients["client"].values
    if not np.array_equal(by_round, np.repeat(np.arange(rounds), clients)):
        yield f"clients.parquet: {len(by_round)} rows are not {rounds} rounds of {clients} clients in their order"
    elif not np.array_equal(by_client, np.tile(np.arange(clients), rounds)):
        yield "clients.parquet: a client is missing in a round, stands twice, or is not in its order"


def _unlike_protocol(contents: Contents, rounds: int) -> Iterator[str]:
    """Yield where the series say otherwise than the schedule and the protocol."""
    protocol, arrays, schedule = contents.protocol, contents.arrays, contents.arrays["schedule"]
    shape = (rounds, len(arrays["train_class_counts"]))
    if schedule.shape != shape:
        yield f"the schedule is of shape {schedule.shape}, and there are {rounds} rounds of {shape[1]} clients"
        return
    trained = schedule
    size = 1 if contents.pooled else protocol.sampled(int(np.count_nonzero(~contents.held_out)))
    if contents.pooled:  # one trainer holds all data; its numbers stand at client 0
        trained = np.zeros(shape, dtype=bool)
        trained[:, 0] = True
    for t in np.flatnonzero(trained.sum(axis=1) != size)[:1]:
        yield f"round {t}: the schedule has {trained[t].sum()} clients, the protocol samples {size}"
    for t in np.flatnonzero(contents.rounds["sampled"].values != trained.sum(axis=1))[:1]:
        yield f"round {t}: sampled is {contents.rounds['sampled'].values[t]}, the schedule has {trained[t].sum()}"
    if (schedule & contents.held_out).any():
        yield "a client that is held out takes part"
    due = np.array([protocol.lr_at(t) for t in range(rounds)])
    for t in np.flatnonzero(contents.rounds["lr"].values != due)[:1]:
        yield f"round {t}: lr is {contents.rounds['lr'].values[t]}, the protocol has {due[t]}"
    yield from _lacking(contents, trained)
    weights = contents.of_client("weight").values
    for t in np.flatnonzero(np.abs(weights.sum(axis=1) - 1) > WEIGHTS_SUM)[:1]:
        yield f"round {t}: the weights sum to {weights[t].sum():.6f}, not to 1"


def _lacking(contents: Contents, trained: npt.NDArray[np.bool_]) -> Iterator[str]:
    """Yield the columns that have a value where nothing can be, or none where something must be."""
    models, pooled, (rounds, clients) = contents.record.info.models, contents.pooled, trained.shape
    nowhere, everywhere = np.zeros((rounds, clients), dtype=bool), np.ones((rounds, clients), dtype=bool)
    on_personal = nowhere.copy()
    on_personal[contents.protocol.personal_rounds()] = True
    due = {
        "weight": trained,
        "seconds_train": trained,
        "global_accuracy": everywhere if "global" in models else nowhere,
        "local_accuracy": trained if "local" in models else nowhere,
        "personal_accuracy": on_personal if "personal" in models else nowhere,
    }
    if pooled:
        due |= {"bytes_up": nowhere, "bytes_down": nowhere}
    for name, where in due.items():
        for t, k in np.argwhere(contents.of_client(name).known != where)[:1]:
            yield f"round {t}, client {k}: {name} is {'missing' if where[t, k] else 'there, where none can be'}"
    loss = contents.of_client("train_loss").known
    for t, k in np.argwhere(loss & ~trained)[:1]:
        yield f"round {t}, client {k}: train_loss is there, and the client did not train"
    sent = nowhere if pooled else trained
    for name in ("bytes_up", "bytes_down"):
        for t, k in np.argwhere(sent & ~contents.of_client(name).known)[:1]:
            yield f"round {t}, client {k}: {name} is missing"
    once = {
        "global_accuracy": np.full(rounds, "global" in models),
        "validation_accuracy": np.full(rounds, "global" in models and len(contents.arrays["validation_ids"]) > 0),
        "train_loss": loss.any(axis=1),
        "adapt_samples": on_personal[:, 0] & (not pooled),
    }
    for name, column in contents.rounds.items():
        for t in np.flatnonzero(column.known != once.get(name, np.ones(rounds, dtype=bool)))[:1]:
            yield f"round {t}: {name} is {'there, where none can be' if column.known[t] else 'missing'}"


@check(10, "every stored number is finite and in its bounds", needs=("schema",))
def bounds(entry: Entry) -> str:
    """Find NaN, infinite, negative and impossible numbers."""
    contents = entry.contents
    info = contents.record.info
    problems = []
    seen = 0
    for file, names, columns in (
        ("rounds", ROUND_COLUMNS, contents.rounds),
        ("clients", CLIENT_COLUMNS, contents.clients),
    ):
        for name in names:
            seen += len(columns[name].values)
            problems += [f"{file}.parquet, row {row}: {name} is {value}" for row, value in _odd(name, columns[name])]
    for name, array in contents.arrays.items():
        seen += array.size
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            problems.append(f"{name} has values that are not finite")
        if array.dtype.kind == "i" and array.size and array.min() < 0:
            problems.append(f"{name} has the negative value {array.min()}")
    told = {
        **{name: getattr(info, name) for name in ("seed", "bytes_up", "bytes_down", "train_samples")},
        "forward_samples": info.forward_samples,
        "model.parameters": info.model.parameters,
        "model.bytes": info.model.bytes,
        "model.flops": info.model.flops,
        "environment.threads": info.environment.threads,
        **{f"seconds.{name}": value for name, value in info.seconds.items()},
    }
    problems += [f"run.json: {name} is {value}" for name, value in told.items() if value < 0]
    fail_if(problems)
    return f"{seen + len(told):,} numbers"


def _odd(name: str, column: Column) -> Iterator[tuple[int, float]]:
    """Yield the first value of a column that cannot be one."""
    values = column.values[column.known]
    odd = ~np.isfinite(values)
    if not name.endswith("loss"):  # the only number that a method may make negative
        odd |= values < 0
    if name.endswith("accuracy") or name == "weight":
        odd |= values > 1 + (WEIGHTS_SUM if name == "weight" else 0)
    for row in np.flatnonzero(odd)[:1]:
        yield int(np.flatnonzero(column.known)[row]), values[row].item()
