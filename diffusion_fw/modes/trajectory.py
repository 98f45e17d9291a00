"""Progressive generation: x_t and the predicted x_0 over time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.modes.mode import SHOWN, Mode, Model, Outcome
from diffusion_fw.registry import Size, register
from diffusion_fw.sampling.draw import follow
from diffusion_fw.sampling.share import shared


@register("mode", "trajectory")
@dataclass(frozen=True)
class Trajectory(Mode):
    """x_t above the prediction of x_0 from it, at ``frames`` times from noise to data; at t = 0 both are the sample.

    The progressive generation of Ho et al. 2020, section 4.3 and figure 6. The npz holds the times (S,), and x_t and
    x_0 (S, N, *shape).
    """

    frames: Size = 10

    def __call__(self, model: Model) -> Outcome:
        found = list(shared(lambda indices: self.followed(model, indices), list(model.indices())))
        times = found[0][0]
        x = torch.cat([states for _, states, _ in found], dim=1)
        x0 = torch.cat([predictions for *_, predictions in found], dim=1)
        shown = torch.stack([x, x0], dim=2)[:, : max(1, SHOWN // 2)].flatten(1, 2).transpose(0, 1)
        picture = model.view.table(
            model.folder / "trajectory.png",
            shown,
            rows=["x at t", "predicted x at 0"] * (len(shown) // 2),
            columns=[f"t = {t:.2f}" for t in times],
        )
        return Outcome({"times": torch.tensor(times, dtype=torch.float64), "x": x, "x0": x0}, [picture])

    def followed(self, model: Model, indices: range) -> tuple[list[float], Tensor, Tensor]:
        """The times with x_t and x_0 (S, N, *shape) of these samples."""
        x, noise = model.start(indices)
        cond = model.cond(indices)
        times, *found = follow(model.sampler, model.denoiser, x, cond=cond, noise=noise, count=self.frames)
        states, predictions = (model.leave(item.flatten(0, 1)).unflatten(0, item.shape[:2]) for item in found)
        return times, states, predictions
