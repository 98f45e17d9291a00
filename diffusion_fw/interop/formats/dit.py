"""The weights of facebookresearch/DiT and willisma/SiT: one network, trained on two processes.

DiT predicts epsilon and a variance at the rows of schedule=linear. SiT predicts the velocity x_0 - eps at its own time,
1 - t. Ours is eps - x_0 (parameterization=flow), so that the last layer changes its sign. A SiT with the second half of
the channels of a DiT ignores them, and so do we: they become 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.latents import PIXEL_CHANNELS, value_range
from diffusion_fw.interop.pairs import Pair, check_expressible, reshaped, same, stacked
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.blocks.positions import AddedPositions, RotaryPositions
from diffusion_fw.networks.blocks.transformer import SwiGLU
from diffusion_fw.networks.dit import DiT, DiTBlock
from diffusion_fw.registry import ConfigError

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Of the papers' widths."""
UNTOLD = ("network.num_heads", "schedule", "parameterization")
"""What the weights do not tell; SiT, which has the same keys, is on another schedule (--format SiT)."""
LABEL_DROPOUT = 0.1
"""Peebles & Xie 2023, section 4."""
POSITIONS_TOLERANCE = 1e-5
"""In float32; positions of half precision are rounded more."""
LINEAR = {
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp.first": "mlp.fc1",
    "mlp.second": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
}
"""The linear layers of a block."""


class DiTFormat(Format):
    """facebookresearch/DiT (Peebles & Xie 2023)."""

    name: ClassVar[str] = "DiT"
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("dit",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return {"x_embedder.proj.weight", "pos_embed", "blocks.0.adaLN_modulation.1.weight"} <= weights.keys()

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        width, channels, patch, _ = shape_of(weights, "x_embedder.proj.weight", 4)
        classes = shape_of(weights, "y_embedder.embedding_table.weight", 2)[0] - 1
        outputs = shape_of(weights, "final_layer.linear.bias", 1)[0] // (channels * patch**2)
        num_heads = given.get("network.num_heads", HEADS.get(width, max(1, width // 64)))
        shape = given.get("shape") or _square(shape_of(weights, "pos_embed", 3)[1], channels, patch)
        network = {
            **{"name": "dit", "width": width, "depth": _depth(weights), "num_heads": num_heads, "patch": patch},
            "mlp_ratio": shape_of(weights, "blocks.0.mlp.fc1.bias", 1)[0] // width,
            "class_conditional": True,
        }
        return Published(
            network,
            tuple(shape),
            classes,
            variance={"name": "learned_range" if outputs == 2 else "large"},
            data_range=value_range(channels),
            pixels=channels in PIXEL_CHANNELS,
            label_dropout=LABEL_DROPOUT,
            guessed=tuple(key for key in UNTOLD if key not in given),
        )

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        check_options(self.name, cast(DiT, network))
        return [*_body(cast(DiT, network)), *_output(cast(DiT, network), sign=1, halves=1)]


class SiTFormat(DiTFormat):
    """willisma/SiT (Ma et al. 2024), whose keys are those of DiT, so that it has to be named."""

    name: ClassVar[str] = "SiT"
    sampler: ClassVar[Section] = {"name": "ode"}
    grid: ClassVar[Section] = {"name": "uniform"}

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return False

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        label = {"label_of": "time", "label_scale": -1.0, "label_shift": 1.0}
        return replace(
            super().describe(weights, settings, given),
            schedule={"name": "flow"},
            parameterization={"name": "flow", **label},
            variance={"name": "small"},
            guessed=tuple(key for key in UNTOLD[:1] if key not in given),
        )

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        check_options(self.name, cast(DiT, network))
        check_expressible(self.name, {"a learned variance": _outputs(cast(DiT, network)) > 1})
        return [*_body(cast(DiT, network)), *_output(cast(DiT, network), sign=-1, halves=2)]


def check_options(name: str, network: DiT) -> None:
    """ConfigError for a network with an option that DiT has not."""
    block = cast(DiTBlock, network.blocks[0])
    check_expressible(
        name,
        {
            "examples other than images": len(network.grid) != 2,
            "network.positions=rope": isinstance(network.rotate, RotaryPositions),
            f"network.num_registers={network.num_registers}": network.num_registers > 0,
            "network.norm=rms": isinstance(network.norm.norm, nn.RMSNorm),
            "network.mlp=swiglu": isinstance(block.mlp, SwiGLU),
            "network.qk_norm=true": isinstance(block.attention.query_norm, nn.RMSNorm),
            "network.class_conditional=false": not network.class_conditional,
        },
    )


def _outputs(network: DiT) -> int:
    return network.leave.out_features // network.enter.in_features


def _depth(weights: Mapping[str, Tensor]) -> int:
    return sum(key.startswith("blocks.") and key.endswith("attn.qkv.weight") for key in weights)


def _square(tokens: int, channels: int, patch: int) -> tuple[int, int, int]:
    side = math.isqrt(tokens) * patch
    return channels, side, side


def _body(network: DiT) -> Iterable[Pair]:
    """All but the last layer."""
    yield reshaped("enter.weight", "x_embedder.proj.weight", network.enter.weight.shape, _kernel(network))
    yield _with_positions(network)
    for kind in ("weight", "bias"):
        yield same(f"time.first.{kind}", f"t_embedder.mlp.0.{kind}")
        yield same(f"time.second.{kind}", f"t_embedder.mlp.2.{kind}")
        yield same(f"modulation.{kind}", f"final_layer.adaLN_modulation.1.{kind}")
        for index in range(len(network.blocks)):
            for ours, theirs in LINEAR.items():
                yield same(f"blocks.{index}.{ours}.{kind}", f"blocks.{index}.{theirs}.{kind}")
    yield same("classes.table.weight", "y_embedder.embedding_table.weight")


def _kernel(network: DiT) -> tuple[int, int, int, int]:
    """The shape of the convolution that the layer ``enter`` is there."""
    width, values = network.enter.weight.shape
    return width, values // network.patch**2, network.patch, network.patch


def _with_positions(network: DiT) -> Pair:
    """The bias of ``enter``, and the positions, which are stored there and computed here."""
    table = cast(AddedPositions, network.place).table

    def read(tensors: Sequence[Tensor]) -> Tensor:
        bias, positions = tensors
        if positions.shape != (1, *table.shape):
            raise ConfigError(
                f"pos_embed {tuple(positions.shape)} is of {positions.shape[-2]} tokens, but {len(table)} patches of "
                f"side {network.patch} make an example here; state shape=[C,H,W] of the training"
            )
        apart = (positions[0].float() - table).abs().max().item()
        if not apart <= max(POSITIONS_TOLERANCE, torch.finfo(positions.dtype).eps):
            raise ConfigError(
                f"pos_embed differs from the fixed positions of this network by {apart:.2g}; "
                "only weights that were trained with these can be read"
            )
        return bias

    return Pair("enter.bias", ("x_embedder.proj.bias", "pos_embed"), read, lambda bias: (bias, table[None]))


def _output(network: DiT, sign: int, halves: int) -> Iterable[Pair]:
    """The last layer, times ``sign``. There a patch's values go by place, then channel, and the channels by outputs.

    With two ``halves`` there are channels that are not ours, which are dropped and written as 0.
    """
    for kind in ("weight", "bias"):
        yield _patches(f"leave.{kind}", f"final_layer.linear.{kind}", network, sign, halves)


def _patches(ours: str, theirs: str, network: DiT, sign: int, halves: int) -> Pair:
    places = network.patch**2
    channels = len(network.leave.bias) // places

    def read(tensors: Sequence[Tensor]) -> Tensor:
        (tensor,) = tensors
        own: Tensor = tensor.unflatten(0, (places, -1))
        own = own[:, :channels] if own.shape[1] == halves * channels else own
        return sign * own.transpose(0, 1).flatten(0, 1)

    def write(tensor: Tensor) -> Sequence[Tensor]:
        own = sign * tensor.unflatten(0, (channels, places)).transpose(0, 1)
        return (torch.cat([own, *[torch.zeros_like(own)] * (halves - 1)], dim=1).flatten(0, 1),)

    return Pair(ours, (theirs,), read, write)


def diffusers_pairs(network: DiT) -> Iterable[Pair]:
    """Those of diffusers' DiTTransformer2DModel, whose blocks have a copy each of the embeddings of time and class.

    Its outputs differ a little from DiT's, as its frequencies of time and the eps of a norm are others than in the
    training.
    """
    check_options("diffusers' DiTTransformer2DModel", network)
    blocks = [f"transformer_blocks.{index}" for index in range(len(network.blocks))]
    yield reshaped("enter.weight", "pos_embed.proj.weight", network.enter.weight.shape, _kernel(network))
    yield same("enter.bias", "pos_embed.proj.bias")
    yield _copies(
        "classes.table.weight", [f"{block}.norm1.emb.class_embedder.embedding_table.weight" for block in blocks]
    )
    for kind in ("weight", "bias"):
        for ours, theirs in (("first", "linear_1"), ("second", "linear_2")):
            keys = [f"{block}.norm1.emb.timestep_embedder.{theirs}.{kind}" for block in blocks]
            yield _copies(f"time.{ours}.{kind}", keys)
        for index, block in enumerate(blocks):
            qkv = [f"{block}.attn1.to_{part}.{kind}" for part in "qkv"]
            yield stacked(f"blocks.{index}.attention.qkv.{kind}", qkv)
            yield same(f"blocks.{index}.attention.out.{kind}", f"{block}.attn1.to_out.0.{kind}")
            yield same(f"blocks.{index}.mlp.first.{kind}", f"{block}.ff.net.0.proj.{kind}")
            yield same(f"blocks.{index}.mlp.second.{kind}", f"{block}.ff.net.2.{kind}")
            yield same(f"blocks.{index}.modulation.{kind}", f"{block}.norm1.linear.{kind}")
        yield same(f"modulation.{kind}", f"proj_out_1.{kind}")
        yield _patches(f"leave.{kind}", f"proj_out_2.{kind}", network, sign=1, halves=1)


def _copies(ours: str, theirs: Sequence[str]) -> Pair:
    """One tensor that is stored several times there."""

    def read(tensors: Sequence[Tensor]) -> Tensor:
        if any(not torch.equal(tensor, tensors[0]) for tensor in tensors):
            raise ConfigError(f"{theirs[0]} and the same of other blocks differ, but this network has one for all")
        return tensors[0]

    return Pair(ours, tuple(theirs), read, lambda tensor: [tensor] * len(theirs))
