"""The likelihood of held-out images, from the variational bound and from the probability flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import likelihood
from diffusion_fw.data.dataset import Examples, to_model
from diffusion_fw.likelihood.bound import VariationalBound
from diffusion_fw.metrics.metric import Measurement, Metric, Subject
from diffusion_fw.noise import SampleNoise, generator
from diffusion_fw.process.level import noised
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.registry import ConfigError, NonNegativeInt, PositiveInt, Runtime, Size, register
from diffusion_fw.samplers.grid import Grid

CONTINUOUS_STEPS = 1000
NOISE_STREAM, FLOW_STREAM, PROBE_STREAM = 11, 12, 13


@dataclass(frozen=True)
class Terms:
    """Bits per dimension of each example: L_T (N,), and the terms (S, N) of S steps at times t (S,), L_0 last."""

    t: Tensor
    prior: Tensor
    steps: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.steps.sum(0)


@register("metric", "nll")
@dataclass(frozen=True)
class NegativeLogLikelihood(Metric):
    """The variational bound of held-out images in bits per dimension, its parts, and the flow's likelihood.

    L_T + sum_t L_t + L_0 (Ho et al. 2020, equation 5 and section 3.3) over ``steps`` times (None: every row of a table,
    1000 of a continuous schedule) that ``grid`` places, with one draw of x_t per image and step. For few steps choose
    grid=respaced, which keeps the first row (Nichol & Dhariwal 2021, section 4). The variance is the model's own or
    that of variance=... The bound is that of the model as it samples, so guidance=[clip] changes it.

    For the first ``flow_images`` images (0: none) also the bits per dimension of the probability flow on uniformly
    dequantised pixels (Song et al. 2021, equation 39, with Hutchinson's estimate of the divergence). Raises ConfigError
    for data that are not 8-bit pixels.
    """

    test: Runtime[Examples]
    grid: Runtime[Grid]
    steps: Size | None = None
    num_images: PositiveInt | None = None
    flow_images: NonNegativeInt = 64

    def evaluate(self, subject: Subject) -> Measurement:
        if not subject.data.pixels:
            raise ConfigError(
                "metric=nll counts the bits of 8-bit pixels, but data=... holds floats; choose metric=fid, or compute "
                "their density with diffusion_fw.likelihood.log_prob"
            )
        count = min(self.num_images or len(self.test), len(self.test))
        values, labels = self.test.__getitems__(range(count))
        bound = VariationalBound(subject.denoiser.schedule(self.times(subject.denoiser.schedule)), subject.variance)
        terms = self._terms(bound, subject, to_model(values), labels)
        mean = {"prior": float(terms.prior.mean()), "steps": float(terms.steps[:-1].sum(0).mean())}
        mean["decoder"] = float(terms.steps[-1].mean())
        total = float(terms.total.mean())
        error = float(terms.total.std()) / math.sqrt(count) if count > 1 else math.nan
        name = f"nll@{bound.steps}/{subject.weights}"
        from diffusion_fw.pictures.bound_terms import bound_curve

        record: dict[str, Any] = {
            "bits_per_dim": total,
            "standard_error": error,
            **{f"{part}_bits_per_dim": value for part, value in mean.items()},
            "images": count,
            "steps": bound.steps,
            "t": terms.t.tolist(),
            "terms": terms.steps.mean(1).tolist(),
        }
        rows = {
            "bound, bits/dim": f"{total:.4f} ± {error:.4f}",
            "L_T (prior)": f"{mean['prior']:.2g}",
            "L_t, summed": f"{mean['steps']:.4f}",
            "L_0 (decoder)": f"{mean['decoder']:.4f}",
            "images": str(count),
            "steps": str(bound.steps),
        }
        flow = min(self.flow_images, count)
        if flow:
            bits = self._flow(subject, values[:flow], None if labels is None else labels[:flow])
            record |= {"flow_bits_per_dim": float(bits.mean()), "flow_images": flow}
            rows[f"flow, bits/dim ({flow} images)"] = f"{float(bits.mean()):.4f}"
        picture = bound_curve(subject.folder / "bound.png", record["t"], record["terms"], mean["prior"])
        return Measurement(name, total, record, rows, [picture])

    def times(self, schedule: Schedule) -> Tensor:
        """The times of the chain, decreasing from noise to data."""
        rows = schedule.num_steps if isinstance(schedule, DiscreteSchedule) else CONTINUOUS_STEPS
        return self.grid(self.steps or rows, schedule)

    @torch.no_grad()
    def _terms(self, bound: VariationalBound, subject: Subject, x0: Tensor, labels: Tensor | None) -> Terms:
        from tqdm import tqdm

        count, steps = len(x0), bound.steps
        found = torch.empty(steps, count, dtype=torch.float64)
        levels = bound.levels.unbind()[:-1]
        with tqdm(total=count * steps, desc="variational bound", unit="term") as bar:
            for first in range(0, count, subject.batch_size):
                indices = range(first, min(first + subject.batch_size, count))
                noise = _noise(subject, NOISE_STREAM, indices)
                part = x0[first : indices.stop].to(subject.device)
                cond = _cond(labels, indices, subject)
                results = []
                for step, level in enumerate(levels):
                    x = noised(level, part, noise(part))
                    prediction = subject.denoiser(x, level, cond)
                    results.append(bound.term(prediction, part, torch.full((len(part),), step)))
                    bar.update(len(part))
                found[:, first : indices.stop] = torch.stack(results).double().cpu()
        return Terms(bound.levels.t[:-1], bound.prior(x0.double()), found)

    def _flow(self, subject: Subject, pixels: Tensor, labels: Tensor | None) -> Tensor:
        """Bits per dimension (N,) of the probability flow."""
        x = likelihood.dequantise(pixels, generator(subject.seed, FLOW_STREAM)).to(subject.device)
        found = []
        for first in range(0, len(x), subject.batch_size):
            indices = range(first, min(first + subject.batch_size, len(x)))
            nats = likelihood.log_prob(
                subject.denoiser,
                x[first : indices.stop],
                cond=_cond(labels, indices, subject),
                divergence="rademacher",
                noise=_noise(subject, PROBE_STREAM, indices),
                atol=1e-4,
                rtol=1e-4,
            )
            found.append(likelihood.bits_per_dim(nats, x[0].numel()).cpu())
        return torch.cat(found)


def _noise(subject: Subject, stream: int, indices: range) -> SampleNoise:
    """Noise that depends only on the image, not on its batch."""
    return SampleNoise(generator(subject.seed, stream).initial_seed(), indices, subject.device)


def _cond(labels: Tensor | None, indices: range, subject: Subject) -> Tensor | None:
    """The labels of these images, or None for a model without labels."""
    if labels is None or not subject.num_classes:
        return None
    return labels[indices.start : indices.stop].to(subject.device)
