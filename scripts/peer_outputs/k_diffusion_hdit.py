"""crowsonkb/k-diffusion: its HDiT, ``image_transformer_v2``, by the denoised images.

The package natten, which computes its neighborhood attention, is replaced by attention with a mask.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scripts.peer_outputs.k_diffusion import SIGMA_DATA, imported
from scripts.peer_outputs.seeded import record, seeded, seeded_weights

CASES: dict[str, dict[str, Any]] = {
    "global, classes": {
        **{"widths": [16, 32], "depths": [1, 2], "classes": 5, "size": [8, 12]},
        "self_attns": [{"type": "global", "d_head": 16}, {"type": "global", "d_head": 16}],
    },
    "labels of augmentations": {
        **{"widths": [16, 32], "depths": [1, 1], "classes": 0, "size": [8, 8], "augmented": True},
        "self_attns": [{"type": "global", "d_head": 16}, {"type": "global", "d_head": 16}],
    },
    "neighborhood": {
        **{"widths": [16, 16, 32], "depths": [1, 1, 1], "classes": 0, "size": [24, 40]},
        "self_attns": [
            {"type": "neighborhood", "d_head": 8, "kernel_size": 5},
            {"type": "neighborhood", "d_head": 8, "kernel_size": 5},
            {"type": "global", "d_head": 8},
        ],
    },
    "shifted windows, none": {
        **{"widths": [16, 16, 32], "depths": [3, 1, 2], "classes": 0, "size": [32, 16]},
        "self_attns": [
            {"type": "shifted-window", "d_head": 8, "window_size": 4},
            {"type": "none"},
            {"type": "shifted-window", "d_head": 8, "window_size": 4},
        ],
    },
}
MAPPING, PATCH, RATIO = 16, 1, 2


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Seeded weights, with scales near 1."""
    found = seeded_weights(shapes)
    for name, value in found.items():
        if name.endswith("scale"):
            value += 1
    return found


def near(side: int, size: int) -> Tensor:
    """Whether key k is among the ``size`` neighbors of query q: (q, k)."""
    rows = [[min(max(q - size // 2, 0), side - size) <= k for k in range(side)] for q in range(side)]
    ends = [[k < min(max(q - size // 2, 0), side - size) + size for k in range(side)] for q in range(side)]
    return torch.tensor(rows) & torch.tensor(ends)


def neighborhoods(query: Tensor, key: Tensor, value: Tensor, size: int, scale: float) -> Tensor:
    """What natten.functional.na2d is documented to give: (B, H, W, num_heads, features) of each."""
    height, width = query.shape[1:3]
    mask = torch.kron(near(height, size).float(), near(width, size).float()).bool()
    query, key, value = (item.flatten(1, 2).transpose(1, 2) for item in (query, key, value))
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    return mixed.transpose(1, 2).unflatten(1, (height, width))


def built(package: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, list[int]]]:
    """The denoiser of a network with seeded weights, and the shapes of the network's state."""
    code = package.models.image_transformer_v2
    code.natten = types.SimpleNamespace(has_fused_na=lambda: True, functional=types.SimpleNamespace(na2d=neighborhoods))
    kinds = {
        "global": code.GlobalAttentionSpec,
        "neighborhood": code.NeighborhoodAttentionSpec,
        "shifted-window": code.ShiftedWindowAttentionSpec,
        "none": code.NoAttentionSpec,
    }
    levels = [
        code.LevelSpec(depth, width, RATIO * width, kinds[given.pop("type")](**given), 0.0)
        for depth, width, given in zip(
            settings["depths"], settings["widths"], map(dict, settings["self_attns"]), strict=True
        )
    ]
    mapping = code.MappingSpec(1, MAPPING, RATIO * MAPPING, 0.0)
    network = package.models.ImageTransformerDenoiserModelV2(
        levels, mapping, 3, 3, (PATCH, PATCH), num_classes=settings["classes"]
    ).eval()
    keys = {name: list(value.shape) for name, value in network.state_dict().items()}
    own = weights({name: shape for name, shape in keys.items() if not name.endswith("freqs")})
    network.load_state_dict(own, strict=False)
    return package.layers.Denoiser(network, sigma_data=SIGMA_DATA), keys


def records() -> Iterator[dict[str, Any]]:
    """D(x; sigma) at x = sigma eps for two levels; for class 2 and for none, whose row is the last."""
    os.environ["K_DIFFUSION_USE_COMPILE"] = "0"
    package = imported()
    sigma = torch.tensor([0.5, 20.0])
    for case, settings in CASES.items():
        model, keys = built(package, settings)
        shape = (2, 3, *settings["size"])
        cond = [2, settings["classes"] - 1] if settings["classes"] else None
        extra = {} if cond is None else {"class_cond": torch.tensor(cond)}
        told: Any = ["augmentation", [2, 9]] if settings.get("augmented") else None
        extra |= {"aug_cond": seeded(*told)} if told else {}
        with torch.no_grad():
            output = record(model(seeded("x", shape) * sigma[:, None, None, None], sigma, **extra))
        yield {
            **{"case": case, "settings": settings, "keys": keys, "input": ["x", list(shape)], "sigma": sigma.tolist()},
            **{"cond": cond, "augmentation": told, "output": output},
        }
