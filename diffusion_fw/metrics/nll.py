"""The likelihood of held-out images, from the variational bound and from the probability flow."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import likelihood
from diffusion_fw.conditions.conditioner import Cond
from diffusion_fw.data.dataset import Examples
from diffusion_fw.denoiser import Denoiser, require_deterministic, seeded
from diffusion_fw.guidance.guidance import without_bounds
from diffusion_fw.likelihood.bound import BIN, VariationalBound
from diffusion_fw.metrics.comparison import partial_count
from diffusion_fw.metrics.metric import Measurement, Metric, Subject
from diffusion_fw.noise import SampleNoise, generator
from diffusion_fw.process.level import noised
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.registry import ConfigError, NonNegativeInt, Positive, PositiveInt, Runtime, Size, register
from diffusion_fw.samplers.grid import Grid

CONTINUOUS_STEPS = 1000
NOISE_STREAM, FLOW_STREAM, PROBE_STREAM = 11, 12, 13
COARSEST = 0.05
"""A warning is given where the decoder starts from a larger sigma / alpha, in units of the data."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """Bits per dimension of each example: L_T (N,), and the terms (S, N) of S steps at times t (S,), L_0 last.

    ``errors`` (S, N) are the mean squared errors of the x_0 that is predicted at these times.
    """

    t: Tensor
    prior: Tensor
    steps: Tensor
    errors: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.steps.sum(0)


@register("metric", "nll")
@dataclass(frozen=True)
class NegativeLogLikelihood(Metric):
    """The variational bound of held-out images in bits per dimension, its parts, and the flow's likelihood.

    L_T + sum_t L_t + L_0 (Ho et al. 2020, equation 5 and section 3.3) over ``steps`` times (None: every row of a table,
    1000 of a continuous schedule) that ``grid`` places, with one draw of x_t per image and step. For few steps of a
    table choose grid=respaced, which keeps the first row (Nichol & Dhariwal 2021, section 4), and on the paths of EDM
    grid=karras. The variance is the model's own or that of variance=... The bound is that of the model as it samples,
    so guidance=[clip] changes it. Rate and distortion (Ho et al. 2020, section 4.3) come from the same draws: before
    the step at t the receiver has L_T and the terms above t, and predicts x_0 with a root mean square error that is
    given on the scale 0 .. 255.

    For the first ``flow_images`` images (0: none, null: all) also the bits per dimension of the probability flow on
    uniformly dequantised pixels (Song et al. 2021, equation 39, with Hutchinson's estimate of the divergence). Each of
    ``flow_repeats`` repeats dequantises again and draws a new probe, and ``flow_tolerance`` is atol and rtol of the
    integrator. Their table 2 has flow_images=null flow_repeats=5 flow_tolerance=1e-5; the defaults take seconds on the
    digits. The flow is that of the unclipped model: guidances that only bound x_0 (clip, dynamic_threshold) are left
    out of it, unless flow_clip=true.

    Raises ConfigError for data that are not 8-bit pixels.
    """

    test: Runtime[Examples]
    grid: Runtime[Grid]
    steps: Size | None = None
    num_images: PositiveInt | None = None
    flow_images: NonNegativeInt | None = 64
    flow_tolerance: Positive = 1e-4
    flow_repeats: PositiveInt = 1
    flow_clip: bool = False

    def evaluate(self, subject: Subject) -> Measurement:
        if self.test.__getitems__([0])[0].dtype != torch.uint8:
            held = "the model is of latents of a codec" if subject.data.pixels else "data=... holds floats"
            raise ConfigError(
                f"metric=nll counts the bits of 8-bit pixels, but {held}; choose metric=fid, or compute "
                "their density with diffusion_fw.likelihood.log_prob"
            )
        count = min(self.num_images or len(self.test), len(self.test))
        flow = count if self.flow_images is None else min(self.flow_images, count)
        flowing = subject.denoiser if self.flow_clip else without_bounds(subject.denoiser)
        if flow:
            user = f"metric.flow_images={flow}: the likelihood of the flow, which metric.flow_images=0 leaves out,"
            require_deterministic(flowing, user)
        x0, cond = subject.told(self.test, range(count))
        bound = VariationalBound(subject.denoiser.schedule(self.times(subject.denoiser.schedule)), subject.variance)
        warn_coarse(bound, subject.denoiser.schedule)
        terms = self._terms(bound, subject, x0, cond)
        mean = {"prior": float(terms.prior.mean()), "steps": float(terms.steps[:-1].sum(0).mean())}
        mean["decoder"] = float(terms.steps[-1].mean())
        total = float(terms.total.mean())
        error = float(terms.total.std()) / math.sqrt(count) if count > 1 else math.nan
        name = f"nll@{bound.steps}/{subject.weights}"
        from diffusion_fw.pictures.bound_terms import bound_curve, rate_distortion

        rate, distortion = rates(terms), (127.5 * terms.errors.mean(1).sqrt()).tolist()
        record: dict[str, Any] = {
            "bits_per_dim": total,
            "standard_error": error,
            **{f"{part}_bits_per_dim": value for part, value in mean.items()},
            "images": count,
            "steps": bound.steps,
            "t": terms.t.tolist(),
            "terms": terms.steps.mean(1).tolist(),
            "rate": rate,
            "distortion": distortion,
        }
        rows = {
            "bound, bits/dim": f"{total:.4f} ± {error:.4f}",
            "L_T (prior)": f"{mean['prior']:.2g}",
            "L_t, summed": f"{mean['steps']:.4f}",
            "L_0 (decoder)": f"{mean['decoder']:.4f}",
            "rate, distortion at the last step": f"{rate[-1]:.4f} bits/dim, {distortion[-1]:.4f} of 255",
            "images": str(count),
            "steps": str(bound.steps),
        }
        if flow:
            bits = self._flow(flowing, subject, self.test.__getitems__(range(flow))[0], cond)
            record |= {
                "flow_bits_per_dim": float(bits.mean()),
                "flow_standard_error": float(bits.std()) / math.sqrt(flow) if flow > 1 else math.nan,
                "flow_images": flow,
                "flow_repeats": self.flow_repeats,
                "flow_tolerance": self.flow_tolerance,
                "flow_unclipped": flowing is not subject.denoiser,
            }
            how = f"{flow} images" + (", without the clip of guidance" if flowing is not subject.denoiser else "")
            rows[f"flow, bits/dim ({how})"] = f"{float(bits.mean()):.4f} ± {record['flow_standard_error']:.4f}"
        pictures = [
            bound_curve(subject.folder / "bound.png", record["t"], record["terms"], mean["prior"]),
            rate_distortion(subject.folder / "rate_distortion.png", record["t"], rate, distortion),
        ]
        part = partial_count(count)
        partial = (part, float(terms.total[:part].mean()))
        return Measurement(name, total, record, rows, pictures, partial=partial)

    @staticmethod
    def part(count: int) -> dict[str, Any]:
        """The settings under which the first ``count`` images alone are measured."""
        return {"num_images": count, "flow_images": 0}

    def times(self, schedule: Schedule) -> Tensor:
        """The times of the chain, decreasing from noise to data; ConfigError for a grid that repeats times."""
        if self.grid.repeats:
            raise ConfigError("metric=nll has no term for a step of length 0; set grid.repeat=false")
        rows = schedule.num_steps if isinstance(schedule, DiscreteSchedule) else CONTINUOUS_STEPS
        return self.grid(self.steps or rows, schedule)

    @torch.no_grad()
    def _terms(self, bound: VariationalBound, subject: Subject, x0: Tensor, told: Cond) -> Terms:
        from tqdm import tqdm

        count, steps = len(x0), bound.steps
        found, errors = torch.empty(2, steps, count, dtype=torch.float64)
        levels = bound.levels.unbind()[:-1]
        with tqdm(total=count * steps, desc="variational bound", unit="term") as bar:
            for first in range(0, count, subject.batch_size):
                indices = range(first, min(first + subject.batch_size, count))
                noise = _noise(subject, NOISE_STREAM, indices)
                denoiser = seeded(subject.denoiser, noise)
                part = x0[first : indices.stop].to(subject.device)
                cond = _cond(told, indices, subject)
                results, squares = [], []
                for step, level in enumerate(levels):
                    x = noised(level, part, noise(part))
                    prediction = denoiser(x, level, cond)
                    results.append(bound.term(prediction, part, torch.full((len(part),), step)))
                    squares.append((prediction.x0 - part).square().flatten(1).mean(1))
                    bar.update(len(part))
                found[:, first : indices.stop] = torch.stack(results).double().cpu()
                errors[:, first : indices.stop] = torch.stack(squares).double().cpu()
        return Terms(bound.levels.t[:-1], bound.prior(x0.double()), found, errors)

    def _flow(self, denoiser: Denoiser, subject: Subject, pixels: Tensor, told: Cond) -> Tensor:
        """Bits per dimension (N,) of the probability flow, the mean over the repeats."""
        found = torch.zeros(len(pixels), dtype=torch.float64)
        for repeat in range(self.flow_repeats):
            # The first repeat has the keys of a single one.
            key = (repeat,) if repeat else ()
            x = likelihood.dequantise(pixels, generator(subject.seed, FLOW_STREAM, *key))
            for first in range(0, len(x), subject.batch_size):
                indices = range(first, min(first + subject.batch_size, len(x)))
                nats = likelihood.log_prob(
                    denoiser,
                    x[first : indices.stop].to(subject.device),
                    cond=_cond(told, indices, subject),
                    divergence="rademacher",
                    noise=_noise(subject, PROBE_STREAM, indices, *key),
                    atol=self.flow_tolerance,
                    rtol=self.flow_tolerance,
                )
                found[first : indices.stop] += likelihood.bits_per_dim(nats, x[0].numel()).cpu() / self.flow_repeats
        return found


def rates(terms: Terms) -> list[float]:
    """Bits per dimension (S,) that a receiver has before each step: L_T and the terms of the earlier steps."""
    spent = torch.cat([terms.prior.mean()[None], terms.steps[:-1].mean(1)])
    return spent.cumsum(0).tolist()


def warn_coarse(bound: VariationalBound, schedule: Schedule) -> None:
    """Warn where the chain jumps from much noise to data: its L_0 is that of the jump, not of the model."""
    rho = float(torch.exp(-bound.levels.log_snr[-2] / 2))
    if rho > COARSEST:
        advice = "grid=respaced" if isinstance(schedule, DiscreteSchedule) else "grid=karras"
        logger.warning(
            "metric=nll: the last step goes from sigma / alpha = %.2g, %.0f pixel values, to data, and the decoder "
            "pays for it; choose %s or more steps (metric.steps)",
            rho,
            rho / BIN,
            advice,
        )


def _noise(subject: Subject, stream: int, indices: range, *key: int) -> SampleNoise:
    """Noise that depends only on the image, not on its batch."""
    return SampleNoise(generator(subject.seed, stream, *key).initial_seed(), indices, subject.device)


def _cond(told: Cond, indices: range, subject: Subject) -> Cond:
    """What the model is told of these images."""
    return None if told is None else told[indices.start : indices.stop].to(subject.device)
