"""The SongUNet of EDM gives here what it gave there, with the same weights."""

from __future__ import annotations

import pytest
import torch
from recorded import case, imported, records, seeded, seeded_weights

from diffusion_fw.interop.formats.edm import EDM
from diffusion_fw.interop.pairs import to_theirs
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.edm import FREQUENCY_SCALE
from scripts.peer_outputs.seeded import gap

FORM = EDM()
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
    model, denoiser = imported(FORM, weights_of(record), {}, settings_of(record))
    sigma = torch.tensor(record["sigma"], dtype=torch.float64)
    level = denoiser.schedule(denoiser.schedule.time(-2 * sigma.log()))
    x = level.alpha.float()[:, None, None, None] * (
        seeded(record["input"], (2, *model.shape)) * sigma.float()[:, None, None, None]
    )
    conds = {"none": None, "1": torch.tensor([1, 1])}
    for name, output in record["output"].items():
        with torch.no_grad():
            x0 = denoiser(x, level, conds[name]).x0
        assert gap(x0, output) < 1e-5
    assert model.num_classes == record["settings"].get("label_dim", 0)


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_weights_come_back_as_they_were(record):
    weights = weights_of(record)
    assert FORM.recognises(weights, {})
    model, denoiser = imported(FORM, weights, {})
    back = to_theirs(FORM.pairs(denoiser.network), denoiser.network.state_dict())
    back |= FORM.constants(model, denoiser.network)
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
