"""The error of encoding and decoding against the number of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from diffusion_fw.modes.mode import SHOWN, Images, Mode, Model, Outcome
from diffusion_fw.registry import ConfigError, Size, register


@register("mode", "reconstruct")
@dataclass(frozen=True)
class Reconstruct(Mode):
    """The mean squared error per dimension of data scaled to [0, 1] after encoding and decoding in S steps each.

    Song et al. 2020, section 5.4 and table 2, on num_samples held-out examples, for each S of ``steps``. The npz holds
    the steps (K,), the errors (K, N), the examples (N, *shape) and the reconstructions (K, N, *shape). guidance=none
    gives the model's own flow, whose error falls with the order of the sampler; clip changes it. images=[a.png,b.png]
    takes these images, or those of a folder or zip, in place of held-out examples.
    """

    steps: tuple[Size, ...] = (10, 20, 50, 100, 200)
    images: Images = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("mode.steps=[]: must have at least one number of steps")

    def __call__(self, model: Model) -> Outcome:
        x0, told = model.examples(self.images)
        low, high = model.bounds
        found = []
        for steps in self.steps:
            sampler = replace(model.sampler, steps=steps)
            try:
                found.append(model.decode(model.encode(x0, told, sampler), told, sampler))
            except ConfigError as error:
                raise ConfigError(f"mode.steps={steps}: {error}") from None
        back = torch.stack(found)
        errors = ((back - x0) / (high - low)).square().flatten(2).double().mean(2)
        picture = model.view.table(
            model.folder / "reconstruct.png",
            torch.cat([x0[None], back]).transpose(0, 1)[:SHOWN],
            rows=[""] * min(SHOWN, len(x0)),
            columns=["data", *(f"S = {steps}" for steps in self.steps)],
        )
        rows = {
            f"error in {steps} steps": f"{error:.3g}"
            for steps, error in zip(self.steps, errors.mean(1).tolist(), strict=True)
        }
        arrays = {"steps": torch.tensor(self.steps), "errors": errors, "examples": x0, "reconstructions": back}
        return Outcome(arrays, [picture], rows)
