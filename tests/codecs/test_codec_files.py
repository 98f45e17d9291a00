"""Codecs by themselves: round trips, unit deviation, the cache of latents, and files that are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffusion_fw as dfw
from diffusion_fw.codecs.codec import DECODED_AT_ONCE
from diffusion_fw.data import latents as latents_module
from diffusion_fw.data.latents import Latents, Space, Statistics, measured, seen
from diffusion_fw.networks.kl_autoencoder import divergence
from diffusion_fw.registry import ConfigError

CPU = torch.device("cpu")


class Doubling(dfw.Codec):
    """z = 3 x + 1 on half of the pixels: what it keeps comes back exactly."""

    draws = False

    def latent_shape(self, shape):
        return (shape[0], shape[1] // 2, shape[2])

    def posterior(self, x):
        return 3 * x[:, :, ::2] + 1, torch.full_like(x[:, :, ::2], 0.1)

    def reconstruct(self, z):
        return ((z - 1) / 3).repeat_interleave(2, dim=2)

    def fingerprint(self):
        return "doubling"


@pytest.fixture
def codec(codec_file):
    return dfw.build("codec", "kl_autoencoder", path=str(codec_file))


def test_the_identity_gives_the_tensor_itself_and_the_data_themselves():
    codec, data, x = dfw.build("codec", "none"), dfw.build("data", "digits"), torch.randn(2, 1, 8, 8)
    assert codec.encode(x) is x
    assert codec.decode(x, (1, 8, 8)) is x
    assert measured(data, codec, CPU) is data
    assert Space.of(data, codec).record() == {}


def test_latents_have_mean_0_and_deviation_1_and_decoding_undoes_both(own_cache):
    codec, data = Doubling(), dfw.build("data", "digits")
    latents = measured(data, codec, CPU)
    values = latents.train.values
    assert values.shape == (1438, 1, 4, 8)
    assert values.mean().abs() < 1e-4
    assert abs(values.std() - 1) < 1e-3
    x = dfw.to_model(data.train.values[:5])
    back = Space.of(data, codec).decode(values[:5])
    torch.testing.assert_close(back[:, :, ::2], x[:, :, ::2], atol=1e-5, rtol=0)
    assert torch.equal(Space.of(data, codec).examples(values[:5])[:, :, ::2], data.train.values[:5, :, ::2])


def test_clipping_to_the_bounds_of_latents_changes_no_latent(own_cache):
    latents = measured(dfw.build("data", "digits"), Doubling(), CPU)
    low, high = latents.bounds
    assert low <= -10 < 10 <= high
    assert low < latents.train.values.min() < latents.train.values.max() < high


def test_a_draw_is_a_function_of_the_place_of_the_example(own_cache):
    codec, data = Doubling(), dfw.build("data", "digits")
    codec.draws = True
    latents = Latents(data, codec, CPU)
    some = latents._encode(data.train, [5, 900])
    torch.testing.assert_close(latents._encode(data.train, [900]), some[1:])
    mean = codec.raw(dfw.to_model(data.train.values[[5, 900]]))
    assert 0.05 < (some - mean).std() < 0.15


def test_latents_are_encoded_once_and_then_read(own_cache, monkeypatch):
    codec, data = Doubling(), dfw.build("data", "digits")
    first = measured(data, codec, CPU).train.values
    monkeypatch.setattr(Latents, "_computed", lambda *_: pytest.fail("they were encoded again"))
    again = measured(data, Doubling(), CPU)
    assert torch.equal(first, again.train.values)
    (kept,) = [path for path in (own_cache / "latents").iterdir() if load_file(path)["values"].shape == (1438, 1, 4, 8)]
    assert load_file(kept)["mean"].shape == load_file(kept)["deviation"].shape == (1,)


def test_cached_latents_of_another_codec_are_refused(own_cache):
    data = dfw.build("data", "digits")
    measured(data, Doubling(), CPU)

    class Other(Doubling):
        def posterior(self, x):
            mean, deviation = super().posterior(x)
            return 1.2 * mean, deviation

    with pytest.raises(ConfigError, match=r"latents of the train examples in .*more than 10% off"):
        measured(data, Other(), CPU)


@pytest.mark.parametrize(
    ("shift", "scale", "refused"), [(0.09, 1.0, False), (0.11, 1.0, True), (0, 1.09, False), (0, 0.89, True)]
)
def test_more_than_ten_percent_is_refused(shift, scale, refused):
    stored = Statistics(torch.tensor([5.0, 0.0]), torch.tensor([2.0, 1.0]))
    found = Statistics(torch.tensor([5.0, float(shift)]), torch.tensor([2.0, float(scale)]))
    if not refused:
        found.check(stored, "these")
        return
    with pytest.raises(ConfigError, match=r"these have the mean .* in channel 1"):
        found.check(stored, "these")
    with pytest.raises(ConfigError, match="these have 2 channels, not 1 channels"):
        found.check(Statistics(torch.zeros(1), torch.ones(1)), "these")


def test_data_whose_latents_are_not_those_of_the_training_are_refused(own_cache):
    codec = Doubling()
    measured(dfw.build("data", "digits"), codec, CPU)
    seen(dfw.build("data", "digits"), codec, CPU)
    codec.standardised(codec.shift + 0.2 * codec.scale, codec.scale)
    with pytest.raises(ConfigError, match=r"the latents of data=.* more than 10% off"):
        seen(dfw.build("data", "digits"), codec, CPU)


def test_a_channel_without_deviation_is_refused(own_cache):
    class Flat(Doubling):
        def posterior(self, x):
            return torch.zeros_like(x[:, :, ::2]), None

        def fingerprint(self):
            return "flat"

    with pytest.raises(ConfigError, match=r"the deviations \[0.0\]"):
        measured(dfw.build("data", "digits"), Flat(), CPU)


def test_mirror_images_are_encoded_too(own_cache, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index, values in enumerate(dfw.build("data", "digits").train.values[:4, 0]):
            Image.fromarray(values.numpy()).save(tmp_path / split / f"{index}.png")
    data = dfw.build("data", "image_folder", path=str(tmp_path), size=8, horizontal_flip=True)
    latents = measured(data, Doubling(), CPU)
    assert len(latents.train) == 2 * len(latents.test) == 8
    torch.testing.assert_close(latents.train.values[4:], latents.train.values[:4].flip(-1))


def test_decoding_is_in_parts(monkeypatch):
    sizes = []

    class Watched(Doubling):
        def reconstruct(self, z):
            sizes.append(len(z))
            return super().reconstruct(z)

    shape = (1, 128, 128)
    z = torch.randn(130, 1, 64, 128)
    whole = Watched().decode(z, shape)
    assert max(sizes) == DECODED_AT_ONCE // (128 * 128) < 130
    torch.testing.assert_close(whole, Doubling().reconstruct(z))


def test_the_divergence_is_that_of_torch():
    mean, deviation = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(divergence(mean, deviation), expected)


def test_a_trained_autoencoder_is_the_one_in_its_file(codec, codec_file, tmp_path):
    assert codec.latent_shape((1, 8, 8)) == (2, 4, 4)
    codec.save(tmp_path / "copy.safetensors")
    again = dfw.build("codec", "kl_autoencoder", path=str(tmp_path / "copy.safetensors"))
    assert again.fingerprint() == codec.fingerprint()
    drawn = dfw.build("codec", "kl_autoencoder", path=str(codec_file), posterior="draw")
    assert drawn.fingerprint() != codec.fingerprint()
    x = dfw.to_model(dfw.build("data", "digits").test.values[:8])
    torch.testing.assert_close(again.encode(x), codec.encode(x))
    assert (codec.decode(codec.encode(x), (1, 8, 8)) - x).square().mean() < x.var()


def test_data_of_another_shape_are_refused(codec):
    with pytest.raises(ConfigError, match=r"examples of shape \(1, 8, 8\), but those of data=\.\.\. are \(3, 32, 32\)"):
        codec.latent_shape((3, 32, 32))


def test_no_file_says_how_to_make_one():
    with pytest.raises(ConfigError, match=r"python train.py experiment=autoencoder"):
        dfw.build("codec", "kl_autoencoder")


def changed(codec_file, path, *, description=None, weights=None):
    """The file of a codec with other weights, or a changed description."""
    tensors = load_file(codec_file)
    known = json.loads(open_metadata(codec_file))
    tensors |= weights or {}
    save_file(tensors, path, metadata={"diffusion_fw.codec": json.dumps({**known, **(description or {})})})
    return str(path)


def open_metadata(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()["diffusion_fw.codec"]


NETWORK = {"name": "kl_autoencoder", "channels": 8, "latent_channels": 2}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"network": {**NETWORK, "channels": 1_000_000}}, "another architecture"),
        ({"network": {**NETWORK, "num_res_blocks": 1_000_000}}, "more than its .* weights are for"),
        ({"network": {**NETWORK, "channel_mult": [1] * 1000}}, "levels divide"),
        ({"network": {**NETWORK, "latent_channels": "many"}}, "latent_channels"),
        ({"network": {**NETWORK, "_target_": "os.system"}}, "_target_"),
        ({"network": {"name": "mlp"}}, "no autoencoder"),
        ({"network": {"name": "../../evil"}}, "evil"),
        ({"network": [1]}, "describes no network"),
        ({"shape": [1, 10**12, 8]}, "is of examples of shape"),
        ({"shape": "all"}, "no network"),
        ({"name": "diffusers_kl"}, "a file of codec=diffusers_kl, not of codec=kl_autoencoder"),
    ],
)
def test_a_forged_description_is_refused(codec_file, tmp_path, description, message):
    path = changed(codec_file, tmp_path / "forged.safetensors", description=description)
    with pytest.raises(ConfigError, match=message):
        dfw.build("codec", "kl_autoencoder", path=path).latent_shape((1, 8, 8))


def test_weights_that_are_not_finite_or_no_floats_are_refused(codec_file, tmp_path):
    key = "decoder.0.bias"
    size = len(load_file(codec_file)[key])
    for value in (torch.full((size,), torch.nan), torch.zeros(size, dtype=torch.int64)):
        path = changed(codec_file, tmp_path / "bad.safetensors", weights={key: value})
        with pytest.raises(ConfigError, match=r"decoder\.0\.bias is not of finite"):
            dfw.build("codec", "kl_autoencoder", path=path)


def test_files_that_are_none_are_refused(codec_file, tmp_path):
    (tmp_path / "short.safetensors").write_bytes(codec_file.read_bytes()[:1000])
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for name, message in (
        ("short.safetensors", "damaged"),
        ("foreign.safetensors", "that no codec wrote"),
        ("absent.safetensors", "cannot be read"),
        (".", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            dfw.build("codec", "kl_autoencoder", path=str(tmp_path / name))
    with pytest.raises(ConfigError, match="not a regular file"):
        dfw.build("codec", "kl_autoencoder", path="/dev/zero")


KL = {"block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4}
KL |= {"up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 3}
TINY = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
TINY |= {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}


@pytest.fixture
def folder(tmp_path):
    """folder(name) -> the folder of an autoencoder of diffusers with random weights, and the autoencoder."""
    diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

    def make(name):
        torch.manual_seed(0)
        kind, config = {"diffusers_kl": ("AutoencoderKL", KL), "diffusers_tiny": ("AutoencoderTiny", TINY)}[name]
        network = getattr(diffusers, kind)(**config).eval()
        network.save_pretrained(tmp_path / name)
        return tmp_path / name, network

    return make


@pytest.mark.parametrize(("name", "shape"), [("diffusers_kl", (3, 8, 8)), ("diffusers_tiny", (4, 8, 8))])
def test_an_autoencoder_of_diffusers_encodes_and_decodes_as_there(folder, tmp_path, name, shape):
    path, network = folder(name)
    codec = dfw.build("codec", name, path=str(path))
    assert codec.latent_shape((3, 16, 16)) == shape
    x = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    with torch.no_grad():
        found = network.encode(x)
        theirs = found.latent_dist.mean if name == "diffusers_kl" else found.latents
        back = network.decode(theirs).sample
    torch.testing.assert_close(codec.encode(x), theirs)
    torch.testing.assert_close(codec.decode(theirs, (3, 16, 16)), back)
    codec.save(tmp_path / "kept.safetensors")
    again = dfw.build("codec", name, path=str(tmp_path / "kept.safetensors"))
    assert again.fingerprint() == codec.fingerprint()
    torch.testing.assert_close(again.encode(x), theirs)


def test_a_forged_config_of_diffusers_is_refused(folder):
    path, _ = folder("diffusers_kl")
    known = json.loads((path / "config.json").read_text())
    for forged, message in (
        ({"block_out_channels": [8] * 1000}, "more than 16 layers"),
        ({"layers_per_block": 10**9}, "more than 16 layers"),
        ({"block_out_channels": [10**6, 10**6]}, "another architecture|refuses its config"),
        ({"act_fn": "os.system"}, "refuses its config"),
        ({"down_block_types": ["os.system", "x"]}, "refuses its config"),
        ({"_class_name": "AutoencoderTiny"}, "holds AutoencoderTiny"),
    ):
        (path / "config.json").write_text(json.dumps({**known, **forged}))
        with pytest.raises(ConfigError, match=message):
            dfw.build("codec", "diffusers_kl", path=str(path))


def test_images_that_diffusers_cannot_take_are_refused(folder):
    codec = dfw.build("codec", "diffusers_kl", path=str(folder("diffusers_kl")[0]))
    for shape in ((1, 8, 8), (3, 9, 8), (2,)):
        with pytest.raises(ConfigError, match="takes images of 3 channels"):
            codec.latent_shape(shape)


def test_without_diffusers_an_error_names_the_extra(monkeypatch, tmp_path):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[diffusers\]'"):
        dfw.build("codec", "diffusers_kl", path=str(tmp_path))


def test_the_vae_of_a_pipeline_is_found(folder, tmp_path):
    path, _ = folder("diffusers_kl")
    shutil.copytree(path, tmp_path / "pipeline" / "vae")
    whole, part = (dfw.build("codec", "diffusers_kl", path=str(each)) for each in (tmp_path / "pipeline", path))
    assert whole.fingerprint() == part.fingerprint()


def test_more_values_than_are_encoded_at_once_are_encoded_in_parts(own_cache, monkeypatch):
    whole = Latents(dfw.build("data", "digits"), Doubling(), CPU)._computed(dfw.build("data", "digits").test)
    monkeypatch.setattr(latents_module, "ENCODED_AT_ONCE", 1000)
    parts = Latents(dfw.build("data", "digits"), Doubling(), CPU)._computed(dfw.build("data", "digits").test)
    torch.testing.assert_close(whole["values"], parts["values"])
