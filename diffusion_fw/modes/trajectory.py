"""Progressive generation: x_t and the predicted x_0 over time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.modes.mode import SHOWN, Mode, Model, Outcome
from diffusion_fw.registry import Size, register


@register("mode", "trajectory")
@dataclass(frozen=True)
class Trajectory(Mode):
    """x_t above the prediction of x_0 from it, at ``frames`` times from noise to data; at t = 0 both are the sample.

    The progressive generation of Ho et al. 2020, section 4.3 and figure 6. The npz holds the times (S,), and x_t and
    x_0 (S, N, *shape).
    """

    frames: Size = 10

    def __call__(self, model: Model) -> Outcome:
        found = [self.followed(model, indices) for indices in model.indices()]
        times, x, x0 = found[0][0], *(torch.cat([part[k] for part in found], dim=1) for k in (1, 2))
        shown = torch.stack([x, x0], dim=2)[:, : max(1, SHOWN // 2)].flatten(1, 2).transpose(0, 1)
        picture = model.view.table(
            model.folder / "trajectory.png",
            shown,
            rows=["x at t", "predicted x at 0"] * (len(shown) // 2),
            columns=[f"t = {t:.2f}" for t in times.tolist()],
        )
        return Outcome({"times": times, "x": x, "x0": x0}, [picture])

    @torch.no_grad()
    def followed(self, model: Model, indices: range) -> tuple[Tensor, Tensor, Tensor]:
        """The times (S,) with x_t and x_0 (S, N, *shape) of these samples."""
        x, noise = model.start(indices)
        times, states, predictions = [float(model.sampler.levels(model.denoiser.schedule).t[0])], [x], []
        for step in model.sampler.trajectory(model.denoiser, x, cond=model.classes(indices), noise=noise):
            times.append(step.t)
            states.append(step.x)
            predictions.append(step.x0)
        # The prediction of a step is made at the state where the step starts.
        predictions.append(states[-1])
        chosen = torch.linspace(0, len(times) - 1, min(self.frames, len(times))).round().long().tolist()
        x, x0 = (torch.stack([tensors[i] for i in chosen]).cpu() for tensors in (states, predictions))
        return torch.tensor(times, dtype=torch.float64)[chosen], x, x0
