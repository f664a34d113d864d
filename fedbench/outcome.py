"""What one cell produced, as plain arrays: the only thing a metric reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """Per-sample results of one cell. R rounds, K clients, N test samples, C classes, M local test samples in all.

    A model that the method does not have leaves its arrays None: "not defined", never zero.

    Parameters
    ----------
    n_classes : int
        C.
    sampled : bool array (R, K)
        Which clients took part; all False where no client of the federation trains (``centralised``).
    test_labels : int64 array (N,)
        Classes of the global test set.
    test_predictions : int64 array (R, N) or None
        Predicted class of the global model after each round.
    test_probabilities : float64 array (N, C) or None
        Class probabilities of the global model after the last round.
    validation : bool array (R, V) or None
        Whether the global model is right on each validation sample; V may be 0.
    offsets : int64 array (K + 1,)
        Client k's local test samples are columns ``offsets[k]:offsets[k + 1]`` of the arrays below.
    client_labels : int64 array (M,)
        Classes of all local test samples.
    on_clients : bool array (R, M) or None
        Whether the global model is right on each local test sample, of every client, after each round.
    local : bool array (R, M) or None
        Whether the local model of a sampled client, right after its training, is right on its own local test
        samples; False and meaningless where the client is not sampled.
    personal_rounds : int64 array (P,)
        Rounds after which personal models were evaluated; the last is R - 1 if there is any.
    personal : bool array (P, M) or None
        Whether each client's personal model is right on its own local test samples.
    held_out : bool array (K,) or None
        Which clients never train; None where all may.
    final_predictions : int64 array (N,) or None
        Predicted class of the global model after the traffic that a method asked for when the last round was over;
        None for most methods, which ask for none.
    final_on_clients : bool array (M,) or None
        Whether that model is right on each local test sample.
    final_bytes_up, final_bytes_down : int
        That traffic.
    bytes_up, bytes_down : int64 array (R,)
        Measured traffic of all clients together.
    seconds_train, seconds_evaluate : float64 array (R,)
        Wall-clock seconds.
    train_samples, forward_samples : int64 array (R,)
        Samples passed forward and backward in training, and forward only (teachers, scores).
    """

    n_classes: int
    sampled: Bits
    test_labels: Counts
    test_predictions: Counts | None
    test_probabilities: Values | None
    validation: Bits | None
    offsets: Counts
    client_labels: Counts
    on_clients: Bits | None
    local: Bits | None
    personal_rounds: Counts
    personal: Bits | None
    held_out: Bits | None = None
    final_predictions: Counts | None = None
    final_on_clients: Bits | None = None
    final_bytes_up: int = 0
    final_bytes_down: int = 0
    bytes_up: Counts
    bytes_down: Counts
    seconds_train: Values
    seconds_evaluate: Values
    train_samples: Counts
    forward_samples: Counts

    @property
    def rounds(self) -> int:
        """R."""
        return len(self.sampled)

    @property
    def n_clients(self) -> int:
        """K."""
        return len(self.offsets) - 1

    def per_client(self, correct: Bits) -> Values:
        """Return accuracies of shape (..., K) from correctness bits of shape (..., M)."""
        hits = np.add.reduceat(correct.astype(np.int64), self.offsets[:-1], axis=-1)
        return hits / np.diff(self.offsets)
