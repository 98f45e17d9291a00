"""ermongroup/ddim: the U-Net of DDPM in PyTorch, and the weights of Ho et al. that were converted to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.pairs import Pair, reshaped, same
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.ddpm_unet import DDPMUNet
from diffusion_fw.registry import ConfigError

SIZES = {(1, 2, 2, 2): 32, (1, 2, 2, 2, 4): 64, (1, 1, 2, 2, 4, 4): 256}
"""The size of the images of the published models, by channel_mult."""

BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "embedding": "temb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "nin_shortcut",
}
OUTER = {
    "time.first": "temb.dense.0",
    "time.second": "temb.dense.1",
    "enter": "conv_in",
    "norm": "norm_out",
    "leave": "conv_out",
}


class ErmonGroupDDIM(Format):
    """The state dict of the repository's model: network=ddpm_unet, 1000 linear steps.

    The weights do not tell the size of the images, dropout and the variance: they are those of the published models.
    """

    name: ClassVar[str] = "ermongroup-ddim"
    sampler: ClassVar[Section] = {"name": "ddim", "steps": 1000}
    grid: ClassVar[Section] = {"name": "leading"}
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("ddpm_unet",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return {"temb.dense.0.weight", "conv_in.weight", "mid.attn_1.q.weight"} <= weights.keys()

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        channels = shape_of(weights, "temb.dense.0.weight", 2)[1]
        inputs = shape_of(weights, "conv_in.weight", 4)[1]
        levels = _count(weights, "down.{}.block.0.conv1.weight")
        mult = tuple(shape_of(weights, f"down.{i}.block.0.conv1.weight")[0] // channels for i in range(levels))
        if "shape" in given:
            shape = tuple(given["shape"])
        elif mult in SIZES:
            shape = (inputs, SIZES[mult], SIZES[mult])
        else:
            raise ConfigError(
                "its weights do not tell the size of the images, and it is none of the published models; give "
                f"shape=[{inputs},H,W]"
            )
        attended = [i for i in range(levels) if f"down.{i}.attn.0.norm.weight" in weights]
        return Published(
            network={
                "name": "ddpm_unet",
                "channels": channels,
                "channel_mult": mult,
                "num_res_blocks": _count(weights, "down.0.block.{}.conv1.weight"),
                "attention_resolutions": tuple(max(shape[1:]) >> i for i in attended),
                "dropout": 0.0 if shape[1] == 256 else 0.1,
            },
            shape=shape,
            variance={"name": "small" if shape[1] == 256 else "large"},
            guessed=tuple(key for key in ("shape", "network.dropout", "variance") if key not in given),
        )

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(DDPMUNet, network)
        for key in own.state_dict():
            layer, _, kind = key.rpartition(".")
            if layer in OUTER:
                yield same(key, f"{OUTER[layer]}.{kind}")
        for i, stages in enumerate(own.down.levels):
            yield from _stages(cast(nn.ModuleList, stages), f"down.levels.{i}", f"down.{i}")
        for i, stages in enumerate(own.up.levels):
            yield from _stages(cast(nn.ModuleList, stages), f"up.levels.{i}", f"up.{len(own.up.levels) - 1 - i}")
        for i in range(len(own.down.downsample)):
            for kind in ("weight", "bias"):
                yield same(f"down.downsample.{i}.conv.{kind}", f"down.{i}.downsample.conv.{kind}")
                up = len(own.up.upsample) - i
                yield same(f"up.upsample.{i}.conv.{kind}", f"up.{up}.upsample.conv.{kind}")
        for i, stage in enumerate(own.middle):
            yield from _stage(stage, f"middle.{i}", f"mid.block_{i + 1}", f"mid.attn_{i + 1}")


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many keys of the pattern there are, numbered from 0."""
    return next(i for i in range(len(weights) + 1) if pattern.format(i) not in weights)


def _stages(stages: nn.ModuleList, ours: str, theirs: str) -> Iterator[Pair]:
    for j, stage in enumerate(stages):
        yield from _stage(stage, f"{ours}.{j}", f"{theirs}.block.{j}", f"{theirs}.attn.{j}")


def _stage(stage: nn.Module, ours: str, block: str, attention: str) -> Iterator[Pair]:
    """The pairs of a residual block, and of the attention after it if it has some."""
    for key, value in stage.state_dict().items():
        part, layer, kind = key.split(".")
        if part == "block":
            yield same(f"{ours}.{key}", f"{block}.{BLOCK[layer]}.{kind}")
        elif layer == "norm":
            yield same(f"{ours}.{key}", f"{attention}.norm.{kind}")
        elif layer == "out":
            shape = (*value.shape, 1, 1) if kind == "weight" else value.shape
            yield reshaped(f"{ours}.{key}", f"{attention}.proj_out.{kind}", value.shape, shape)
        else:
            yield joined(f"{ours}.{key}", [f"{attention}.{name}.{kind}" for name in "qkv"], kind == "weight")


def joined(ours: str, theirs: list[str], convolutions: bool) -> Pair:
    """Query, key and value, which are convolutions of size 1 there, one after the other."""
    axes = (1, 1) if convolutions else ()
    return Pair(
        ours,
        tuple(theirs),
        lambda tensors: torch.cat([tensor.reshape(tensor.shape[: tensor.ndim - len(axes)]) for tensor in tensors]),
        lambda tensor: [part.reshape(*part.shape, *axes) for part in tensor.chunk(3)],
    )
