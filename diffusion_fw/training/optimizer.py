"""Optimizers.

adamw, sgd                 those of torch, with its names for their settings
torch                      any other of torch.optim, by the name of its class
muon, lion, schedule_free  those of the package pytorch-optimizer, the extra `optimizers`
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import ModuleType
from typing import Annotated, Literal

import torch

from diffusion_fw.registry import ConfigError, NonNegative, OpenFraction, Positive, Range, Runtime, nearest, register


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


Option = bool | int | float | str | list[float] | None


@register("optimizer", "torch")
def by_name(
    params: Runtime[Iterable[torch.nn.Parameter]],
    class_: Literal[
        "ASGD",
        "Adadelta",
        "Adafactor",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
    ] = "Adam",
    lr: Positive | None = None,
    options: dict[str, Option] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of torch.optim with the name `class`; lr and what `options` leaves open are the class's defaults.

    Not among them are LBFGS, which evaluates a step several times, SparseAdam, which takes sparse gradients alone, and
    Muon, which takes matrices alone: optimizer=muon gives it those. Raises ConfigError for options that the class does
    not have or does not allow.
    """
    factory = getattr(torch.optim, class_)
    allowed = inspect.signature(factory).parameters.keys() - {"params", "lr", "differentiable"}
    options = options or {}
    for key in options:
        if key not in allowed:
            raise ConfigError(
                f"optimizer.options.{key}: {class_} has no such option{nearest(key, allowed)}; it has "
                f"{', '.join(sorted(allowed))}"
            )
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        optimizer: torch.optim.Optimizer = factory(params, **given, **({} if lr is None else {"lr": lr}))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer.options={options}: {class_} refuses them: {error}") from None
    return optimizer


def library(name: str) -> ModuleType:
    """The package pytorch-optimizer; ConfigError where it is not installed."""
    try:
        import pytorch_optimizer
    except ModuleNotFoundError as error:
        raise ConfigError(f"optimizer={name} needs {error.name}: pip install 'diffusion-fw[optimizers]'") from None
    return pytorch_optimizer


@register("optimizer", "muon")
def muon(
    params: Runtime[Iterable[torch.nn.Parameter]],
    lr: Positive = 0.02,
    momentum: OpenFraction = 0.95,
    nesterov: bool = True,
    weight_decay: NonNegative = 0.0,
    adamw_lr: Positive = 3e-4,
    adamw_betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.95),
    adamw_weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024), and AdamW for biases, gains and other vectors.

    A parameter of two or more axes is a matrix with a row for each output, so kernels of convolutions and tables of
    embeddings are too. An update of (m, n) has the rate lr sqrt(max(1, m / n)). The learning-rate schedule scales both
    rates. Needs the extra `optimizers`; ConfigError without.
    """
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for item in params:
        (matrices if item.ndim > 1 else vectors).append(item)
    groups = [
        {"params": matrices, "use_muon": True, "lr": lr, "weight_decay": weight_decay},
        {
            "params": vectors,
            "use_muon": False,
            "lr": adamw_lr,
            "betas": adamw_betas,
            "weight_decay": adamw_weight_decay,
        },
    ]
    optimizer: torch.optim.Optimizer = library("muon").Muon(
        [group for group in groups if group["params"]], momentum=momentum, nesterov=nesterov
    )
    return optimizer


@register("optimizer", "lion")
def lion(
    params: Runtime[Iterable[torch.nn.Parameter]],
    lr: Positive = 3e-5,
    betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.99),
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """The sign of an interpolated momentum, with decoupled weight decay (Chen et al. 2023).

    The paper advises a third to a tenth of AdamW's rate. Needs the extra `optimizers`; ConfigError without.
    """
    optimizer: torch.optim.Optimizer = library("lion").Lion(params, lr=lr, betas=betas, weight_decay=weight_decay)
    return optimizer


@register("optimizer", "schedule_free")
def schedule_free(
    params: Runtime[Iterable[torch.nn.Parameter]],
    lr: Positive = 2.5e-3,
    betas: tuple[Annotated[float, Range(0, 1, low_open=True, high_open=True)], OpenFraction] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024): gradients are taken at y = (1 - beta_1) z + beta_1 x.

    z is what AdamW without momentum would step, and x, the average of z, is what ema=schedule_free keeps and samples
    are drawn with. Choose lr_schedule=constant, whose warm-up weighs the average too. Needs the extra `optimizers`;
    ConfigError without.
    """
    optimizer: torch.optim.Optimizer = library("schedule_free").ScheduleFreeAdamW(
        params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
    )
    return optimizer
