"""openai/guided-diffusion: its U-Net with each of its options, in 1, 2 and 3 dimensions, and its classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

COMMON = {"in_channels": 3, "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "dropout": 0.1}

UNETS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "convolutions between levels, heads by number": (
        {"attention_resolutions": (2,), "num_heads": 4, "use_scale_shift_norm": True, "num_classes": 5},
        (3, 8, 8),
    ),
    "residual blocks between levels, heads by width, new order": (
        {
            "attention_resolutions": (1, 2),
            "num_head_channels": 16,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
            "use_new_attention_order": True,
            "out_channels": 6,
        },
        (3, 8, 12),
    ),
    "half of the channels at the first level": (
        {
            "attention_resolutions": (4,),
            "num_head_channels": 32,
            "resblock_updown": True,
            "channel_mult": (0.5, 1, 1),
            "model_channels": 64,
        },
        (3, 8, 8),
    ),
    "sequences": ({"attention_resolutions": (2,), "num_heads": 2, "dims": 1}, (3, 16)),
    "videos": (
        {
            "attention_resolutions": (2,),
            "num_heads": 2,
            "dims": 3,
            "resblock_updown": True,
            "use_scale_shift_norm": True,
        },
        (3, 3, 8, 8),
    ),
    "videos, convolutions between levels": ({"attention_resolutions": (), "dims": 3}, (3, 3, 8, 4)),
}

CLASSIFIERS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "classifier": (
        {"attention_resolutions": (2,), "use_scale_shift_norm": True, "resblock_updown": True},
        (3, 8, 8),
    ),
    "classifier, convolutions between levels": ({"attention_resolutions": (), "channel_mult": (1, 1, 2)}, (3, 16, 16)),
}


def records() -> Iterator[dict[str, Any]]:
    """The output of each network for two inputs."""
    from guided_diffusion.unet import EncoderUNetModel, UNetModel  # type: ignore[import-not-found]

    label = torch.tensor([3.0, 871.25])
    for case, (options, shape) in UNETS.items():
        settings = {"image_size": shape[1], "out_channels": 3, **COMMON, **options}
        classes = torch.tensor([4, 0]) if "num_classes" in settings else None
        yield _record(case, UNetModel(**settings), settings, shape, label, classes)
    for case, (options, shape) in CLASSIFIERS.items():
        own = {"out_channels": 7, "num_head_channels": 16, "pool": "attention", "image_size": shape[1]}
        settings = {**COMMON, **own, **options}
        yield _record(case, EncoderUNetModel(**settings), settings, shape, label, None)


def _record(
    case: str,
    network: torch.nn.Module,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    label: torch.Tensor,
    classes: torch.Tensor | None,
) -> dict[str, Any]:
    keys = fill(network)
    x = seeded(case, (2, *shape))
    with torch.no_grad():
        output = network.eval()(x, label) if classes is None else network.eval()(x, label, classes)
    return {
        "case": case,
        "settings": settings,
        "keys": keys,
        "input": {"name": case, "shape": list(x.shape)},
        "label": label.tolist(),
        "classes": None if classes is None else classes.tolist(),
        "output": record(output),
    }
