"""Entries of published weights that tell the sizes of a network and its noise levels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diffusion_fw.registry import ConfigError


def shape_of(weights: Mapping[str, Tensor], key: str, axes: int | None = None) -> tuple[int, ...]:
    """The shape of an entry; ConfigError that names it where it is missing or has another number of axes."""
    if key not in weights:
        raise ConfigError(f"missing: {key}; the sizes of the network are not known without it")
    shape = tuple(weights[key].shape)
    if axes not in (None, len(shape)) or 0 in shape:
        wanted = "" if axes is None else f"{axes} axes, "
        raise ConfigError(f"of another shape: {key} {shape}; it must have {wanted}none of them empty")
    return shape


def noise_levels(weights: Mapping[str, Tensor]) -> tuple[float, float, int]:
    """The largest and the smallest of the table ``sigmas``, which falls, and its length; else ConfigError."""
    (count,) = shape_of(weights, "sigmas", 1)
    largest, smallest = float(weights["sigmas"][0]), float(weights["sigmas"][-1])
    if not 0 < smallest < largest < float("inf"):
        raise ConfigError(
            f"sigmas: the table of noise levels must fall from a positive number to another, but goes from {largest:g} "
            f"to {smallest:g}"
        )
    return largest, smallest, count
