"""The file of a codec: its weights as safetensors, and what it is in their metadata. It is read as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_fw.files import atomic_write, open_regular, with_home
from diffusion_fw.registry import ConfigError

METADATA = "diffusion_fw.codec"
LARGEST_CONFIG = 1 << 20

Weights = dict[str, Tensor]


def write(path: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write the file of a codec whose ``description`` names its component."""
    from safetensors.torch import save

    values = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    with atomic_write(path) as file:
        file.write(save(values, metadata={METADATA: json.dumps(description)}))


def read(path: str, component: str) -> tuple[dict[str, Any], Weights]:
    """(description, weights) of the file of a ``component``; ConfigError for any other file."""
    content = content_of(with_home(path))
    weights = weights_of(content, path)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = header.get("__metadata__", {}).get(METADATA)
    description = json_of(text.encode(), path) if text else {}
    if description.get("name") != component:
        held = f"of codec={str(description['name'])[:100]}" if description.get("name") else "that no codec wrote"
        raise ConfigError(f"codec.path={path}: a file {held}, not of codec={component}")
    return description, weights


def content_of(path: Path) -> bytes:
    """The content of a regular file; ConfigError where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"codec.path={path} cannot be read: {error.strerror or error}") from None


def weights_of(content: bytes, path: object) -> Weights:
    """Finite floats of a safetensors file, in float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(f"codec.path={path} is no safetensors file, or a damaged one: {str(error)[:200]}") from None
    for key, value in weights.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise ConfigError(f"codec.path={path}: its weight {key[:200]} is not of finite floating-point numbers")
    return {key: value.float() for key, value in weights.items()}


def json_of(content: bytes, path: object) -> dict[str, Any]:
    """A small JSON object."""
    try:
        if len(content) > LARGEST_CONFIG:
            raise ValueError(f"more than {LARGEST_CONFIG:,} bytes")
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"codec.path={path}: its description is damaged: {str(error)[:200]}") from None
    return found


def filled(network: nn.Module, weights: Weights, path: object) -> nn.Module:
    """A network that was built without memory, with the weights of a file; frozen."""
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    if different := sorted(key for key in own.keys() | given.keys() if own.get(key) != given.get(key)):
        first = different[0]
        raise ConfigError(
            f"codec.path={path}: it holds the weights of another architecture than it describes, such as "
            f"{first[:200]}, {given.get(first, 'nothing')} where {own.get(first, 'nothing')} is expected"
        )
    network.load_state_dict(weights, assign=True)
    if any(item.is_meta for item in network.buffers()):
        raise ConfigError(f"codec.path={path}: its network has values that no file holds")
    return network.requires_grad_(False).eval()


def without_memory() -> torch.device:
    """A block in which networks take no memory, so that a file's description cannot ask for any."""
    return torch.device("meta")
