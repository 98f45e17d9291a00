"""Features of series and of clips: what they tell apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import diffusion_fw as dfw
from diffusion_fw.data.dataset import to_pixels, usual_features
from diffusion_fw.metrics.feature_statistics import Fitted, Statistics
from diffusion_fw.metrics.features.spectra import log_power, moments

COUNT = 800


def fitted(values: Tensor) -> Fitted:
    features = values.double()
    return Fitted.of(Statistics(torch.tensor(len(features)), features.sum(0), features.T @ features))


def distances(features, real: Tensor, sets: dict[str, Tensor]) -> dict[str, float]:
    """The Fréchet distance of each set to the real examples."""
    known = fitted(features(real))
    return {name: float(fitted(features(values)).distance(known)) for name, values in sets.items()}


@pytest.fixture(scope="module")
def tones():
    return dfw.build("data", "tones", num_examples=4 * COUNT)


@pytest.fixture(scope="module")
def clips():
    return dfw.build("data", "moving_digits", num_examples=600)


def test_spectra_tell_tones_from_what_is_wrong_with_them(tones):
    generator = torch.Generator().manual_seed(0)
    x, labels = tones.train.__getitems__(range(2 * COUNT))
    factor = torch.linalg.cholesky(tones.covariance + 1e-6 * torch.eye(64, dtype=torch.float64))
    found = distances(
        dfw.build("features", "spectra", shape=tones.shape),
        tones.test.values,
        {
            "real": x[:COUNT],
            "backwards": x[:COUNT].flip(-1),
            "halves in the wrong order": x[:COUNT].roll(32, -1),
            "half as loud": x[:COUNT] / 2,
            "without a pitch": x[labels != 3][:COUNT],
            "copies": x[: COUNT // 50].repeat(50, 1, 1),
            "noise of 0.1": x[:COUNT] + 0.1 * torch.randn(COUNT, 1, 64, generator=generator),
            "a Gaussian of the same covariance": (
                torch.randn(COUNT, 64, generator=generator, dtype=torch.float64) @ factor.T
            ).float()[:, None],
        },
    )
    floor = found.pop("real")
    assert floor < 0.15
    assert min(found.values()) > 10 * floor, found


def test_more_noise_is_farther_and_little_noise_is_silence(tones):
    x, noise = tones.train.values[:COUNT], torch.randn(COUNT, 1, 64, generator=torch.Generator().manual_seed(0))
    sets = {f"{size}": x + size * noise for size in (0.0, 0.005, 0.02, 0.05, 0.1, 0.2)}
    found = list(distances(dfw.build("features", "spectra", shape=tones.shape), tones.test.values, sets).values())
    assert found == sorted(found)
    assert found[1] < 1.1 * found[0]


@pytest.mark.parametrize("name", ["moving_digits", "clips"])
def test_features_of_clips_notice_a_wrong_order_of_frames_and_still_ones(clips, name):
    order = torch.tensor([3, 0, 6, 1, 7, 4, 2, 5])
    x = clips.train.values[:400]
    found = distances(
        dfw.build("features", name, shape=clips.shape),
        clips.test.values,
        {"real": x, "shuffled": x[:, :, order], "still": x[:, :, :1].expand_as(x)},
    )
    assert found["shuffled"] > 3 * found["real"]
    assert found["still"] > 10 * found["real"]


def test_features_of_frames_alone_would_not_notice_their_order(clips):
    """The part of the features that is a mean over frames is the same for any order."""
    x, order = clips.train.values[:20], torch.randperm(8, generator=torch.Generator().manual_seed(0))
    features = dfw.build("features", "moving_digits", shape=clips.shape)
    straight, shuffled = features(x), features(x[:, :, order])
    torch.testing.assert_close(shuffled[:, :80], straight[:, :80])
    assert shuffled[:, 80:].sum() > 1.3 * straight[:, 80:].sum()


def test_moving_digits_tell_what_is_wrong_with_the_digits(clips):
    x, labels = clips.train.__getitems__(range(len(clips.train)))
    generator = torch.Generator().manual_seed(0)
    some = x[:400]
    noisy = to_pixels(some.float() / 127.5 - 1 + 0.1 * torch.randn(some.shape, generator=generator))
    found = distances(
        dfw.build("features", "moving_digits", shape=clips.shape),
        clips.test.values,
        {
            "real": some,
            "upside down": some.flip(-2),
            "without a digit": x[labels != 0][:400],
            "copies": some[:6].repeat(50, 1, 1, 1, 1),
            "noise of 0.1": noisy,
            "another digit in the middle": torch.cat([some[:, :, :4], some.roll(1, 0)[:, :, 4:]], dim=2),
        },
    )
    floor = found.pop("real")
    assert min(found.values()) > 2 * floor, found


def test_the_digit_part_hardly_depends_on_the_place_of_the_digit():
    """Strides of 2 see even and odd places differently, which changes less than another digit does."""
    scans = dfw.build("data", "digits").train.values[:8, :, None]
    clip = torch.zeros(8, 1, 2, 20, 20, dtype=torch.uint8)
    moved = clip.clone()
    clip[..., 4:12, 3:11], moved[..., 7:15, 8:16] = scans, scans
    features = dfw.build("features", "moving_digits", shape=(1, 2, 20, 20))
    one, other = features(clip), features(moved)
    assert torch.equal(torch.cdist(one[:, :64], other[:, :64]).argmin(1), torch.arange(8))
    assert (one[:, 64:80] - other[:, 64:80]).abs().max() > 0.5
    assert not one[:, 80:].any()


def test_the_log_power_of_a_wave_and_of_silence_and_white_noise():
    """A wave of amplitude a has the power a^2 (sum w)^2 / (4 sum w^2) at its frequency; white noise its variance."""
    time = torch.arange(256)
    window = torch.hann_window(257)[1:]
    wave = 3 * (2 * math.pi * 20 * time / 256).cos().view(1, 1, -1)
    power = log_power(wave, 129).exp() - 0.01
    assert power.argmax() == 20
    assert float(power[0, 0, 20]) == pytest.approx(float(9 * window.sum() ** 2 / 4 / window.square().sum()), rel=1e-3)
    torch.testing.assert_close(log_power(torch.zeros(2, 3, 64), 8), torch.full((2, 3, 8), math.log(0.01)))
    noise = 2 * torch.randn(3000, 1, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        (log_power(noise, 33).exp() - 0.01).mean((0, 1))[1:-1], torch.full((31,), 4.0), rtol=0.1, atol=0
    )


def test_moments_are_those_of_known_waves():
    time = torch.arange(64, dtype=torch.float64) / 64
    sine = 5 + 4 * (2 * math.pi * 4 * time).sin().view(1, 1, -1)
    mean, deviation, skewness, kurtosis = moments(sine)[0, 0].tolist()
    assert (mean, skewness) == (pytest.approx(5), pytest.approx(0, abs=1e-6))
    assert deviation == pytest.approx(8**0.5, rel=1e-2)
    assert kurtosis == pytest.approx(-1.5, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "shape", "other"),
    [
        ("spectra", (1, 8, 8), "pixels"),
        ("spectra", (1, 1), "spectra"),
        ("clips", (3, 8), "spectra"),
        ("clips", (1, 1, 8, 8), "clips"),
        ("moving_digits", (3, 8, 16, 16), "clips"),
        ("moving_digits", (1, 8, 4, 16), "clips"),
        ("pixels", (2, 16), "spectra"),
        ("digits", (1, 4, 8, 8), "clips"),
        ("identity", (2, 16), "spectra"),
        ("inception", (1, 4, 8, 8), "clips"),
    ],
)
def test_features_refuse_other_shapes_and_name_those_that_fit(name, shape, other):
    with pytest.raises(dfw.ConfigError, match=f"features={other} instead of features={name}"):
        dfw.build("features", name, shape=shape)


@pytest.mark.parametrize("shape", [(2,), (2, 16), (3, 8, 8), (2, 4, 8, 8)])
def test_the_usual_features_of_a_shape_take_it(shape):
    features = dfw.build("features", usual_features(shape), shape=shape)
    values = torch.randn(3, *shape)
    assert features(values).shape == (3, features.num_features)
