"""EDM: the SongUNet models of Karras et al. 2022, which are NCSN++ and DDPM++ with classes and augmentation labels.

Their blocks are named by the size of their level: enc.32x32_block0, dec.16x16_up. The same names are used under all of
EDM's preconditionings, so that their weights do not tell which was trained:

    EDMPrecond  schedule=edm  parameterization=edm
    VPPrecond   schedule=vp   parameterization=epsilon with label 999 t
    VEPrecond   schedule=ve   parameterization=score scale_by_sigma=true with label log(sigma / 2)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.pairs import Pair, same
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.blocks.embeddings import FourierFeatures
from diffusion_fw.networks.blocks.resampling import DownsampleConv, Filter
from diffusion_fw.networks.ncsnpp import (
    Attention,
    InputResidual,
    InputSkip,
    NCSNpp,
    Output,
    OutputResidual,
    OutputSkip,
    ResidualBlock,
)
from diffusion_fw.registry import ConfigError

PRECONDITIONINGS: dict[str, tuple[Section, Section]] = {
    "edm": ({"name": "edm"}, {"name": "edm"}),
    "epsilon": (
        {"name": "vp"},
        {"name": "epsilon", "label_of": "time", "label_scale": 999.0, "label_shift": 0.0},
    ),
    "score": (
        {"name": "ve", "sigma_min": 0.02, "sigma_max": 100.0},
        {
            "name": "score",
            "scale_by_sigma": True,
            "label_of": "log_sigma",
            "label_scale": 1.0,
            "label_shift": -math.log(2),
        },
    ),
}
"""The schedule and the parameterization of a model, by the name of the parameterization."""
CLASSES = {"EDMPrecond": "edm", "VPPrecond": "epsilon", "VEPrecond": "score"}

MAPPING = {
    "embedding.classes.linear": "map_label",
    "embedding.augmentation": "map_augment",
    "embedding.first": "map_layer0",
    "embedding.second": "map_layer1",
}
BLOCK = {
    "norm1": "norm0",
    "conv1": "conv0",
    "embedding": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "skip": "skip",
}
"""The layers of a residual block, ours and theirs."""
PARTS: dict[type[nn.Module], dict[str, str]] = {
    ResidualBlock: BLOCK,
    DownsampleConv: {"conv": ""},
    nn.Conv2d: {"": ""},
    nn.GroupNorm: {"": ""},
}
"""The layers within a module, ours and theirs."""
OF_LEVEL = re.compile(r"model\.enc\.((\d{1,6})x\2_\w+)\.")
INPUTS = {"aux_skip": "input_skip", "aux_residual": "residual"}


class EDM(Format):
    """The state dict of a SongUNet under one of EDM's preconditionings: model.enc.32x32_conv.weight and the like."""

    name: ClassVar[str] = "edm"
    sampler: ClassVar[Section] = {"name": "heun", "steps": 18}
    grid: ClassVar[Section] = {"name": "karras"}
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("ncsnpp", "ddpmpp")

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        # ADM in EDM's code has no weights under dec of the last layers.
        own = "model.map_layer0.weight" in weights and any("_aux_norm." in key for key in weights)
        return own and any(OF_LEVEL.match(key) for key in weights)

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        blocks = [found[1] for key in weights if (found := OF_LEVEL.match(key))]
        sides = sorted({int(block.split("x")[0]) for block in blocks}, reverse=True)
        channels, colors, *_ = shape_of(weights, f"model.enc.{sides[0]}x{sides[0]}_conv.weight", 4)
        num_res_blocks = len({block for block in blocks if block.startswith(f"{sides[0]}x{sides[0]}_block")})

        widths = [shape_of(weights, f"model.enc.{side}x{side}_block0.conv1.weight", 4)[0] for side in sides]
        fourier = "model.map_noise.freqs" in weights
        progressive_input = next((kind for end, kind in INPUTS.items() if any(end in key for key in blocks)), "none")
        skips = len({key.split(".")[2] for key in weights if "_aux_norm." in key}) > 1
        taps = next((shape_of(weights, key, 4)[-1] for key in weights if key.endswith("resample_filter")), None)
        fir = taps == 4 if taps else fourier
        network: Section = {
            "name": "ddpmpp",
            "channels": channels,
            "channel_mult": [width // channels for width in widths],
            "num_res_blocks": num_res_blocks,
            "attention_resolutions": [
                side for side in sides if f"model.enc.{side}x{side}_block0.qkv.weight" in weights
            ],
            "dropout": given.get("network.dropout", 0.13),
            "augment_dim": inputs_of(weights, "model.map_augment.weight"),
            "class_conditional": "model.map_label.weight" in weights,
        }
        if fourier or fir or skips or progressive_input != "none":
            network |= {
                "name": "ncsnpp",
                "embedding": "fourier" if fourier else "positional",
                "fir": fir,
                "progressive_input": progressive_input,
                "progressive_output": "output_skip" if skips else "none",
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
        assert isinstance(network, NCSNpp)
        found: dict[str, Tensor] = {}
        for theirs, module in _named(network):
            if isinstance(module, Filter):
                found[f"{theirs}.resample_filter"] = module.kernel
            elif isinstance(module, ResidualBlock) and isinstance(module.resample, Filter):
                for layer in ("conv0", "skip"):
                    found[f"{theirs}.{layer}.resample_filter"] = module.resample.kernel
        return found

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        assert isinstance(network, NCSNpp)
        if any(isinstance(module, OutputResidual) for module in network.outputs):
            raise ConfigError("edm has no networks with network.progressive_output=residual; choose another")
        names = {module: name for name, module in network.named_modules()}
        for ours, theirs in MAPPING.items():
            if ours in names.values():
                yield from layer_pairs(network.get_submodule(ours), ours, f"model.{theirs}")
        if isinstance(network.embedding.waves, FourierFeatures):
            yield same("embedding.waves.frequencies", "model.map_noise.freqs")
        for theirs, module in _named(network):
            for own, other in PARTS.get(type(module), {}).items():
                layer = module.get_submodule(own)
                yield from layer_pairs(layer, names[layer], f"{theirs}.{other}".removesuffix("."))
            if isinstance(module, ResidualBlock) and isinstance(module.attention, Attention):
                yield from attention_pairs(f"{names[module]}.attention", theirs, module.attention.out.in_features)


def layer_pairs(module: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    """The parameters of a layer, which have the same names in both."""
    for key, _ in module.named_parameters(recurse=False):
        yield same(f"{ours}.{key}", f"{theirs}.{key}")


def attention_pairs(ours: str, theirs: str, channels: int, parts: int = 1) -> Iterator[Pair]:
    """The norm and the matrices of an attention, which are convolutions of size 1 there.

    ``parts`` is 1 for rows of all queries, keys and values here, and the number of heads for those of each head.
    """
    yield same(f"{ours}.norm.weight", f"{theirs}.norm2.weight")
    yield same(f"{ours}.norm.bias", f"{theirs}.norm2.bias")
    yield _in_turn(f"{ours}.qkv.weight", f"{theirs}.qkv.weight", (channels,), (channels, 1, 1), parts)
    yield _in_turn(f"{ours}.qkv.bias", f"{theirs}.qkv.bias", (), (), parts)
    shape = (channels, channels, 1, 1)
    yield Pair(
        f"{ours}.out.weight",
        (f"{theirs}.proj.weight",),
        lambda tensors: _of_shape(tensors[0], shape)[..., 0, 0],
        lambda tensor: (tensor.reshape(shape),),
    )
    yield same(f"{ours}.out.bias", f"{theirs}.proj.bias")


def _in_turn(ours: str, theirs: str, own: tuple[int, ...], other: tuple[int, ...], parts: int) -> Pair:
    """Rows of query, key and value: one after the other in each part here, by turns there.

    ``own`` and ``other`` shape a row.
    """

    def read(tensors: Sequence[Tensor]) -> Tensor:
        rows = _of_shape(tensors[0], (len(tensors[0]), *other))
        return rows.reshape(parts, -1, 3, *own).transpose(1, 2).reshape(-1, *own)

    def write(tensor: Tensor) -> Sequence[Tensor]:
        return (tensor.reshape(parts, 3, -1, *own).transpose(1, 2).reshape(-1, *other),)

    return Pair(ours, (theirs,), read, write)


def _of_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor; RuntimeError where its shape is another, as where torch finds it out."""
    if tuple(tensor.shape) != shape:
        raise RuntimeError
    return tensor


def _named(network: NCSNpp) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the levels, by their names there, which hold the size of the level."""
    sizes = [f"{size}x{size}" for size in network.sizes]
    for i, (size, level) in enumerate(zip(sizes, network.down, strict=True)):
        enc = f"model.enc.{size}"
        if i == 0:
            yield f"{enc}_conv", network.enter
        else:
            yield f"{enc}_down", network.downsample[i - 1]
            yield from _input(enc, network.inputs[i - 1])
        for j, block in enumerate(cast(nn.ModuleList, level)):
            yield f"{enc}_block{j}", block
    for j, block in enumerate(network.middle):
        yield f"model.dec.{sizes[-1]}_in{j}", block
    for i, (size, level) in enumerate(zip(reversed(sizes), network.up, strict=True)):
        dec = f"model.dec.{size}"
        if i > 0:
            yield f"{dec}_up", network.upsample[i - 1]
        for j, block in enumerate(cast(nn.ModuleList, level)):
            yield f"{dec}_block{j}", block
        output = network.outputs[i]
        if isinstance(output, OutputSkip):
            if i > 0:
                yield f"{dec}_aux_up", output.up
            yield from _output(dec, output.output)
    if network.leave is not None:
        yield from _output(f"model.dec.{sizes[0]}", network.leave)


def _input(level: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, InputSkip):
        yield f"{level}_aux_down", module.down
        yield f"{level}_aux_skip", module.conv
    elif isinstance(module, InputResidual):
        yield f"{level}_aux_residual", module.down


def _output(level: str, module: Output) -> Iterator[tuple[str, nn.Module]]:
    yield f"{level}_aux_norm", module[0]
    yield f"{level}_aux_conv", module[2]


def inputs_of(weights: Mapping[str, Tensor], key: str) -> int:
    """The inputs of a linear layer, 0 if there is none."""
    return shape_of(weights, key, 2)[1] if key in weights else 0


def preconditioning(settings: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The name of the parameterization: as given, of the class in a training_options.json, or edm."""
    stated = settings.get("network_kwargs", {}).get("class_name", "").rpartition(".")[2]
    name = str(given.get("parameterization", CLASSES.get(stated, "edm")))
    if name not in PRECONDITIONINGS:
        raise ConfigError(
            f"parameterization={name}: this network of EDM has no such training; choose "
            f"parameterization={'|'.join(PRECONDITIONINGS)}"
        )
    return name
