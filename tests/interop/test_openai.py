"""Weights of improved-diffusion and guided-diffusion, against the outputs of the original code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorded import cases, difference, imported_network

import diffusion_fw as dfw
from diffusion_fw.interop.formats.format import Format
from diffusion_fw.interop.formats.openai import OpenAI, OpenAIClassifier
from diffusion_fw.interop.pairs import to_ours, to_theirs
from diffusion_fw.interop.published import import_published
from diffusion_fw.interop.source import Source
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.seeded import seeded_weights

GUIDED, IMPROVED = cases("guided_diffusion"), cases("improved_diffusion")
RECORDS = {**GUIDED, **IMPROVED}


def form_of(case: str) -> Format:
    (found,) = [
        form for form in (OpenAI(), OpenAIClassifier()) if form.recognises(seeded_weights(RECORDS[case]["keys"]), {})
    ]
    return found


def given_of(case: str) -> dict[str, Any]:
    """What the weights of a case do not tell."""
    settings = RECORDS[case]["settings"]
    options = {"num_heads": 1, **settings}
    told = {
        f"network.{key}": options[key]
        for key in ("num_heads", "num_head_channels", "use_new_attention_order")
        if key in options
    }
    if case.startswith("classifier"):
        return {"network.num_head_channels": settings["num_head_channels"]}
    return {"shape": RECORDS[case]["input"]["shape"][1:], **told}


@pytest.mark.parametrize("case", RECORDS)
def test_gives_the_output_of_the_original_code(case):
    assert difference(form_of(case), RECORDS[case], given_of(case)) < 1e-5


@pytest.mark.parametrize("case", RECORDS)
def test_there_and_back_changes_no_weight(case):
    weights, form = seeded_weights(RECORDS[case]["keys"]), form_of(case)
    network = imported_network(form, weights, given_of(case))
    back = to_theirs(form.pairs(network), network.state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize("case", RECORDS)
def test_the_weights_tell_the_architecture(case):
    settings = RECORDS[case]["settings"]
    published = form_of(case).describe(seeded_weights(RECORDS[case]["keys"]), {}, given_of(case))
    network, size = published.network, max(RECORDS[case]["input"]["shape"][-2:])
    assert network["channels"] == settings["model_channels"]
    assert list(network["channel_mult"]) == list(settings["channel_mult"])
    assert network["num_res_blocks"] == settings["num_res_blocks"]
    assert list(network["attention_resolutions"]) == [size // factor for factor in settings["attention_resolutions"]]
    assert network["scale_shift_norm"] is settings.get("use_scale_shift_norm", False)
    assert network["resblock_updown"] is settings.get("resblock_updown", False)
    if case.startswith("classifier"):
        assert published.num_classes == settings["out_channels"]
    else:
        assert published.num_classes == settings.get("num_classes", 0)
        assert published.variance["name"] == ("learned_range" if settings["out_channels"] == 6 else "large")


def published_keys(**settings: Any) -> dict[str, torch.Tensor]:
    """Weights without values of our own network of these settings, under the names of guided-diffusion."""
    from diffusion_fw import registry

    name = "adm_classifier" if settings.pop("classifier", False) else "adm_unet"
    with torch.device("meta"):
        network = registry.build("network", name, **settings)
    form = OpenAIClassifier() if name == "adm_classifier" else OpenAI()
    return to_theirs(form.pairs(network), network.state_dict())


ADM = {"outputs": 2, "resblock_updown": True, "attention_resolutions": [32, 16, 8], "num_head_channels": 64}


# The flags in the READMEs of the two repositories.
@pytest.mark.parametrize(
    ("settings", "network", "schedule", "label"),
    [
        (
            {"shape": (3, 32, 32), "outputs": 2},
            {"num_heads": 4, "attention_resolutions": (16, 8), "dropout": 0.3, "class_conditional": False},
            ("cosine", 4000),
            (1000, -0.25),
        ),
        (
            {"shape": (3, 64, 64), "outputs": 2, "channels": 192, "channel_mult": [1, 2, 3, 4], "num_classes": 1000},
            {"num_heads": 4, "attention_resolutions": (16, 8), "class_conditional": True},
            ("cosine", 4000),
            (4000, -1),
        ),
        (
            {
                "shape": (3, 256, 256),
                "outputs": 2,
                "channel_mult": [1, 1, 2, 2, 4, 4],
                "num_res_blocks": 2,
                "attention_resolutions": [16],
                "num_heads": 1,
                "scale_shift_norm": False,
            },
            {"num_heads": 1, "attention_resolutions": (16,), "scale_shift_norm": False},
            ("linear", 1000),
            (1000, -1),
        ),
        (
            {"shape": (3, 64, 64), "channels": 192, "channel_mult": [1, 2, 3, 4], "num_classes": 1000, **ADM},
            {"num_head_channels": 64, "use_new_attention_order": True, "dropout": 0.1, "resblock_updown": True},
            ("cosine", 1000),
            (1000, -1),
        ),
        (
            {"shape": (3, 128, 128), "channels": 256, "channel_mult": [1, 1, 2, 3, 4], "num_res_blocks": 2, **ADM},
            {"num_heads": 4, "attention_resolutions": (32, 16, 8)},
            ("linear", 1000),
            (1000, -1),
        ),
        (
            {
                "shape": (3, 512, 512),
                "channels": 256,
                "channel_mult": [0.5, 1, 1, 2, 2, 4, 4],
                "num_res_blocks": 2,
                "num_classes": 1000,
                **ADM,
            },
            {"num_head_channels": 64, "attention_resolutions": (32, 16, 8)},
            ("linear", 1000),
            (1000, -1),
        ),
        (
            {"classifier": True, "shape": (3, 64, 64), "num_classes": 1000},
            {"num_head_channels": 64, "channel_mult": (1, 2, 3, 4), "num_res_blocks": 4},
            ("cosine", 1000),
            (1000, -1),
        ),
        (
            {
                "classifier": True,
                "shape": (3, 256, 256),
                "num_classes": 1000,
                "channel_mult": [1, 1, 2, 2, 4, 4],
                "num_res_blocks": 2,
            },
            {"channel_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2, "attention_resolutions": (32, 16, 8)},
            ("linear", 1000),
            (1000, -1),
        ),
    ],
)
def test_a_published_model_is_described_without_a_word(settings, network, schedule, label):
    shape, classes = settings["shape"], settings.get("num_classes", 0)
    form = OpenAIClassifier() if settings.get("classifier") else OpenAI()
    published = form.describe(published_keys(**settings), {}, {})
    assert published.shape == shape
    assert published.num_classes == classes
    assert network.items() <= published.network.items()
    assert (published.schedule["name"], published.schedule["num_steps"]) == schedule
    found = published.parameterization
    assert (found["name"], found["label_scale"], found["label_shift"]) == ("epsilon", *label)
    assert "network.num_head_channels" in published.guessed
    assert "network.channels" not in published.guessed


def test_keys_that_do_not_fit_are_named():
    case = "sum, one head"
    weights, given = seeded_weights(RECORDS[case]["keys"]), given_of(case)
    network = imported_network(OpenAI(), weights, given)
    broken = {**weights, "extra.weight": torch.zeros(1)}
    del broken["middle_block.1.norm.bias"]
    broken["out.0.weight"] = torch.zeros(5)
    with pytest.raises(ConfigError) as caught:
        to_ours(OpenAI().pairs(network), broken, network, "model.pt")
    for part in ("model.pt", "missing: middle_block.1.norm.bias", "left over: extra.weight", r"out.0.weight \(5,\)"):
        assert caught.match(part)


def test_a_weight_that_the_description_needs_is_named_too():
    weights = seeded_weights(RECORDS["sum, one head"]["keys"])
    del weights["input_blocks.1.0.out_layers.3.weight"]
    with pytest.raises(ConfigError, match=r"missing: input_blocks\.1\.0\.out_layers\.3\.weight"):
        OpenAI().describe(weights, {}, given_of("sum, one head"))


@pytest.mark.parametrize(
    ("given", "says"),
    [({}, r"give shape=\[3,H,W\]"), ({"shape": [1, 8, 8]}, r"shape=\[1, 8, 8\].*3 channels")],
)
def test_a_size_that_is_not_known_or_does_not_fit_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        OpenAI().describe(seeded_weights(RECORDS["sum, one head"]["keys"]), {}, given)


def test_an_upsampler_is_refused():
    weights = published_keys(shape=(6, 64, 64), channel_mult=[1, 2, 3, 4])
    with pytest.raises(ConfigError, match="upsamplers"):
        OpenAI().describe(weights, {}, {})


def test_heads_that_were_given_are_taken():
    weights = published_keys(shape=(3, 64, 64), channels=192, channel_mult=[1, 2, 3, 4], **ADM)
    published = OpenAI().describe(weights, {}, {"network.num_heads": 3})
    assert "num_head_channels" not in published.network
    assert "network.num_heads" not in published.guessed


@pytest.mark.parametrize(("option", "value"), [("factorized_attention", True), ("conv_resample", False)])
def test_what_the_format_has_no_name_for_is_not_written(option, value):
    settings = {"channels": 8, "channel_mult": [1, 1], "attention_resolutions": [], "num_res_blocks": 1}
    network = dfw.build("network", "adm_unet", shape=(1, 2, 4, 4), **{option: value}, **settings)
    with pytest.raises(ConfigError, match=rf"openai cannot hold.*network\.{option}={str(value).lower()}"):
        list(OpenAI().pairs(network))


@pytest.mark.parametrize("case", ["videos", "videos, convolutions between levels"])
def test_weights_of_five_axes_are_imported(case):
    record = cases("guided_diffusion")[case]
    given = {"shape": record["input"]["shape"][1:], "network.num_heads": record["settings"].get("num_heads", 1)}
    imported = import_published(Source("weights.pt", seeded_weights(record["keys"]), {}), given)
    assert not imported.facts.pixels
