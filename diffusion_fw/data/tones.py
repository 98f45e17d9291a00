"""Decaying harmonic tones, whose autocovariance is known in closed form.

    x_l = e^(-d s) / H sum_k cos(2 pi (k f s + phi_k)) / k,    s = l / length,    l = 0 .. length - 1,

with H = sum_k 1/k, k = 1 .. harmonics, f one of the pitches, d ~ U[0, decay] and phi_k ~ U[0, 1].
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.noise import generator
from diffusion_fw.registry import ConfigError, NonNegative, NonNegativeInt, Positive, Range, register


@register("data", "tones")
@dataclass(frozen=True)
class Tones(Data):
    """``num_examples`` waveforms (1, length) in each split: a tone of harmonics that decays; its pitch is the class.

    x_l = e^(-d s) / H sum_k cos(2 pi (k f s + phi_k)) / k with s = l / length, H = sum_k 1/k, k = 1 .. ``harmonics``,
    f one of the ``pitches`` in cycles, the rate d uniform in [0, ``decay``], and phases phi_k uniform in [0, 1]. So
    |x| <= 1. The mean is 0, and ``covariance`` is known in closed form. Both splits are drawn from the seed: example i
    is a function of the seed and i.

    Raises ConfigError for no pitch, or one whose highest harmonic has length / 2 cycles or more.
    """

    num_examples: Annotated[int, Range(1, 1_000_000)] = 10_000
    length: Annotated[int, Range(2, 65_536)] = 64
    pitches: tuple[Positive, ...] = (3.0, 4.0, 6.0, 8.0)
    harmonics: Annotated[int, Range(1, 100)] = 3
    decay: NonNegative = 4.0
    seed: NonNegativeInt = 0

    default_features: ClassVar[str] = "spectra"

    def __post_init__(self) -> None:
        if not self.pitches:
            raise ConfigError("data.pitches=[]: must have at least one pitch")
        highest = self.harmonics * max(self.pitches)
        if highest >= self.length / 2:
            raise ConfigError(
                f"data.pitches={list(self.pitches)}: harmonic {self.harmonics} of {max(self.pitches):g} has "
                f"{highest:g} cycles, but {self.length} values show fewer than {self.length / 2:g}; "
                "lower data.pitches or data.harmonics, or raise data.length"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.length)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"{pitch:g}" for pitch in self.pitches) if len(self.pitches) > 1 else ()

    def load(self, split: str) -> InMemory:
        draws = torch.rand(
            self.num_examples,
            2 + self.harmonics,
            generator=generator(self.seed, int(split == "test")),
            dtype=torch.float64,
        )
        labels = (len(self.pitches) * draws[:, 0]).long()
        pitch = torch.tensor(self.pitches, dtype=torch.float64)[labels]
        angle = pitch[:, None, None] * self._orders[:, None] * self._times + draws[:, 2:, None]
        waves = ((2 * math.pi * angle).cos() * self._amplitudes[:, None]).sum(1)
        values = (-self.decay * draws[:, 1:2] * self._times).exp() * waves
        return InMemory(values.float().unsqueeze(1), labels if self.class_names else None)

    @property
    def covariance(self) -> Tensor:
        """E[x_l x_m], float64 (length, length).

        With u = s + s' and v = s - s':

            (1 - e^(-decay u)) / (decay u)  mean_f sum_k cos(2 pi k f v) / (2 k^2 H^2).
        """
        later = self.decay * (self._times[:, None] + self._times)
        # The limit at 0 is 1.
        kept = torch.where(later > 0, -torch.expm1(-later) / later.clamp(min=1e-300), 1.0)
        apart = self._times[:, None] - self._times
        pitches = torch.tensor(self.pitches, dtype=torch.float64)
        cycles = (pitches[:, None] * self._orders)[..., None, None] * apart
        waves = (2 * math.pi * cycles).cos().mean(0) * self._amplitudes.square()[:, None, None] / 2
        return kept * waves.sum(0)

    @functools.cached_property
    def _times(self) -> Tensor:
        return torch.arange(self.length, dtype=torch.float64) / self.length

    @functools.cached_property
    def _orders(self) -> Tensor:
        return torch.arange(1, self.harmonics + 1, dtype=torch.float64)

    @property
    def _amplitudes(self) -> Tensor:
        return 1 / self._orders / (1 / self._orders).sum()
