"""features=inception on generated weights: the same values as the code of torch-fidelity, and no wrong file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import diffusion_fw as dfw
from diffusion_fw.metrics.features import inception
from diffusion_fw.metrics.features.inception import Inception
from diffusion_fw.metrics.features.inception_network import InceptionNetwork
from diffusion_fw.metrics.protocol import find, under


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated weights under which the activations neither vanish nor explode."""
    path = tmp_path_factory.mktemp("inception") / "generated.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InceptionNetwork()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def features(weights: Path) -> Inception:
    return Inception((3, 20, 24), weights=str(weights), sha256=sha256(weights))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pixels(count: int = 1, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, 20, 24), generator=generator, dtype=torch.uint8)


def test_features_and_logits_are_those_of_torch_fidelity(features: Inception, weights: Path) -> None:
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed")
    other = peer.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights))
    values = pixels(2)
    expected, expected_logits = other(values)
    found = features(values)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    logits = features.head(found)
    assert logits.shape == (2, 1008)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5 * float(expected_logits.abs().max()))


def test_protocols_of_inception_differ_in_rounding_and_resizing(features: Inception) -> None:
    values = pixels()
    own = features(values)
    assert torch.equal(under("edm", features)(values), own)
    assert torch.equal(under("adm", features)(values), own)
    assert (under("clean", features)(values) - own).norm() > 1e-3 * own.norm()
    x = values.float() / 127.5 - 1 + 0.003
    kept = find("clean").quantise(x)
    assert torch.equal(under("clean", features)(kept), features.embed(find("clean").resize(kept, (299, 299))))


def test_a_single_channel_is_repeated(features: Inception) -> None:
    gray = pixels(channels=1)
    assert torch.equal(features(gray), features(gray.expand(-1, 3, -1, -1)))


def test_floats_are_refused(features: Inception) -> None:
    with pytest.raises(dfw.ConfigError, match=r"needs uint8 pixels.*choose features=pixels"):
        features(pixels().float())


def test_a_missing_file_says_which_where_from_where_to_and_what_works_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(dfw.ConfigError) as raised:
        dfw.build("features", "inception", shape=(3, 32, 32))
    message = str(raised.value)
    assert "\n" not in message
    for part in (
        f"{tmp_path}/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        inception.SHA256,
        "features.weights=<path>",
        "features=efficientnet_lite0",
        "features=digits",
        "features=pixels",
    ):
        assert part in message
    with pytest.raises(dfw.ConfigError, match=f"no file {tmp_path}/nowhere.pth"):
        dfw.build("features", "inception", shape=(3, 32, 32), weights=str(tmp_path / "nowhere.pth"))


def test_both_published_names_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for url in reversed(inception.URLS):
        place = tmp_path / "checkpoints" / url.rpartition("/")[2]
        place.touch()
        assert inception.weights_file(None) == place


def test_the_published_name_begins_with_the_published_hash() -> None:
    """torch's hub ends names with the first digits of the SHA-256, and both projects' names agree with ours."""
    assert len(inception.SHA256) == 64
    for url in inception.URLS:
        assert url.removesuffix(".pth").endswith(f"-{inception.SHA256[:8]}")


def test_a_file_of_another_hash_is_refused_unless_it_is_stated(weights: Path, tmp_path: Path) -> None:
    for sha in (None, "0" * 64):
        with pytest.raises(dfw.ConfigError, match=f"has the sha256 .*features.sha256={sha256(weights)}"):
            dfw.build("features", "inception", shape=(3, 8, 8), weights=str(weights), sha256=sha)
    device = tmp_path / "zero"
    device.symlink_to("/dev/zero")
    with pytest.raises(dfw.ConfigError, match=r"no file .*zero"):
        dfw.build("features", "inception", shape=(3, 8, 8), weights=str(device))


class Loud:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize("content", ["text", "tensor", "fewer", "shape", "code"])
def test_a_file_without_the_network_is_refused(
    content: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.pth"
    state = torch.load(weights, weights_only=True)
    if content == "text":
        path.write_text("text")
    elif content == "code":
        torch.save(Loud(), path)
    else:
        fewer = {key: value for key, value in state.items() if key != "fc.bias"}
        torch.save(
            {"tensor": torch.ones(2), "fewer": fewer, "shape": {**fewer, "fc.bias": torch.ones(1)}}[content], path
        )
    with pytest.raises(dfw.ConfigError, match=r"is not a file of weights|does not hold the weights of FID's Inception"):
        dfw.build("features", "inception", shape=(3, 8, 8), weights=str(path), sha256=sha256(path))
    assert capsys.readouterr().out == ""


def test_a_torchscript_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inception-2015-12-05.pt"
    path.write_bytes(b"anything")
    monkeypatch.setitem(inception.OTHERS, sha256(path), inception.OTHERS[next(iter(inception.OTHERS))])
    with pytest.raises(dfw.ConfigError, match="TorchScript archive, which holds code and is never run"):
        dfw.build("features", "inception", shape=(3, 8, 8), weights=str(path))
