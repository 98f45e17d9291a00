"""ADM in EDM's code: the DhariwalUNet of Karras et al. 2022, such as their model for ImageNet at 64x64.

The network is that of guided-diffusion. Its weights differ in their names, which hold the size of the level, in the
matrix of the classes, which is transposed, and in the rows of queries, keys and values, which take turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from diffusion_fw.interop.formats.edm import (
    BLOCK,
    OF_LEVEL,
    PRECONDITIONINGS,
    attention_pairs,
    inputs_of,
    layer_pairs,
    preconditioning,
)
from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.pairs import Pair, check_expressible, transposed
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.adm_unet import ADMUNet
from diffusion_fw.networks.blocks.ddpm_layers import Attention
from diffusion_fw.networks.blocks.ddpm_levels import Stage

HEAD_CHANNELS = 64
OUTER = {
    "time.first": "map_layer0",
    "time.second": "map_layer1",
    "norm": "out_norm",
    "leave": "out_conv",
}


class EDMADM(Format):
    """The state dict of a DhariwalUNet under one of EDM's preconditionings: network=adm_unet.

    Its heads have 64 channels, and its group norms 32 groups from 128 channels on; narrower levels have other groups
    than ours and are refused.
    """

    name: ClassVar[str] = "edm-adm"
    sampler: ClassVar[Section] = {"name": "heun", "steps": 40}
    grid: ClassVar[Section] = {"name": "karras"}
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("adm_unet",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        own = {"model.map_layer0.weight", "model.out_conv.weight"} <= weights.keys()
        return own and any(OF_LEVEL.match(key) for key in weights)

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        blocks = {found[1]: int(found[2]) for key in weights if (found := OF_LEVEL.match(key))}
        sides = sorted(set(blocks.values()), reverse=True)
        channels = shape_of(weights, "model.map_layer0.weight", 2)[1]
        colors = shape_of(weights, f"model.enc.{sides[0]}x{sides[0]}_conv.weight", 4)[1]
        widths = [shape_of(weights, f"model.enc.{side}x{side}_block0.conv1.weight", 4)[0] for side in sides]
        network: Section = {
            "name": "adm_unet",
            "channels": channels,
            "channel_mult": [width / channels for width in widths],
            "num_res_blocks": sum(name.startswith(f"{sides[0]}x{sides[0]}_block") for name in blocks),
            "attention_resolutions": [
                side for side in sides if f"model.enc.{side}x{side}_block0.qkv.weight" in weights
            ],
            "num_head_channels": HEAD_CHANNELS,
            "use_new_attention_order": True,
            "scale_shift_norm": True,
            "resblock_updown": True,
            "dropout": 0.1,
            "class_conditional": "model.map_label.weight" in weights,
        }
        schedule, parameterization = PRECONDITIONINGS[preconditioning(settings, given)]
        return Published(
            network,
            (colors, sides[0], sides[0]),
            inputs_of(weights, "model.map_label.weight"),
            schedule,
            parameterization,
            guessed=("network.dropout", "parameterization"),
        )

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        return {
            f"{theirs}.{layer}.resample_filter": torch.full((1, 1, 2, 2), 0.25)
            for _, theirs in _stages(cast(ADMUNet, network))
            if theirs.endswith(("_down", "_up"))
            for layer in ("conv0", "skip")
        }

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(ADMUNet, network)
        _check(self.name, own)
        for ours, theirs in OUTER.items():
            yield from layer_pairs(own.get_submodule(ours), ours, f"model.{theirs}")
        if own.class_conditional:
            yield transposed("classes.table.weight", "model.map_label.weight")
        yield from layer_pairs(own.enter, "enter", f"model.enc.{own.sizes[0]}x{own.sizes[0]}_conv")
        for ours, theirs in _stages(own):
            stage = cast(Stage, own.get_submodule(ours))
            for part, other in BLOCK.items():
                yield from layer_pairs(stage.block.get_submodule(part), f"{ours}.block.{part}", f"{theirs}.{other}")
            if isinstance(attention := stage.attention, Attention):
                parts = attention.num_heads if attention.heads_first else 1
                yield from attention_pairs(f"{ours}.attention", theirs, attention.out.in_features, parts)


def _stages(network: ADMUNet) -> Iterator[tuple[str, str]]:
    """The stages and the layers between levels, by our names and theirs."""
    sizes = [f"{size}x{size}" for size in network.sizes]
    for i, size in enumerate(sizes):
        if i > 0:
            yield f"down.downsample.{i - 1}", f"model.enc.{size}_down"
        for j in range(len(cast(nn.ModuleList, network.down.levels[i]))):
            yield f"down.levels.{i}.{j}", f"model.enc.{size}_block{j}"
    for j in range(len(network.middle)):
        yield f"middle.{j}", f"model.dec.{sizes[-1]}_in{j}"
    for i, size in enumerate(reversed(sizes)):
        if i > 0:
            yield f"up.upsample.{i - 1}", f"model.dec.{size}_up"
        for j in range(len(cast(nn.ModuleList, network.up.levels[i]))):
            yield f"up.levels.{i}.{j}", f"model.dec.{size}_block{j}"


def _check(name: str, network: ADMUNet) -> None:
    """ConfigError for a network that EDM's code does not have."""
    layers = list(network.modules())
    enter, leave = network.enter, network.leave
    check_expressible(
        name,
        {
            "data other than images": not isinstance(enter, nn.Conv2d),
            "a learned variance": len(cast(Tensor, leave.weight)) != cast(Tensor, enter.weight).shape[1],
            "network.scale_shift_norm=false": not network.scale_shift_norm,
            "network.resblock_updown=false": not network.resblock_updown,
            f"heads of other than {HEAD_CHANNELS} channels": any(
                layer.out.in_features != HEAD_CHANNELS * layer.num_heads
                for layer in layers
                if isinstance(layer, Attention)
            ),
            "levels of fewer than 128 channels, whose group norms have other groups": any(
                layer.num_groups != min(32, layer.num_channels // 4)
                for layer in layers
                if isinstance(layer, nn.GroupNorm)
            ),
        },
    )
