"""diffusers' DiTTransformer2DModel, under its former name Transformer2DModel too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from diffusion_fw.interop.diffusion_settings import read_keys, read_sampler, read_settings
from diffusion_fw.interop.formats.dit import LABEL_DROPOUT, diffusers_pairs
from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.latents import PIXEL_CHANNELS, value_range
from diffusion_fw.interop.pairs import Pair
from diffusion_fw.networks.dit import DiT
from diffusion_fw.registry import ConfigError, PositiveInt

FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}
"""What DiT has, and what diffusers takes for what a config.json leaves out."""
DEFAULTS = {
    "attention_head_dim": 72,
    "in_channels": 4,
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "out_channels": None,
    "patch_size": 2,
    "sample_size": 32,
}
TYPES: dict[str, Any] = {**dict.fromkeys(DEFAULTS, PositiveInt), "out_channels": PositiveInt | None}
MLP_RATIO = 4


class DiffusersDiT(Format):
    """DiTTransformer2DModel of diffusers (facebook/DiT-*); it becomes network=dit, with DiT's own time embedding."""

    name: ClassVar[str] = "diffusers-dit"
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("dit",)
    classes: ClassVar[tuple[str, ...]] = ("DiTTransformer2DModel", "Transformer2DModel")

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return settings.get("_class_name") in self.classes and "proj_out_2.weight" in weights

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        for key, value in FIXED.items():
            if settings.get(key, value) != value:
                raise ConfigError(f"config.json: {key}={settings[key]!r} is not DiT's, which is {value!r}")
        own = read_keys(settings, TYPES, DEFAULTS)
        channels, size = own["in_channels"], own["sample_size"]
        network = {
            "name": "dit",
            "width": own["num_attention_heads"] * own["attention_head_dim"],
            "depth": own["num_layers"],
            "num_heads": own["num_attention_heads"],
            "patch": own["patch_size"],
            "mlp_ratio": MLP_RATIO,
        }
        schedule, parameterization, variance = read_settings(settings.get("scheduler", {}))
        if own["out_channels"] == 2 * channels:
            variance = {"name": "learned_range"}
        return Published(
            network,
            tuple(given.get("shape", (channels, size, size))),
            own["num_embeds_ada_norm"],
            schedule,
            parameterization,
            variance,
            data_range=value_range(channels),
            pixels=channels in PIXEL_CHANNELS,
            label_dropout=LABEL_DROPOUT,
            guessed=() if "scheduler" in settings else ("schedule", "parameterization"),
        )

    def sampler_of(self, model: Published, settings: Mapping[str, Any]) -> Section:
        """That of the pipeline's scheduler, if it is one of ours."""
        return read_sampler(settings.get("scheduler", {})) or self.sampler

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        return diffusers_pairs(cast(DiT, network))
