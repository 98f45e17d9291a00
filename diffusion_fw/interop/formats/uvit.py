"""The weights of baofff/U-ViT.

Its models of pixels were trained on schedule=vp with the label 999 t, and have no null class. Those of Stable
Diffusion's latents were trained on the rows n = 1 .. 1000 of schedule=scaled_linear with the label n = 1000 t, and
their last class is "no class". Both predict epsilon. The number of channels tells which of the two a file holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.latents import PIXEL_CHANNELS, value_range
from diffusion_fw.interop.pairs import Pair, Read, Write, check_expressible, reshaped, same
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.uvit import UViT

HEADS = {512: 8, 768: 12, 1024: 16, 1152: 16}
"""Of the paper's widths."""
LABEL_DROPOUT = 0.1
"""Of its models of latents, with classes (its configs, p_uncond)."""


class UViTFormat(Format):
    """baofff/U-ViT (Bao et al. 2023)."""

    name: ClassVar[str] = "U-ViT"
    sampler: ClassVar[Section] = {"name": "dpm_solver_pp", "steps": 50}
    grid: ClassVar[Section] = {"name": "uniform"}
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("uvit",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return {"patch_embed.proj.weight", "mid_block.attn.qkv.weight", "decoder_pred.weight"} <= weights.keys()

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        width, channels, patch, _ = shape_of(weights, "patch_embed.proj.weight", 4)
        pixels = channels in PIXEL_CHANNELS
        rows = shape_of(weights, "label_emb.weight", 2)[0] if "label_emb.weight" in weights else 0
        null_class = bool(given.get("network.null_class", not pixels))
        pairs = sum(key.endswith("skip_linear.weight") for key in weights)
        network = {
            **{"name": "uvit", "width": width, "depth": 2 * pairs + 1, "patch": patch},
            "num_heads": given.get("network.num_heads", HEADS.get(width, max(1, width // 64))),
            "mlp_ratio": shape_of(weights, "mid_block.mlp.fc1.bias", 1)[0] // width,
            **{"final_conv": "final_layer.weight" in weights, "class_conditional": rows > 0, "null_class": null_class},
        }
        side = math.isqrt(max(1, shape_of(weights, "pos_embed", 3)[1] - (2 if rows else 1))) * patch
        scale = 999.0 if pixels else 1000.0
        open_keys = ("schedule", "network.num_heads", *(["network.null_class"] if rows else []))
        return Published(
            network,
            tuple(given.get("shape") or (channels, side, side)),
            max(0, rows - null_class),
            schedule={"name": "vp" if pixels else "scaled_linear"},
            parameterization={"name": "epsilon", "label_of": "time", "label_scale": scale, "label_shift": 0.0},
            data_range=value_range(channels),
            pixels=pixels,
            label_dropout=LABEL_DROPOUT if rows and null_class else 0.0,
            guessed=tuple(key for key in open_keys if key not in given),
        )

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(UViT, network)
        check_expressible(self.name, {"a learned variance": own.leave.out_features != own.enter.in_features})
        return _pairs(own)


def _pairs(network: UViT) -> Iterable[Pair]:
    width, patch = network.enter.out_features, network.patch
    kernel = (width, network.enter.in_features // patch**2, patch, patch)
    yield reshaped("enter.weight", "patch_embed.proj.weight", network.enter.weight.shape, kernel)
    yield same("enter.bias", "patch_embed.proj.bias")
    yield Pair("positions", ("pos_embed",), lambda tensors: tensors[0].squeeze(0), lambda tensor: (tensor[None],))
    if network.class_conditional:
        yield same("classes.table.weight", "label_emb.weight")
    for index in range(len(network.shallow)):
        yield from _block(f"shallow.{index}", f"in_blocks.{index}")
    yield from _block("middle", "mid_block")
    for index in range(len(network.deep)):
        yield from _block(f"deep.{index}.block", f"out_blocks.{index}")
    places = patch**2
    for kind in ("weight", "bias"):
        for index in range(len(network.deep)):
            yield same(f"deep.{index}.join.{kind}", f"out_blocks.{index}.skip_linear.{kind}")
        yield same(f"norm.{kind}", f"norm.{kind}")
        # A patch's values go by place, then channel, there.
        yield Pair(f"leave.{kind}", (f"decoder_pred.{kind}",), _regrouped(places), _regrouped_back(places))
        if isinstance(network.final, nn.Conv2d):
            yield same(f"final.{kind}", f"final_layer.{kind}")


def _block(ours: str, theirs: str) -> Iterable[Pair]:
    yield same(f"{ours}.attention.qkv.weight", f"{theirs}.attn.qkv.weight")
    for kind in ("weight", "bias"):
        yield same(f"{ours}.norm1.{kind}", f"{theirs}.norm1.{kind}")
        yield same(f"{ours}.attention.out.{kind}", f"{theirs}.attn.proj.{kind}")
        yield same(f"{ours}.norm2.{kind}", f"{theirs}.norm2.{kind}")
        yield same(f"{ours}.mlp.first.{kind}", f"{theirs}.mlp.fc1.{kind}")
        yield same(f"{ours}.mlp.second.{kind}", f"{theirs}.mlp.fc2.{kind}")


def _regrouped(places: int) -> Read:
    return lambda tensors: tensors[0].unflatten(0, (places, -1)).transpose(0, 1).flatten(0, 1)


def _regrouped_back(places: int) -> Write:
    return lambda tensor: (tensor.unflatten(0, (-1, places)).transpose(0, 1).flatten(0, 1),)
