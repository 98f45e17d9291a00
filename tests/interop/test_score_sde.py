"""The networks of score_sde_pytorch give here what they gave there, with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from recorded import case, imported, records, seeded, seeded_weights

from diffusion_fw.interop.formats.score_sde import ScoreSDE
from diffusion_fw.interop.pairs import to_theirs
from scripts.peer_outputs.score_sde import FOURIER_SCALE
from scripts.peer_outputs.seeded import gap

FORM = ScoreSDE()
RECORDS = records("score_sde")
SCHEDULES = {("ve", True): "ve", ("ve", False): "ncsn", ("vp", True): "vp", ("vp", False): "linear"}


def weights_of(record):
    """The weights and the table of noise levels of a record's model."""
    found = seeded_weights(record["keys"])
    given = record["settings"]
    ends = math.log(given["sigma_max"]), math.log(given["sigma_min"])
    found["sigmas"] = torch.linspace(*ends, given["num_scales"], dtype=torch.float64).exp()
    if given["embedding_type"] == "fourier":
        found["all_modules.0.W"] *= FOURIER_SCALE / 0.1
    return found


def stated(record):
    """What a user has to say of a record's model."""
    sde = SCHEDULES.get((record["sde"], record["continuous"]), record["sde"])
    return {} if sde in ("ve", "vp") else {"schedule": sde}


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_the_noise_is_predicted_as_by_the_original(record):
    model, denoiser = imported(FORM, weights_of(record), stated(record))
    x = seeded(record["input"], (2, 3, 32, 32))
    # The VE models see data in [0, 1].
    x = 2 * x - 1 if record["sde"] == "ve" else x
    with torch.no_grad():
        eps = denoiser(x, denoiser.schedule(torch.tensor(record["t"], dtype=torch.float64))).eps
    assert gap(eps, record["output"]) < 1e-5
    assert model.data_range == (-1, 1)


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_weights_come_back_as_they_were(record):
    weights = weights_of(record)
    assert FORM.recognises(weights, {})
    model, denoiser = imported(FORM, weights, stated(record))
    back = to_theirs(FORM.pairs(denoiser.network), denoiser.network.state_dict())
    constants = FORM.constants(model, denoiser.network)
    assert back.keys() | constants.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in back)
    if record["sde"] == "ve":
        torch.testing.assert_close(constants["sigmas"], weights["sigmas"])
