"""Weights in the names of DiT and SiT give the outputs that the original code gave (see scripts/peer_outputs)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.interop.formats.dit import DiTFormat, SiTFormat, diffusers_pairs
from diffusion_fw.interop.pairs import to_ours, to_theirs
from diffusion_fw.networks.blocks.positions import AddedPositions
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.seeded import WITHIN, gap, seeded, seeded_weights

FORMATS = {"dit": DiTFormat(), "sit": SiTFormat()}
RECORDS = [
    (family, record)
    for family in FORMATS
    for record in json.loads((Path(__file__).parent / "published" / f"{family}.json").read_text())["records"]
]
FIRST = {family: next(record for own, record in RECORDS if own == family) for family in FORMATS}


def published(record):
    """The weights of the original network, whose positions are not seeded but fixed."""
    weights = seeded_weights(record["keys"])
    _, tokens, width = weights["pos_embed"].shape
    side = round(tokens**0.5)
    return {**weights, "pos_embed": AddedPositions((side, side), width).table[None]}


def component(group, section, **facts):
    return dfw.build(group, section["name"], **{key: section[key] for key in section if key != "name"}, **facts)


def built(form, weights, given):
    description = form.describe(weights, {}, given)
    outputs = component("variance", description.variance).outputs
    facts = {"shape": description.shape, "num_classes": description.num_classes, "outputs": outputs}
    return description, component("network", description.network, **facts)


@pytest.fixture(params=RECORDS, ids=lambda item: f"{item[0]} {item[1]['case']}")
def imported(request):
    """(family, record, description, network, weights) of one of the original networks."""
    family, record = request.param
    weights = published(record)
    description, network = built(FORMATS[family], weights, {"network.num_heads": record["settings"]["num_heads"]})
    network.load_state_dict(to_ours(FORMATS[family].pairs(network), weights, network, "test"))
    return family, record, description, network.eval(), weights


def test_positions_are_the_original_ones(imported):
    _, record, _, network, _ = imported
    assert gap(network.place.table[None], record["positions"]) < 1e-6


def test_outputs_are_the_original_ones(imported):
    family, record, _, network, _ = imported
    with torch.no_grad():
        output = network(seeded(*record["input"]), torch.tensor(record["label"]), torch.tensor(record["cond"]))
    assert gap(output if family == "dit" else -output, record["output"]) < WITHIN


def test_the_description_is_that_of_the_settings(imported):
    family, record, description, _, _ = imported
    settings = record["settings"]
    assert description.shape == (settings["in_channels"], settings["input_size"], settings["input_size"])
    assert description.num_classes == settings["num_classes"]
    assert description.network["depth"] == settings["depth"]
    learned = family == "dit" and settings["learn_sigma"]
    assert (description.variance["name"] == "learned_range") == learned
    # SiT is named by the user, and with it the schedule.
    assert description.guessed == (("schedule", "parameterization") if family == "dit" else ())


def test_the_heads_are_the_papers_unless_they_are_given():
    weights = published(FIRST["dit"])
    assert DiTFormat().describe(weights, {}, {}).guessed == ("network.num_heads", "schedule", "parameterization")


def test_sit_is_told_its_own_time_and_has_the_opposite_sign_of_ours():
    weights = published(FIRST["sit"])
    description = SiTFormat().describe(weights, {}, {})
    schedule = component("schedule", description.schedule)
    parameterization = component("parameterization", description.parameterization)
    time = torch.tensor([0.0, 0.25, 0.9], dtype=torch.float64)
    level = schedule(1 - time)
    torch.testing.assert_close(parameterization.input(level)[1], time)
    # x_t = time x_1 + (1 - time) noise, and the velocity is x_1 - noise.
    torch.testing.assert_close(level.alpha, time)
    assert parameterization.target(level, torch.ones(3), torch.zeros(3)).tolist() == [-1.0, -1.0, -1.0]


def test_sit_has_to_be_named():
    weights = published(FIRST["sit"])
    assert DiTFormat().recognises(weights, {})
    assert not SiTFormat().recognises(weights, {})


def test_there_and_back_is_the_same(imported):
    family, record, _, network, weights = imported
    back = to_theirs(FORMATS[family].pairs(network), network.state_dict())
    if family == "sit":
        channels, places = record["settings"]["in_channels"], record["settings"]["patch_size"] ** 2
        for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
            read = back[key].unflatten(0, (places, -1))
            assert not read[:, channels:].any()
            own = weights[key].unflatten(0, (places, -1))[:, :channels]
            assert torch.equal(read[:, :channels], own)
            back[key] = weights[key]
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_other_weights_are_refused_by_their_keys():
    weights = published(FIRST["dit"])
    _, network = built(DiTFormat(), weights, {"network.num_heads": 4})
    shifted = {("t_embedder.mlp.1.bias" if key == "t_embedder.mlp.0.bias" else key): weights[key] for key in weights}
    shifted["blocks.1.mlp.fc2.weight"] = torch.zeros(3, 3)
    with pytest.raises(ConfigError) as error:
        to_ours(DiTFormat().pairs(network), shifted, network, "weights.pt")
    assert "\n" not in str(error.value)
    for part in (
        "weights.pt",
        "missing: t_embedder.mlp.0.bias",
        "left over: t_embedder.mlp.1.bias",
        "blocks.1.mlp.fc2",
    ):
        assert part in str(error.value)


def test_other_positions_are_refused():
    weights = published(FIRST["dit"])
    _, network = built(DiTFormat(), weights, {"network.num_heads": 4})
    with pytest.raises(ConfigError, match=r"pos_embed differs.* by 0\.01"):
        to_ours(DiTFormat().pairs(network), {**weights, "pos_embed": weights["pos_embed"] + 0.01}, network, "test")
    with pytest.raises(ConfigError, match=r"25 tokens.*16 patches.*shape"):
        to_ours(DiTFormat().pairs(network), {**weights, "pos_embed": torch.zeros(1, 25, 32)}, network, "test")


@pytest.mark.parametrize("key", ["pos_embed", "y_embedder.embedding_table.weight", "blocks.0.mlp.fc1.bias"])
def test_weights_that_describe_no_network_are_refused(key):
    weights = published(FIRST["dit"])
    with pytest.raises(ConfigError, match=rf"of another shape: {key} \(\)"):
        DiTFormat().describe({**weights, key: torch.zeros(())}, {}, {})
    del weights[key]
    with pytest.raises(ConfigError, match=rf"missing: {key}"):
        DiTFormat().describe(weights, {}, {})


@pytest.mark.parametrize(
    ("changes", "shape", "named"),
    [
        ({"positions": "rope", "num_registers": 2}, (4, 8, 8), r"network.positions=rope, network.num_registers=2"),
        ({"norm": "rms", "qk_norm": True}, (4, 8, 8), r"network.norm=rms, network.qk_norm=true"),
        ({"mlp": "swiglu"}, (4, 8, 8), r"network.mlp=swiglu"),
        ({"class_conditional": False}, (4, 8, 8), r"network.class_conditional=false"),
        ({}, (4, 8), r"examples other than images"),
    ],
)
def test_a_network_with_options_that_dit_has_not_is_not_written(changes, shape, named):
    size = {"width": 32, "depth": 1, "num_heads": 2}
    network = dfw.build("network", "dit", shape=shape, num_classes=3, **size, **changes)
    for pairs in (DiTFormat().pairs, SiTFormat().pairs, lambda given: list(diffusers_pairs(given))):
        with pytest.raises(ConfigError, match=named):
            pairs(network)


def test_sit_holds_no_variance():
    size = {"width": 32, "depth": 1, "num_heads": 2}
    network = dfw.build("network", "dit", shape=(4, 8, 8), num_classes=3, outputs=2, **size)
    with pytest.raises(ConfigError, match=r"SiT.*learned variance"):
        SiTFormat().pairs(network)


def test_a_size_that_is_not_square_is_stated():
    weights = published(FIRST["dit"])
    weights["pos_embed"] = AddedPositions((2, 8), 32).table[None]
    _, network = built(DiTFormat(), weights, {"network.num_heads": 4, "shape": (4, 4, 16)})
    assert to_ours(DiTFormat().pairs(network), weights, network, "test").keys() == network.state_dict().keys()


def test_outputs_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    size = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "sample_size": 8, "in_channels": 4}
    theirs = diffusers.DiTTransformer2DModel(**size, out_channels=8, num_embeds_ada_norm=5, norm_eps=1e-6).eval()
    for block in theirs.transformer_blocks:
        # Its frequencies are not those of the code that the weights were trained with.
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    weights = seeded_weights({key: value.shape for key, value in theirs.state_dict().items()})
    # A copy in every block.
    weights = {key: weights[key.replace(".1.norm1.emb", ".0.norm1.emb")] for key in weights}
    theirs.load_state_dict(weights)
    facts = {"shape": (4, 8, 8), "num_classes": 5, "outputs": 2}
    ours = dfw.build("network", "dit", **facts, width=32, depth=2, num_heads=2).eval()
    ours.load_state_dict(to_ours(diffusers_pairs(ours), weights, ours, "test"))
    x, label, cond = seeded("x", (3, 4, 8, 8)), torch.tensor([0, 250, 999]), torch.tensor([0, 4, 5])
    with torch.no_grad():
        expected = theirs(x, label, cond).sample
        torch.testing.assert_close(ours(x, label.float(), cond), expected, rtol=1e-5, atol=1e-5)
    back = to_theirs(diffusers_pairs(ours), ours.state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)
    weights["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] = torch.zeros(32)
    with pytest.raises(ConfigError, match=r"timestep_embedder.linear_1.bias.*differ"):
        to_ours(diffusers_pairs(ours), weights, ours, "test")
