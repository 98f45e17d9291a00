"""The networks of ncsn and ncsnv2 give here what they gave there, with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from recorded import built, case, imported, records, seeded, seeded_weights

from diffusion_fw.interop.formats.ncsn import NCSN
from diffusion_fw.interop.pairs import to_theirs
from diffusion_fw.registry import ConfigError
from scripts.peer_outputs.seeded import WITHIN, gap

FORM = NCSN()
FIRST, SECOND = records("ncsn"), records("ncsnv2")
RECORDS = [*FIRST, *SECOND]


def weights_of(record):
    """The weights of a record's model, with its table of noise levels if it keeps one."""
    found = seeded_weights(record["keys"])
    if "sigmas" in found:
        ends = math.log(record["sigma_begin"]), math.log(0.01)
        found["sigmas"] = torch.linspace(*ends, record["num_classes"], dtype=torch.float64).exp().float()
    return found


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_the_noise_is_predicted_as_by_the_original(record):
    side = record["side"]
    model, denoiser = imported(FORM, weights_of(record), {"shape": (record.get("colors", 3), side, side)})
    count = denoiser.schedule.num_steps
    level = denoiser.schedule((count - torch.tensor(record["index"], dtype=torch.float64)) / count)
    # Data are in [0, 1] there.
    x = 2 * seeded(record["input"], (2, *model.shape)) - 1
    with torch.no_grad():
        eps = denoiser(x, level).eps
    assert gap(eps, record["output"]) < WITHIN


@pytest.mark.parametrize("record", RECORDS, ids=case)
def test_weights_come_back_as_they_were(record):
    weights = weights_of(record)
    assert FORM.recognises(weights, {})
    model, denoiser = imported(FORM, weights, {})
    back = to_theirs(FORM.pairs(denoiser.network), denoiser.network.state_dict())
    constants = FORM.constants(model, denoiser.network)
    assert back.keys() | constants.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in back)
    for key, value in constants.items():
        torch.testing.assert_close(value, weights[key])


def test_the_noise_levels_are_those_of_the_paper_doubled():
    first = FORM.describe(weights_of(FIRST[0]), {}, {})
    assert first.schedule == {"name": "ncsn", "sigma_max": 2.0, "sigma_min": 0.02, "num_steps": 10}
    assert first.network["num_levels"] == 10
    second = FORM.describe(weights_of(SECOND[0]), {}, {})
    assert second.schedule == {"name": "ncsn", "sigma_max": 100.0, "sigma_min": 0.02, "num_steps": 232}
    assert second.network == {"name": "ncsnv2", "channels": 8, "channel_mult": [1, 2, 2, 2]}


@pytest.mark.parametrize(
    ("record", "shape"), [(FIRST[0], 32), (FIRST[1], 28), (SECOND[0], 32), (SECOND[1], 128), (SECOND[2], 256)]
)
def test_the_image_is_of_the_papers_size(record, shape):
    assert FORM.describe(weights_of(record), {}, {}).shape[1:] == (shape, shape)


def test_the_averages_of_a_checkpoint_come_before_its_model():
    weights = weights_of(SECOND[0])
    averages = {key: value + 1 for key, value in weights.items() if key != "sigmas"}
    model = {f"module.{key}": value for key, value in weights.items()}
    assert FORM.weights([model, {}, 3, 5]).keys() == weights.keys()
    found = FORM.weights([model, {}, 3, 5, averages])
    assert torch.equal(found["sigmas"], weights["sigmas"])
    assert torch.equal(found["begin_conv.weight"], weights["begin_conv.weight"] + 1)


def test_keys_that_do_not_fit_are_named():
    weights = weights_of(FIRST[0])
    weights["more"] = weights.pop("refine1.crp.norms.0.embed.weight")
    with pytest.raises(ConfigError, match=r"missing: refine1.crp.norms.0.embed.weight; left over: more"):
        imported(FORM, weights, {})


def test_what_the_code_bases_do_not_have_is_refused():
    network = built({"name": "ncsnv2", "channels": 8, "channel_mult": [1, 2, 2]}, "network", shape=(3, 8, 8))
    with pytest.raises(ConfigError, match=r"4, 5 or 6 stages, but network.channel_mult has 3 factors"):
        list(FORM.pairs(network))
    weights = weights_of(SECOND[0])
    del weights["sigmas"]
    with pytest.raises(ConfigError, match="missing: sigmas"):
        FORM.describe(weights, {}, {})
