"""AdamW."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from diffusion_fw.registry import NonNegative, OpenFraction, Positive, Runtime, register


@register("optimizer", "adamw")
def adamw(
    params: Runtime[Iterable[torch.nn.Parameter]],
    lr: Positive = 2e-4,
    betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    fused: bool = True,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); without decay it is Adam (Kingma & Ba 2015)."""
    return torch.optim.AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
