"""Styles of sites: the formula written out pixel by pixel, what each limit limits, and what a simulation reads."""

import math

import numpy as np
import pytest
import torch

from fedbench import IID, Record, SiteStyles, SpecError
from fedbench.federation import federate
from fedbench.resident import load_data
from fedbench.simulation import run_cell

PLAIN = {"brightness": 1, "contrast": 1, "blur": 0, "noise": 0, "cast": 1}


def styled(images, seed=0, noise_seed=1, **limits):
    style, noise = np.random.default_rng(seed), np.random.default_rng(noise_seed)
    return SiteStyles(**{**PLAIN, **limits}).applied(images, style, noise)


def make_images(n=3, side=9, channels=3):
    values = np.random.default_rng(5).uniform(-0.6, 0.6, (n, side, side, channels))
    return torch.from_numpy(values.astype(np.float32))


def flat(value, n=2, side=8, channels=3):
    return torch.full((n, side, side, channels), 2 * value - 1, dtype=torch.float32)


def by_hand(images, seed, noise_seed, brightness, contrast, blur, noise, cast):
    """The formula of the docstring for every pixel, in float64."""
    style, grain = np.random.default_rng(seed), np.random.default_rng(noise_seed)
    b, c = brightness ** style.uniform(-1, 1), contrast ** style.uniform(-1, 1)
    r, s = blur * style.uniform(0, 1), noise * style.uniform(0, 1)
    logs = [math.log(cast) * style.uniform(-1, 1) for _ in range(images.shape[3])]
    gains = [math.exp(log - sum(logs) / len(logs)) for log in logs]
    z = grain.standard_normal(images.shape, dtype=np.float32)
    radius = int(4 * r + 0.5)  # where scipy cuts the bell off
    weights = {d: math.exp(-0.5 * (d / r) ** 2) for d in range(-radius, radius + 1)}
    whole = sum(weights.values())
    out = np.zeros(images.shape)
    side = images.shape[1]
    for i, image in enumerate((images.double().numpy() + 1) / 2):
        u = np.zeros(image.shape)
        for y in range(side):
            for x in range(side):
                for dy, wy in weights.items():
                    for dx, wx in weights.items():
                        at = min(max(y + dy, 0), side - 1), min(max(x + dx, 0), side - 1)
                        u[y, x] += wy * wx / whole**2 * image[at]
        bright = u * b * np.array(gains)
        out[i] = (bright - bright.mean()) * c + bright.mean() + s * z[i]
    return np.clip(out, 0, 1) * 2 - 1


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_formula_pixel_by_pixel(seed, channels):
    images = make_images(n=2, channels=channels)
    limits = {"brightness": 1.4, "contrast": 1.5, "blur": 1.2, "noise": 0.3, "cast": 1.3}
    ours = styled(images, seed, 7, **limits)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    np.testing.assert_allclose(ours.numpy(), by_hand(images, seed, 7, **limits), atol=2e-5)


def test_without_limits_an_image_stays_as_it_is_and_the_given_one_always_does():
    images = make_images()
    before = images.clone()
    torch.testing.assert_close(styled(images), images, rtol=0, atol=1e-6)
    SiteStyles().applied(images, np.random.default_rng(0), np.random.default_rng(0))
    assert torch.equal(images, before)


def test_values_stay_in_range():
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32))
    outs = [styled(images, seed, brightness=3, contrast=5, noise=1, cast=3) for seed in range(10)]
    assert min(float(out.min()) for out in outs) == -1
    assert max(float(out.max()) for out in outs) == 1


def test_brightness_is_a_factor_up_to_its_limit_and_even_on_both_sides():
    factors = [float((styled(flat(0.4), seed, brightness=1.5)[0, 0, 0, 0] + 1) / 2 / 0.4) for seed in range(200)]
    assert 1 / 1.5 <= min(factors) < 0.7
    assert 1.43 < max(factors) <= 1.5001
    assert abs(np.mean(np.log(factors))) < 5 * math.log(1.5) / math.sqrt(3 * 200)


def test_contrast_keeps_the_mean_and_scales_what_differs_from_it():
    images = make_images()
    for seed in range(20):
        out = styled(images, seed, contrast=1.3)
        means = images.mean(dim=(1, 2, 3)), out.mean(dim=(1, 2, 3))
        torch.testing.assert_close(*means, rtol=0, atol=1e-6)
        ratio = (out - means[1][:, None, None, None]) / (images - means[0][:, None, None, None])
        assert float(ratio.median()) == pytest.approx(float(ratio.quantile(0.9)), abs=1e-3)
        assert 1 / 1.301 < float(ratio.median()) < 1.301


def test_a_cast_changes_colours_against_each_other_and_a_grey_image_not_at_all():
    out = (styled(flat(0.4), 2, cast=1.4)[0, 0, 0] + 1) / 2 / 0.4
    assert float(out.prod()) == pytest.approx(1, abs=1e-5)
    assert float(out.max() / out.min()) > 1.02
    torch.testing.assert_close(styled(flat(0.4, channels=1), 2, cast=1.4), flat(0.4, channels=1), rtol=0, atol=1e-6)


def test_blur_leaves_flat_images_and_flattens_others():
    torch.testing.assert_close(styled(flat(0.3), 1, blur=2), flat(0.3), rtol=0, atol=1e-6)
    images = make_images(side=16)
    spreads = [float(styled(images, seed, blur=2).std() / images.std()) for seed in range(20)]
    assert max(spreads) < 1.001
    assert min(spreads) < 0.3


def test_noise_has_the_strength_of_the_style_and_differs_from_image_to_image():
    strengths = []
    for seed in range(40):
        out = styled(flat(0.5, n=2, side=28), seed, noise=0.1) / 2
        strengths.append(float(out.std()))
        assert abs(float(out.mean())) < 0.01
        assert not torch.equal(out[0], out[1])
    assert max(strengths) < 0.103
    assert np.mean(strengths) == pytest.approx(0.05, rel=0.25)  # uniform in [0, 0.1]


def test_a_limit_changed_moves_its_own_effect_alone():
    """All is drawn in any case: without noise the rest of the style is the same."""
    images = make_images()
    loud, quiet = (styled(images, 3, brightness=1.3, blur=1, cast=1.2, noise=noise) for noise in (0.2, 0.0))
    assert abs(float((loud - quiet).mean())) < 0.05
    again = styled(images, 3, noise_seed=8, brightness=1.3, blur=1, cast=1.2)
    assert torch.equal(quiet, again)


@pytest.mark.parametrize(
    ("field", "value"), [("brightness", 0.9), ("contrast", 0), ("cast", math.inf), ("blur", -1), ("noise", math.nan)]
)
def test_a_limit_out_of_range_is_named(field, value):
    with pytest.raises(SpecError, match=f"SiteStyles: {field}: .*got {value}"):
        SiteStyles(**{field: value})


# --- in a simulation --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(shrink):
    return shrink("blood-mini", partitioner=IID(clients=4), rounds=2, local_epochs=1, personal_every=1).but(
        styles=SiteStyles()
    )


def client_of(simulation, k):
    return simulation._client(k, 0, evaluation=True)


@pytest.mark.parametrize("track", ["faithful", "robust"])
def test_clients_train_in_their_style_and_share_one_array(start, make_cell, task, track):
    simulation = start(make_cell(task, track=track))
    federation = federate(task, load_data(task.data), track, 1)
    assert simulation.inputs.data_ptr() == load_data(task.data).inputs.ctypes.data  # no copy of the data
    for k in range(4):
        plain = simulation.inputs[federation.train[k]]
        expected = federation.styled(plain, k, "train")
        assert not torch.equal(plain, expected)
        assert torch.equal(client_of(simulation, k).inputs, expected)


def test_a_pool_has_every_image_in_the_style_of_its_client(start, make_cell, task):
    simulation = start(make_cell(task, "centralised"))
    (ids,), inputs = simulation.plan.train, client_of(simulation, 0).inputs
    where = {int(sample): row for row, sample in enumerate(ids)}
    for k, own in enumerate(simulation.federation.train):
        expected = simulation.federation.styled(simulation.inputs[own], k, "train")
        assert torch.equal(inputs[[where[int(sample)] for sample in own]], expected)


@pytest.mark.parametrize("track", ["faithful", "robust"])
def test_local_tests_are_in_the_client_s_style_and_the_official_sets_are_plain(start, make_cell, task, track):
    simulation = start(make_cell(task, track=track))
    evaluator, model, params = simulation.evaluator, simulation.model, simulation.initial
    data, federation = load_data(task.data), simulation.federation

    def right(images, ids):
        return (model(params, images).logits.argmax(dim=1) == torch.from_numpy(data.targets[ids])).tolist()

    result = evaluator.everywhere(params)
    assert result.correct.tolist() == right(torch.from_numpy(data.inputs[data.test]), data.test)
    assert result.validation.tolist() == right(torch.from_numpy(data.inputs[data.validation]), data.validation)
    for k, ids in enumerate(federation.tests):
        images = federation.styled(torch.from_numpy(data.inputs[ids]), k, "test")
        own = slice(*evaluator.offsets[k : k + 2])
        assert result.clients[own].tolist() == evaluator.on_client(params, k).tolist() == right(images, ids)
    if track == "robust":  # one image may be in two local test sets
        assert len(np.unique(np.concatenate(federation.tests))) < sum(map(len, federation.tests))


def test_a_run_with_styles_repeats_to_the_same_bits_and_is_another_than_one_without(make_cell, task, tmp_path):
    first = run_cell(make_cell(task), tmp_path / "a")
    again = run_cell(make_cell(task), tmp_path / "b")
    plain = run_cell(make_cell(task.but(styles=None)), tmp_path / "c")
    assert first.digest == again.digest != plain.digest
    assert first.info.seed_ids == plain.info.seed_ids  # partition, start, schedule, order
    assert first.info.identity["task"]["styles"] == {"type": "SiteStyles", **SiteStyles().model_dump()}
    assert "styles" not in plain.info.identity["task"]
    assert Record.open(first.folder).outcome.on_clients.shape == plain.outcome.on_clients.shape
