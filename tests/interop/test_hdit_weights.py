"""k-diffusion's HDiT gives here what it gave there, with the same weights."""

from __future__ import annotations

import pytest
import torch
from recorded import case, imported, records, seeded

import diffusion_fw as dfw
from diffusion_fw.interop.exporting import export_state_dict
from diffusion_fw.interop.formats import formats
from diffusion_fw.interop.formats.hdit import KDiffusionHDiT
from diffusion_fw.interop.pairs import to_theirs
from diffusion_fw.interop.published import import_published, published_of
from diffusion_fw.interop.source import read_source
from diffusion_fw.networks.blocks.hourglass import rotary_frequencies
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.k_diffusion_hdit import weights
from scripts.peer_outputs.seeded import WITHIN, gap

FORM = KDiffusionHDiT()
RECORDS = records("k_diffusion_hdit")
CASES = {record["case"]: record for record in RECORDS}


def weights_of(record):
    """The weights of a record's model, and its frequencies, which have one value."""
    found = weights(record["keys"])
    for key, value in found.items():
        if key.endswith("freqs"):
            value.copy_(rotary_frequencies(len(value), 8 * value.shape[1]))
    return found


def config_of(record):
    """The config of a record's model."""
    model = {"type": "image_transformer_v2", "self_attns": record["settings"]["self_attns"]}
    model |= {"input_channels": 3, "input_size": record["settings"]["size"], "patch_size": [1, 1], "sigma_data": 0.5}
    model |= {"sigma_min": 0.01, "sigma_max": 160.0}
    return {"model": model, "dataset": {"num_classes": 4, "cond_dropout_rate": 0.2}}


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_the_images_are_denoised_as_by_the_original(record):
    model, denoiser = imported(FORM, weights_of(record), {}, config_of(record))
    sigma = torch.tensor(record["sigma"], dtype=torch.float64)
    level = denoiser.schedule(denoiser.schedule.time(-2 * sigma.log()))
    x = seeded(*record["input"]) * sigma.float()[:, None, None, None]
    cond = record["cond"] and torch.tensor(record["cond"])
    if record["augmentation"]:
        denoiser = denoiser.augmented(seeded(*record["augmentation"]))
    with torch.no_grad():
        assert gap(denoiser(x, level, cond).x0, record["output"]) < WITHIN
    assert model.guessed == ()
    assert model.num_classes == max(0, record["settings"]["classes"] - 1)
    assert model.label_dropout == (0.2 if record["cond"] else 0)


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_weights_come_back_as_they_were(record):
    given = weights_of(record)
    assert [key for key, item in formats().items() if item.recognises(given, {})] == [FORM.name]
    model, denoiser = imported(FORM, given, {}, config_of(record))
    back = to_theirs(FORM.pairs(denoiser.network), denoiser.network.state_dict())
    back |= FORM.constants(model, denoiser.network)
    assert back.keys() == given.keys()
    assert all(torch.equal(back[key], given[key]) for key in back)


def test_what_is_written_is_read_with_its_settings(tmp_path):
    record = CASES["shifted windows, none"]
    source = tmp_path / "model.pth"
    wrapped = {f"inner_model.{key}": value for key, value in weights_of(record).items()}
    torch.save({"config": config_of(record), "model": wrapped, "model_ema": wrapped}, source)
    first = import_published(read_source(str(source)), {})
    assert (first.config["network"]["window_size"], first.config["schedule"]["sigma_max"]) == (4, 160.0)
    written = tmp_path / "model.safetensors"
    export_state_dict(first.denoiser.network, FORM, published_of(first.config, first.facts), written)
    second = import_published(read_source(str(written)), {})
    assert second.config == first.config
    assert second.facts == first.facts


def test_without_a_config_the_usual_attention_is_taken():
    model = FORM.describe(weights_of(CASES["global, classes"]), {}, {"shape": [3, 8, 12]})
    assert model.network["attention"] == ["neighborhood", "global"]
    assert "network.attention" in model.guessed
    assert (model.network["mlp_ratio"], model.network["num_head_channels"], model.num_classes) == (2, 16, 4)


def spec(**changes):
    return {"model": {"type": "image_transformer_v2", "self_attns": [{"type": "global"} | changes, {"type": "global"}]}}


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"mapping_cond_in_proj.weight": (16, 4)}, {}, r"mapping_cond_in_proj.weight"),
        ({"in_proj.weight": (16, 4), "out_proj.weight": (4, 16)}, {}, r"image_transformer_v1.*not read"),
        ({"mid_level.1.self_attn.pos_emb.freqs": (2, 2)}, {}, r"mid_level.1.self_attn.pos_emb.freqs.*not read"),
        ({"mid_level.0.self_attn.scale": (4,)}, {}, r"several num_head_channels: \[8, 16\]"),
        ({}, {"model": {"type": "image_v1"}}, r"type 'image_v1'"),
        ({}, {**spec(), "dataset": {"cond_dropout_rate": 2}}, r"config: cond_dropout_rate=2 must be"),
    ],
)
def test_what_cannot_be_read_is_said(changes, settings, message):
    given = weights_of(CASES["global, classes"])
    given |= {key: torch.zeros(shape) for key, shape in changes.items()}
    with pytest.raises(ConfigError, match=message):
        FORM.describe(given, settings, {})


def test_keys_that_do_not_fit_are_named():
    given = weights_of(CASES["global, classes"])
    del given["splits.0.fac"], given["merges.0.proj.weight"]
    given["more"] = torch.zeros(1)
    given["up_levels.0.0.ff.up_proj.weight"] = torch.zeros(5, 16)
    with pytest.raises(ConfigError) as error:
        imported(FORM, given, {}, config_of(CASES["global, classes"]))
    for part in (
        "missing: merges.0.proj.weight, splits.0.fac",
        "left over: more",
        r"up_levels.0.0.ff.up_proj.weight \(5, 16\)",
    ):
        assert error.match(part)


def test_a_learned_variance_is_not_written():
    small = {"widths": [8], "depths": [1], "attention": ["global"], "num_head_channels": 8, "mapping_width": 8}
    network = dfw.build("network", "hdit", shape=(3, 8, 8), outputs=2, **small)
    with pytest.raises(ConfigError, match=r"k-diffusion-hdit cannot hold.*a learned variance"):
        FORM.pairs(network)
