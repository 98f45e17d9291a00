"""The networks of score_sde_pytorch give here what they gave there, with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from recorded import case, imported, records, seeded, seeded_weights

from diffusion_fw import registry
from diffusion_fw.interop.formats.score_sde import ScoreSDE
from diffusion_fw.interop.pairs import to_theirs
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.score_sde import FOURIER_SCALE
from scripts.peer_outputs.seeded import WITHIN, gap

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
    assert gap(eps, record["output"]) < WITHIN
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


def test_the_averages_of_a_checkpoint_are_taken_in_the_order_of_the_trained_weights():
    weights = weights_of(RECORDS[0])
    fixed = ("sigmas", "all_modules.0.W")
    content = {
        "model": {f"module.{key}": value * (key in fixed) for key, value in weights.items()},
        "ema": {"shadow_params": [value for key, value in weights.items() if key not in fixed], "decay": 0.999},
        "optimizer": {},
        "step": 5,
    }
    found = FORM.weights(content)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    content["ema"]["shadow_params"].pop()
    with pytest.raises(ConfigError, match="averages"):
        FORM.weights(content)


def test_a_plain_state_dict_needs_no_checkpoint():
    weights = weights_of(RECORDS[0])
    assert FORM.weights({f"module.{key}": value for key, value in weights.items()}).keys() == weights.keys()
    assert FORM.weights({"step": 5}) == {}


def test_keys_that_do_not_fit_are_named():
    weights = weights_of(RECORDS[0])
    del weights["all_modules.2.bias"]
    weights["all_modules.3.more"] = torch.zeros(1)
    with pytest.raises(ConfigError, match=r"missing: all_modules.2.bias.*left over: all_modules.3.more"):
        imported(FORM, weights, {})


def test_a_schedule_that_the_label_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"schedule=vp: a Fourier embedding.*choose schedule=ve"):
        FORM.describe(weights_of(RECORDS[0]), {}, {"schedule": "vp"})


def test_an_image_size_can_be_stated():
    model = FORM.describe(weights_of(RECORDS[0]), {}, {"shape": (3, 64, 64)})
    assert model.network["attention_resolutions"] == [32]


def test_networks_that_it_does_not_have_are_refused():
    network = registry.build("network", "ncsnpp", shape=(3, 16, 16), num_classes=3, channels=8)
    with pytest.raises(ConfigError, match=r"no networks with classes.*network.class_conditional=false"):
        list(FORM.pairs(network))
