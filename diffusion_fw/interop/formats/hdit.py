"""k-diffusion: its transformer HDiT, ``image_transformer_v2`` (Crowson et al. 2024), with the files of its U-Net.

The kind of attention is in the config only. Its first transformer, ``image_transformer_v1``, is recognised and refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from diffusion_fw.interop.diffusion_settings import read_keys
from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.formats.k_diffusion import (
    check_constants,
    patch_of,
    preconditioned,
    read_config,
    unstated,
    unwrapped,
    written_config,
)
from diffusion_fw.interop.pairs import Pair, check_expressible, reshaped, same
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.blocks.hourglass import Block, Level, rotary_frequencies
from diffusion_fw.networks.hdit import HDiT
from diffusion_fw.registry import ConfigError, Fraction

BLOCK = re.compile(r"(down_levels\.\d{1,4}|mid_level)\.\d{1,4}\.ff\.down_proj\.weight")
LABEL_DROPOUT = 0.1
"""Of its models of classes, where a config does not say."""
DROPPED: dict[str, Any] = {"cond_dropout_rate": Fraction}
DROPOUT = 0.05
"""Of its config for CIFAR-10."""
USUAL = {"kernel_size": 7, "window_size": 8}
SIDES = {"neighborhood": "kernel_size", "shifted-window": "window_size"}
"""The side of a region, by the kind of attention."""
MAPPING = {
    "mapping.time.weight": "time_in_proj.weight",
    "mapping.augmentation.frequencies": "aug_emb.weight",
    "mapping.augmentation.linear.weight": "aug_in_proj.weight",
    "mapping.enter.weight": "mapping.in_norm.scale",
    "mapping.leave.weight": "mapping.out_norm.scale",
    "enter.linear.weight": "patch_in.proj.weight",
    "norm.weight": "out_norm.scale",
    "leave.linear.weight": "patch_out.proj.weight",
}
PERCEPTRON = {"mlp.first.weight": "up_proj.weight", "mlp.second.weight": "down_proj.weight"}
ATTENTION = {
    "attention.norm.modulation.weight": "self_attn.norm.linear.weight",
    "attention.qkv.weight": "self_attn.qkv_proj.weight",
    "attention.scale": "self_attn.scale",
    "attention.out.weight": "self_attn.out_proj.weight",
}
V1 = {"time_emb.weight", "in_proj.weight", "out_proj.weight"}
V2 = {"time_emb.weight", "patch_in.proj.weight", "mapping.in_norm.scale", "out_norm.scale"}


class KDiffusionHDiT(Format):
    """The state dict of an HDiT, ``image_transformer_v2`` of crowsonkb/k-diffusion, from the same files."""

    name: ClassVar[str] = "k-diffusion-hdit"
    networks: ClassVar[tuple[str, ...]] = ("hdit",)

    def weights(self, content: Any) -> Mapping[str, Tensor]:
        return unwrapped(super().weights(content))

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return weights.keys() >= V1 or weights.keys() >= V2

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        if weights.keys() >= V1:
            raise ConfigError(
                "these are weights of image_transformer_v1, the transformer before HDiT, which is not read"
            )
        if "mapping_cond_in_proj.weight" in weights:
            raise ConfigError("mapping_cond_in_proj.weight: a vector as a condition has no place in network=hdit")
        own, config = read_config(settings, "image_transformer_v2")
        frequencies = {key: shape_of(weights, key, 2) for key in weights if key.endswith(".pos_emb.freqs")}
        check_constants(
            weights, {key: rotary_frequencies(count, 8 * waves) for key, (count, waves) in frequencies.items()}
        )
        blocks = [found[1] for key in weights if (found := BLOCK.fullmatch(key))]
        names = [*(f"down_levels.{i}" for i in range(len({*blocks, "mid_level"}) - 1)), "mid_level"]
        widths, hidden = zip(*(shape_of(weights, f"{name}.0.ff.down_proj.weight", 2) for name in names), strict=True)
        heads = [
            shape_of(weights, key, 1)[0] if (key := f"{name}.0.self_attn.scale") in weights else 0 for name in names
        ]
        sizes = {width // count for width, count in zip(widths, heads, strict=True) if count}
        colors, patch = patch_of(shape_of(weights, "patch_in.proj.weight", 2)[1], config, given)
        rows = shape_of(weights, "class_emb.weight", 2)[0] if "class_emb.weight" in weights else 1
        network = {
            **{"name": "hdit", "widths": list(widths), "depths": [blocks.count(name) for name in names]},
            **_attention(config, heads),
            "num_head_channels": _one("num_head_channels", sizes, 64),
            "patch": patch,
            "mlp_ratio": hidden[-1] // widths[-1],
            "mapping_width": shape_of(weights, "mapping.in_norm.scale", 1)[0],
            "mapping_depth": sum(key.startswith("mapping.blocks.") and key.endswith("norm.scale") for key in weights),
            "dropout": config.get("dropout_rate") or 0.0 if config else DROPOUT,
        }
        dropped = read_keys(settings.get("dataset", {}), DROPPED, {"cond_dropout_rate": LABEL_DROPOUT}, "config")
        return Published(
            network,
            tuple(given.get("shape") or (colors, *own["input_size"])),
            rows - 1,
            *preconditioned(own),
            label_dropout=dropped["cond_dropout_rate"] if rows > 1 else 0.0,
            guessed=unstated(config, given, ("shape", "network.attention", "network.dropout")),
        )

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        return {
            f"{theirs}.self_attn.pos_emb.freqs": rotary_frequencies(
                block.attention.num_heads, block.attention.qkv.in_features // block.attention.num_heads
            )
            for _, theirs, block in _blocks(cast(HDiT, network))
            if block.attention is not None
        }

    def config(self, model: Published, network: nn.Module) -> Mapping[str, Any]:
        section, own = model.network, cast(HDiT, network)
        head = {"d_head": section["num_head_channels"]}
        written = {
            **{key: section[key] for key in ("widths", "depths", "mapping_width", "mapping_depth")},
            "patch_size": [section["patch"]] * 2,
            "self_attns": [
                {"type": kind, **head, **({SIDES[kind]: section[SIDES[kind]]} if kind in SIDES else {})}
                for kind in section["attention"]
            ],
            "d_ffs": [section["mlp_ratio"] * width for width in section["widths"]],
            "mapping_d_ff": section["mlp_ratio"] * section["mapping_width"],
            "dropout_rate": section["dropout"],
        }
        classes = model.num_classes if own.class_conditional else 0
        return written_config("image_transformer_v2", model, written, {"num_classes": classes})

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(HDiT, network)
        inputs, outputs = own.enter.linear.in_features, own.leave.linear.out_features
        check_expressible(self.name, {"a learned variance": inputs != outputs})
        return _pairs(own)


def _attention(config: Mapping[str, Any], heads: Sequence[int]) -> Section:
    """The kind of attention of each level, and the sides of its regions."""
    usual: list[dict[str, Any]] = [{"type": "neighborhood"}] * (len(heads) - 1) + [{"type": "global"}]
    stated = config.get("self_attns") or usual
    found: Section = {
        "attention": [item["type"] if count else "none" for item, count in zip(stated, heads, strict=True)]
    }
    for kind, key in SIDES.items():
        sides: set[int] = {item[key] for item in stated if item["type"] == kind and key in item}
        found[key] = _one(key, sides, USUAL[key])
    return found


def _one(key: str, values: set[int], usual: int) -> int:
    """The one of the values; ``usual`` if there is none, ConfigError where there are several."""
    if len(values) > 1:
        raise ConfigError(f"its levels have several {key}: {sorted(values)}; network=hdit has one for all")
    return next(iter(values), usual)


def _blocks(network: HDiT) -> Iterator[tuple[str, str, Block]]:
    """(our name, their name, block)."""
    last = len(network.down) - 1
    for way in ("down", "up"):
        for i, level in enumerate(cast(Iterable[Level], network.get_submodule(way))):
            name = "mid_level" if (way, i) == ("down", last) else f"{way}_levels.{i}"
            for j, block in enumerate(level.blocks):
                yield f"{way}.{i}.blocks.{j}", f"{name}.{j}", cast(Block, block)


def _pairs(network: HDiT) -> Iterator[Pair]:
    for ours, theirs in MAPPING.items():
        yield same(ours, theirs)
    waves = tuple(network.mapping.waves.frequencies.shape)
    yield reshaped("mapping.waves.frequencies", "time_emb.weight", waves, (*waves, 1))
    if network.class_conditional:
        yield same("mapping.classes.table.weight", "class_emb.weight")
    for i in range(len(network.mapping.blocks)):
        yield same(f"mapping.blocks.{i}.norm.weight", f"mapping.blocks.{i}.norm.scale")
        for own, other in PERCEPTRON.items():
            yield same(f"mapping.blocks.{i}.{own}", f"mapping.blocks.{i}.{other}")
    for name, theirs, block in _blocks(network):
        yield same(f"{name}.norm.modulation.weight", f"{theirs}.ff.norm.linear.weight")
        for own, other in PERCEPTRON.items():
            yield same(f"{name}.{own}", f"{theirs}.ff.{other}")
        for own, other in ATTENTION.items() if block.attention is not None else ():
            yield same(f"{name}.{own}", f"{theirs}.{other}")
    for i in range(len(network.merges)):
        yield same(f"merges.{i}.linear.weight", f"merges.{i}.proj.weight")
        yield same(f"joins.{i}.split.linear.weight", f"splits.{i}.proj.weight")
        yield same(f"joins.{i}.fraction", f"splits.{i}.fac")
