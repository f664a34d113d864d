"""The server's average against NumPy, and what crosses the wire."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbench import Server, Upload, simplex
from fedbench.seeds import Streams

SHAPES = {"conv.weight": (8, 3, 5, 5), "conv.bias": (8,), "head.weight": (4, 72)}


def make_server(params, shared=lambda name: True, **changes):
    return Server(params, dict(params), n_clients=9, rounds=3, shared=shared, streams=Streams(1), **changes)


def make_uploads(count, seed=0, shapes=None):
    rng = np.random.default_rng(seed)
    return [
        Upload(
            k,
            int(rng.integers(1, 100)),
            {
                name: torch.from_numpy(rng.standard_normal(shape)).to(torch.float32)
                for name, shape in (shapes or SHAPES).items()
            },
        )
        for k in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_the_average_is_numpy_s_in_float64(count):
    uploads = make_uploads(count)
    weights = simplex(upload.n for upload in uploads)
    mean = make_server(uploads[0].params).average(uploads, weights)
    for name in SHAPES:
        stacked = np.stack([upload.params[name].numpy().astype(np.float64) for upload in uploads])
        exact = np.tensordot(np.array(weights), stacked, axes=1)
        assert mean[name].dtype == torch.float32
        np.testing.assert_allclose(mean[name].numpy(), exact.astype(np.float32), rtol=2e-7, atol=1e-12)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.integers(0, 2))
def test_a_weight_of_one_gives_that_upload_bit_for_bit(values, chosen):
    uploads = [Upload(k, 1, {"w": torch.tensor(values) / (k + 1)}) for k in range(3)]
    weights = [float(k == chosen) for k in range(3)]
    mean = make_server(uploads[0].params).average(uploads, weights)
    assert torch.equal(mean["w"], uploads[chosen].params["w"])
    alone = make_server(uploads[0].params).average([uploads[chosen]], [1.0])
    assert torch.equal(alone["w"], uploads[chosen].params["w"])


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_the_average_of_equal_uploads_is_that_upload_to_one_rounding(count):
    upload = make_uploads(1)[0]
    mean = make_server(upload.params).average([upload] * count, simplex([1] * count))
    for name in SHAPES:
        torch.testing.assert_close(mean[name], upload.params[name], rtol=1e-7, atol=0)


def test_the_order_of_uploads_changes_no_more_than_rounding():
    uploads = make_uploads(4)
    weights = simplex(upload.n for upload in uploads)
    server = make_server(uploads[0].params)
    reference = server.average(uploads, weights)
    for order in itertools.permutations(range(4)):
        other = server.average([uploads[i] for i in order], [weights[i] for i in order])
        for name in SHAPES:
            torch.testing.assert_close(other[name], reference[name], rtol=1.2e-7, atol=1e-12)


def test_a_small_client_is_not_lost_beside_a_large_one():
    """In float32 the sum would forget the second upload."""
    uploads = [Upload(k, 1, {"w": torch.tensor([value])}) for k, value in enumerate((1e8, 1.0, -1e8))]
    mean = make_server(uploads[0].params).average(uploads, [1 / 3] * 3)
    assert mean["w"].item() == pytest.approx(1 / 3, rel=1e-6)


def test_tensors_that_do_not_cross_the_wire_stay_as_they_are():
    params = {"body": torch.zeros(2), "head": torch.full((2,), 7.0)}
    server = make_server(params, shared=lambda name: name != "head")
    mean = server.average(
        [Upload(0, 1, {"body": torch.ones(2)}), Upload(1, 1, {"body": torch.full((2,), 3.0)})], [0.5, 0.5]
    )
    assert list(mean) == ["body", "head"]
    assert mean["body"].tolist() == [2, 2]
    assert mean["head"] is params["head"]
    assert list(server.download().params) == ["body"]


def test_averaging_changes_neither_uploads_nor_server():
    uploads = make_uploads(2)
    before = {name: tensor.clone() for name, tensor in uploads[0].params.items()}
    server = make_server(uploads[0].params)
    mean = server.average(uploads, [1.0, 0.0])
    for name in SHAPES:
        mean[name].zero_()
        assert torch.equal(server.params[name], before[name])
        assert torch.equal(uploads[0].params[name], before[name])


@pytest.mark.parametrize("weights", [[0.2, 0.3, 0.5], [0.7, 1.1, 2.0]])
def test_the_change_is_numpy_s_weighted_sum_of_differences(weights):
    uploads = make_uploads(3)
    params = make_uploads(1, seed=9)[0].params
    change = make_server(params).change(uploads, weights)
    for name, w in params.items():
        moves = np.stack([upload.params[name].numpy().astype(np.float64) - w.numpy() for upload in uploads])
        exact = np.tensordot(np.array(weights), moves, axes=1)
        assert change[name].dtype == torch.float32
        np.testing.assert_allclose(change[name].numpy(), exact.astype(np.float32), rtol=2e-7, atol=1e-12)


def test_the_change_leads_to_the_average():
    uploads = make_uploads(4)
    weights = simplex(upload.n for upload in uploads)
    server = make_server(make_uploads(1, seed=9)[0].params)
    mean, change = server.average(uploads, weights), server.change(uploads, weights)
    for name, w in server.params.items():
        torch.testing.assert_close(w + change[name], mean[name], rtol=1e-6, atol=1e-6)


def test_where_no_upload_differs_the_change_is_zero():
    upload = make_uploads(1)[0]
    change = make_server(upload.params).change([upload] * 7, simplex(range(1, 8)))
    assert not any(tensor.any() for tensor in change.values())


def test_the_change_has_the_shared_tensors_alone():
    params = {"body": torch.zeros(2), "head": torch.zeros(2)}
    server = make_server(params, shared=lambda name: name != "head")
    change = server.change([Upload(0, 1, {"body": torch.ones(2)})], [2.0])
    assert {name: tensor.tolist() for name, tensor in change.items()} == {"body": [2.0, 2.0]}


def test_as_many_weights_as_uploads():
    uploads = make_uploads(2)
    with pytest.raises(ValueError, match="shorter"):
        make_server(uploads[0].params).change(uploads, [1.0])
    with pytest.raises(ValueError, match="shorter"):
        make_server(uploads[0].params).average(uploads, [1.0])


def test_a_download_carries_what_is_added_by_name():
    server = make_server({"w": torch.ones(1)})
    download = server.download(scale=2.0)
    assert download["scale"] == 2.0
    assert list(download.params) == ["w"]


def test_a_method_s_streams_depend_on_seed_name_round_and_client():
    def draw(round, name, client=None):
        return make_server({}, round=round).rng(name, client).integers(2**62)

    assert draw(0, "noise") == draw(0, "noise")
    others = [draw(0, "noise"), draw(1, "noise"), draw(0, "mask"), draw(0, "noise", 0), draw(0, "noise", 1)]
    assert len(set(others)) == 5
    assert draw(0, "order") != Streams(1).rng("order", round=0).integers(2**62)
