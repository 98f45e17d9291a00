"""The SongUNet and the ADM of EDM give here what they gave there, with the same weights."""

from __future__ import annotations

import pytest
import torch
from recorded import case, imported, records, seeded, seeded_weights

import diffusion_fw as dfw
from diffusion_fw.interop.formats import formats
from diffusion_fw.interop.formats.edm import EDM
from diffusion_fw.interop.formats.edm_adm import EDMADM
from diffusion_fw.interop.pairs import to_theirs
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.edm import FREQUENCY_SCALE
from scripts.peer_outputs.seeded import WITHIN, gap

FORM = EDM()
FORMS = {"SongUNet": FORM, "DhariwalUNet": EDMADM()}
RECORDS = records("edm")


def weights_of(record):
    """The weights and the filters of a record's model."""
    found = seeded_weights(record["keys"])
    for name, value in found.items():
        if name.endswith("resample_filter"):
            taps = torch.tensor(record["settings"].get("resample_filter", [1, 1])).float()
            value.copy_(torch.outer(taps, taps) / taps.sum() ** 2)
        elif name.endswith("freqs"):
            value.mul_(FREQUENCY_SCALE)
    return found


def settings_of(record):
    """What a training_options.json would say."""
    return {"network_kwargs": {"class_name": f"training.networks.{record['preconditioning']}"}}


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_the_images_are_denoised_as_by_the_original(record):
    form = FORMS[record["settings"]["model_type"]]
    model, denoiser = imported(form, weights_of(record), {}, settings_of(record))
    sigma = torch.tensor(record["sigma"], dtype=torch.float64)
    level = denoiser.schedule(denoiser.schedule.time(-2 * sigma.log()))
    x = level.alpha.float()[:, None, None, None] * (
        seeded(record["input"], (2, *model.shape)) * sigma.float()[:, None, None, None]
    )
    conds = {"none": None, "1": torch.tensor([1, 1])}
    for name, output in record["output"].items():
        with torch.no_grad():
            x0 = denoiser(x, level, conds[name]).x0
        assert gap(x0, output) < WITHIN
    assert model.num_classes == record["settings"].get("label_dim", 0)


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_weights_come_back_as_they_were(record):
    form, weights = FORMS[record["settings"]["model_type"]], weights_of(record)
    assert [key for key, item in formats().items() if item.recognises(weights, {})] == [form.name]
    model, denoiser = imported(form, weights, {})
    back = to_theirs(form.pairs(denoiser.network), denoiser.network.state_dict())
    back |= form.constants(model, denoiser.network)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in back)


def test_what_the_weights_do_not_tell_can_be_stated():
    weights = weights_of(RECORDS[0])
    model = FORM.describe(weights, {}, {"parameterization": "epsilon"})
    assert model.schedule["name"] == "vp"
    with pytest.raises(ConfigError, match=r"parameterization=v.*choose parameterization=edm\|epsilon\|score"):
        FORM.describe(weights, {}, {"parameterization": "v"})


def test_keys_that_do_not_fit_are_named():
    weights = weights_of(RECORDS[0])
    del weights["model.enc.32x32_block0.norm0.bias"]
    weights["model.more"] = torch.zeros(1)
    weights["model.dec.32x32_aux_conv.bias"] = torch.zeros(5)
    with pytest.raises(ConfigError) as error:
        imported(FORM, weights, {})
    for part in (
        "missing: model.enc.32x32_block0.norm0.bias",
        "left over: model.more",
        r"model.dec.32x32_aux_conv.bias \(5,\) instead of \(3,\)",
    ):
        assert error.match(part)


def adm(**changes):
    """ADM as EDM's code has it, and changes of it, without memory."""
    settings = {"channels": 128, "channel_mult": [1, 1], "num_res_blocks": 1, "attention_resolutions": [4]}
    own = {"num_head_channels": 64, "resblock_updown": True}
    with torch.device("meta"):
        return dfw.build("network", "adm_unet", **{"shape": (3, 8, 8), **settings, **own, **changes})


def test_the_two_orders_of_attention_are_written_as_one_function():
    written = []
    for new in (False, True):
        network = adm(use_new_attention_order=new)
        weights = {key: torch.zeros(value.shape) for key, value in network.state_dict().items()}
        rows = torch.arange(384.0)  # q of both heads, k of both heads, v of both heads
        rows = rows if new else rows.reshape(3, 2, 64).transpose(0, 1).flatten()
        weights["middle.0.attention.qkv.bias"] = rows
        written.append(to_theirs(FORMS["DhariwalUNet"].pairs(network), weights)["model.dec.4x4_in0.qkv.bias"])
    assert torch.equal(written[0], written[1])
    assert written[0][:3].tolist() == [0, 128, 256]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": (3, 2, 8, 8)}, "data other than images"),
        ({"outputs": 2}, "a learned variance"),
        ({"scale_shift_norm": False}, "network.scale_shift_norm=false"),
        ({"resblock_updown": False}, "network.resblock_updown=false"),
        ({"num_head_channels": 32}, "heads of other than 64 channels"),
        ({"channels": 64}, "fewer than 128 channels"),
    ],
)
def test_another_adm_is_not_written(changes, says):
    with pytest.raises(ConfigError, match=f"edm-adm cannot hold.*{says}"):
        list(FORMS["DhariwalUNet"].pairs(adm(**changes)))
