"""Weights of ermongroup/ddim, against the outputs of the original code."""

from __future__ import annotations

import pytest
import torch
from recorded import cases, difference, imported_network

from diffusion_fw.interop.formats.ermongroup_ddim import ErmonGroupDDIM
from diffusion_fw.interop.pairs import to_ours, to_theirs
from diffusion_fw.registry import ConfigError, build
from scripts.peer_outputs.seeded import seeded_weights

RECORDS = cases("ermongroup_ddim")
FORM = ErmonGroupDDIM()
GIVEN = {"shape": [3, 8, 8]}


@pytest.mark.parametrize("case", RECORDS)
def test_gives_the_output_of_the_original_code(case):
    assert difference(FORM, RECORDS[case], GIVEN) < 1e-5


@pytest.mark.parametrize("case", RECORDS)
def test_there_and_back_changes_no_weight(case):
    weights = seeded_weights(RECORDS[case]["keys"])
    network = imported_network(FORM, weights, GIVEN)
    back = to_theirs(FORM.pairs(network), network.state_dict())
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


# cifar10.yml, celeba.yml and bedroom.yml of the repository.
@pytest.mark.parametrize(
    ("size", "mult", "dropout", "variance"),
    [
        (32, (1, 2, 2, 2), 0.1, "large"),
        (64, (1, 2, 2, 2, 4), 0.1, "large"),
        (256, (1, 1, 2, 2, 4, 4), 0.0, "small"),
    ],
)
def test_a_published_model_is_described_without_a_word(size, mult, dropout, variance):
    with torch.device("meta"):
        network = build("network", "ddpm_unet", shape=(3, size, size), channel_mult=mult)
    weights = to_theirs(FORM.pairs(network), network.state_dict())
    assert FORM.recognises(weights, {})
    published = FORM.describe(weights, {}, {})
    assert published.shape == (3, size, size)
    assert published.variance == {"name": variance}
    assert published.network == {
        "name": "ddpm_unet",
        "channels": 128,
        "channel_mult": mult,
        "num_res_blocks": 2,
        "attention_resolutions": (16,),
        "dropout": dropout,
    }


def test_keys_that_do_not_fit_are_named():
    weights = seeded_weights(RECORDS["two levels"]["keys"])
    network = imported_network(FORM, weights, GIVEN)
    broken = {**weights, "logvar": torch.zeros(1000), "norm_out.weight": torch.zeros(5)}
    del broken["mid.attn_1.k.bias"]
    with pytest.raises(ConfigError) as caught:
        to_ours(FORM.pairs(network), broken, network, "model.ckpt")
    for part in ("missing: mid.attn_1.k.bias", "left over: logvar", r"norm_out.weight \(5,\)"):
        assert caught.match(part)


def test_the_size_of_the_images_is_asked_for():
    with pytest.raises(ConfigError, match=r"give shape=\[3,H,W\]"):
        FORM.describe(seeded_weights(RECORDS["two levels"]["keys"]), {}, {})
