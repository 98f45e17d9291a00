"""ncsn and ncsnv2: the RefineNets of Song & Ermon 2019 and 2020.

Their data are in [0, 1], and the networks map them to [-1, 1] by 2 x - 1. So the same weights see data in [-1, 1] at
twice the noise, which is how they are described here. NCSN's output is the score, which halves where the data double:
its last layer takes the factor. NCSNv2's is divided by sigma, and stays as it is. NCSN counts its noise levels from the
largest, we count them from the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.pairs import Pair, same
from diffusion_fw.interop.shapes import noise_levels, shape_of
from diffusion_fw.networks.blocks.refinenet import ConvUnits, RefineBlock, RefineNet, ResidualBlock
from diffusion_fw.networks.ncsn import LevelNorm
from diffusion_fw.registry import ConfigError

STAGES = {4: "1 2 3 4", 5: "1 2 3 4 5", 6: "1 2 3 31 4 5"}
REFINEMENTS = {4: "1 2 3 4", 5: "1 2 3 4 5", 6: "1 2 31 3 4 5"}
"""The numbers in the names of the stages and of their refinements, by how many there are."""
SIDES = {4: 32, 5: 128, 6: 256}
"""The papers' sizes of colour images."""
SIGMA_MAX, SIGMA_MIN = 1.0, 0.01
"""NCSN's noise levels, which its weights do not tell."""


class NCSN(Format):
    """The list [model, optimizer, epoch, step, averages] of a checkpoint, whose last three NCSN does not have."""

    name: ClassVar[str] = "ncsn"
    grid: ClassVar[Section] = {"name": "uniform"}
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("ncsn", "ncsnv2")

    def weights(self, content: Any) -> Mapping[str, Tensor]:
        if not isinstance(content, (list, tuple)):
            return super().weights(content)
        held = [super(NCSN, self).weights(item) for item in (*content[:1], *content[4:5])]
        return {key: value for weights in held for key, value in weights.items()}

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        of_either = {"normalizer.embed.weight", "normalizer.gamma"} & weights.keys()
        return bool(of_either) and {"begin_conv.weight", "refine4.crp.convs.1.weight"} <= weights.keys()

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        channels, colors, *_ = shape_of(weights, "begin_conv.weight", 4)
        count = len({key.partition(".")[0] for key in weights if key.startswith("res")})
        if count not in STAGES:
            raise ConfigError(f"the weights have {count} stages, but the networks of ncsn and ncsnv2 have 4, 5 or 6")
        widths = [shape_of(weights, f"res{number}.1.conv1.weight", 4)[0] for number in STAGES[count].split()]
        side = 28 if colors == 1 else SIDES[count]
        sizes: Section = {"channels": channels, "channel_mult": [width // channels for width in widths]}
        shape = tuple(given.get("shape", (colors, side, side)))
        if "normalizer.embed.weight" in weights:
            levels, _ = shape_of(weights, "normalizer.embed.weight", 2)
            label = {"label_of": "time", "label_scale": float(levels), "label_shift": -1.0}
            return Published(
                {"name": "ncsn", **sizes, "num_levels": levels},
                shape,
                schedule=_schedule(SIGMA_MAX, SIGMA_MIN, levels),
                parameterization={"name": "score", **label},
                guessed=("shape", "schedule.sigma_max", "schedule.sigma_min"),
            )
        return Published(
            {"name": "ncsnv2", **sizes},
            shape,
            schedule=_schedule(*noise_levels(weights)),
            parameterization={"name": "score", "scale_by_sigma": True},
            guessed=("shape",),
        )

    def sampler_of(self, model: Published, settings: Mapping[str, Any]) -> Section:
        """The steps of the papers' code for CIFAR-10: 100 a level without a last denoising, or 5 with one."""
        original = model.network["name"] == "ncsn"
        per_level = {"steps_per_level": 100, "denoise": False} if original else {"steps_per_level": 5}
        return {"name": "annealed_langevin", "steps": model.schedule["num_steps"], **per_level}

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        if model.network["name"] == "ncsn":
            return {}
        first, last = (math.log(model.schedule[key] / 2) for key in ("sigma_max", "sigma_min"))
        count = model.schedule["num_steps"]
        return {"sigmas": torch.linspace(first, last, count, dtype=torch.float64).exp().float()}

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        assert isinstance(network, RefineNet)
        count = len(network.stages)
        if count not in STAGES:
            raise ConfigError(
                f"the code of ncsn and ncsnv2 has networks of 4, 5 or 6 stages, but network.channel_mult has {count} "
                "factors"
            )
        yield from _layer(network.enter, "enter", "begin_conv")
        yield from _norm(network.norm, "norm", "normalizer")
        halved = isinstance(network.norm, LevelNorm)
        for key in ("weight", "bias"):
            yield _doubled(f"leave.{key}", f"end_conv.{key}") if halved else same(f"leave.{key}", f"end_conv.{key}")
        for i, number in enumerate(STAGES[count].split()):
            for j, block in enumerate(cast(nn.ModuleList, network.stages[i])):
                yield from _residual(block, f"stages.{i}.{j}", f"res{number}.{j}")
        for i, number in enumerate(REFINEMENTS[count].split()):
            yield from _refinement(network.refine[i], f"refine.{i}", f"refine{number}")


def _schedule(largest: float, smallest: float, count: int) -> Section:
    """The noise levels for data in [-1, 1] of those for data in [0, 1]."""
    ends = {"sigma_max": largest, "sigma_min": smallest}
    # The table of a checkpoint is rounded to float32.
    return {"name": "ncsn", **{key: float(f"{2 * sigma:.6g}") for key, sigma in ends.items()}, "num_steps": count}


def _layer(module: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    """The parameters of a layer, which have the same names in both."""
    for key, _ in module.named_parameters(recurse=False):
        yield same(f"{ours}.{key}", f"{theirs}.{key}")


def _doubled(ours: str, theirs: str) -> Pair:
    """Twice ours is theirs."""
    return Pair(ours, (theirs,), lambda tensors: tensors[0] / 2, lambda tensor: (2 * tensor,))


def _norm(module: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    """The rows of a table in the other order, or the parameters of all levels, or nothing."""
    if isinstance(module, LevelNorm):
        yield Pair(
            f"{ours}.table.weight",
            (f"{theirs}.embed.weight",),
            lambda tensors: tensors[0].flip(0),
            lambda tensor: (tensor.flip(0),),
        )
    yield from _layer(module, ours, theirs)


def _residual(block: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    assert isinstance(block, ResidualBlock)
    pooled = ".conv" if isinstance(block.pool, nn.AvgPool2d) else ""
    for own, other in (("conv1", "conv1"), ("conv2", f"conv2{pooled}"), ("skip", f"shortcut{pooled}")):
        yield from _layer(block.get_submodule(own), f"{ours}.{own}", f"{theirs}.{other}")
    for number in (1, 2):
        yield from _norm(block.get_submodule(f"norm{number}"), f"{ours}.norm{number}", f"{theirs}.normalize{number}")


def _refinement(block: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    assert isinstance(block, RefineBlock)
    for i, units in enumerate(block.adapt):
        yield from _units(units, f"{ours}.adapt.{i}", f"{theirs}.adapt_convs.{i}")
    yield from _units(block.units, f"{ours}.units", f"{theirs}.output_convs")
    for own, other in (("fusion", "msf"), ("pooling", "crp")):
        module = getattr(block, own)
        for i in range(2 if module is not None else 0):
            yield from _norm(module.norms[i], f"{ours}.{own}.norms.{i}", f"{theirs}.{other}.norms.{i}")
            yield from _layer(module.convs[i], f"{ours}.{own}.convs.{i}", f"{theirs}.{other}.convs.{i}")


def _units(units: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    assert isinstance(units, ConvUnits)
    for i, (norm, conv) in enumerate(zip(units.norms, units.convs, strict=True)):
        place = f"{theirs}.{i // 2 + 1}_{i % 2 + 1}"
        yield from _norm(norm, f"{ours}.norms.{i}", f"{place}_norm")
        yield from _layer(conv, f"{ours}.convs.{i}", f"{place}_conv")
