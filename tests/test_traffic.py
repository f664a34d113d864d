"""Traffic: bytes counted by hand, and payloads that share no tensor with their sender."""

import numpy as np
import pytest
import torch

from fedbench import Download, MethodError, Upload
from fedbench.traffic import copied, not_finite, payload_bytes

MODEL = {"w": torch.zeros(3, 4), "b": torch.zeros(4)}  # 16 numbers of 4 bytes


@pytest.mark.parametrize(
    ("params", "extra", "expected"),
    [
        ({}, {}, 0),
        (MODEL, {}, 64),
        ({"w": torch.zeros(3, 4, dtype=torch.float64)}, {}, 96),
        ({"w": torch.zeros(3, dtype=torch.float16)}, {}, 6),
        ({"w": torch.tensor(1.0)}, {}, 4),
        ({"w": torch.zeros(0)}, {}, 0),
        ({}, {"counts": torch.zeros(8, dtype=torch.int64)}, 64),
        ({}, {"mask": torch.zeros(5, dtype=torch.bool)}, 5),
        ({}, {"score": 0.5, "seen": 3, "done": True}, 24),
        ({}, {"score": np.float64(0.5)}, 8),
        ({}, {"prototypes": {"0": torch.zeros(10), "3": torch.zeros(10)}}, 80),
        ({}, {"deep": {"er": {"still": torch.zeros(2), "count": 1}}}, 16),
        ({}, {"list": [torch.zeros(2), (torch.zeros(3), 1.0)], "none": []}, 28),
        (MODEL, {"control": MODEL, "score": 1.0}, 64 + 64 + 8),
    ],
)
def test_bytes_by_hand(params, extra, expected):
    assert payload_bytes(Download(params, extra)) == expected
    assert payload_bytes(Upload(0, 10, params, extra)) == expected + 8  # and n_k


def test_a_view_costs_what_it_shows_and_not_what_lies_behind_it():
    assert payload_bytes(Download({"w": torch.zeros(100)[:3]})) == 12
    assert payload_bytes(Download({"w": torch.zeros(1).expand(7)})) == 28


@pytest.mark.parametrize("value", ["text", None, np.zeros(3), b"bytes", object(), {1, 2}, np.int64(1)], ids=type)
def test_what_cannot_be_counted_cannot_be_sent(value):
    for extra in ({"thing": value}, {"inner": {"thing": value}}, {"inner": [value]}):
        with pytest.raises(MethodError, match=f"a {type(value).__name__} cannot be sent; send tensors"):
            payload_bytes(Upload(0, 1, {}, extra))


def test_a_copy_is_equal_and_independent():
    params = {"w": torch.ones(2)}
    extra = {"c": {"w": torch.ones(2)}, "l": [torch.ones(1), {"x": torch.ones(1)}], "n": 3, "f": 0.5, "b": True}
    sent = Download(params, extra)
    got = copied(sent)
    assert payload_bytes(got) == payload_bytes(sent)
    assert (got["n"], got["f"], got["b"]) == (3, 0.5, True)
    pairs = list(zip(every_tensor(got), every_tensor(sent), strict=True))
    assert len(pairs) == 4
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
        ours.zero_()
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in every_tensor(sent))
    got.params["new"] = torch.ones(1)
    got.extra["c"]["new"] = torch.ones(1)
    assert list(params) == ["w"]
    assert list(extra["c"]) == ["w"]


def every_tensor(payload):
    extra = payload.extra
    return [payload.params["w"], extra["c"]["w"], extra["l"][0], extra["l"][1]["x"]]


def test_an_upload_is_copied_whole():
    sent = Upload(3, 10, {"w": torch.ones(2)}, {"score": 0.5})
    got = copied(sent)
    assert (got.client, got.n, got["score"], got.params["w"].tolist()) == (3, 10, 0.5, [1, 1])
    got.params["w"].zero_()
    assert sent.params["w"].tolist() == [1, 1]


def test_two_deliveries_are_independent_of_each_other():
    sent = Download({"w": torch.ones(2)})
    first, second = copied(sent), copied(sent)
    first.params["w"].zero_()
    assert second.params["w"].tolist() == [1, 1]


def test_whatever_is_not_finite_is_found_with_its_joined_name():
    bad = torch.tensor([1.0, float("nan")])
    payload = {
        "w": bad,
        "fine": torch.ones(1),
        "count": torch.ones(1, dtype=torch.int64),
        "n": 3,
        "score": float("inf"),
        "c": {"w": torch.ones(1), "d": {"x": bad}},
        "l": [1.0, bad, float("nan")],
    }
    assert list(not_finite(payload)) == ["w", "score", "c.d.x", "l.1", "l.2"]
