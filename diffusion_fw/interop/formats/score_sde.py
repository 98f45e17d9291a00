"""score_sde_pytorch: the NCSN++ and DDPM++ models of Song et al. 2021.

Its modules are numbered in the order in which they act: all_modules.N.NAME. The VE models see data in [0, 1], which
they map to [-1, 1] by 2 x - 1. So the same weights see data in [-1, 1] at twice the noise, which is how they are
described here: sigma_min and sigma_max are doubled, and the label is log(sigma / 2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section, without_prefix
from diffusion_fw.interop.pairs import Pair, same, stacked, transposed
from diffusion_fw.interop.shapes import noise_levels, shape_of
from diffusion_fw.networks.blocks.embeddings import FourierFeatures
from diffusion_fw.networks.blocks.resampling import Filter
from diffusion_fw.networks.ncsnpp import (
    Attention,
    InputResidual,
    InputSkip,
    NCSNpp,
    OutputResidual,
    ResidualBlock,
)
from diffusion_fw.registry import ConfigError

SIGMA_MIN, SIGMA_MAX, NUM_SCALES = 0.01, 50.0, 1000
"""The table of noise levels of a model for CIFAR-10."""

PARTS: dict[type[nn.Module], dict[str, str]] = {
    ResidualBlock: {
        "norm1": "GroupNorm_0",
        "conv1": "Conv_0",
        "embedding": "Dense_0",
        "norm2": "GroupNorm_1",
        "conv2": "Conv_1",
        "skip": "Conv_2",
    },
    Attention: {"norm": "GroupNorm_0"},
    InputSkip: {"conv": "Conv_0"},
    InputResidual: {"down.conv": "Conv2d_0"},
    OutputResidual: {"up.conv": "Conv2d_0"},
    **{kind: {"": ""} for kind in (nn.Conv2d, nn.GroupNorm, nn.Linear, FourierFeatures)},
}
"""The numbered modules, and the names of the layers within each, ours and theirs."""
RENAMED = {"frequencies": "W"}


class ScoreSDE(Format):
    """``model`` and the averages ``ema`` of a checkpoint, whose module names begin with all_modules."""

    name: ClassVar[str] = "score_sde"
    grid: ClassVar[Section] = {"name": "uniform"}
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("ncsnpp", "ddpmpp")

    def weights(self, content: Any) -> Mapping[str, Tensor]:
        averaged = content.get("ema") if isinstance(content, Mapping) else None
        if not isinstance(averaged, Mapping) or "shadow_params" not in averaged or "model" not in content:
            return super().weights(content)
        model = without_prefix(content["model"], "module.")
        averages = averaged["shadow_params"]
        trained = [key for key, value in model.items() if key not in ("sigmas", "all_modules.0.W")]
        if [model[key].shape for key in trained] != [value.shape for value in averages]:
            raise ConfigError(
                f"the averages of this checkpoint do not fit its model: {len(averages)} averages for {len(trained)} "
                "trained weights, or other shapes"
            )
        return {**model, **dict(zip(trained, averages, strict=True))}

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        numbered = all(key == "sigmas" or NUMBERED.fullmatch(key) for key in weights)
        # Among the models of this code base, only those with BigGAN's blocks have this layer.
        return numbered and any(key.endswith(".Conv_2.weight") for key in weights)

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        modules = _modules(weights)
        kinds = [_kind(number, module) for number, module in enumerate(modules)]
        fourier = kinds[0] == "fourier"
        levels = kinds.count("resampling") // 2 + 1
        blocks = (kinds.count("block") - 2 - levels) // (2 * levels)
        if blocks < 1 or kinds.count("block") != 2 + levels + 2 * levels * blocks or "conv" not in kinds:
            raise ConfigError(
                f"missing or left over: {kinds.count('block')} residual blocks on {levels} levels are no NCSN++ or "
                "DDPM++, in which each level has the same number"
            )
        channels, colors, *_ = modules[kinds.index("conv")]["weight"].shape
        at = kinds.index("conv") + 1
        channel_mult, attended = [], []
        for _ in range(levels):
            if at + 1 >= len(kinds):
                raise ConfigError(f"missing: modules after all_modules.{len(kinds) - 1}, or one is of another shape")
            channel_mult.append(modules[at]["Conv_0.weight"].shape[0] // channels)
            attended.append(kinds[at + 1] == "attention")
            at += blocks * (2 if attended[-1] else 1)
            if len(attended) < levels:
                at += 2 if kinds[at + 1] in ("skip", "pyramid") else 1
        inputs = {"skip": "input_skip", "pyramid": "residual"}
        progressive_input = next((inputs[kind] for kind in kinds[:at] if kind in inputs), "none")
        progressive_output = "none"
        if "pyramid" in kinds[at:]:
            progressive_output = "residual"
        elif kinds[at:].count("norm") > 1:
            progressive_output = "output_skip"
        side = 16 << attended.index(True) if any(attended) else 32
        shape = tuple(given.get("shape", (colors, side, side)))
        sides = [max(shape[1:]) >> level for level in range(levels)]
        network: Section = {
            "name": "ddpmpp",
            "channels": channels,
            "channel_mult": channel_mult,
            "num_res_blocks": blocks,
            "attention_resolutions": [size for size, has in zip(sides, attended, strict=True) if has],
            "dropout": given.get("network.dropout", 0.1 if max(shape[1:]) <= 64 else 0.0),
            "class_conditional": False,
        }
        plain = not fourier and progressive_input == progressive_output == "none"
        resampled = [module for module, kind in zip(modules, kinds, strict=True) if kind == "pyramid"]
        fir = given.get("network.fir", not plain and all("Conv2d_0.weight" in module for module in resampled))
        if fir or not plain:
            network |= {
                "name": "ncsnpp",
                "embedding": "fourier" if fourier else "positional",
                "fir": fir,
                "progressive_input": progressive_input,
                "progressive_output": progressive_output,
            }
        choices = SDES[fourier]
        sde = given.get("schedule", next(iter(choices)))
        if sde not in choices:
            raise ConfigError(
                f"schedule={sde}: {'a' if fourier else 'no'} Fourier embedding of log sigma was found; choose "
                f"schedule={'|'.join(choices)}"
            )
        schedule, parameterization = choices[sde](weights)
        return Published(
            network,
            shape,
            schedule={"name": sde, **schedule},
            parameterization=parameterization,
            guessed=("shape", "network.fir", "network.dropout", "schedule"),
        )

    def sampler_of(self, model: Published, settings: Mapping[str, Any]) -> Section:
        """Of its configs for CIFAR-10: predictor and corrector where the variance explodes, the predictor elsewhere."""
        kind = model.schedule["name"]
        if kind in ("ve", "ncsn"):
            return {"name": "predictor_corrector", "steps": NUM_SCALES, "snr": 0.16}
        return {"name": "ddpm" if "num_steps" in model.schedule else "euler_maruyama", "steps": NUM_SCALES}

    def constants(self, model: Published, network: nn.Module) -> Mapping[str, Tensor]:
        table = model.schedule.get("sigma_max", 2 * SIGMA_MAX), model.schedule.get("sigma_min", 2 * SIGMA_MIN)
        first, last = (math.log(sigma / 2) for sigma in table)
        count = model.schedule.get("num_steps", NUM_SCALES)
        return {"sigmas": torch.linspace(first, last, count, dtype=torch.float64).exp()}

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        assert isinstance(network, NCSNpp)
        if network.class_conditional or network.embedding.augmentation is not None:
            raise ConfigError(
                "score_sde has no networks with classes or augmentation labels; choose the format edm, or train with "
                "network.class_conditional=false and network.augment_dim=0"
            )
        filtered = all(module.reach > 1 for module in network.modules() if isinstance(module, Filter))
        if not filtered and any(isinstance(module, InputResidual) for module in network.inputs):
            raise ConfigError(
                "score_sde has no filter-free network with network.progressive_input=residual; train with "
                "network.fir=true"
            )
        names = {module: name for name, module in network.named_modules()}
        for index, module in enumerate(_in_order(network)):
            ours, theirs = names[module], f"all_modules.{index}"
            for own, other in PARTS[type(module)].items():
                layer = module.get_submodule(own)
                for key in (*layer._parameters, *layer._buffers):
                    there = _joined(theirs, other if filtered else other.replace("2d", ""), RENAMED.get(key, key))
                    yield same(_joined(ours, own, key), there)
            if isinstance(module, Attention):
                yield from _attention(ours, theirs)


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)


NUMBERED = re.compile(r"all_modules\.(\d{1,4})\.(.+)")


def _modules(weights: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights of each numbered module, by their names within it."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in weights.items():
        if numbered := NUMBERED.fullmatch(key):
            found.setdefault(int(numbered[1]), {})[numbered[2]] = value
    absent = [f"all_modules.{number}" for number in range(max(found)) if number not in found]
    if absent:
        raise ConfigError(f"missing: all weights of {', '.join(absent[:12])}; the modules are numbered without gaps")
    return [found[number] for number in sorted(found)]


def _kind(number: int, module: Mapping[str, Tensor]) -> str:
    """What a module is, by the names and shapes of its weights."""
    if "NIN_3.W" in module:
        return "attention"
    if "W" in module:
        return "fourier"
    if "Conv2d_0.weight" in module:
        return "pyramid"
    named = {f"all_modules.{number}.{name}": value for name, value in module.items()}
    if "GroupNorm_0.weight" in module:
        outs, ins, *_ = shape_of(named, f"all_modules.{number}.Conv_0.weight", 4)
        return "resampling" if ins == outs and "Conv_2.weight" in module else "block"
    if "Conv_0.weight" in module:
        return "skip" if shape_of(named, f"all_modules.{number}.Conv_0.weight", 4)[-1] == 1 else "pyramid"
    axes = module["weight"].ndim if "weight" in module else 0
    return {1: "norm", 2: "linear"}.get(axes) or ("conv" if shape_of(named, f"all_modules.{number}.weight", 4) else "")


def _in_order(network: NCSNpp) -> Iterator[nn.Module]:
    """The modules with weights in the order in which they act."""
    yield from _flat(network.embedding)
    yield network.enter
    for i, level in enumerate(network.down):
        if i > 0:
            yield from _flat(network.downsample[i - 1])
            yield from _flat(network.inputs[i - 1])
        yield from _flat(level)
    yield from _flat(network.middle)
    for i, level in enumerate(network.up):
        if i > 0:
            yield from _flat(network.upsample[i - 1])
        yield from _flat(level)
        yield from _flat(network.outputs[i])
    if network.leave is not None:
        yield from _flat(network.leave)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """A numbered module, or those in a container; an attention comes after its block."""
    if type(module) in PARTS:
        yield module
        if isinstance(module, ResidualBlock):
            yield from _flat(module.attention)
    else:
        for child in module.children():
            yield from _flat(child)


def _attention(ours: str, theirs: str) -> Iterator[Pair]:
    """Query, key and value, which are one layer here, and the output; their matrices are (inputs, outputs)."""
    matrices = tuple(f"{theirs}.NIN_{number}.W" for number in range(3))
    yield Pair(
        f"{ours}.qkv.weight",
        matrices,
        lambda tensors: torch.cat([tensor.mT for tensor in tensors]),
        lambda tensor: [part.mT for part in tensor.chunk(3)],
    )
    yield stacked(f"{ours}.qkv.bias", [f"{theirs}.NIN_{number}.b" for number in range(3)])
    yield transposed(f"{ours}.out.weight", f"{theirs}.NIN_3.W")
    yield same(f"{ours}.out.bias", f"{theirs}.NIN_3.b")


def _table(weights: Mapping[str, Tensor]) -> tuple[Section, int]:
    """The noise levels for data in [-1, 1] of a model for data in [0, 1], and their number."""
    largest, smallest, count = noise_levels(weights) if "sigmas" in weights else (SIGMA_MAX, SIGMA_MIN, NUM_SCALES)
    # The table went through a logarithm.
    return {"sigma_max": float(f"{2 * largest:.6g}"), "sigma_min": float(f"{2 * smallest:.6g}")}, count


def _ve(weights: Mapping[str, Tensor]) -> tuple[Section, Section]:
    label = {"label_of": "log_sigma", "label_scale": 1.0, "label_shift": -math.log(2)}
    return _table(weights)[0], {"name": "score", "scale_by_sigma": True, **label}


def _ncsn(weights: Mapping[str, Tensor]) -> tuple[Section, Section]:
    ends, count = _table(weights)
    label = {"label_of": "time", "label_scale": -float(count), "label_shift": float(count)}
    return {**ends, "num_steps": count}, {"name": "score", "scale_by_sigma": True, **label}


def _vp(weights: Mapping[str, Tensor]) -> tuple[Section, Section]:
    return {}, {"name": "epsilon", "label_of": "time", "label_scale": 999.0, "label_shift": 0.0}


def _linear(weights: Mapping[str, Tensor]) -> tuple[Section, Section]:
    return {}, {"name": "epsilon"}


SDES: dict[bool, dict[str, Callable[[Mapping[str, Tensor]], tuple[Section, Section]]]] = {
    True: {"ve": _ve},
    False: {"vp": _vp, "sub_vp": _vp, "linear": _linear, "ncsn": _ncsn},
}
"""With and without a Fourier embedding: the schedules of such models, with what they and the parameterization are."""
