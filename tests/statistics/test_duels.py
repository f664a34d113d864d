"""Win rates and Bradley–Terry ratings."""

import math

import numpy as np
import pytest

from fedbench.statistics import NotComputed, bradley_terry, wins
from fedbench.statistics.duels import log_strengths


def test_wins_by_hand(make_grid):
    table = wins(make_grid({"a": [[3, 3, 1, 1]], "b": [[2, 3, 2, 0.3 - 0.2]], "c": [[0, 0, 0, 0.1]]}))
    assert table.tolist() == [[0, 2.5, 4], [1.5, 0, 3.5], [0, 0.5, 0]]
    lower = wins(make_grid({"a": [[3, 3, 1, 1]], "b": [[2, 3, 2, 0]]}, "lower"))
    assert lower.tolist() == [[0, 1.5], [2.5, 0]]


def test_three_to_one(make_grid):
    found = bradley_terry(make_grid({"a": [[1, 1, 1, 0]], "fedavg": [[0, 0, 0, 1]]}), "fedavg")
    assert found.ratings["fedavg"] == 1000
    assert found.ratings["a"] - 1000 == pytest.approx(190.8485, abs=1e-4)
    assert (found.question, found.n, found.unit) == ("Q2", 4, "cells")


def test_log_odds():
    strengths = log_strengths([[0, 3], [1, 0]])
    assert strengths[0] - strengths[1] == pytest.approx(math.log(3), abs=1e-9)


def test_like_choix():
    """choix 0.4.1, opt_pairwise."""
    found = log_strengths([[0, 5, 5], [2, 0, 4], [2, 3, 0]])
    assert found == pytest.approx([0.6123394, -0.20443282, -0.40790658], abs=1e-6)


def test_likelihood_equations():
    """At the maximum every method's expected wins are its wins."""
    table = np.random.default_rng(0).integers(1, 9, (6, 6)).astype(float)
    np.fill_diagonal(table, 0)
    s = np.exp(log_strengths(table))
    expected = ((table + table.T) * s[:, None] / (s[:, None] + s[None])).sum(axis=1)
    assert expected == pytest.approx(table.sum(axis=1), rel=1e-9)


def test_total_dominance_is_not_computed(make_grid):
    found = bradley_terry(make_grid({"a": [[9, 9]], "b": [[1, 2]], "c": [[2, 1]]}), "b")
    assert isinstance(found, NotComputed)
    assert str(found) == "not computed: a won every cell against all others, so their rating has no upper bound"


def test_a_group_that_dominates_is_named(make_grid):
    found = bradley_terry(make_grid({"a": [[8, 9]], "b": [[9, 8]], "c": [[2, 1]]}), "c")
    assert str(found).startswith("not computed: a, b won every cell")


def test_one_tie_in_a_thousand_is_still_rated():
    """Twelve methods in a strict order but for half a point that the last takes from the first."""
    table = np.triu(np.full((12, 12), 90.0), 1)
    table[0, -1], table[-1, 0] = 89.5, 0.5
    s = np.exp(log_strengths(table))
    expected = ((table + table.T) * s[:, None] / (s[:, None] + s[None])).sum(axis=1)
    assert expected == pytest.approx(table.sum(axis=1), abs=1e-6)


def test_dominance_has_no_maximum():
    with pytest.raises(ValueError, match="won everything"):
        log_strengths([[0, 2], [0, 0]])
