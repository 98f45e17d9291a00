"""Weights in the names of U-ViT give the outputs that the original code gave (see scripts/peer_outputs)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.interop.formats.uvit import UViTFormat
from diffusion_fw.interop.pairs import to_ours, to_theirs
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.seeded import WITHIN, gap, seeded, seeded_weights

FORM = UViTFormat()
RECORDS = json.loads((Path(__file__).parent / "published" / "uvit.json").read_text())["records"]


def component(group, section, **facts):
    return dfw.build(group, section["name"], **{key: section[key] for key in section if key != "name"}, **facts)


def built(weights, given):
    description = FORM.describe(weights, {}, given)
    facts = {"shape": description.shape, "num_classes": description.num_classes}
    return description, component("network", description.network, **facts)


@pytest.fixture(params=RECORDS, ids=lambda record: record["case"])
def imported(request):
    """(record, description, network, weights) of one of the original networks."""
    record = request.param
    weights = seeded_weights(record["keys"])
    description, network = built(weights, {"network.num_heads": record["settings"]["num_heads"]})
    network.load_state_dict(to_ours(FORM.pairs(network), weights, network, "test"))
    return record, description, network.eval(), weights


def test_outputs_are_the_original_ones(imported):
    record, _, network, _ = imported
    cond = None if record["cond"] is None else torch.tensor(record["cond"])
    with torch.no_grad():
        output = network(seeded(*record["input"]), torch.tensor(record["label"]), cond)
    assert gap(output, record["output"]) < WITHIN


def test_the_description_is_that_of_the_settings(imported):
    record, description, _, weights = imported
    settings = record["settings"]
    assert FORM.recognises(weights, {})
    assert description.shape == (settings["in_chans"], settings["img_size"], settings["img_size"])
    assert description.num_classes == settings.get("num_classes", 0)
    assert description.network["depth"] == settings["depth"] + 1
    assert description.network["final_conv"] == settings.get("conv", True)
    assert "network.num_heads" not in description.guessed
    assert "network.num_heads" in FORM.describe(weights, {}, {}).guessed


def test_the_label_is_that_of_the_training(imported):
    record, description, _, _ = imported
    schedule = component("schedule", description.schedule)
    label = component("parameterization", description.parameterization).input(
        schedule(torch.tensor([0.001, 1.0], dtype=torch.float64))
    )[1]
    # U-ViT's sde.py passes 999 t, its train_ldm_discrete.py the row 1 .. 1000.
    expected = [0.999, 999.0] if record["settings"]["in_chans"] == 3 else [1.0, 1000.0]
    torch.testing.assert_close(label, torch.tensor(expected, dtype=torch.float64))


def test_the_last_class_of_latents_is_no_class_unless_it_is_stated():
    weights = seeded_weights(RECORDS[0]["keys"])
    latents = {**weights, "patch_embed.proj.weight": torch.zeros(32, 4, 2, 2)}
    assert FORM.describe(weights, {}, {}).num_classes == 5
    assert FORM.describe(latents, {}, {}).num_classes == 4
    described = FORM.describe(weights, {}, {"network.null_class": True})
    assert (described.num_classes, described.network["null_class"]) == (4, True)
    assert "network.null_class" not in described.guessed


def test_there_and_back_is_the_same(imported):
    _, _, network, weights = imported
    back = to_theirs(FORM.pairs(network), network.state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_other_weights_are_refused_by_their_keys():
    weights = seeded_weights(RECORDS[0]["keys"])
    _, network = built(weights, {"network.num_heads": 4})
    weights["time_embed.0.bias"] = weights.pop("norm.bias")
    weights["decoder_pred.weight"] = torch.zeros(3, 3)
    with pytest.raises(ConfigError) as error:
        to_ours(FORM.pairs(network), weights, network, "weights.pth")
    assert "\n" not in str(error.value)
    for part in ("weights.pth", "missing: norm.bias", "left over: time_embed.0.bias", "decoder_pred.weight (3, 3)"):
        assert part in str(error.value)


def test_weights_that_describe_no_network_are_refused():
    weights = seeded_weights(RECORDS[0]["keys"])
    with pytest.raises(ConfigError, match=r"of another shape: pos_embed \(\)"):
        FORM.describe({**weights, "pos_embed": torch.zeros(())}, {}, {})
    del weights["pos_embed"]
    with pytest.raises(ConfigError, match=r"missing: pos_embed"):
        FORM.describe(weights, {}, {})


def test_a_learned_variance_is_not_written():
    network = dfw.build("network", "uvit", shape=(3, 8, 8), outputs=2, width=32, depth=1, num_heads=2)
    with pytest.raises(ConfigError, match=r"U-ViT.*learned variance"):
        FORM.pairs(network)
