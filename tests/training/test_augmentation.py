"""Augmentations: EDM's against exact transformations, dequantization against its distribution, both as they train."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.noise import generator
from diffusion_fw.training.augmentation import SYM6, diagonal, rotation, translation

IMAGES = torch.rand(3, 3, 8, 8, generator=generator(0)) * 2 - 1


def edm(p: float = 1.0, shape=(3, 8, 8)):
    return dfw.build("augmentation", "edm", shape=shape, p=p)


def numbers(count: int = 3, **at: float) -> torch.Tensor:
    """The 14 normal numbers of each example: no event takes place, but for those given."""
    draws = torch.full((count, 14), 9.0)  # a probability of 1 - 1e-19: not below p
    for key, value in at.items():
        draws[:, int(key[1:])] = value
    return draws


def whole(count: int = 3) -> torch.Tensor:
    return torch.ones(count, dtype=torch.float64)


def test_the_wavelet_is_orthogonal_to_its_even_shifts():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    for shift in range(0, len(SYM6), 2):
        product = (taps[shift:] * taps[: len(taps) - shift]).sum().item()
        assert product == pytest.approx(float(shift == 0), abs=1e-10)
    assert taps.sum().item() == pytest.approx(math.sqrt(2), rel=1e-12)


def test_the_identity_resamples_to_the_image():
    torch.testing.assert_close(edm().resample(IMAGES, diagonal(whole(), whole())), IMAGES, rtol=0, atol=2e-5)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_of_smooth_images_turn_them(turns):
    # Smooth images of height 1.5, in which the slight asymmetry of the filter shows little.
    x = torch.arange(16) / 15 * math.pi
    image = (torch.cos(x)[None, :] + 0.5 * torch.cos(2 * x)[:, None]).expand(3, 3, 16, 16)
    found = edm(shape=(3, 16, 16)).resample(image, rotation(whole() * turns * math.pi / 2))
    # G^-1 turns coordinates whose y axis points down.
    torch.testing.assert_close(found, image.rot90(turns, (2, 3)), rtol=0, atol=0.05)


def test_a_shift_by_whole_pixels_shifts_the_image_which_is_reflected_at_its_edge():
    found = edm().resample(IMAGES, translation(torch.tensor([[2.0, 1.0]]).double().expand(3, 2)))
    columns, rows = [2, 3, 4, 5, 6, 7, 6, 5], [1, 2, 3, 4, 5, 6, 7, 6]
    torch.testing.assert_close(found, IMAGES[:, :, rows][..., columns], rtol=0, atol=2e-5)


def test_flips_are_exact_and_told():
    augment = edm(0.5)
    for draws, flipped, told in [
        (numbers(c0=-1), IMAGES.flip(3), [1, 0]),
        (numbers(c1=-1, c2=-1), IMAGES.flip(2), [0, 1]),
        (numbers(c0=-1, c1=-1, c2=-1), IMAGES.flip(2, 3), [1, 1]),
        (numbers(c1=-1, c2=1), IMAGES, [0, 0]),  # the event of probability p does not take place
    ]:
        inverse, flips, labels = augment.parameters(draws)
        torch.testing.assert_close(inverse, torch.eye(3).double().expand(3, 3, 3))
        assert flips.long().tolist() == [told] * 3
        assert labels.tolist() == [[*told, *[0] * 7]] * 3
        torch.testing.assert_close(augment(IMAGES, lambda like, draws=draws: draws)[0], flipped, rtol=0, atol=2e-5)


def test_the_labels_are_the_transformation():
    """Of (B, 9): size, cos and sin of the turn, stretch and its axis, shift as a fraction of 1/8 of the image."""
    draws = numbers(c3=0.7, c4=-1, c5=-0.3, c6=-1, c7=1.1, c8=0.4, c9=-1, c10=-1, c11=0.5, c12=-0.25, c13=-1)
    inverse, _, labels = edm(0.5).parameters(draws)
    _, _, size, cosine, sine, along, across, x, y = labels[0].tolist()
    turn, stretch, axis = math.atan2(sine, cosine + 1), math.hypot(along, across), math.atan2(across, along)
    one = torch.ones(1, dtype=torch.float64)
    place = (
        translation(torch.tensor([[x, y]]).double())
        @ rotation(-axis * one)
        @ diagonal(2 ** (0.2 * stretch) * one, 2 ** (-0.2 * stretch) * one)
        @ rotation(axis * one)
        @ rotation(-turn * one)
        @ diagonal(2 ** (0.2 * size) * one, 2 ** (0.2 * size) * one)
    )
    torch.testing.assert_close(inverse[:1] @ place, torch.eye(3).double()[None], rtol=0, atol=1e-6)
    assert (x, y) == (0.5, -0.25)


def test_each_event_has_its_probability():
    draws = torch.randn(20_000, 14, generator=generator(1))
    labels = edm(0.12).parameters(draws)[2]
    share = (labels != 0).double().mean(0).tolist()
    for found, wanted in zip(share, [0.5, 0.06, *[0.12] * 3, 0.12, 0.06, 0.12, 0.12], strict=True):
        assert abs(found - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / len(draws))


def test_without_probability_nothing_is_changed_or_told():
    found, labels = edm(0.0)(IMAGES, torch.randn_like)
    assert torch.equal(found, IMAGES)
    assert labels.tolist() == [[0] * 9] * 3


def test_dequantized_pixels_are_uniform_in_their_256th_of_the_range():
    augment = dfw.build("augmentation", "uniform_dequantization", pixels=True)
    pixels = torch.arange(256).repeat(200)
    x0 = pixels / 127.5 - 1
    found, labels = augment(x0, lambda like: torch.randn(like.shape, generator=generator(2)))
    fraction = (found + 1) * 128 - pixels
    assert labels.shape == (len(x0), 0)
    # Float32 rounds near 1 to 1e-7 and near 256 to 2e-5.
    assert -1e-4 < fraction.min() < 1e-3
    assert 1 - 1e-3 < fraction.max() < 1 + 1e-4
    assert abs(fraction.mean() - 0.5) < 5 / math.sqrt(12 * len(x0))
    assert fraction.var().item() == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("uniform_dequantization", {"pixels": False}, "^augmentation=uniform_dequantization is for .* 8-bit pixels"),
        ("edm", {"shape": (2,)}, "^augmentation=edm is for images"),
        ("edm", {"shape": (3, 1, 8)}, "^augmentation=edm is for images"),
    ],
)
def test_data_that_do_not_fit_are_refused(name, given, message):
    with pytest.raises(dfw.ConfigError, match=message):
        dfw.build("augmentation", name, **given)


def test_a_network_without_their_labels_is_refused(tiny, tmp_path):
    with pytest.raises(dfw.ConfigError, match=r"9 labels, but network=unet takes 0; .* network\.augment_dim=9"):
        build_experiment(tiny({"augmentation": ["edm"]}), tmp_path)


def test_a_step_augments_as_a_function_of_the_seed_and_the_step(tiny, tmp_path):
    """Accumulated parts of a batch are augmented as the whole batch is, and the network is told how."""
    network = {"network": "ddpmpp", "network.channels": 4, "network.channel_mult": [1], "network.augment_dim": 9}
    network |= {"network.num_res_blocks": 1, "network.attention_resolutions": [], "network.dropout": 0.0}
    config = tiny({**network, "augmentation": ["uniform_dequantization", "edm"], "augmentation.edm.p": 1.0})
    module = build_experiment(config, tmp_path).module
    values, labels = module.examples.__getitems__(range(4))
    seen = []

    def objective(denoiser, x0, level, eps, cond):
        seen.append((x0, denoiser.augmentation, denoiser.output(x0, level, cond)[0]))
        return x0.flatten(1).sum(1)

    module.objective = objective
    module.trainer = SimpleNamespace(global_rank=0, world_size=1, accumulate_grad_batches=1, global_step=3)

    def step(*parts):
        seen.clear()
        module.trainer.accumulate_grad_batches = len(parts)
        for index, part in enumerate(parts):
            module.training_step((values[part], labels[part]), index)
        return [torch.cat(items) for items in zip(*seen, strict=True)]

    torch.nn.init.normal_(module.denoiser.network.embedding.augmentation.weight)
    torch.nn.init.normal_(module.denoiser.network.leave[-1].weight)
    x0, told, output = step(slice(0, 4))
    for one, again in zip((x0, told, output), step(slice(0, 4)), strict=True):
        assert torch.equal(one, again)
    for whole, halves in zip((x0, told), step(slice(0, 2), slice(2, 4)), strict=False):
        torch.testing.assert_close(halves, whole, rtol=0, atol=1e-5)
    assert not torch.allclose(x0, dfw.to_model(values))
    assert told.shape == (4, 9)
    assert module.denoiser.augmentation is None
    module.denoiser.augmented = lambda labels: module.denoiser
    module.denoiser.augmentation = torch.zeros(4, 9)
    assert not torch.allclose(step(slice(0, 4))[2], output)
    module.trainer.global_step = 4
    assert not torch.allclose(step(slice(0, 4))[0], x0)
