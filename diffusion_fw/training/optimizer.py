"""Optimizers."""

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
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); with weight_decay=0, Adam (Kingma & Ba 2015)."""
    return torch.optim.AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


@register("optimizer", "sgd")
def sgd(
    params: Runtime[Iterable[torch.nn.Parameter]],
    lr: Positive = 1e-2,
    momentum: OpenFraction = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013)."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
