"""Protocols: the rules of published evaluators for rounding samples to pixels and resizing them.

| name  | pixels from x in [-1, 1]                | resizing to the network's size          |
|-------|-----------------------------------------|-----------------------------------------|
| adm   | floor(127.5 (x + 1)), clipped           | bilinear of TensorFlow 1                |
| edm   | floor(127.5 x + 128), clipped           | bilinear of TensorFlow 1                |
| clean | 127.5 (x + 1), clipped and not rounded  | bicubic of PIL, antialiased, not rounded |

The same samples have another distance under each. ``adm`` darkens them by half a pixel value on average, as it rounds
down. The rules are those of the code of guided-diffusion (scripts/image_sample.py, evaluations/evaluator.py: the
images go into the graph of Inception, which resizes them), of EDM and EDM2 (generate.py, fid.py, calculate_metrics.py:
NVIDIA's Inception samples at i N / 299, which is TensorFlow's rule) and of clean-fid (cleanfid/resize.py; samples of a
model are taken as floats in [0, 255]).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.features.resize import Resize, bicubic, tf1_bilinear
from diffusion_fw.registry import ConfigError


def rounded_down(x: Tensor) -> Tensor:
    """uint8 pixels floor(127.5 (x + 1)) of guided-diffusion."""
    return ((x.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def rounded_half_up(x: Tensor) -> Tensor:
    """uint8 pixels floor(127.5 x + 128) of EDM: 127.5 (x + 1) to the nearest, and up from the middle."""
    return (x.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def unrounded(x: Tensor) -> Tensor:
    """The floats, clipped to [-1, 1]."""
    return x.float().clamp(-1, 1)


@dataclass(frozen=True)
class Protocol:
    """How samples become pixels, and by which rule these are resized."""

    name: str
    quantise: Callable[[Tensor], Tensor]
    """From samples (B, C, H, W) in the model's scale [-1, 1] to uint8 pixels, or to floats in the same scale."""
    resize: Resize
    says: str
    """The rules, for a person and for fingerprints."""


PROTOCOLS = {
    each.name: each
    for each in (
        Protocol("adm", rounded_down, tf1_bilinear, "floor(127.5 (x + 1)), TensorFlow 1 bilinear"),
        Protocol("edm", rounded_half_up, tf1_bilinear, "floor(127.5 x + 128), TensorFlow 1 bilinear"),
        Protocol("clean", unrounded, bicubic, "not rounded, PIL bicubic"),
    )
}


def find(name: str, pixels: bool = True) -> Protocol:
    """The protocol of this name, for data whose examples are ``pixels``; ConfigError for others, and another name."""
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol={name}: must be one of {', '.join(PROTOCOLS)}")
    if not pixels:
        raise ConfigError(f"protocol={name} rounds samples to 8-bit pixels, but data=... holds floats; leave it out")
    return PROTOCOLS[name]


def under(protocol: str, features: FeatureExtractor) -> FeatureExtractor:
    """The same features, of images that are resized by the protocol's rule; weights are shared.

    Their name and settings state the protocol, and so does their fingerprint. Features that take images of any size,
    ``pixels`` and ``digits``, resize nothing: a protocol changes only how samples are rounded. Reference examples are
    pixels already, and stay as they are. Raises ConfigError for an unknown protocol.
    """
    found = find(protocol)
    changed = copy.copy(features)
    changed.name = f"{features.name}[{found.name}]"
    changed.settings = f"{features.settings}; protocol {found.name}: {found.says}"
    changed.unrounded = found.quantise(torch.zeros(1)).is_floating_point()
    if features.resize is not None:
        changed.resize = found.resize
    return changed
