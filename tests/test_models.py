"""Models: sizes known from the paper's code, the same function as plain torch, and draws that touch nothing global."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedbench import SpecError
from fedbench.models import MODELS, Model
from fedbench.seeds import Streams

RGB, GREY = (28, 28, 3), (28, 28, 1)
ALL = [("cnn4", RGB, 8), ("cnn4", GREY, 11), ("cnn-small", RGB, 8), ("cnn-small", GREY, 2), ("mlp", (13,), 2)]


def plain_cnn(shape, n_out, width, hidden):
    """The network as its description reads: convolution, ReLU, pool, twice; then two linear layers."""
    return nn.Sequential(
        nn.Conv2d(shape[2], width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(2 * width * (shape[0] // 4) * (shape[1] // 4), hidden), nn.ReLU(), nn.Linear(hidden, n_out),
    )  # fmt: skip


PLAIN = {
    "cnn4": lambda shape, n_out: plain_cnn(shape, n_out, 32, 512),
    "cnn-small": lambda shape, n_out: plain_cnn(shape, n_out, 8, 64),
    "mlp": lambda shape, n_out: nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, n_out)),
}


@pytest.mark.parametrize(
    ("name", "shape", "n_out", "expected"),
    [
        ("cnn4", RGB, 8, 1_663_944),
        ("cnn4", GREY, 11, 1_663_883),
        # 8(75+1) + 16(200+1) + 64(784+1) + 8(64+1)
        ("cnn-small", RGB, 8, 608 + 3216 + 50_240 + 520),
        # 16(13+1) + 2(16+1)
        ("mlp", (13,), 2, 258),
    ],
)
def test_parameter_counts(name, shape, n_out, expected):
    assert sum(tensor.numel() for tensor in Model(name, shape, n_out).initial(Streams(0)).values()) == expected


@pytest.mark.parametrize(("name", "shape", "n_out"), ALL)
def test_the_forward_pass_is_that_of_plain_torch_modules(name, shape, n_out):
    model, plain = Model(name, shape, n_out), PLAIN[name](shape, n_out)
    params = model.initial(Streams(3))
    with torch.no_grad():
        for ours, theirs in zip(params.values(), plain.parameters(), strict=True):
            theirs.copy_(ours)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((16, *shape))).to(torch.float32)
    with torch.no_grad():
        output = model(params, x)
        channels_first = x.permute(0, 3, 1, 2).contiguous() if len(shape) == 3 else x
        torch.testing.assert_close(output.logits, plain(channels_first), rtol=0, atol=1e-6)
        torch.testing.assert_close(output.features, plain[:-1](channels_first), rtol=0, atol=1e-6)


def test_gradients_are_those_of_plain_torch_modules():
    """Pooling before the ReLU picks the same winner, and none where nothing is positive."""
    model, plain = Model("cnn-small", RGB, 8), PLAIN["cnn-small"](RGB, 8)
    params = {name: tensor.requires_grad_() for name, tensor in model.initial(Streams(3)).items()}
    with torch.no_grad():
        for ours, theirs in zip(params.values(), plain.parameters(), strict=True):
            theirs.copy_(ours)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((12, *RGB))).to(torch.float32)
    y = torch.arange(12) % 8
    nn.functional.cross_entropy(model(params, x).logits, y).backward()
    nn.functional.cross_entropy(plain(x.permute(0, 3, 1, 2).contiguous()), y).backward()
    for ours, theirs in zip(params.values(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "shape", "n_out"), ALL)
def test_names_shapes_and_order_are_those_of_the_modules(name, shape, n_out):
    params = Model(name, shape, n_out).initial(Streams(0))
    expected = [(key, tuple(tensor.shape)) for key, tensor in MODELS[name](shape, n_out).named_parameters()]
    assert [(key, tuple(tensor.shape)) for key, tensor in params.items()] == expected
    assert {tensor.dtype for tensor in params.values()} == {torch.float32}
    assert not any(tensor.requires_grad or tensor.is_meta for tensor in params.values())


def fan_in_of(params, name):
    return params[name.rpartition(".")[0] + ".weight"][0].numel()


@pytest.mark.parametrize(("name", "shape", "n_out"), ALL)
def test_initial_values_are_uniform_within_torch_s_default_bound(name, shape, n_out):
    params = Model(name, shape, n_out).initial(Streams(0))
    for key, tensor in params.items():
        bound = 1 / math.sqrt(fan_in_of(params, key))
        values = tensor.double()
        assert values.abs().max() <= bound * (1 + 1e-6)
        spread = bound / math.sqrt(3 * tensor.numel())  # standard error of the mean of a uniform
        assert abs(values.mean()) < 5 * spread
        if tensor.numel() >= 500:
            assert values.abs().max() > 0.98 * bound
            # the variance is bound^2 / 3, and a square of a uniform has variance 4/45 bound^4
            error = bound**2 * math.sqrt(4 / 45 / tensor.numel())
            assert abs(values.square().mean() - bound**2 / 3) < 5 * error


def test_torch_itself_draws_from_the_same_bounds():
    """Guards the closed form above against a change of torch's defaults."""
    for key, tensor in PLAIN["cnn4"](RGB, 8).state_dict().items():
        if tensor.ndim > 1:
            bound = 1 / math.sqrt(tensor[0].numel())
            assert 0.98 * bound < tensor.abs().max() <= bound * (1 + 1e-6), key


def test_initial_values_depend_on_the_seed_alone():
    model = Model("cnn-small", RGB, 8)
    first, again, other = (model.initial(Streams(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_one_tensor_s_draw_does_not_depend_on_the_others():
    """Three channels or one, eight classes or eleven: what has the same name and shape has the same values."""
    rgb, grey = Model("cnn4", RGB, 8).initial(Streams(5)), Model("cnn4", GREY, 11).initial(Streams(5))
    same = [name for name in rgb if rgb[name].shape == grey[name].shape]
    assert same == ["conv1.bias", "conv2.weight", "conv2.bias", "fc1.weight", "fc1.bias"]
    for name in same[1:]:  # the bound of conv1.bias follows from the channels
        assert torch.equal(rgb[name], grey[name])
    torch.testing.assert_close(rgb["conv1.bias"] * math.sqrt(75), grey["conv1.bias"] * math.sqrt(25))


def test_no_two_tensors_share_their_draws():
    params = Model("cnn-small", RGB, 8).initial(Streams(0))
    unit = [
        (tensor * math.sqrt(fan_in_of(params, name))).flatten()[:8].round(decimals=4) for name, tensor in params.items()
    ]
    assert len({tuple(values.tolist()) for values in unit}) == len(params)


@pytest.mark.parametrize(("name", "shape", "n_out"), ALL)
def test_no_global_generator_is_touched(name, shape, n_out):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    model = Model(name, shape, n_out)
    model(model.initial(Streams(0)), torch.zeros(2, *shape))
    model.flops()
    numpy_after = np.random.get_state()  # noqa: NPY002
    assert torch.equal(torch_before, torch.get_rng_state())
    assert numpy_before[2:] == numpy_after[2:]
    assert (numpy_before[1] == numpy_after[1]).all()


def convolution_flops(side, inputs, outputs):
    return 2 * side * side * outputs * 25 * inputs  # a multiply and an add for each of 5 x 5 x inputs weights


@pytest.mark.parametrize(
    ("name", "shape", "n_out", "expected"),
    [
        (
            "cnn4",
            RGB,
            8,
            convolution_flops(28, 3, 32) + convolution_flops(14, 32, 64) + 2 * 3136 * 512 + 2 * 512 * 8,
        ),
        (
            "cnn-small",
            GREY,
            11,
            convolution_flops(28, 1, 8) + convolution_flops(14, 8, 16) + 2 * 784 * 64 + 2 * 64 * 11,
        ),
        ("mlp", (13,), 2, 2 * 13 * 16 + 2 * 16 * 2),
    ],
)
def test_flops_by_hand(name, shape, n_out, expected):
    assert Model(name, shape, n_out).flops() == expected


def test_a_model_is_a_pure_function_of_its_parameters():
    model = Model("mlp", (13,), 2)
    one, two = model.initial(Streams(1)), model.initial(Streams(2))
    x = torch.ones(4, 13)
    before = model(one, x).logits
    assert not torch.equal(model(two, x).logits, before)
    assert torch.equal(model(one, x).logits, before)
    assert model(one, x).features.shape == (4, 16)


def test_an_unknown_model_suggests_the_nearest():
    with pytest.raises(SpecError, match="unknown model 'cnn5'; did you mean cnn4"):
        Model("cnn5", RGB, 8)
