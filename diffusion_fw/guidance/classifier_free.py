"""Guidance by the same model without what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.condition import Condition, joined, told_nothing
from diffusion_fw.guidance.guidance import Guidance, extrapolate
from diffusion_fw.process.level import NoiseLevel, per_example
from diffusion_fw.process.parameterization import Prediction, with_x0
from diffusion_fw.registry import ConfigError, Extended, Fraction, Name, NonNegative, Runtime, register


@register("guidance", "classifier_free")
@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """D = D_null + scale (D_cond - D_null): scale = 1 is unguided, Ho & Salimans' w is scale - 1.

    Ho & Salimans 2022, equation 6, for a model some of whose training examples were told nothing. Both predictions come
    from one evaluation of 2 B examples.

    drop: what D_null is not told, by the names of the conditions, "class" among them: drop=[text] keeps the class, so
    that the text alone is emphasised. By default all that training left out for some examples (label_dropout, and
    condition.NAME.dropout).

    interval: guide where low < position <= high; the position is t, the ratio sigma / alpha ("sigma") or "log_snr".
    Elsewhere scale = 1 and only B examples are evaluated (Kynkäänniemi et al. 2024).

    rescale: phi of Lin et al. 2024, equations 14-16: 1 gives the guided x_0 the standard deviation, over an example, of
    the conditional x_0; 0 leaves it unchanged.

    Raises ConfigError for a model that is told nothing, for a name in ``drop`` that it is not told, or always was in
    training, and when called without cond.
    """

    num_classes: Runtime[int]
    told: Runtime[Mapping[str, bool] | None] = None
    scale: NonNegative = 2.0
    interval: tuple[Extended, Extended] | None = None
    interval_unit: Literal["t", "sigma", "log_snr"] = "t"
    rescale: Fraction = 0.0
    drop: tuple[Name, ...] | None = None

    asks_without_label: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.num_classes == 0 and not self.told:
            raise ConfigError(
                "guidance=classifier_free needs a class-conditional model, and this one has no classes; choose data=..."
                " with classes and network.class_conditional=true, or a condition=[...], or remove classifier_free from"
                " guidance"
            )
        left_out = [name for name, is_left_out in (self.told or {}).items() if is_left_out]
        for name in self.drop or ():
            if name not in left_out and self.told is not None:
                known = "is always told" if name in self.told else "is never told"
                allowed = f"choose from {', '.join(left_out)}" if left_out else "train with label_dropout=0.1 or so"
                raise ConfigError(
                    f"guidance.classifier_free.drop={list(self.drop or ())}: the model {known} {name}; {allowed}"
                )
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise ConfigError(
                f"guidance.classifier_free.interval={list(self.interval)}: the first end must be below the second"
            )

    @property
    def dropped(self) -> tuple[str, ...] | None:
        """What D_null is not told; None for nothing at all."""
        if self.drop is not None or self.told is None:
            return self.drop
        return tuple(name for name, is_left_out in self.told.items() if is_left_out)

    def _scale(self, level: NoiseLevel) -> Tensor:
        scale = torch.full_like(level.t, self.scale)
        if self.interval is None:
            return scale
        position = {"t": level.t, "sigma": torch.exp(-level.log_snr / 2), "log_snr": level.log_snr}[self.interval_unit]
        low, high = self.interval
        return torch.where((position > low) & (position <= high), scale, 1.0)

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        if cond is None:
            raise ConfigError(
                "guidance=classifier_free was called without cond: it needs a class-conditional model "
                "(network.class_conditional=true) or one with condition=[...]; pass labels, or remove classifier_free "
                "from guidance"
            )
        scale = self._scale(level)
        # Compared on the host unless the level decides.
        unguided = self.scale == 1 if self.interval is None else bool((scale == 1).all())
        if unguided:
            return self.denoiser(x, level, cond)
        conditional, unconditional = self._both(x, level, cond)
        guided = extrapolate(conditional, unconditional, scale)
        if self.rescale == 0:
            return guided
        return with_x0(guided, level, guided.x0 * self._factor(conditional.x0, guided.x0))

    def _both(self, x: Tensor, level: NoiseLevel, cond: Tensor | Condition) -> tuple[Prediction, Prediction]:
        doubled = level.map(lambda value: torch.cat([value, value]) if value.ndim else value)
        both = joined(cond, told_nothing(cond, self.num_classes, self.dropped))
        prediction = self.denoiser(torch.cat([x, x]), doubled, both)
        x0, eps, logit = prediction.x0.chunk(2), prediction.eps.chunk(2), prediction.variance_logit
        # The variance is not extrapolated: it is the conditional model's.
        return Prediction(x0[0], eps[0], None if logit is None else logit.chunk(2)[0]), Prediction(x0[1], eps[1])

    def _factor(self, conditional: Tensor, guided: Tensor) -> Tensor:
        """phi std(conditional) / std(guided) + 1 - phi; 1 where all values of the guided example are equal."""
        wanted, given = (x0.flatten(1).std(1, correction=0) for x0 in (conditional, guided))
        ratio = torch.where(given > 0, wanted / given, 1.0)
        return per_example(self.rescale * ratio + 1 - self.rescale, guided)
