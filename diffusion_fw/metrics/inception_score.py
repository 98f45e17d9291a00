"""The inception score of samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from diffusion_fw.metrics.comparison import Measure, Numbers, SampleMetric
from diffusion_fw.metrics.sample_set import Part, SampleSet
from diffusion_fw.registry import ConfigError, PositiveInt, register


@register("metric", "inception_score")
@dataclass(frozen=True)
class InceptionScore(SampleMetric):
    """exp E KL(p(y|x) || p(y)) of a classifier, from 1 to its number of classes (Salimans et al. 2016, section 4).

    By torchmetrics: the mean over ``splits`` random parts of the samples, with their deviation,
    ``inception_score_std``. It depends on the number of samples of a part and compares with no real examples: the goal,
    its floor, is the score of as many real ones. Only features of a classifier have it, such as features=inception, or
    features=digits for digits. Raises ConfigError for fewer than two samples for each part.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"inception_score": "higher"}
    takes: ClassVar[frozenset[Part]] = frozenset({"logits"})

    splits: PositiveInt = 10

    def measuring(self, device: torch.device) -> Measure:
        """It needs no reference."""
        return self.score

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        return self.score

    def score(self, generated: SampleSet) -> Numbers:
        """The score of a set of examples, and the deviation of its parts."""
        from torchmetrics.image.inception import InceptionScore

        assert generated.logits is not None
        if len(generated) < 2 * self.splits:
            raise ConfigError(
                f"metric.splits={self.splits}: must be at most {len(generated) // 2}, as there are {len(generated)} "
                "examples (metric.num_samples) and each part needs two"
            )
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)
            score = InceptionScore(nn.Identity(), splits=self.splits)
            score.update(generated.logits.double())
            mean, deviation = score.compute()
        return {"inception_score": float(mean), "inception_score_std": float(deviation) if self.splits > 1 else 0.0}
