"""The Fréchet distance of samples to real data, on named features."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from diffusion_fw.data.dataset import Examples
from diffusion_fw.files import default_cache, with_home
from diffusion_fw.metrics.comparison import Beside, Comparison, Measure, Numbers, Split, two_of_each
from diffusion_fw.metrics.feature_statistics import Fitted, Statistics, StatisticsFile, cached, of_vectors
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.metric import Measurement, Subject, TrackedMetric
from diffusion_fw.metrics.sample_set import SampleSet
from diffusion_fw.registry import ConfigError, Range, Runtime, register
from diffusion_fw.sampling.share import rank

POINTS = 15
"""Numbers of samples at which the distance is measured for the extrapolation."""
FEWEST = 2.5
"""The smallest of these numbers, in units of the number of features: that of Chong & Forsyth 2020."""
APART = 0.05
"""The squared distance of the means of a file and of the data, in units of the variance, that is too large."""

logger = logging.getLogger(__name__)


@register("metric", "fid")
class FrechetDistance(nn.Module, Comparison, TrackedMetric):
    """d^2 = |mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)) between Gaussians fitted to features of two sets.

    Heusel et al. 2017, equation 6, in float64: ``num_samples`` samples of all processes against the ``reference``.
    Samples of pixel data are measured as uint8 pixels, as an image file would hold them. The distance is biased upwards
    by about 1 / num_samples, so values are comparable only at the same num_samples and reference.

    ``reference`` is the whole split test (held out) or train, which papers report, or an npz file of the mean ``mu``
    (D,) and the covariance ``sigma`` (D, D) of the same features, as those of EDM and ADM. The name of the distance
    says which, but for test. ``floor`` is what real examples reach: training examples against the held-out ones, and
    held-out examples against any other reference, which may be of the training examples.

    evaluate.py adds an interval by the jackknife over ``interval_groups`` groups of samples (0: none). With
    ``extrapolate`` it adds the limit of infinitely many samples, ``fid_infinity`` (Chong & Forsyth 2020), from a line
    in 1 / N through the distances of fewer samples, if there are five times as many samples as features. The bias from
    the number of real examples stays in it.

    The sums of a split are computed once and kept in ``cache_dir`` (None: ``$XDG_CACHE_HOME/diffusion_fw`` or
    ``~/.cache/diffusion_fw``) under the fingerprints of examples and features. Raises ConfigError for a split of fewer
    than two examples, for a file that does not hold such statistics, and for uint8 samples of float data or float
    samples of uint8 data.
    """

    features: FeatureExtractor

    label = "Fréchet distance"
    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"fid": "lower"}

    def __init__(
        self,
        features: Runtime[FeatureExtractor],
        train: Runtime[Examples],
        test: Runtime[Examples],
        num_samples: Annotated[int, Range(2)] = 500,
        cache_dir: str | None = None,
        reference: str = "test",
        interval_groups: Annotated[int, Range(0, 1000)] = 10,
        extrapolate: bool = True,
    ):
        super().__init__()
        from diffusion_fw.metrics._accumulator import Accumulator

        two_of_each(train, test)
        self.features = features
        self.splits: dict[str, Examples] = {"train": train, "test": test}
        self.reference = reference
        self.split = self.splits.get(reference)
        self.file = None if self.split else StatisticsFile.read(reference, features)
        self.num_samples = num_samples
        self.interval_groups, self.extrapolate = interval_groups, extrapolate
        self.cache_dir = with_home(cache_dir) if cache_dir else default_cache()
        self.accumulator = Accumulator(features, num_samples)
        self._reference_statistics: Statistics | None = None if self.file is None else self.file.statistics

    def examples(self, split: Split) -> Examples:
        return self.splits[split]

    @property
    def cache(self) -> Path:
        return self.cache_dir

    @property
    def floor_samples(self) -> int:
        """num_samples, or the number of real examples to compare with the reference if there are fewer."""
        return min(self.num_samples, len(self.splits[self.other]))

    @property
    def floor_of(self) -> str:
        if self.undivided:
            return "one half of the reference against the other"
        if self.split is None:
            return f"{self.floor_samples} held-out examples against {Path(self.reference).name}"
        kinds = ("training", "held-out") if self.reference == "test" else ("held-out", "training")
        return f"{self.floor_samples} {kinds[0]} against {len(self.split)} {kinds[1]} examples"

    def name(self, weights: str) -> str:
        """``fid/<features>@<num_samples>/<weights>``, e.g. ``fid/digits@500/ema``.

        The features are followed by (train), or by the name of the reference's file.
        """
        return self.full_name("fid", weights)

    def description(self) -> dict[str, Any]:
        compared = (
            {"reference_samples": len(self.split), "reference_fingerprint": self.split.fingerprint()}
            if self.split is not None
            else {"reference_fingerprint": self.file.fingerprint if self.file else ""}
        )
        return {**super().description(), "features_fingerprint": self.features.fingerprint(), **compared}

    def evaluate(self, subject: Subject) -> Measurement:
        self.to(subject.device)
        self._warn()
        measured = super().evaluate(subject)
        rows = {self.label: measured.rows["fid"], f"floor: {self.floor_of}": measured.rows["floor of fid"]}
        further = {key: text for key, text in measured.rows.items() if key not in ("fid", "floor of fid")}
        return replace(measured, record={"distance": measured.value, **measured.record}, rows={**rows, **further})

    def measuring(self, device: torch.device) -> Measure:
        return lambda generated: {"fid": self._distance(of_vectors(generated.vectors, device))}

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        fitted = Fitted.of(of_vectors(real.vectors, device))
        return lambda generated: {"fid": float(Fitted.of(of_vectors(generated.vectors, device)).distance(fitted))}

    def floors(self, measure: Measure, device: torch.device) -> Numbers:
        return {"fid": self.floor()}

    def replicates(self, measure: Measure, generated: SampleSet, group: Tensor, device: torch.device) -> list[Numbers]:
        """By the sums of all samples without those of the group."""
        vectors = generated.vectors
        whole = of_vectors(vectors, device)
        parts = (of_vectors(vectors[group == index], device) for index in range(int(group.max()) + 1))
        return [{"fid": self._distance(whole.without(part))} for part in parts]

    def beside(self, measure: Measure, generated: SampleSet, values: Numbers, subject: Subject) -> Beside:
        fewest = round(FEWEST * self.features.num_features)
        if not self.extrapolate or len(generated) < 2 * fewest:
            return Beside()
        counts = torch.linspace(max(fewest, len(generated) // 10), len(generated), POINTS).long()
        random = torch.Generator().manual_seed(0)
        distances = []
        for count in counts.tolist():
            chosen = torch.randperm(len(generated), generator=random)[:count]
            distances.append(self._distance(of_vectors(generated.vectors[chosen], subject.device)))
        limit = at_infinity(counts, torch.tensor(distances, dtype=torch.float64))
        return Beside(
            {"fid_infinity": limit, "extrapolated_from": [counts.tolist(), distances]},
            {"of infinitely many samples, extrapolated": f"{limit:.4g}"},
        )

    def _distance(self, statistics: Statistics) -> float:
        return float(Fitted.of(statistics).distance(self._fitted.to(statistics.total.device)))

    @functools.cached_property
    def _fitted(self) -> Fitted:
        """The Gaussian of the reference."""
        return Fitted.of(self._reference().to(self.accumulator.device))

    def _warn(self) -> None:
        """Warn of fewer examples than features, and of a file of other data."""
        size = self.features.num_features
        counts = {"samples (metric.num_samples)": self.num_samples}
        if self.split is not None:
            counts["examples of the reference"] = len(self.split)
        for kind, count in counts.items():
            if count < size:
                logger.warning(
                    "metric=fid: %d %s are fewer than the %d features, so the covariance has not its full rank and the "
                    "distance is mostly bias; compare it with its floor alone, or choose metric=kid",
                    *(count, kind, size),
                )
        if self.file is not None:
            real = Fitted.of(self._statistics(*self.chosen("test", self.num_samples)))
            theirs = Fitted.of(self.file.statistics)
            far = float((real.mean - theirs.mean).square().sum() / real.trace)
            if far > max(APART, 20 / self.floor_samples):
                logger.warning(
                    "metric.reference=%s: its mean is far from that of the held-out examples (the squared distance is "
                    "%.2g of their variance); is it of other data, or of the same features made otherwise?",
                    *(self.reference, far),
                )

    def reset(self) -> None:
        with torch.inference_mode(False):
            self.accumulator.reset()

    def update(self, generated: Tensor) -> None:
        """Add this process's share of the samples: uint8 pixels or floats, as the held-out examples are."""
        if (generated.dtype == torch.uint8) != (self._reference_type == torch.uint8):
            raise ConfigError(
                f"the samples are {generated.dtype} but the held-out examples {self._reference_type}: the checkpoint "
                "is of other data, or of a version that took bounded floats for pixels; train it again"
            )
        with torch.inference_mode(False):
            self.accumulator.update(generated.to(self.accumulator.device), real=False)

    def compute(self) -> float:
        """The distance of the samples of all processes; NaN if features of a sample are not finite.

        Every process must call it. Raises ValueError unless there are num_samples samples in all.
        """
        with torch.inference_mode(False):
            self.accumulator.enter(self._reference() if rank() == 0 else None)
            return self.accumulator.compute().item()

    def floor(self) -> float:
        """The distance of ``floor_samples`` real examples, always the same ones, to the reference."""
        with torch.inference_mode(False):
            return self._distance(self._statistics(*self.chosen(self.other, self.num_samples)))

    @functools.cached_property
    def _reference_type(self) -> torch.dtype:
        return self.splits["test"].__getitems__([0])[0].dtype

    def _reference(self) -> Statistics:
        if self._reference_statistics is None:
            assert self.split is not None
            self._reference_statistics = self._statistics(self.split, range(len(self.split)))
        return self._reference_statistics

    def _statistics(self, examples: Examples, indices: Sequence[int]) -> Statistics:
        return cached(self.features, examples, indices, self.accumulator.device, self.cache_dir)


def at_infinity(counts: Tensor, distances: Tensor) -> float:
    """The intercept of the line through (1 / count, distance) by least squares."""
    inverse = 1 / counts.double()
    centred = inverse - inverse.mean()
    slope = (centred @ distances) / centred.square().sum()
    return float(distances.mean() - slope * inverse.mean())
