"""A split in text: divergences known in closed form, bubbles by hand, and a table that fits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from fedbench import IID, Dirichlet, Shards, datasets, registry
from fedbench.federation import federate
from fedbench.splitcard import BUBBLES, _bubble, _table, class_counts, label_divergence, split_card


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[3, 0], [0, 9]], 1),
        ([[3, 1], [30, 10]], 0),
        # (1, 0) and (1/2, 1/2): H(3/4, 1/4) - 1/2 = 2 - 3/4 log2 3 - 1/2
        ([[8, 0], [4, 4]], 1.5 - 0.75 * math.log2(3)),
        # two alike and one apart: pairs 0, 1, 1
        ([[5, 0], [7, 0], [0, 2]], 2 / 3),
    ],
)
def test_divergence_in_closed_form(counts, expected):
    assert label_divergence(np.array(counts)) == pytest.approx(expected, abs=1e-12)


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 1000))
def test_divergence_is_the_mean_of_all_pairs(clients, classes, seed):
    counts = np.random.default_rng(seed).integers(0, 20, (clients, classes)) + np.eye(clients, classes, dtype=int)
    counts[:, 0] += 1
    pairs = [jensenshannon(p, q, base=2) ** 2 for i, p in enumerate(counts) for q in counts[:i]]
    assert label_divergence(counts) == pytest.approx(np.mean(pairs), abs=1e-9)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, " "), (1, "."), (100, "."), (101, "o"), (400, "o"), (401, "O"), (900, "O"), (901, "@"), (1600, "@")],
)
def test_a_bubble_s_area_is_its_number(count, expected):
    """Diameters up to 1/4, 1/2, 3/4 and all of the largest: areas 1/16, 1/4, 9/16."""
    assert _bubble(count, 1600) == expected


def test_a_table_by_hand():
    counts = np.array([[16, 0, 1], [0, 4, 0]])
    *lines, blank, first, second = _table(counts, ("yes", "no", "a very long name of a class"), 60)
    assert lines == [
        "class, client    0 1",
        " 0 yes           @",
        " 1 no              o",
        " 2 a very long   .",
        "   all classes   @ o",
    ]
    assert blank == ""
    assert first == "Area is number: @ up to 16 samples, O to 9/16 of that,"
    assert second == "o to 1/4, . to 1/16; all classes: of 17."


@pytest.mark.parametrize("clients", [1, 2, 10, 11, 20, 21, 42, 43, 50, 100, 215])
@pytest.mark.parametrize("width", [40, 60, 100])
def test_a_table_fits_and_shows_every_client_once(clients, width):
    counts = np.full((clients, 3), 7)
    lines = list(_table(counts, ("a", "b", "c"), width))
    assert max(map(len, lines)) <= max(width, 60)  # the legend has 60 columns at most
    assert max(len(line) for line in lines[:-2]) <= width
    rows = [line for line in lines if line.startswith(" 1 b")]
    assert "".join(rows).count("@") == clients
    numbers = "".join(line.removeprefix("class, client") for line in lines if line.startswith("class, client"))
    assert numbers.replace(" ", "") == "".join(str(client % 10) for client in range(clients))


def test_the_card_of_a_task_says_what_its_federation_is():
    task = registry.tasks.get("blood-mini")
    data = task.data.load()
    federation = federate(task, data, "faithful", 3)  # the seed plays no part
    sizes = [len(ids) for ids in federation.train]
    tests = [len(ids) for ids in federation.tests]
    card = split_card(task)
    lines = card.splitlines()
    assert max(map(len, lines)) <= 60
    assert f"{min(sizes):,} to {max(sizes):,} a client" in card
    assert f"{min(tests)} to {max(tests)} samples, the smallest client {tests.index(min(tests))}'s" in card
    counts = class_counts(federation, data.targets, 8)
    assert counts.sum(axis=1).tolist() == sizes
    row = next(line for line in lines if line.startswith(" 0 basophil"))
    drawn = row[17:].ljust(16)[::2]
    assert [cell != " " for cell in drawn] == (counts[:, 0] > 0).tolist()
    assert set(card) & set(BUBBLES)
    assert card.isascii()


def test_the_card_tells_held_out_clients_and_styles():
    task = registry.tasks.get("blood-mini").but(held_out=0.25, partitioner=Dirichlet(alpha=1.0, clients=8))
    assert "8, the last 2 held out" in split_card(task)
    assert "held out" not in split_card(task.but(held_out=0.0))


def test_alike_and_disjoint_clients_are_told_apart():
    mini = registry.tasks.get("blood-mini")
    alike = split_card(mini.but(partitioner=IID(clients=4)))
    disjoint = split_card(mini.but(partitioner=Shards(classes=1, clients=8)))
    assert "0.01 bit" in alike or "0.00 bit" in alike
    assert "1.00 bit" in disjoint
    assert "1 to 1 of 8 a client, mean 1.0" in disjoint


def test_a_single_client_has_no_divergence():
    assert "divergence" not in split_card(registry.tasks.get("blood-mini").but(partitioner=IID(clients=1)))


def test_without_data_or_without_a_split_the_card_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "places", lambda data_dir: [tmp_path])
    card = split_card(registry.tasks.get("blood"))
    assert card.startswith("The split is not drawn: bloodmnist.npz is not on this machine")
    assert "\n" not in card
    mini = registry.tasks.get("blood-mini").but(partitioner=IID(clients=1000))
    assert "The split is not drawn: 1000 clients of at least 10 samples need 10000" in split_card(mini)
