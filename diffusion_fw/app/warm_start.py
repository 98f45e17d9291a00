"""Starting from the weights of another run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion_fw.app.load import read
from diffusion_fw.app.resume import checkpoint_of
from diffusion_fw.registry import ConfigError

SHOWN = 8


def warm_start(module: Any, source: str, *, raw_weights: bool = False) -> str:
    """Copy the tensors of ``source`` that have the same name and shape into the model and into its average.

    The averaged weights, unless the raw ones are asked for. Returns what to tell: how many matched, which differ in
    shape, which are missing, which were left over. Raises ConfigError where none matches.
    """
    prefix = "denoiser." if raw_weights else "averaged."
    content = read(checkpoint_of(source))
    given = {key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    own: dict[str, Tensor] = module.denoiser.state_dict()
    same = {key: given[key] for key, value in own.items() if key in given and given[key].shape == value.shape}
    if not same:
        raise ConfigError(
            f"init_from={source}: no weight of it has the name and shape of one of this model; its network is "
            f"{content['diffusion_fw']['config']['network']['name']}"
        )
    for denoiser in (module.denoiser, module.averaged):
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
        f"{'raw' if raw_weights else 'averaged'} weights)",
        *_listed("of another shape, left at random", other),
        *_listed("missing there, left at random", [key for key in own if key not in given]),
        *_listed("not used by this model", [key for key in given if key not in own]),
    ]
    return "\n".join(lines)


def _listed(title: str, items: list[str]) -> list[str]:
    more = f", ... ({len(items)} in all)" if len(items) > SHOWN else ""
    return [f"  {title}: {', '.join(items[:SHOWN])}{more}"] if items else []
