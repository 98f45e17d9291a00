"""The weights of NVlabs/edm2: the state dict of its Precond, a U-Net and the uncertainty of the loss.

The uncertainty belongs to the objective here (objective=uncertainty). It is dropped when weights are read, and written
as 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.latents import PIXEL_CHANNELS, value_range
from diffusion_fw.interop.pairs import Pair, check_expressible, same
from diffusion_fw.interop.shapes import shape_of
from diffusion_fw.networks.edm2_unet import EDM2Block, EDM2UNet

SIGMA_DATA = 0.5
HEAD_CHANNELS = 64
UNCERTAINTY = {"logvar_fourier.freqs": (128,), "logvar_fourier.phases": (128,), "logvar_linear.weight": (1, 128)}
BLOCK = re.compile(r"unet\.enc\.(\d+)x\d+_block(\d+)\.conv_res1\.weight")


class EDM2Format(Format):
    """NVlabs/edm2 (Karras et al. 2024b)."""

    name: ClassVar[str] = "EDM2"
    sampler: ClassVar[Section] = {"name": "heun", "steps": 32}
    grid: ClassVar[Section] = {"name": "karras"}
    guidance: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ("edm2_unet",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        known = {"unet.out_gain", "unet.emb_fourier.freqs", "logvar_linear.weight"}
        return known <= weights.keys() and any(map(BLOCK.fullmatch, weights))

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        blocks = [(int(found[1]), int(found[2])) for key in weights if (found := BLOCK.fullmatch(key))]
        sizes = sorted({size for size, _ in blocks}, reverse=True)
        widths = [shape_of(weights, f"unet.enc.{size}x{size}_block0.conv_res1.weight", 4)[0] for size in sizes]
        channels = math.gcd(*widths)
        classes = shape_of(weights, "unet.emb_label.weight", 2)[1] if "unet.emb_label.weight" in weights else 0
        attended = [size for size in sizes if f"unet.enc.{size}x{size}_block0.attn_qkv.weight" in weights]
        network = {
            **{"name": "edm2_unet", "channels": channels, "channel_mult": [width // channels for width in widths]},
            "num_res_blocks": 1 + max(index for _, index in blocks),
            "attention_resolutions": attended,
            "num_head_channels": given.get("network.num_head_channels", HEAD_CHANNELS),
            "class_conditional": classes > 0,
        }
        image_channels = shape_of(weights, "unet.out_conv.weight", 4)[0]
        return Published(
            network,
            tuple(given.get("shape") or (image_channels, sizes[0], sizes[0])),
            classes,
            schedule={"name": "edm"},
            parameterization={"name": "edm", "sigma_data": SIGMA_DATA},
            data_range=value_range(image_channels, SIGMA_DATA),
            pixels=image_channels in PIXEL_CHANNELS,
            guessed=() if "network.num_head_channels" in given else ("network.num_head_channels",),
        )

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        own = cast(EDM2UNet, network)
        learned = len(own.leave.weight) != own.enter.weight.shape[1] - 1
        check_expressible(self.name, {"a learned variance": learned})
        return _pairs(own)


def _pairs(network: EDM2UNet) -> Iterable[Pair]:
    yield same("waves.frequencies", "unet.emb_fourier.freqs")
    yield same("waves.phases", "unet.emb_fourier.phases")
    yield same("time.weight", "unet.emb_noise.weight")
    if network.class_conditional:
        yield same("classes.weight", "unet.emb_label.weight")
    places = [f"{size}x{size}" for size in network.sizes]
    count = len(cast(nn.ModuleList, network.up[0])) - 1
    yield same("enter.weight", f"unet.enc.{places[0]}_conv.weight")
    down = [
        f"unet.enc.{place}_{part}"
        for level, place in enumerate(places)
        for part in (*(["down"] if level else []), *(f"block{index}" for index in range(count)))
    ]
    for index, theirs in enumerate(down):
        yield from _block(network, f"down.{index}", theirs)
    for index in range(len(network.middle)):
        yield from _block(network, f"middle.{index}", f"unet.dec.{places[-1]}_in{index}")
    for level, place in enumerate(reversed(places)):
        if level:
            yield from _block(network, f"upsample.{level - 1}", f"unet.dec.{place}_up")
        for index in range(count + 1):
            yield from _block(network, f"up.{level}.{index}", f"unet.dec.{place}_block{index}")
    yield same("leave.weight", "unet.out_conv.weight")
    nothing = [torch.zeros(shape) for shape in UNCERTAINTY.values()]
    yield Pair("gain", ("unet.out_gain", *UNCERTAINTY), write=lambda tensor: (tensor, *nothing))


def _block(network: EDM2UNet, ours: str, theirs: str) -> Iterable[Pair]:
    block = cast(EDM2Block, network.get_submodule(ours))
    yield same(f"{ours}.gain", f"{theirs}.emb_gain")
    yield same(f"{ours}.embedding.weight", f"{theirs}.emb_linear.weight")
    yield same(f"{ours}.conv1.weight", f"{theirs}.conv_res0.weight")
    yield same(f"{ours}.conv2.weight", f"{theirs}.conv_res1.weight")
    if any(True for _ in block.skip.parameters()):
        yield same(f"{ours}.skip.weight", f"{theirs}.conv_skip.weight")
    if any(True for _ in block.attention.parameters()):
        yield same(f"{ours}.attention.qkv.weight", f"{theirs}.attn_qkv.weight")
        yield same(f"{ours}.attention.out.weight", f"{theirs}.attn_proj.weight")
