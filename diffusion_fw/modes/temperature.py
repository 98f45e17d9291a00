"""Latents that are scaled before they are decoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffusion_fw.modes.interpolate import Ends, ends_of
from diffusion_fw.modes.mode import SHOWN, Mode, Model, Outcome
from diffusion_fw.registry import ConfigError, NonNegative, register


@register("mode", "temperature")
@dataclass(frozen=True)
class Temperature(Mode):
    """The samples of x_T times each of ``temperatures``: below 1 they are smoother, and less diverse.

    The temperature scaling of Song et al. 2021, section 4.3. ends=noise draws x_T; ends=data encodes held-out
    examples and ends=[a.png,b.png] images, by a sampler that can; ends=[3,7] are the first x_T of two seeds. The npz
    holds the temperatures (K,) and the samples (N, K, *shape).
    """

    temperatures: tuple[NonNegative, ...] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
    ends: Ends = "noise"

    def __call__(self, model: Model) -> Outcome:
        if not self.temperatures:
            raise ConfigError("mode.temperatures=[]: must have at least one temperature")
        latents, told = ends_of(self.ends, model)
        samples = torch.stack([model.decode(scale * latents, told) for scale in self.temperatures], dim=1)
        picture = model.view.table(
            model.folder / "temperature.png",
            samples[:SHOWN],
            rows=[""] * min(SHOWN, len(samples)),
            columns=[f"{scale:g}" for scale in self.temperatures],
        )
        return Outcome({"temperatures": torch.tensor(self.temperatures), "samples": samples}, [picture])
