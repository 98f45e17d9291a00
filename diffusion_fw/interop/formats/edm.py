"""EDM: the SongUNet models of Karras et al. 2022, which are NCSN++ and DDPM++ with classes and augmentation labels.

Their blocks are named by the size of their level: enc.32x32_block0, dec.16x16_up. The same names are used under all of
EDM's preconditionings, so that their weights do not tell which was trained:

    EDMPrecond  schedule=edm  parameterization=edm
    VPPrecond   schedule=vp   parameterization=epsilon with label 999 t
    VEPrecond   schedule=ve   parameterization=score scale_by_sigma=true with label log(sigma / 2)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.pairs import Pair, same
from diffusion_fw.networks.blocks.resampling import Filter
from diffusion_fw.networks.ncsnpp import (
    Attention,
    InputResidual,
    InputSkip,
    NCSNpp,
    Output,
    OutputSkip,
    ResidualBlock,
)
from diffusion_fw.registry import ConfigError

PRECONDITIONINGS: dict[str, tuple[Section, Section]] = {
    "edm": ({"name": "edm"}, {"name": "edm"}),
    "epsilon": (
        {"name": "vp"},
        {"name": "epsilon", "label_of": "time", "label_scale": 999.0, "label_shift": 0.0},
    ),
    "score": (
        {"name": "ve", "sigma_min": 0.02, "sigma_max": 100.0},
        {
            "name": "score",
            "scale_by_sigma": True,
            "label_of": "log_sigma",
            "label_scale": 1.0,
            "label_shift": -math.log(2),
        },
    ),
}
"""The schedule and the parameterization of a model, by the name of the parameterization."""
CLASSES = {"EDMPrecond": "edm", "VPPrecond": "epsilon", "VEPrecond": "score"}

BLOCK = {
    "norm1": "norm0",
    "conv1": "conv0",
    "embedding": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "skip": "skip",
    "attention.norm": "norm2",
}
"""The layers of a block, ours and theirs."""


class EDM(Format):
    """The state dict of a SongUNet under one of EDM's preconditionings: model.enc.32x32_conv.weight and the like."""

    name = "edm"

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        # ADM in EDM's code has no weights under dec of the last layers.
        return "model.map_layer0.weight" in weights and any("_aux_norm." in key for key in weights)

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        blocks = [key.removeprefix("model.").split(".")[1] for key in weights if key.startswith("model.enc.")]
        sides = sorted({int(block.split("x")[0]) for block in blocks}, reverse=True)
        enter = weights[f"model.enc.{sides[0]}x{sides[0]}_conv.weight"]
        channels, colors = enter.shape[:2]
        num_res_blocks = len({block for block in blocks if block.startswith(f"{sides[0]}x{sides[0]}_block")})

        def of_level(side: int, layer: str) -> Tensor | None:
            return weights.get(f"model.enc.{side}x{side}_block0.{layer}.weight")

        widths = [found.shape[0] for side in sides if (found := of_level(side, "conv1")) is not None]
        fourier = "model.map_noise.freqs" in weights
        progressive_input = next((kind for end, kind in INPUTS.items() if any(end in key for key in blocks)), "none")
        skips = len({key.split(".")[2] for key in weights if "_aux_norm." in key}) > 1
        taps = next((value.shape[-1] for key, value in weights.items() if key.endswith("resample_filter")), None)
        fir = taps == 4 if taps else fourier
        network: Section = {
            "name": "ddpmpp",
            "channels": channels,
            "channel_mult": [width // channels for width in widths],
            "num_res_blocks": num_res_blocks,
            "attention_resolutions": [side for side in sides if of_level(side, "qkv") is not None],
            "dropout": given.get("network.dropout", 0.13),
            "augment_dim": _inputs(weights, "model.map_augment.weight"),
            "class_conditional": "model.map_label.weight" in weights,
        }
        if fourier or fir or skips or progressive_input != "none":
            network |= {
                "name": "ncsnpp",
                "embedding": "fourier" if fourier else "positional",
                "fir": fir,
                "progressive_input": progressive_input,
                "progressive_output": "output_skip" if skips else "none",
            }
        schedule, parameterization = PRECONDITIONINGS[_preconditioning(settings, given)]
        return Published(
            network,
            (colors, sides[0], sides[0]),
            _inputs(weights, "model.map_label.weight"),
            schedule,
            parameterization,
            guessed=("network.dropout", "parameterization"),
        )

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        assert isinstance(network, NCSNpp)
        found: dict[str, Tensor] = {}
        for theirs, module in _named(network, max(model.shape[1:])):
            if isinstance(module, Filter):
                found[f"{theirs}.resample_filter"] = module.kernel
            elif isinstance(module, ResidualBlock) and isinstance(module.resample, Filter):
                for layer in ("conv0", "skip"):
                    found[f"{theirs}.{layer}.resample_filter"] = module.resample.kernel
        return found

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        assert isinstance(network, NCSNpp)
        ...


INPUTS = {"aux_skip": "input_skip", "aux_residual": "residual"}


def _inputs(weights: Mapping[str, Tensor], key: str) -> int:
    """The inputs of a linear layer, 0 if there is none."""
    return weights[key].shape[1] if key in weights else 0
