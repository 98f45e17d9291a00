"""Start training from the weights of another run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion_fw.checkpoints.read import checkpoint_of, read
from diffusion_fw.checkpoints.weights import check_weights, choose
from diffusion_fw.data.latents import Space
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.archive import RECORD_KEY

MAX_NAMES = 8


def warm_start(module: Any, source: str, *, raw_weights: bool = False, space: Space | None = None) -> str:
    """Copy the tensors of ``source`` that have the same name and shape into the model and its averages.

    They are the first averaged weights, or the raw ones if ``raw_weights`` or if there is no average. Returns a report
    for the user: how many were copied, and which differ in shape, are missing or were not used. Raises ConfigError if
    none matches, for weights that are not finite, and for those of a model of other latents than ``space``.
    """
    path = checkpoint_of(source, "init_from")
    content = read(path)
    if space is not None:
        space.check_same(content[RECORD_KEY].get("codec"), f"init_from={source}")
    chosen = choose(content, path, raw_weights=raw_weights, rate=None, std=None)
    given = chosen.weights
    own: dict[str, Tensor] = module.denoiser.state_dict()
    same = {key: given[key] for key, value in own.items() if key in given and given[key].shape == value.shape}
    if not same:
        raise ConfigError(
            f"init_from={source}: no weight of it has the name and shape of one of this model; its network is "
            f"{content[RECORD_KEY]['config']['network']['name']}"
        )
    check_weights(same, own, f"init_from={source}")
    for denoiser in (module.denoiser, *(averaged for _, averaged in module.tracks())):
        state = denoiser.state_dict()
        with torch.no_grad():
            for key, value in same.items():
                state[key].copy_(value)
    other = [
        f"{key} {tuple(given[key].shape)} -> {tuple(own[key].shape)}" for key in own if key in given and key not in same
    ]
    values = sum(value.numel() for value in same.values())
    lines = [
        f"init_from={source}: {len(same)} of {len(own)} tensors copied "
        f"({values:,} of {sum(value.numel() for value in own.values()):,} values, "
        f"{chosen.name} weights)",
        *_listed("of another shape, kept at their initial values", other),
        *_listed("missing there, kept at their initial values", [key for key in own if key not in given]),
        *_listed("not used by this model", [key for key in given if key not in own]),
    ]
    return "\n".join(lines)


def _listed(title: str, items: list[str]) -> list[str]:
    more = f", ... ({len(items)} in all)" if len(items) > MAX_NAMES else ""
    return [f"  {title}: {', '.join(items[:MAX_NAMES])}{more}"] if items else []
