"""Between two samples or two examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from diffusion_fw.conditions.conditioner import Cond
from diffusion_fw.modes.mode import SHOWN, Images, Mode, Model, Outcome, from_time
from diffusion_fw.noise import generator
from diffusion_fw.process.level import noised
from diffusion_fw.registry import ConfigError, Fraction, Range, Seed, register

Count = Annotated[int, Range(2, 1000)]
NOISE_STREAM = 15


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """(sin((1 - w) theta) a + sin(w theta) b) / sin(theta) for each weight w (K,): (N, K, ...) of a and b (N, ...).

    theta is the angle between a and b. Song et al. 2020, appendix D.5. Parallel vectors are interpolated linearly.
    """
    shape = (len(a), 1, *[1] * (a.ndim - 1))
    x, y = a.flatten(1).double(), b.flatten(1).double()
    cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-300)
    theta = cosine.clamp(-1, 1).arccos().view(shape)
    w = weights.double().view(1, -1, *shape[2:])
    # The limits at theta = 0 are the linear weights.
    parallel = theta.sin() < 1e-6
    sine = torch.where(parallel, 1.0, theta.sin())
    first = torch.where(parallel, 1 - w, ((1 - w) * theta).sin() / sine)
    second = torch.where(parallel, w, (w * theta).sin() / sine)
    return (first * a.double()[:, None] + second * b.double()[:, None]).to(a.dtype)


def pairs(count: int) -> int:
    """How many pairs ``count`` examples make; ConfigError for less than one."""
    if count < 2:
        raise ConfigError(f"num_samples={count}: an interpolation takes pairs; give at least 2")
    return count // 2


Ends = Literal["noise", "data"] | tuple[Seed, ...] | tuple[str, ...]


def ends_of(ends: Ends, model: Model, *, paired: bool = False) -> tuple[Tensor, Cond]:
    """Latents x_T, and what the model is told of them.

    They are num_samples draws, or those that a run with each of the given seeds draws first; or they encode
    num_samples held-out examples, or the images that are given. ``paired``: two and two have one class.
    """
    if ends == "noise":
        latents = torch.cat([model.start(indices)[0].cpu() for indices in model.indices()])
    elif ends == "data":
        return encoded(model, *model.held_out(paired=paired))
    elif seeds := [end for end in ends if isinstance(end, int)]:
        if paired and len(seeds) % 2:
            raise ConfigError(f"mode.ends={seeds}: {len(seeds)} seeds make no pairs; give an even number")
        latents = torch.cat([replace(model, seed=seed).start([0])[0].cpu() for seed in seeds])
    elif images := [end for end in ends if isinstance(end, str)]:
        return encoded(model, *model.given(images, "mode.ends", paired=paired))
    else:
        raise ConfigError("mode.ends=[]: must be noise, data, a list of seeds or a list of image files")
    # Both of a pair are told the same.
    return latents, model.cond_of([index // 2 if paired else index for index in range(len(latents))])


def encoded(model: Model, x0: Tensor, told: Cond) -> tuple[Tensor, Cond]:
    """The latents of examples, beside what the model is told of them."""
    return model.encode(x0, told), told


def labelled(weights: Tensor) -> list[str]:
    """Titles of the columns."""
    return [f"{weight:.2f}" for weight in weights.tolist()]


@register("mode", "interpolate")
@dataclass(frozen=True)
class Interpolate(Mode):
    """The samples of ``count`` latents x_T on the great circle between two, for num_samples / 2 pairs.

    Song et al. 2020, section 5.3 and figure 6. ends=noise draws the two latents; ends=data encodes two held-out
    examples, by a sampler that can. ends=[a.png,b.png] encodes images, and ends=[3,7] is between the first samples of
    two seeds; such lists have two for each pair, and num_samples counts nothing. A stochastic sampler uses one noise
    for a pair. A model that takes labels gets pairs of one class. The npz holds the weights (K,), and latents and
    samples (N, K, *shape).
    """

    count: Count = 9
    ends: Ends = "noise"

    def __call__(self, model: Model) -> Outcome:
        weights = torch.linspace(0, 1, self.count, dtype=torch.float64)
        latents, told = ends_of(self.ends, model, paired=True)
        half = pairs(len(latents))
        first, second = latents[0 : 2 * half : 2], latents[1 : 2 * half : 2]
        between = slerp(first, second, weights)
        own = None if told is None else told[0 : 2 * half : 2]
        samples = torch.stack([model.decode(item, own) for item in between.unbind(1)], dim=1)
        picture = model.view.table(
            model.folder / "interpolate.png",
            samples[:SHOWN],
            rows=[""] * min(SHOWN, half),
            columns=labelled(weights),
        )
        return Outcome({"weights": weights, "latents": between, "samples": samples}, [picture])


@register("mode", "interpolate_noised")
@dataclass(frozen=True)
class InterpolateNoised(Mode):
    """x_0 decoded from (1 - w) x_t + w x_t' of two held-out examples, noised to each of ``times``, for ``count`` w.

    Ho et al. 2020, section 4.3 and figures 8 and 9: x_t and the noise of the decoding are the same for all w. Little
    noise keeps the details of both, much noise invents them. Each of the times becomes the nearest one of the sampler's
    grid. sampler=ddpm is the paper's. images=[a.png,b.png] takes these images in place of held-out examples, two for
    each pair; it may also name a folder or a zip. The npz holds times (T,), weights (K,), ends and samples
    (N, T, K, *shape).
    """

    times: tuple[Fraction, ...] = (0.25, 0.5, 0.75, 1.0)
    count: Count = 7
    images: Images = None

    def __call__(self, model: Model) -> Outcome:
        if not self.times:
            raise ConfigError("mode.times=[]: must have at least one time")
        weights = torch.linspace(0, 1, self.count, dtype=torch.float64)
        x0, told = model.examples(self.images, paired=True)
        half = pairs(len(x0))
        first, second = x0[0 : 2 * half : 2], x0[1 : 2 * half : 2]
        ends = model.enter(first), model.enter(second)
        own = None if told is None else told[0 : 2 * half : 2]
        schedule, rows, times = model.denoiser.schedule, [], []
        for t in self.times:
            sampler = from_time(model.sampler, schedule, t)
            level = sampler.levels(schedule)[0]
            source = generator(model.seed, NOISE_STREAM)
            x, y = (noised(level, end, torch.randn(end.shape, generator=source)) for end in ends)
            mixed = [torch.lerp(x, y, weight) for weight in weights.tolist()]
            rows.append([model.decode(item, own, sampler) for item in mixed])
            times.append(float(level.t))
        samples = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
        shown = max(1, SHOWN // len(times))
        grid = [
            torch.cat([first[i][None], samples[i, j], second[i][None]])
            for i in range(min(shown, half))
            for j in range(len(times))
        ]
        picture = model.view.table(
            model.folder / "interpolate_noised.png",
            torch.stack(grid),
            rows=[f"t = {t:.2f}" for t in times] * min(shown, half),
            columns=["source", *labelled(weights), "source"],
        )
        arrays = {
            "times": torch.tensor(times, dtype=torch.float64),
            "weights": weights,
            "ends": torch.stack([first, second], dim=1),
            "samples": samples,
        }
        return Outcome(arrays, [picture])
