"""What charts need of a record beyond its metrics: values per round, per client and per visit. Nothing here draws.

Everything is a pure function of one `Outcome`; see `fedbench.leaderboard.runs` for those of a task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedbench.metrics import change_since_visit, global_accuracy, local_accuracy
from fedbench.outcome import Bits, Counts, Outcome, Values


@dataclass(frozen=True, eq=False, kw_only=True)
class Series:
    """One run, as charts read it: R rounds, K clients. A model that the method does not have leaves its values None.

    Parameters
    ----------
    seed : int
        The base seed.
    partition : str
        The id of the split over clients: two runs have the same clients where it is equal.
    sizes : int64 array (K,)
        Local test samples of each client.
    held_out : bool array (K,)
        Which clients never train.
    sampled : bool array (R, K)
        Which clients took part.
    global_accuracy : float64 array (R,) or None
        Of the global model on the global test set after each round, fraction.
    local_accuracy : float64 array (R,) or None
        Mean over the sampled clients of the local model's accuracy in each round, fraction.
    global_by_client : float64 array (R, K) or None
        Of the global model on each client's local test samples after each round, fraction.
    local_by_client : float64 array (R, K) or None
        Of each sampled client's local model right after its training, fraction; NaN where it is not sampled.
    personal_by_client : float64 array (K,) or None
        Of each client's personal model at its last evaluation, fraction.
    forgetting : float64 array (R, K) or None
        See `fedbench.metrics.change_since_visit`.
    retrogress : float64 array (R,) or None
        See `drop_after_download`.
    bytes, seconds, samples : float64 array (R,)
        Spent up to and including each round: bytes in both directions, wall-clock seconds of training and aggregation,
        sample passes (forward and backward, and forward only).
    """

    seed: int
    partition: str
    sizes: Counts
    held_out: Bits
    sampled: Bits
    global_accuracy: Values | None
    local_accuracy: Values | None
    global_by_client: Values | None
    local_by_client: Values | None
    personal_by_client: Values | None
    forgetting: Values | None
    retrogress: Values | None
    bytes: Values
    seconds: Values
    samples: Values


def series(outcome: Outcome, seed: int, partition: str) -> Series:
    """Return the series of one run; seed and partition as in `Series`.

    Examples
    --------
    The worked example of `fedbench.metrics`: 3 rounds, 3 clients, of which the last never trains.

    >>> from fedbench.metrics import EXAMPLE
    >>> run = series(EXAMPLE, seed=1, partition="p")
    >>> run.bytes.tolist(), run.personal_by_client.tolist()
    ([30.0, 90.0, 120.0], [0.5, 1.0, 1.0])
    """
    anyone = bool(outcome.sampled.any())
    local = outcome.local if anyone else None
    return Series(
        seed=seed,
        partition=partition,
        sizes=np.diff(outcome.offsets),
        held_out=np.zeros(outcome.n_clients, dtype=np.bool_) if outcome.held_out is None else outcome.held_out,
        sampled=outcome.sampled,
        global_accuracy=global_accuracy(outcome),
        local_accuracy=local_accuracy(outcome),
        global_by_client=None if outcome.on_clients is None else outcome.per_client(outcome.on_clients),
        local_by_client=None if local is None else np.where(outcome.sampled, outcome.per_client(local), np.nan),
        personal_by_client=(
            None if outcome.personal is None or not len(outcome.personal) else outcome.per_client(outcome.personal[-1])
        ),
        forgetting=change_since_visit(outcome),
        retrogress=drop_after_download(outcome),
        bytes=np.cumsum(outcome.bytes_up + outcome.bytes_down, dtype=np.float64),
        seconds=np.cumsum(outcome.seconds_train, dtype=np.float64),
        samples=np.cumsum(outcome.train_samples + outcome.forward_samples, dtype=np.float64),
    )


def drop_after_download(outcome: Outcome) -> Values | None:
    """Return the retrogress of each round, what clients lose as they download, (R,), difference of fractions.

    A client k sampled in round t starts from the global model as it was after round t − 1. With p < t the last round
    before t in which k took part, its drop is l_p(k) − a_{t−1}(k): the accuracy of the local model that it held when
    it left, minus that of the global model that replaces it, both on k's local test samples. The value of round t is
    the mean over the clients sampled in t that took part before; NaN where there is none. Positive is lost.

    None if there is no global model or no client is ever sampled. Of what is downloaded in truth, only a whole global
    model is meant: for a method that keeps layers at home it says what its global model would cost the client.

    Examples
    --------
    Client 0 left round 0 with 2/2 and gets a model with 2/2; it left round 1 with 1/2 and gets one with 1/2.

    >>> from fedbench.metrics import EXAMPLE
    >>> drop_after_download(EXAMPLE).tolist()
    [nan, 0.0, 0.0]
    """
    if outcome.on_clients is None or outcome.local is None or not outcome.sampled.any():
        return None
    given, held = outcome.per_client(outcome.on_clients), outcome.per_client(outcome.local)
    left = np.full(outcome.n_clients, np.nan)
    drop = np.full(outcome.rounds, np.nan)
    for t, sampled in enumerate(outcome.sampled):
        again = sampled & ~np.isnan(left)
        if again.any():
            drop[t] = np.mean(left[again] - given[t - 1, again])
        left[sampled] = held[t, sampled]
    return drop
