"""openai/improved-diffusion and openai/guided-diffusion: their U-Nets and classifiers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.pairs import Pair, check_expressible, reshaped, same, transposed
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.adm_classifier import ADMClassifier
from diffusion_fw.networks.adm_unet import ADMUNet
from diffusion_fw.networks.blocks.ddpm_layers import Resampled, SpaceTimeAttention
from diffusion_fw.networks.blocks.ddpm_levels import Encoder
from diffusion_fw.registry import ConfigError

# --------------------------------------------------------------------------------------------------------------------
# What the weights tell
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Levels:
    """The layers on the way down, as the weights of input_blocks tell them."""

    channels: int
    mult: tuple[float, ...]
    num_res_blocks: int
    attended: tuple[bool, ...]
    certain: bool
    """Whether the number of levels is the only one that fits the weights."""


def levels_of(weights: Mapping[str, Tensor], factors: int | None = None) -> Levels:
    """The levels of a published network; ``factors`` is their number, if it was stated."""
    channels = shape_of(weights, "time_embed.0.weight", 2)[1]
    count = len({match[1] for key in weights if (match := re.match(r"input_blocks\.(\d+)\.", key))})
    between = [i for i in range(1, count) if f"input_blocks.{i}.0.op.weight" in weights]
    widths = [
        shape_of(weights, f"input_blocks.{i}.0.{'op' if i in between else 'out_layers.3'}.weight")[0]
        for i in range(1, count)
    ]
    attention = [f"input_blocks.{i}.1.qkv.weight" in weights for i in range(1, count)]

    def split(levels: int) -> Levels | None:
        """The layers as this number of levels, which differ from their neighbours in width and attention alone."""
        each, left = divmod(count, levels)
        if left or each < 2:
            return None
        # Each level but the last is followed by a layer of its width and without attention.
        parts = [slice(i * each, (i + 1) * each - 1) for i in range(levels)]
        after = [(i + 1) * each - 1 for i in range(levels - 1)]
        whole = all(len(set(widths[part])) == 1 and len(set(attention[part])) == 1 for part in parts)
        if not whole or any(attention[i] or widths[i] != widths[i - 1] for i in after):
            return None
        mult = tuple(widths[part.start] / channels for part in parts)
        return Levels(channels, mult, each - 1, tuple(attention[part.start] for part in parts), True)

    ends = re.compile(r"output_blocks\.\d+\.(?:[12]\.in_layers\.0|[12]\.conv)\.weight")
    if known := len(between) or sum(bool(ends.fullmatch(key)) for key in weights):
        factors = known + 1
    numbers = range(1, count + 1) if factors is None else (factors,)
    found = [levels for number in numbers if (levels := split(number))]
    if not found:
        raise ConfigError("its input_blocks are not those of levels with equally many residual blocks")
    # A published one first, then the one with the fewest levels.
    best = min(found, key=lambda levels: levels.mult not in SIZES)
    return Levels(best.channels, best.mult, best.num_res_blocks, best.attended, len(found) == 1)


SIZES: dict[tuple[float, ...], int] = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}
"""The image sizes for which both code bases have these channel_mult."""


def network_of(name: str, levels: Levels, weights: Mapping[str, Tensor], shape: tuple[int, ...]) -> Section:
    """The parameters that a U-Net and a classifier have in common."""
    sides = shape[-2:]
    first = "input_blocks.1.0"
    width = shape_of(weights, f"{first}.out_layers.3.weight")[0]
    return {
        "name": name,
        "channels": levels.channels,
        "channel_mult": levels.mult,
        "num_res_blocks": levels.num_res_blocks,
        "attention_resolutions": tuple(max(sides) >> i for i, attended in enumerate(levels.attended) if attended),
        "scale_shift_norm": shape_of(weights, f"{first}.emb_layers.1.weight")[0] == 2 * width,
        "resblock_updown": not any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", key) for key in weights),
    }


def factors_of(given: Mapping[str, Any]) -> int | None:
    """The number of levels that the user stated."""
    mult = given.get("network.channel_mult")
    return len(mult) if isinstance(mult, Sequence) else None


# --------------------------------------------------------------------------------------------------------------------
# Names of weights
# --------------------------------------------------------------------------------------------------------------------

BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}


def layer_pairs(layer: nn.Module, ours: str, theirs: str, first: int = 0) -> Iterator[Pair]:
    """The pairs of a stage, or of a layer between levels, whose parts are numbered from ``first`` there."""
    names = {
        **{f"block.{own}": f"{first}.{other}" for own, other in BLOCK.items()},
        **{f"attention.{own}": f"{first + 1}.{other}" for own, other in ATTENTION.items()},
        "conv": f"{first}.{'conv' if theirs.startswith('output') else 'op'}",
    }
    for key, value in layer.state_dict().items():
        part, _, kind = key.rpartition(".")
        other = f"{theirs}.{names[part]}.{kind}"
        linear = part.startswith("attention") and value.ndim == 2
        yield pointwise(f"{ours}.{key}", other, value) if linear else same(f"{ours}.{key}", other)


def pointwise(ours: str, theirs: str, value: Tensor) -> Pair:
    """A linear layer, which is a convolution of size 1 there."""
    return reshaped(ours, theirs, value.shape, (*value.shape, 1))


OUTER = {
    "time.first": "time_embed.0",
    "time.second": "time_embed.2",
    "classes.table": "label_emb",
    "enter": "input_blocks.0.0",
    "norm": "out.0",
    "leave": "out.2",
}


def outer_pairs(network: nn.Module) -> Iterator[Pair]:
    """The pairs of the layers outside of the levels, as many of them as the network has."""
    for key in network.state_dict():
        layer, _, kind = key.rpartition(".")
        if layer in OUTER:
            yield same(key, f"{OUTER[layer]}.{kind}")


def trunk_pairs(network: ADMUNet | ADMClassifier) -> Iterator[Pair]:
    """The pairs of everything from the embedding to the middle."""
    yield from outer_pairs(network)
    yield from encoder_pairs(network.down)
    first, second = network.middle
    yield from layer_pairs(first, "middle.0", "middle_block")
    yield from layer_pairs(second, "middle.1", "middle_block", 2)


def encoder_pairs(encoder: Encoder) -> Iterator[Pair]:
    """The pairs of the way down."""
    index = 1
    for i, level in enumerate(encoder.levels):
        if i > 0:
            yield from layer_pairs(encoder.downsample[i - 1], f"down.downsample.{i - 1}", f"input_blocks.{index}")
            index += 1
        for j, stage in enumerate(cast(nn.ModuleList, level)):
            yield from layer_pairs(stage, f"down.levels.{i}.{j}", f"input_blocks.{index}")
            index += 1


# --------------------------------------------------------------------------------------------------------------------
# Formats
# --------------------------------------------------------------------------------------------------------------------

IMPROVED: dict[int, Section] = {32: {"num_heads": 4, "dropout": 0.3}, 256: {"num_heads": 1, "dropout": 0.0}}
GUIDED: dict[int, Section] = {
    64: {"num_head_channels": 64, "use_new_attention_order": True, "dropout": 0.1},
    128: {"num_heads": 4, "dropout": 0.0},
    256: {"num_head_channels": 64, "dropout": 0.0},
    512: {"num_head_channels": 64, "dropout": 0.0},
}
"""The settings of the published models, by the size of their images, which their weights do not tell."""
USUAL: Section = {"num_heads": 4, "dropout": 0.0}
"""Both code bases' defaults."""
NOISE = ("schedule", "schedule.num_steps", "parameterization.label_scale", "parameterization.label_shift")


class OpenAI(Format):
    """The U-Nets of both code bases: network=adm_unet.

    Weights of convolutions between levels are taken for improved DDPM's (4000 cosine steps; label 1000 (k - 1) / 4000
    for row k, but k - 1 where there are classes; LSUN 1000 linear steps), those of residual blocks for ADM's (1000
    steps, cosine at 64x64 and linear otherwise). What the weights do not tell is that of the published models: heads,
    their order, the size of the images, the schedule, the label and dropout.
    """

    name: ClassVar[str] = "openai"
    networks: ClassVar[tuple[str, ...]] = ("adm_unet",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= weights.keys() and not any(
            "transformer_blocks" in key for key in weights
        )

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        levels = levels_of(weights, factors_of(given))
        enter = shape_of(weights, "input_blocks.0.0.weight")
        inputs, outputs = enter[1], shape_of(weights, "out.2.weight")[0]
        if inputs == outputs == 6 and "shape" not in given:
            raise ConfigError(
                "its network has 6 channels of inputs and of outputs, as the upsamplers have, which need a smaller "
                "image as a second input and cannot be imported; for data of 6 channels give shape=[6,H,W]"
            )
        shape = _shape(given, inputs, len(enter) - 2, SIZES.get(levels.mult))
        conditional = "label_emb.weight" in weights
        network = network_of("adm_unet", levels, weights, shape)
        improved = not network["resblock_updown"]
        published = {**USUAL, **(IMPROVED if improved else GUIDED).get(SIZES.get(levels.mult, 0), {})}
        if "network.num_heads" in given:
            published.pop("num_head_channels", None)
        schedule, parameterization = _noise(improved, SIZES.get(levels.mult), conditional)
        untold = [
            "network.num_heads",
            "network.num_head_channels",
            "network.use_new_attention_order",
            "network.dropout",
            "shape",
            *NOISE,
            *([] if levels.certain else ["network.channel_mult"]),
        ]
        return Published(
            network={**network, **published, "class_conditional": conditional},
            shape=shape,
            num_classes=shape_of(weights, "label_emb.weight", 2)[0] if conditional else 0,
            schedule=schedule,
            parameterization=parameterization,
            variance={"name": "learned_range" if outputs == 2 * inputs else "large"},
            guessed=tuple(key for key in untold if key not in given),
        )

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(ADMUNet, network)
        factorized = any(isinstance(layer, SpaceTimeAttention) for layer in own.modules())
        plain = any(isinstance(layer, Resampled) for layer in own.modules())
        check_expressible(
            self.name, {"network.factorized_attention=true": factorized, "network.conv_resample=false": plain}
        )
        yield from trunk_pairs(own)
        index = 0
        for i, level in enumerate(own.up.levels):
            stages = list(cast(nn.ModuleList, level))
            for j, stage in enumerate(stages):
                yield from layer_pairs(stage, f"up.levels.{i}.{j}", f"output_blocks.{index}")
                index += 1
            if i < len(own.up.upsample):
                parts = 2 if any(key.startswith("attention") for key in stages[-1].state_dict()) else 1
                last = f"output_blocks.{index - 1}"
                yield from layer_pairs(own.up.upsample[i], f"up.upsample.{i}", last, parts)


class OpenAIClassifier(Format):
    """guided-diffusion's classifiers with attention pooling: network=adm_classifier."""

    name: ClassVar[str] = "openai-classifier"
    networks: ClassVar[tuple[str, ...]] = ("adm_classifier",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.positional_embedding"} <= weights.keys()

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        levels = levels_of(weights, factors_of(given))
        enter = shape_of(weights, "input_blocks.0.0.weight")
        size = math.isqrt(shape_of(weights, "out.2.positional_embedding", 2)[1] - 1) << (len(levels.mult) - 1)
        shape = _shape(given, enter[1], len(enter) - 2, size)
        schedule, parameterization = _noise(False, size, True)
        untold = ["network.num_head_channels", "network.dropout", *NOISE]
        if not levels.certain:
            untold += ["network.channel_mult", "shape"]
        return Published(
            network={**network_of("adm_classifier", levels, weights, shape), "num_head_channels": 64, "dropout": 0.0},
            shape=shape,
            num_classes=shape_of(weights, "out.2.c_proj.bias", 1)[0],
            schedule=schedule,
            parameterization=parameterization,
            guessed=tuple(key for key in untold if key not in given),
        )

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(ADMClassifier, network)
        yield from trunk_pairs(own)
        yield transposed("pool.positions", "out.2.positional_embedding")
        for part, other in (("qkv", "qkv_proj"), ("out", "c_proj")):
            yield pointwise(f"pool.{part}.weight", f"out.2.{other}.weight", own.pool.get_parameter(f"{part}.weight"))
            yield same(f"pool.{part}.bias", f"out.2.{other}.bias")


def _shape(given: Mapping[str, Any], channels: int, dims: int, size: int | None) -> tuple[int, ...]:
    """The shape of an example: the one that was given, else square images of a published size."""
    if "shape" in given:
        shape = tuple(given["shape"])
        if len(shape) != dims + 1 or shape[0] != channels:
            raise ConfigError(
                f"shape={list(shape)}: its network takes examples of {channels} channels in {dims} dimensions; "
                f"give shape as {dims + 1} numbers, the first of them {channels}"
            )
        return shape
    if size is None or dims != 2:
        raise ConfigError(
            "its weights do not tell the size of the examples, and it is none of the published models; give "
            f"shape=[{channels},{','.join('TLHW'[-dims:] if dims > 1 else 'L')}]"
        )
    return (channels, size, size)


def _noise(improved: bool, size: int | None, conditional: bool) -> tuple[Section, Section]:
    """The schedule and the parameterization that the published models have."""
    cosine = size in (32, 64)
    steps = 4000 if improved and cosine else 1000
    schedule = {"name": "cosine" if cosine else "linear", "num_steps": steps}
    # Row k has the label 1000 (k - 1) / steps, or k - 1 in the class-conditional models.
    scale = steps if conditional else 1000
    return schedule, {"name": "epsilon", "label_scale": float(scale), "label_shift": -scale / steps}
