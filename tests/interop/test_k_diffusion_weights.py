"""k-diffusion's image_v1 gives here what it gave there, with the same weights."""

from __future__ import annotations

import json

import pytest
import torch
from recorded import case, imported, k_diffusion_weights, records, seeded
from safetensors import safe_open
from safetensors.torch import save_file

import diffusion_fw as dfw
from diffusion_fw.interop.exporting import export_state_dict
from diffusion_fw.interop.formats import formats
from diffusion_fw.interop.formats.k_diffusion import KDiffusion
from diffusion_fw.interop.pairs import to_theirs
from diffusion_fw.interop.published import import_published, published_of
from diffusion_fw.interop.source import read_source
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.seeded import WITHIN, gap

FORM = KDiffusion()
RECORDS = records("k_diffusion")
CASES = {record["case"]: record for record in RECORDS}
CONFIG = {
    "type": "image_v1",
    **{"input_channels": 3, "input_size": [16, 8], "sigma_data": 0.4, "sigma_min": 0.02, "sigma_max": 50.0},
    **{"dropout_rate": 0.1, "augment_wrapper": True},
}


def given_of(record):
    """What a user states: the size, and that the condition is a class."""
    return {"shape": record["input"][1][1:], **({"num_classes": 4} if record["cond"] else {})}


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_the_images_are_denoised_as_by_the_original(record):
    _, denoiser = imported(FORM, k_diffusion_weights(record), given_of(record))
    sigma = torch.tensor(record["sigma"], dtype=torch.float64)
    level = denoiser.schedule(denoiser.schedule.time(-2 * sigma.log()))
    x = seeded(*record["input"]) * sigma.float()[:, None, None, None]
    cond = record["cond"] and torch.tensor(record["cond"])
    with torch.no_grad():
        assert gap(denoiser(x, level, cond).x0, record["output"]["x0"]) < WITHIN
        if "log variance" in record["output"]:
            scale, label = denoiser.parameterization.input(level)
            scaled = x * scale.float()[:, None, None, None]
            assert gap(denoiser.network.log_variance(scaled, label.float()), record["output"]["log variance"]) < WITHIN


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_weights_come_back_as_they_were(record):
    weights = k_diffusion_weights(record)
    assert [key for key, item in formats().items() if item.recognises(weights, {})] == [FORM.name]
    model, denoiser = imported(FORM, weights, given_of(record))
    back = to_theirs(FORM.pairs(denoiser.network), denoiser.network.state_dict())
    back |= FORM.constants(model, denoiser.network)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in back)


def test_the_shapes_tell_the_network():
    model = FORM.describe(k_diffusion_weights(CASES["patches, variance"]), {}, {})
    assert (model.shape, model.network["patch"], model.network["has_variance"]) == ((3, 32, 32), 2, True)
    assert model.network["self_attn_depths"] == [False, True]
    assert set(model.guessed) == {
        *("shape", "network.dropout", "network.patch", "parameterization.sigma_data", "schedule")
    }
    assert FORM.describe(k_diffusion_weights(CASES["a level left out"]), {}, {}).network["skip_stages"] == 1


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_the_averages_and_the_config_of_a_file_are_read(tmp_path, ending):
    weights = k_diffusion_weights(CASES["augmentation labels"])
    path = tmp_path / f"model{ending}"
    if ending == ".pth":
        raw = {key: torch.zeros_like(value) for key, value in weights.items()}
        torch.save({"config": {"model": CONFIG}, "model": raw, "model_ema": weights, "step": 3}, path)
    else:
        save_file(
            {key: value.half() for key, value in weights.items()}, path, {"config": json.dumps({"model": CONFIG})}
        )
    found = import_published(read_source(str(path)), {})
    assert found.published.guessed == ()
    assert found.facts.shape == (3, 16, 8)
    assert found.config["network"]["dropout"] == 0.1
    assert found.config["parameterization"]["sigma_data"] == 0.4
    assert (found.config["schedule"]["sigma_min"], found.config["schedule"]["sigma_max"]) == (0.02, 50.0)
    wanted = weights["inner_model.proj_out.bias"]
    torch.testing.assert_close(found.denoiser.network.leave.bias.data, wanted, atol=1e-3, rtol=1e-3)


def test_what_is_written_is_read_with_its_settings(tmp_path):
    source = tmp_path / "model.pth"
    torch.save({"config": {"model": CONFIG}, "model": k_diffusion_weights(CASES["augmentation labels"])}, source)
    first = import_published(read_source(str(source)), {})
    written = tmp_path / "model.safetensors"
    export_state_dict(first.denoiser.network, FORM, published_of(first.config, first.facts), written)
    second = import_published(read_source(str(written)), {})
    assert second.config == first.config
    assert second.facts == first.facts
    assert second.published.guessed == ()
    with safe_open(written, framework="pt") as file:
        assert json.loads(file.metadata()["config"])["model"].items() >= CONFIG.items()


def test_sigma_data_that_was_measured_is_written_as_a_number(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(k_diffusion_weights(CASES["patches, variance"]), path)
    found = import_published(read_source(str(path)), {"shape": [3, 16, 16]})
    config = {**found.config, "parameterization": {**found.config["parameterization"], "sigma_data": "auto"}}
    facts = type(found.facts)(**{**vars(found.facts), "data_std": 0.25})
    written = FORM.config(published_of(config, facts), found.denoiser.network)
    assert written["model"]["sigma_data"] == 0.25


@pytest.mark.parametrize("prefix", ["inner_model.", "inner_model.inner_model.", "module.inner_model."])
@pytest.mark.parametrize("name", ["augmentation labels", "patches, variance"])
def test_prefixes_of_wrappers_are_taken_off(prefix, name):
    weights = k_diffusion_weights(CASES[name])
    wrapped = {f"{prefix}{key}": value for key, value in weights.items()}
    assert FORM.weights({"model": wrapped}).keys() == weights.keys()


def test_keys_that_do_not_fit_are_named():
    weights = k_diffusion_weights(CASES["patches, variance"])
    del weights["u_net.d_blocks.0.1.main.0.mapper.bias"]
    weights["more"] = torch.zeros(1)
    weights["proj_out.bias"] = torch.zeros(5)
    with pytest.raises(ConfigError) as error:
        imported(FORM, weights, {"shape": (3, 16, 16)})
    for part in ("missing: u_net.d_blocks.0.1.main.0.mapper.bias", "left over: more", r"proj_out.bias \(5,\)"):
        assert error.match(part)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"u_net.d_blocks.1.0.kernel": (4, 4)}, {}, r"u_net.d_blocks.1.0.kernel.*not read"),
        ({"mapping_cond.weight": (32, 4)}, {}, r"one-hot vector: state num_classes=4"),
        ({"u_net.d_blocks.0.2.kv_proj.weight": (4, 4)}, {}, r"d_blocks.0.2.kv_proj.weight.*cross_cond_dim"),
        ({"proj_in.weight": (32, 24, 1, 1)}, {}, r"24 values.*gives 13.*unet_cond_dim"),
        ({"proj_in.weight": (32, 11, 1, 1), "proj_out.weight": (11, 32, 1, 1)}, {}, r"11 values.*state shape"),
        ({}, {"model": {"type": "image_transformer_v2"}}, r"type 'image_transformer_v2'"),
        ({}, {"model": {"type": "image_v1", "sigma_data": -1}}, r"config: sigma_data=-1 must be"),
        ({}, {"model": {"type": "image_v1", "input_size": 32}}, r"config: input_size=32 must be"),
    ],
)
def test_what_cannot_be_read_is_said(changes, settings, message):
    weights = k_diffusion_weights(CASES["patches, variance"])
    weights |= {key: torch.zeros(shape) for key, shape in changes.items()}
    with pytest.raises(ConfigError, match=message):
        FORM.describe(weights, settings, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"outputs": 2}, "a learned variance"), ({"augment_dim": 3}, "network.augment_dim=3 instead of 0 or 9")],
)
def test_another_network_is_not_written(changes, message):
    small = {"channels": [8], "depths": [1], "self_attn_depths": [False], "mapping_out": 8}
    network = dfw.build("network", "k_diffusion_unet", shape=(3, 8, 8), **{**small, **changes})
    with pytest.raises(ConfigError, match=f"k-diffusion cannot hold.*{message}"):
        list(FORM.pairs(network))


def test_another_parameterization_is_not_written():
    model, denoiser = imported(FORM, k_diffusion_weights(CASES["patches, variance"]), {"shape": (3, 16, 16)})
    other = type(model)(**{**vars(model), "parameterization": {"name": "epsilon", "label_of": "time"}})
    with pytest.raises(ConfigError, match=r"parameterization=epsilon.*k-diffusion"):
        FORM.config(other, denoiser.network)


def test_metadata_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"config": "{"})
    with pytest.raises(ConfigError, match="config in its metadata is not JSON"):
        read_source(str(path))
