"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from diffusion_fw.registry import NonNegative, OpenFraction, Positive, Runtime, register


@register("optimizer", "sgd")
def sgd(
    params: Runtime[Iterable[torch.nn.Parameter]],
    lr: Positive = 1e-2,
    momentum: OpenFraction = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """Gradient descent with momentum (Sutskever et al. 2013)."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
