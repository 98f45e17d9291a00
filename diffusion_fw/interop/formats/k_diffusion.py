"""k-diffusion: its U-Net ``image_v1`` (Crowson 2022), under the preconditioning of Karras et al. 2022.

Its training files hold the config beside the weights, and its files of safetensors have it in their metadata. A network
in the wrapper of the augmentation has the prefix inner_model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from diffusion_fw.interop.diffusion_settings import read_keys
from diffusion_fw.interop.formats.format import Format, Published, Section, without_prefix
from diffusion_fw.interop.pairs import Pair, check_expressible, reshaped, same
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.blocks.resampling import FIR
from diffusion_fw.networks.k_diffusion_unet import KDiffusionUNet
from diffusion_fw.networks.k_diffusion_unet import Layer as KDiffusionLayer
from diffusion_fw.registry import ConfigError, Positive, PositiveInt

WRAPPED = "inner_model."
AUGMENTATIONS = 9
"""The numbers that describe an augmentation."""
COLORS = (3, 1, 4)
"""Channels of images, the most usual first."""
TYPES: dict[str, Any] = {
    "input_size": tuple[PositiveInt, ...],
    "sigma_data": Positive,
    "sigma_min": Positive,
    "sigma_max": Positive,
}
DROPOUT = 0.05
PUBLISHED = {"input_size": (32, 32), "sigma_data": 0.5, "sigma_min": 0.01, "sigma_max": 80.0}
"""Of its config for CIFAR-10, as is DROPOUT."""
UNSTATED = {**PUBLISHED, "sigma_data": 1.0}
"""Its defaults for what a config leaves out."""
LAYER = re.compile(r"u_net\.d_blocks\.(\d{1,4})\.\d{1,4}\.main\.2\.weight")
MAPPING = {"mapping.first": "mapping.0", "mapping.second": "mapping.2", "enter": "proj_in", "leave": "proj_out"}
RESIDUAL = {
    "norm1.modulation": "main.0.mapper",
    "conv1": "main.2",
    "norm2.modulation": "main.4.mapper",
    "conv2": "main.6",
}


class KDiffusion(Format):
    """The state dict of an ``image_v1`` of crowsonkb/k-diffusion, from a training file or its slim safetensors."""

    name: ClassVar[str] = "k-diffusion"
    networks: ClassVar[tuple[str, ...]] = ("k_diffusion_unet",)

    def weights(self, content: Any) -> Mapping[str, Tensor]:
        return unwrapped(super().weights(content), f"{WRAPPED}mapping_cond.weight")

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        own = {"timestep_embed.weight", "mapping.0.weight", "proj_in.weight", "proj_out.weight"}
        return own <= without_prefix(weights, WRAPPED).keys()

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        augment_dim = AUGMENTATIONS if all(key.startswith(WRAPPED) for key in weights) else 0
        weights = without_prefix(weights, WRAPPED)
        if crossed := [key for key in weights if key.endswith(".kv_proj.weight")]:
            raise ConfigError(
                f"{crossed[0]}: cross-attention (cross_cond_dim) has no place in network=k_diffusion_unet"
            )
        line = torch.tensor(FIR) / sum(FIR)
        filters = {key: torch.outer(line, line) for key in weights if key.endswith(".kernel")}
        check_constants(weights, {key: value * (4 if ".u_blocks." in key else 1) for key, value in filters.items()})
        own, config = read_config(settings, "image_v1")
        layers = [int(found[1]) for key in weights if (found := LAYER.fullmatch(key))]
        levels = range(len(set(layers)))
        halved = sum(f"u_net.d_blocks.{i}.0.kernel" in weights for i in levels)
        values, left = (shape_of(weights, f"{key}.weight", 4)[axis] for key, axis in (("proj_in", 1), ("proj_out", 0)))
        if not 0 <= left - values <= 1:
            raise ConfigError(
                f"proj_in takes {values} values and proj_out gives {left}: a condition that is an image "
                "(unet_cond_dim) has no place in network=k_diffusion_unet"
            )
        colors, patch = patch_of(values, config, given)
        classes = _columns(weights) - augment_dim
        if classes < 0 or (classes and given.get("num_classes") != classes):
            raise ConfigError(
                f"mapping_cond.weight has {_columns(weights)} columns, {augment_dim} of them for the augmentation; "
                "a condition can be read if it is the class as a one-hot vector: state "
                f"num_classes={max(classes, 1)} if so"
            )
        network: Section = {
            "name": "k_diffusion_unet",
            "channels": [shape_of(weights, f"u_net.d_blocks.{i}.1.main.2.weight", 4)[0] for i in levels],
            "depths": [layers.count(i) for i in levels],
            "self_attn_depths": [f"u_net.d_blocks.{i}.2.qkv_proj.weight" in weights for i in levels],
            "mapping_out": shape_of(weights, "mapping.0.weight", 2)[0],
            "patch": patch,
            "skip_stages": len(levels) - 1 - halved,
            "dropout": config.get("dropout_rate", 0.0) if config else DROPOUT,
            "augment_dim": augment_dim,
            "has_variance": left > values,
        }
        open_keys = ("shape", "network.dropout", *(() if values in COLORS else ("network.patch",)))
        return Published(
            network,
            tuple(given.get("shape") or (colors, *own["input_size"])),
            classes,
            *preconditioned(own),
            guessed=unstated(config, given, open_keys),
        )

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        own = cast(KDiffusionUNet, network)
        prefix, last = _prefix(own), len(own.down) - 1
        found = {}
        for i in range(own.skip_stages + 1, last + 1):
            found[f"{prefix}u_net.d_blocks.{i}.0.kernel"] = own.halved.kernel[0, 0]
            modules = sum(len(list(layer.children())) for layer in cast(nn.ModuleList, own.up[i]))
            found[f"{prefix}u_net.u_blocks.{last - i}.{modules}.kernel"] = 4 * own.doubled.kernel[0, 0]
        return found

    def config(self, model: Published, network: nn.Module) -> Mapping[str, Any]:
        own = cast(KDiffusionUNet, network)
        section = model.network
        written = {
            "patch_size": own.patch,
            "dropout_rate": section["dropout"],
            "augment_wrapper": own.augment_dim > 0,
            "mapping_cond_dim": model.num_classes if own.class_conditional else 0,
            **{key: section[key] for key in ("mapping_out", "depths", "channels", "self_attn_depths")},
            **{key: section[key] for key in ("skip_stages", "has_variance")},
        }
        return written_config("image_v1", model, written)

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(KDiffusionUNet, network)
        check_expressible(
            self.name,
            {
                "a learned variance": own.values != own.enter.in_channels,
                f"network.augment_dim={own.augment_dim} instead of 0 or {AUGMENTATIONS}": own.augment_dim
                not in (0, AUGMENTATIONS),
            },
        )
        prefix = _prefix(own)
        for pair in _pairs(own):
            yield Pair(pair.ours, tuple(f"{prefix}{key}" for key in pair.theirs), pair.read, pair.write)


def unwrapped(weights: Mapping[str, Tensor], needed: str = "") -> Mapping[str, Tensor]:
    """The weights without the prefixes of wrappers; the last one stays where it makes the key ``needed``."""
    while weights and needed not in weights and all(key.startswith(WRAPPED) for key in weights):
        weights = without_prefix(weights, WRAPPED)
    return weights


def check_constants(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ConfigError for an entry that should have the ``expected`` values, up to the rounding of 16 bits, and has not."""
    for key, value in expected.items():
        if weights[key].shape != value.shape or not torch.allclose(weights[key].float(), value, rtol=0.01):
            raise ConfigError(
                f"{key}: k-diffusion computes it, in the shape {tuple(value.shape)}; the values here are others, which "
                "are not read"
            )


def read_config(settings: Mapping[str, Any], kind: str) -> tuple[Section, Mapping[str, Any]]:
    """(what describes the preconditioning, the section ``model``) of a config; without one, the published values, {}.

    Raises ConfigError for a config of another type of network.
    """
    config = settings.get("model", {})
    if config and config.get("type") != kind:
        raise ConfigError(f"its config describes a network of type {config.get('type')!r:.100}, its weights {kind!r}")
    return read_keys(config, TYPES, UNSTATED if config else PUBLISHED, "config"), config


def preconditioned(own: Mapping[str, Any]) -> tuple[Section, Section]:
    """The schedule and the parameterization of Karras et al.'s preconditioning."""
    schedule = {"name": "edm", "sigma_min": own["sigma_min"], "sigma_max": own["sigma_max"]}
    return schedule, {"name": "edm", "sigma_data": own["sigma_data"]}


def unstated(config: Mapping[str, Any], given: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    """Those of the ``keys``, and of the preconditioning, that neither a config nor the user states."""
    found = (*keys, "parameterization.sigma_data", "schedule")
    return () if config else tuple(key for key in found if key not in given)


def written_config(
    kind: str, model: Published, network: Mapping[str, Any], dataset: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """A config of k-diffusion for a network of its type ``kind`` under the preconditioning of a model.

    Raises ConfigError for another parameterization.
    """
    section = model.parameterization
    label = [section.get(key) for key in ("label_of", "label_scale", "label_shift")]
    if section["name"] != "edm" or label != ["log_sigma", 0.25, 0.0]:
        raise ConfigError(
            f"parameterization={section['name']} with the label {label[1]} {label[0]} + {label[2]} has no wrapper in "
            "k-diffusion, which has that of parameterization=edm with the label 0.25 log_sigma"
        )
    levels = {key: model.schedule.get(key, PUBLISHED[key]) for key in ("sigma_min", "sigma_max")}
    return {
        "model": {
            "type": kind,
            "input_channels": model.shape[0],
            "input_size": list(model.shape[1:]),
            **network,
            "sigma_data": section["sigma_data"],
            **levels,
            "sigma_sample_density": {"type": "cosine-interpolated"},
        },
        "dataset": {"type": "imagefolder", "location": "/path/to/dataset", **(dataset or {})},
    }


def patch_of(values: int, config: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[int, int]:
    """(channels, side of a patch) of an image that gives so many ``values`` a patch: as stated, or the most usual."""
    shape = given.get("shape") or ()
    stated = shape[0] if shape else config.get("input_channels")
    for colors in (stated,) if stated else COLORS:
        if isinstance(colors, int) and colors > 0 and colors * math.isqrt(values // colors) ** 2 == values:
            return colors, math.isqrt(values // colors)
    raise ConfigError(f"its first layer takes {values} values, which no square patch of an image has; state shape")


def _columns(weights: Mapping[str, Tensor]) -> int:
    """The conditions of the mapping, 0 if it has none."""
    return shape_of(weights, "mapping_cond.weight", 2)[1] if "mapping_cond.weight" in weights else 0


def _prefix(network: KDiffusionUNet) -> str:
    return WRAPPED if network.augment_dim else ""


def _pairs(network: KDiffusionUNet) -> Iterator[Pair]:
    waves = tuple(network.mapping.waves.frequencies.shape)
    yield reshaped("mapping.waves.frequencies", "timestep_embed.weight", waves, (*waves, 1))
    if network.augment_dim or network.class_conditional:
        yield same("mapping.conditions.linear.weight", "mapping_cond.weight")
    for ours, theirs in MAPPING.items():
        yield from _layer(ours, theirs)
    last = len(network.down) - 1
    for i, (down, up) in enumerate(zip(network.down, network.up, strict=True)):
        # The first module of a level on the way down resamples, or does nothing.
        yield from _level(cast(nn.ModuleList, down), f"down.{i}", f"u_net.d_blocks.{i}", 1)
        yield from _level(cast(nn.ModuleList, up), f"up.{i}", f"u_net.u_blocks.{last - i}", 0)


def _level(level: nn.ModuleList, ours: str, theirs: str, place: int) -> Iterator[Pair]:
    for j, layer in enumerate(cast(Iterable[KDiffusionLayer], level)):
        for own, other in RESIDUAL.items():
            yield from _layer(f"{ours}.{j}.block.{own}", f"{theirs}.{place}.{other}")
        if isinstance(layer.block.skip, nn.Conv2d):
            yield same(f"{ours}.{j}.block.skip.weight", f"{theirs}.{place}.skip.weight")
        place += 1
        if layer.attention is None:
            continue
        yield from _layer(f"{ours}.{j}.attention.norm.modulation", f"{theirs}.{place}.norm_in.mapper")
        for own, other in (("qkv", "qkv_proj"), ("out", "out_proj")):
            name = f"{ours}.{j}.attention.{own}"
            shape = layer.attention.get_submodule(own).get_parameter("weight").shape
            yield reshaped(f"{name}.weight", f"{theirs}.{place}.{other}.weight", shape, (*shape, 1, 1))
            yield same(f"{name}.bias", f"{theirs}.{place}.{other}.bias")
        place += 1


def _layer(ours: str, theirs: str) -> Iterator[Pair]:
    yield same(f"{ours}.weight", f"{theirs}.weight")
    yield same(f"{ours}.bias", f"{theirs}.bias")
