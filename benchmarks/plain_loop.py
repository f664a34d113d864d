"""FedAvg as a researcher writes it: the loop that FedBench is compared with.

Images pass PIL and two transforms one by one, a DataLoader makes the batches, each client gets a deep copy of the
global model, state dicts are averaged, and every test set is evaluated through a DataLoader of its own. `to_tensor` and
`normalise` are those of torchvision, written out.
"""

from __future__ import annotations

import copy
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from setting import Round, Setting, arguments, setting, tell
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fedbench.task import Protocol

WIDTHS = {"cnn4": (32, 512), "cnn-small": (8, 64)}
"""Channels of the first convolution and units of the hidden layer, by the name of the task's model."""


def to_tensor(image: Image.Image) -> Tensor:
    """Return a colour image as floats in [0, 1], channels first."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def normalise(x: Tensor) -> Tensor:
    """Return an image with mean 0.5 and standard deviation 0.5 taken out."""
    return x.sub(0.5).div(0.5)


class Images(Dataset[tuple[Tensor, int]]):
    """Some samples of the data set, transformed when asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return normalise(to_tensor(Image.fromarray(self.images[index]))), int(self.labels[index])


class CNN(nn.Module):
    """The four-layer network of the FedKPer paper, with its layers in the usual order."""

    def __init__(self, classes: int, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.fc1 = nn.Linear(2 * width * 7 * 7, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.head(F.relu(self.fc1(x.flatten(1))))


def train(model: nn.Module, images: Images, protocol: Protocol, lr: float) -> int:
    """Train in place and return the samples passed."""
    loader = DataLoader(images, batch_size=protocol.batch_size, shuffle=True)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=protocol.momentum, weight_decay=protocol.weight_decay
    )
    model.train()
    passed = 0
    for _ in range(protocol.local_epochs):
        for x, y in loader:
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimiser.step()
            passed += len(y)
    return passed


def average(states: Sequence[dict[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Return the mean of state dicts weighted by sizes."""
    return {
        name: sum(size / sum(sizes) * state[name] for state, size in zip(states, sizes, strict=True))
        for name in states[0]
    }


def evaluate(model: nn.Module, images: Images, batch: int) -> tuple[int, int]:
    """Return how many samples are right, and how many there are."""
    model.eval()
    right = seen = 0
    with torch.no_grad():
        for x, y in DataLoader(images, batch_size=batch):
            right += int((model(x).argmax(dim=1) == y).sum())
            seen += len(y)
    return right, seen


def run(seed: int, name: str, rounds: int, threads: int) -> list[Round]:
    """Run FedAvg in this process and return what each round took."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    the = setting(name, rounds)
    model = CNN(the.task.n_classes, *WIDTHS[the.task.model])
    return [one_round(model, the, t) for t in range(rounds)]


def one_round(model: nn.Module, the: Setting, t: int) -> Round:
    """Train the clients of round t, put their mean into the global model, and evaluate."""
    split, protocol = the.federation, the.task.protocol

    def images(ids: np.ndarray) -> Images:
        return Images(the.dataset.inputs[ids], the.dataset.targets[ids])

    begin = time.perf_counter()
    clients, locals_, trained = split.schedule[t].tolist(), [], 0
    for k in clients:
        local = copy.deepcopy(model)
        trained += train(local, images(split.train[k]), protocol, protocol.lr_at(t))
        locals_.append(local)
    model.load_state_dict(average([local.state_dict() for local in locals_], [len(split.train[k]) for k in clients]))
    middle = time.perf_counter()
    results = [evaluate(model, images(ids), protocol.evaluation_batch) for ids in (split.global_test, split.validation)]
    results += [evaluate(model, images(ids), protocol.evaluation_batch) for ids in split.tests]
    for k, local in zip(clients, locals_, strict=True):
        results.append(evaluate(local, images(split.tests[k]), protocol.evaluation_batch))
    end = time.perf_counter()
    return Round(
        train=middle - begin, evaluate=end - middle, trained=trained, evaluated=sum(seen for _, seen in results)
    )


def main() -> None:
    """Measure one run, or several side by side in a process each."""
    parser = arguments(__doc__)
    parser.add_argument("--processes", type=int, default=1, help="runs side by side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each (default: %(default)s)")
    given = parser.parse_args()
    job = partial(run, name=given.task, rounds=given.rounds, threads=given.threads)
    if given.processes == 1:
        tell(runs=[job(1)])
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, mp_context=spawn) as pool:
        tell(runs=list(pool.map(job, range(1, given.processes + 1))))


if __name__ == "__main__":
    main()
