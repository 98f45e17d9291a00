"""yang-song/score_sde_pytorch: its NCSN++ and DDPM++ models, by their score at noisy images."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from scripts.peer_outputs.seeded import fill, record, seeded

FOURIER_SCALE = 1.0
"""Of the frequencies: at 16, as trained, the original's rounding of sigma to float32 is amplified to 6e-5."""

SMALL = {
    "nf": 16,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (16,),
    "dropout": 0.1,
    "resamp_with_conv": True,
    "conditional": True,
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "embedding_type": "fourier",
    "init_scale": 0.0,
    "fourier_scale": 16,
    "nonlinearity": "swish",
    "scale_by_sigma": True,
    "sigma_min": 0.01,
    "sigma_max": 50,
    "num_scales": 1000,
    "beta_min": 0.1,
    "beta_max": 20.0,
}
POSITIONAL = {"embedding_type": "positional"}
DDPMPP = {**POSITIONAL, "fir": False, "progressive_input": "none", "scale_by_sigma": False}
SKIPS = {"ch_mult": (1, 2, 2), "progressive_input": "input_skip", "progressive": "output_skip", "sigma_max": 348}

CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "NCSN++ cont., VE": ("ve", True, {}),
    "NCSN++ with skips, VE": ("ve", True, SKIPS),
    "NCSN++ in steps, VE": ("ve", False, POSITIONAL),
    "DDPM++ cont., VP": ("vp", True, DDPMPP),
    "DDPM++ in steps, VP": ("vp", False, DDPMPP),
    "DDPM++ cont., sub-VP, two blocks": ("sub_vp", True, {**DDPMPP, "num_res_blocks": 2}),
    "output residual, VP": ("vp", True, {**DDPMPP, "progressive": "residual"}),
}
"""The SDE, whether the model is continuous in time, and the model's changed settings."""


def records() -> Iterator[dict[str, Any]]:
    """The score at x, for the model's own times; x in [0, 1] for VE and in [-1, 1] for VP."""
    filters = types.ModuleType("op")
    sys.modules["op"] = filters
    filters.upfirdn2d = upfirdn2d  # type: ignore[attr-defined]
    # Packages that only its training needs.
    for absent in ("tensorflow", "ml_collections"):
        sys.modules[absent] = types.ModuleType(absent)
    sde_lib, layerspp, ncsnpp, utils = (
        importlib.import_module(name) for name in ("sde_lib", "models.layerspp", "models.ncsnpp", "models.utils")
    )

    # It passes the mode at a place where torch now has another parameter.
    layerspp.F = types.SimpleNamespace(  # type: ignore[attr-defined]
        **{**vars(functional), "interpolate": lambda x, size, mode: functional.interpolate(x, size=size, mode=mode)}
    )
    for case, (kind, continuous, changes) in CASES.items():
        settings = {**SMALL, **changes}
        config = types.SimpleNamespace(
            model=types.SimpleNamespace(**settings),
            data=types.SimpleNamespace(image_size=32, num_channels=3, centered=kind != "ve"),
            training=types.SimpleNamespace(continuous=continuous),
        )
        model = ncsnpp.NCSNpp(config).eval()
        keys = fill(model)
        if settings["embedding_type"] == "fourier":
            model.all_modules[0].W.data *= FOURIER_SCALE / 0.1
        if kind == "ve":
            sde = sde_lib.VESDE(settings["sigma_min"], settings["sigma_max"], settings["num_scales"])
        else:
            sde = (sde_lib.VPSDE if kind == "vp" else sde_lib.subVPSDE)(settings["beta_min"], settings["beta_max"])
        x = seeded(f"x of {case}", (2, 3, 32, 32))
        t = torch.tensor([0.2, 0.9])
        if not continuous:
            # A row k of N is at the time (k - 1) / (N - 1) there.
            t = torch.tensor([199.0, 899.0]) / 999
        with torch.no_grad():
            score = utils.get_score_fn(sde, model, continuous=continuous)(x, t.clone())
            deviation = sde.marginal_prob(torch.zeros_like(x), t)[1]
        if not continuous:
            table = sde.sqrt_1m_alphas_cumprod if kind == "vp" else model.sigmas.flip(0)
            deviation = table[torch.tensor([199, 899])]
        names = [name for name, value in model.named_parameters() if value.requires_grad]
        yield {
            "case": case,
            "settings": settings,
            "sde": kind,
            "continuous": continuous,
            "keys": keys,
            "trained": len(names),
            "input": f"x of {case}",
            "t": [0.2, 0.9],
            "output": record(-score * deviation[:, None, None, None]),
        }


def upfirdn2d(x: torch.Tensor, kernel: torch.Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Any:
    """The operation of the CUDA extension op, which imports a compiler, by one convolution."""
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, height * up, width * up)
    spread[:, :, ::up, ::up] = x
    padded = functional.pad(spread, (*pad, *pad))
    weights = kernel.flip(0, 1)[None, None].repeat(channels, 1, 1, 1).to(x.dtype)
    return functional.conv2d(padded, weights, groups=channels)[:, :, ::down, ::down]
