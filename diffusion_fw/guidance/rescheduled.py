"""A model on another path than that of its training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.guidance.guidance import Guidance
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Name, Runtime, register


@dataclass(frozen=True)
class Rescheduled(Guidance):
    """The denoiser of a model that was trained on its own schedule, on the schedule ``target``.

    Two Gaussian paths are equal up to scale: at t' with log_snr'(t') = log_snr(t), x_{t'} = (alpha' / alpha) x_t, and
    x_0 and eps are the same (Kingma et al. 2021, section 5; Lipman et al. 2024, "Flow matching guide and code", on the
    change of scheduler after training). Where the target is noisier or cleaner than the model's schedule (log_snr =
    -inf of ``flow`` at t = 1, or below the first row of a table), the model is evaluated at its nearest level and eps
    follows from x_t and x_0.
    """

    target: Schedule

    @property
    def schedule(self) -> Schedule:
        return self.target

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        source = self.denoiser.schedule
        own = source(source.time(level.log_snr))
        # x is scaled by the larger of signal and noise, which is not 0 on either path.
        noisy = level.log_snr < 0
        scale = torch.where(noisy, own.sigma / level.sigma, own.alpha / level.alpha)
        # These solve x = alpha x0 + sigma eps for eps; 0 and 1 where the two log_snr agree.
        c_x0 = torch.where(noisy, torch.exp(own.log_snr / 2) - torch.exp(level.log_snr / 2), 0.0)
        c_eps = torch.where(noisy, 1.0, torch.exp((level.log_snr - own.log_snr) / 2))
        prediction = self.denoiser(expand(scale, x) * x, own, cond)
        eps = expand(c_x0, x) * prediction.x0 + expand(c_eps, x) * prediction.eps
        return dataclasses.replace(prediction, eps=eps)


@register("guidance", "rescheduled", renamed={"knobs": "parameters"})
def rescheduled(
    denoiser: Runtime[Denoiser],
    target: Runtime[Schedule | str | None] = None,
    schedule: Name | None = None,
    parameters: dict[str, bool | int | float | Name] = {},  # noqa: B006 - the default is read, never changed
) -> Rescheduled:
    """Run the model on another path: ``target``, or the schedule of this name with the parameters in ``parameters``.

    Raises ConfigError without a schedule, and for one that cannot be built.
    """
    if target is None:
        if schedule is None:
            raise ConfigError(
                "it needs the path to follow; give guidance.rescheduled.schedule=flow or another schedule"
            )
        target = registry.build("schedule", schedule, **parameters)
    return Rescheduled(denoiser, registry.as_component("schedule", target))
