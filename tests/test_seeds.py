"""Named streams: equal arguments give equal draws, anything else gives others, and nothing global is touched."""

import hashlib
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbench.seeds import Streams, fingerprint

BASE = {"base": 1, "purpose": "order", "client": 3, "round": 0}


def draw(base, purpose, **depends_on):
    return Streams(base).rng(purpose, **depends_on).integers(2**63, size=8).tolist()


def test_equal_arguments_give_equal_draws_in_any_order():
    assert draw(1, "order", client=3, round=0) == draw(1, "order", round=0, client=3)


@pytest.mark.parametrize(
    "other",
    [
        {"base": 2},
        {"purpose": "init"},
        {"client": 4},
        {"round": 1},
        {"client": 0, "round": 3},
        {"client": "3"},
        {"epoch": 0},
    ],
    ids=str,
)
def test_any_other_argument_gives_other_draws(other):
    assert draw(**BASE) != draw(**{**BASE, **other})


def test_a_fresh_generator_each_time():
    streams = Streams(0)
    streams.rng("order").integers(10, size=1000)
    assert streams.rng("order").integers(2**63) == Streams(0).rng("order").integers(2**63)


def test_a_stream_is_pcg64_seeded_with_a_hash_of_its_arguments():
    digest = hashlib.sha256(json.dumps([5, "order", [["client", 2], ["round", 7]]]).encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]
    expected = np.random.default_rng(words).integers(2**63, size=8).tolist()
    assert draw(5, "order", round=7, client=2) == expected


def test_a_stream_has_not_changed_unnoticed():
    """Pinned, not derived: whatever changes these numbers changes every partition, schedule and initial weight."""
    assert Streams(0).rng("partition").integers(1000, size=6).tolist() == [533, 914, 68, 473, 570, 31]


def test_no_global_generator_is_touched():
    numpy_before, python_before = np.random.get_state(), random.getstate()  # noqa: NPY002
    Streams(3).rng("order", client=1).permutation(100)
    numpy_after = np.random.get_state()  # noqa: NPY002
    assert numpy_before[2:] == numpy_after[2:]
    assert (numpy_before[1] == numpy_after[1]).all()
    assert random.getstate() == python_before


def test_neighbouring_streams_are_uncorrelated():
    draws = np.stack([Streams(0).rng("order", client=k).standard_normal(4000) for k in range(20)])
    off_diagonal = np.corrcoef(draws)[~np.eye(20, dtype=bool)]
    assert abs(off_diagonal).max() < 5 / np.sqrt(4000)


def test_a_fingerprint_is_sixteen_hexadecimal_digits_of_a_plain_sha256():
    array = np.array([[1, 2], [3, 4]], dtype=np.int64)
    text = b"<i8(2, 2)" + b"".join(int(v).to_bytes(8, "little") for v in (1, 2, 3, 4))
    assert fingerprint([array]) == hashlib.sha256(text).hexdigest()[:16]


@pytest.mark.parametrize(
    "arrays",
    [
        [np.array([1, 2, 4])],
        [np.array([1, 3, 2])],
        [np.array([[1, 2, 3]])],
        [np.array([1, 2, 3], dtype=np.int32)],
        [np.array([1, 2, 3], dtype=np.float64)],
        [np.array([1]), np.array([2, 3])],
        [np.array([1, 2, 3]), np.array([], dtype=np.int64)],
        [],
    ],
    ids=str,
)
def test_a_fingerprint_sees_values_order_shape_dtype_and_cuts(arrays):
    assert fingerprint(arrays) != fingerprint([np.array([1, 2, 3])])


def test_a_fingerprint_does_not_see_the_memory_layout():
    array = np.arange(12).reshape(3, 4)
    assert fingerprint([array]) == fingerprint([np.asfortranarray(array)]) == fingerprint([array[:, ::-1][:, ::-1]])


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_fingerprints_are_equal_where_arrays_are(left, right):
    a, b = np.array(left, dtype=np.int64), np.array(right, dtype=np.int64)
    assert (fingerprint([a]) == fingerprint([b])) == (left == right)
