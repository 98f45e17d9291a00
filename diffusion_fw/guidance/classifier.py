"""Guidance by the gradient of a classifier of noisy data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import NetworkClassifier
from diffusion_fw.guidance.guidance import Guidance, same_path, with_gradient
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError, NonNegative, Runtime, register


@register("guidance", "classifier")
@dataclass(frozen=True)
class Classifier(Guidance):
    """eps' = eps - scale sigma grad log p(cond | x_t), and x_0 with it, by a classifier of noisy examples.

    Dhariwal & Nichol 2021, equation 14. The classifier is the one of ``checkpoint``, trained with objective=classifier:
    its first average, unless raw_weights, ema_rate or ema_std choose other weights. In Python it may be any
    classifier(x, level) -> logits (B, K) of the classes of cond int64 (B,).

    The wrapped denoiser is evaluated without the condition: with the exact classifier scale = 1 is the conditional
    distribution (Bayes) and scale = 0 the unconditional. conditional=true gives it the condition as well (their guided
    conditional models, where scale = 0 is unguided).

    Raises ConfigError without a classifier, for one that cannot be loaded or is on another schedule, for
    conditional=true with a model that takes no labels, and when called without cond.
    """

    classifier: Runtime[Callable[[Tensor, NoiseLevel], Tensor] | None] = None
    load_classifier: Runtime[Callable[..., NetworkClassifier] | None] = None
    num_classes: Runtime[int | None] = None
    checkpoint: str | None = None
    raw_weights: bool = False
    ema_rate: float | None = None
    ema_std: float | None = None
    scale: NonNegative = 1.0
    conditional: bool = False

    asks_without_label: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.conditional and self.num_classes == 0:
            raise ConfigError(
                "guidance.classifier.conditional=true gives the model the class, but this model takes no labels; "
                "set guidance.classifier.conditional=false"
            )
        if self.classifier is None and not same_path(self.schedule, self.loaded.schedule):
            raise ConfigError(
                f"the classifier is on {self.loaded.schedule}, the guided model on {self.schedule}; train both on one "
                "schedule"
            )

    @functools.cached_property
    def loaded(self) -> NetworkClassifier:
        """The classifier of the checkpoint."""
        if self.load_classifier is None:
            raise ConfigError(
                "it needs a classifier, which sample.py and evaluate.py load; remove classifier from guidance here"
            )
        if self.checkpoint is None:
            raise ConfigError(
                "it needs a classifier of noisy examples, trained with objective=classifier; "
                "give guidance.classifier.checkpoint=..."
            )
        try:
            return self.load_classifier(
                self.checkpoint, raw_weights=self.raw_weights, ema_rate=self.ema_rate, ema_std=self.ema_std
            )
        except ConfigError as error:
            raise ConfigError(f"the classifier: {error}") from None

    @property
    def classes(self) -> int:
        return super().classes if self.classifier is not None else self.loaded.num_classes

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        if cond is None:
            raise ConfigError(
                "guidance=classifier was called without cond, the class to guide to; "
                "pass labels, or remove classifier from guidance"
            )

        classifier = self.classifier or self.loaded

        def log_probability(x: Tensor) -> Tensor:
            return classifier(x, level).log_softmax(1).gather(1, cond[:, None]).sum()

        prediction = self.denoiser(x, level, cond if self.conditional else None)
        return with_gradient(prediction, level, self.scale * torch.func.grad(log_probability)(x))
