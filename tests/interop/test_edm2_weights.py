"""Weights in the names of EDM2 give the outputs that the original code gave (see scripts/peer_outputs)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.interop.formats.edm2 import EDM2Format
from diffusion_fw.interop.pairs import to_ours, to_theirs
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.seeded import WITHIN, gap, seeded, seeded_weights

FORM = EDM2Format()
RECORDS = json.loads((Path(__file__).parent / "published" / "edm2.json").read_text())["records"]


def component(group, section, **facts):
    return dfw.build(group, section["name"], **{key: section[key] for key in section if key != "name"}, **facts)


def published(record):
    weights = seeded_weights(record["keys"])
    return {**weights, **{name: seeded(name, record["keys"][name]) for name in record["buffers"]}}


def built(weights, given):
    description = FORM.describe(weights, {}, given)
    facts = {"shape": description.shape, "num_classes": description.num_classes}
    return description, component("network", description.network, **facts)


@pytest.fixture(params=RECORDS, ids=lambda record: record["case"])
def imported(request):
    """(record, description, network, weights) of one of the original networks."""
    record = request.param
    weights = published(record)
    heads = record["settings"]["channels_per_head"]
    description, network = built(weights, {"network.num_head_channels": heads})
    network.load_state_dict(to_ours(FORM.pairs(network), weights, network, "test"))
    return record, description, network.eval(), weights


def test_denoised_images_are_the_original_ones(imported):
    record, description, network, _ = imported
    schedule = component("schedule", description.schedule)
    denoiser = NetworkDenoiser(network, schedule, component("parameterization", description.parameterization))
    sigma = torch.tensor(record["sigma"], dtype=torch.float64)
    level = schedule(schedule.time(-2 * sigma.log()))
    torch.testing.assert_close(level.sigma, sigma)
    cond = None if record["cond"] is None else torch.tensor(record["cond"])
    with torch.no_grad():
        assert gap(denoiser(seeded(*record["input"]), level, cond).x0, record["output"]) < WITHIN


def test_the_description_is_that_of_the_settings(imported):
    record, description, _, weights = imported
    settings, network = record["settings"], description.network
    assert FORM.recognises(weights, {})
    assert description.shape == (settings["img_channels"], settings["img_resolution"], settings["img_resolution"])
    assert description.num_classes == settings["label_dim"]
    assert (network["channels"], network["channel_mult"]) == (settings["model_channels"], settings["channel_mult"])
    assert network["num_res_blocks"] == settings["num_blocks"]
    assert network["attention_resolutions"] == settings["attn_resolutions"]
    assert description.guessed == ()
    assert FORM.describe(weights, {}, {}).guessed == ("network.num_head_channels",)


def test_there_and_back_is_the_same_but_for_the_uncertainty(imported):
    _, _, network, weights = imported
    back = to_theirs(FORM.pairs(network), network.state_dict())
    assert back.keys() == weights.keys()
    assert all(back[key].shape == weights[key].shape for key in weights)
    assert all(torch.equal(back[key], weights[key]) for key in weights if not key.startswith("logvar"))
    assert not back["logvar_linear.weight"].any()


def test_the_uncertainty_is_that_of_the_objective():
    # Theirs: the Fourier features of log(sigma) / 4, sqrt(2) cos(f label + p), times the weight of length 1.
    weights = published(RECORDS[0])
    frequencies, phases, weight = (weights[key] for key in weights if key.startswith("logvar"))
    label = torch.tensor([-1.0, 0.5])
    features = math.sqrt(2) * torch.cos(label[:, None] * frequencies + phases)
    theirs = features @ (weight[0] / weight[0].norm())
    objective = dfw.build("objective", "uncertainty", weighting=dfw.build("weighting", "edm"), channels=128)
    objective.frequencies.copy_(frequencies)
    objective.phases.copy_(phases)
    objective.coefficients.data.copy_(weight[0] / weight[0].norm() * math.sqrt(128))
    schedule = dfw.build("schedule", "edm")
    level = schedule(schedule.time(-8 * label.double()))
    torch.testing.assert_close(objective.log_loss(level).detach(), theirs, rtol=1e-4, atol=1e-4)


def test_other_weights_are_refused_by_their_keys():
    weights = published(RECORDS[0])
    _, network = built(weights, {"network.num_head_channels": 16})
    weights["unet.dec.8x8_up.bias"] = weights.pop("unet.dec.8x8_up.emb_gain")
    weights["unet.out_conv.weight"] = torch.zeros(3, 3)
    with pytest.raises(ConfigError) as error:
        to_ours(FORM.pairs(network), weights, network, "weights.pkl")
    assert "\n" not in str(error.value)
    named = ("missing: unet.dec.8x8_up.emb_gain", "left over: unet.dec.8x8_up.bias", "unet.out_conv.weight (3, 3)")
    for part in ("weights.pkl", *named):
        assert part in str(error.value)


def test_weights_that_describe_no_network_are_refused():
    weights = published(RECORDS[0])
    with pytest.raises(ConfigError, match=r"of another shape: unet.out_conv.weight \(\)"):
        FORM.describe({**weights, "unet.out_conv.weight": torch.zeros(())}, {}, {})
    del weights["unet.out_conv.weight"]
    with pytest.raises(ConfigError, match=r"missing: unet.out_conv.weight"):
        FORM.describe(weights, {}, {})


def test_a_learned_variance_is_not_written():
    network = dfw.build("network", "edm2_unet", shape=(3, 16, 16), outputs=2, channels=8, channel_mult=(1, 2))
    with pytest.raises(ConfigError, match=r"EDM2.*learned variance"):
        FORM.pairs(network)
