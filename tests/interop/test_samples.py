"""Imported weights give the samples that the original code's own loop gave (see scripts/peer_outputs/*_samples.py)."""

from __future__ import annotations

import pytest
import torch
from recorded import k_diffusion_weights, records

import diffusion_fw as dfw
from diffusion_fw.interop.published import import_published
from diffusion_fw.interop.source import Source
from diffusion_fw.networks.blocks.positions import AddedPositions
from scripts.peer_outputs.seeded import gap, seeded, seeded_weights


class OfEDM:
    """Noise as EDM draws it: in float64, and for the first step too, whose level is above s_tmax."""

    def __init__(self):
        self.begun = False

    def __call__(self, like):
        if not self.begun:
            self.begun = True
            self(like)
        return torch.randn(like.shape, dtype=torch.float64).to(like)


def drawn(weights, given, record, sampler, *, clip=False, noise=torch.randn_like, **parameters):
    """The samples of the imported weights, with the noise and the random numbers of the record."""
    imported = import_published(Source("weights.pt", weights, {}), given)
    denoiser = imported.denoiser
    if clip:
        denoiser = dfw.build("guidance", "clip", denoiser=denoiser, data_range=(-1.0, 1.0))
    name, shape = record["input"]
    level = denoiser.schedule(torch.ones((), dtype=torch.float64))
    # A table that ends in pure noise has sigma close to 1.
    x = seeded(name, shape) * (float(level.sigma) if level.sigma > 1 else 1.0)
    torch.manual_seed(0)
    built = dfw.build("sampler", sampler, **parameters)
    cond = torch.tensor(record["classes"]) if "classes" in record else None
    return built(denoiser, x, cond=cond, noise=noise)


@pytest.mark.parametrize("record", records("guided_diffusion_samples"), ids=lambda record: record["case"])
def test_of_guided_diffusion(record):
    weights = seeded_weights(record["keys"])
    given = {"shape": [3, 8, 8], "network.num_head_channels": 16, "schedule": "linear"}
    given |= {"network.use_new_attention_order": False}
    grid = dfw.build("grid", "respaced", spec=record["respacing"])
    own = {"steps": 10, "grid": grid}
    if record["case"] == "ancestral":
        samples = drawn(
            weights, given, record, "ddpm", clip=True, **own, variance=dfw.build("variance", "learned_range")
        )
    else:
        samples = drawn(weights, given, record, "ddim", clip=True, **own)
    assert gap(samples, record["output"]) < 5e-5


@pytest.mark.parametrize("record", records("dit_samples"), ids=lambda record: record["case"])
def test_of_dit(record):
    weights = seeded_weights(record["keys"])
    for key, scale in record["scaled"].items():
        weights[key] = weights[key] * scale
    side = record["settings"]["input_size"] // record["settings"]["patch_size"]
    weights["pos_embed"] = AddedPositions((side, side), record["settings"]["hidden_size"]).table[None]
    own = {"steps": 10, "grid": dfw.build("grid", "respaced", spec="10")}
    given = {"network.num_heads": record["settings"]["num_heads"]}
    samples = drawn(weights, given, record, "ddpm", **own, variance=dfw.build("variance", "learned_range"))
    assert gap(samples, record["output"]) < 5e-5


CHURN = {"S_churn": "s_churn", "S_min": "s_tmin", "S_max": "s_tmax", "S_noise": "s_noise"}


@pytest.mark.parametrize("record", records("edm_samples"), ids=lambda record: record["case"])
def test_of_edm(record):
    weights = seeded_weights(record["keys"])
    own = {"steps": record["steps"], "grid": dfw.build("grid", "karras")}
    sampler = "edm_stochastic" if record["options"] else "heun"
    own |= {CHURN[key]: value for key, value in record["options"].items()}
    samples = drawn(weights, {}, record, sampler, noise=OfEDM(), **own)
    assert gap(samples, record["output"]) < 5e-5


OF_K_DIFFUSION = {
    "sample_euler": ("ddim", {}),
    "sample_heun": ("heun", {}),
    "sample_euler_ancestral": ("ddim", {"eta": 1.0}),
    "sample_dpmpp_2m": ("dpm_solver_pp", {"order": 2}),
    "sample_lms": ("lms", {"order": 4, "warm_up": "lower_order"}),
}
"""Our sampler of each loop."""


@pytest.mark.parametrize("record", records("k_diffusion_samples"), ids=lambda record: record["case"])
def test_of_k_diffusion(record):
    weights = k_diffusion_weights(record)
    sampler, parameters = OF_K_DIFFUSION[record["case"]]
    grid = dfw.build("grid", "karras", sigma_min=0.01, sigma_max=80.0)
    samples = drawn(
        weights, {"shape": record["input"][1][1:]}, record, sampler, steps=record["steps"], grid=grid, **parameters
    )
    assert gap(samples, record["output"]) < 5e-5
