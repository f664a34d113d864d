"""Bayesian signed-rank, against closed forms and baycomp."""

import math

import numpy as np
import pytest

from fedbench.statistics import Sources, bayesian_signed_rank
from fedbench.statistics.bayes import signed_rank_posterior

D = [0.0131, 0.0212, -0.0043, 0.0034, 0.0123, -0.0201, 0.0017, 0.0061, 0.0302]


def test_one_difference_in_closed_form():
    """One weight u is uniform: far out, all but (1 − u)² lies above; just outside, u² does; each against one half."""
    assert signed_rank_posterior([5], 1, strength=1)[2] == pytest.approx(math.sqrt(1 / 2), abs=0.01)
    assert signed_rank_posterior([1.5], 1, strength=1)[2] == pytest.approx(1 - math.sqrt(1 / 2), abs=0.01)
    assert signed_rank_posterior([-5], 1, strength=1)[0] == pytest.approx(math.sqrt(1 / 2), abs=0.01)


@pytest.mark.parametrize(
    ("rope", "strength", "above", "inside"),
    [  # baycomp 1.0.3, 300,000 samples
        (0.001, 0.5, 0.93849, 0.00017),
        (0.005, 0.5, 0.77119, 0.19736),
        (0.01, 0.5, 0.23296, 0.76638),
        (0.005, 1.0, 0.74039, 0.22993),
    ],
)
def test_like_baycomp(rope, strength, above, inside):
    low, middle, high = signed_rank_posterior(D, rope, strength)
    assert (high, middle) == pytest.approx((above, inside), abs=0.008)
    assert low + middle + high == pytest.approx(1)


def test_signs_mirror():
    low, middle, high = signed_rank_posterior(D, 0.005)
    assert signed_rank_posterior(-np.array(D), 0.005) == pytest.approx((high, middle, low), abs=0.01)


def test_zeros_are_equivalent():
    assert signed_rank_posterior(np.zeros(8), 0.005) == (0, 1, 0)


def test_the_margin_itself_is_equivalent():
    assert signed_rank_posterior([0.3 - 0.2] * 8, 0.1) == (0, 1, 0)


def test_order_of_sources_and_a_second_rendering():
    assert signed_rank_posterior(D[::-1], 0.005) == signed_rank_posterior(D, 0.005)


@pytest.mark.parametrize(("direction", "winner"), [("higher", "a"), ("lower", "b")])
def test_of_sources(direction, winner):
    scores = np.array([[0.5 + d, 0.5] for d in D]) + 0.02 * np.array([1, 0])
    sources = Sources(
        question="Q3",
        n=9,
        unit="independent sources",
        names=tuple("123456789"),
        methods=("a", "b"),
        scores=scores,
        direction=direction,
    )
    found = bayesian_signed_rank(sources, winner, "b" if winner == "a" else "a", rope=0.005)
    assert found.better > 0.99
    assert (found.question, found.n, found.rope, found.strength) == ("Q3", 9, 0.005, 0.5)
    assert found.better + found.equivalent + found.worse == pytest.approx(1)


@pytest.mark.parametrize(("rope", "strength"), [(-0.1, 1), (0.1, 0)])
def test_refusals(rope, strength):
    with pytest.raises(ValueError, match="region"):
        signed_rank_posterior(D, rope, strength)
