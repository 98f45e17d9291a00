"""The Fréchet distance of samples to real data, on named features."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from diffusion_fw.data.dataset import Examples
from diffusion_fw.files import default_cache, with_home
from diffusion_fw.metrics.feature_statistics import Statistics, StatisticsFile, cached
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.registry import ConfigError, Range, Runtime, register


@register("metric", "fid")
class FrechetDistance(nn.Module, TrackedMetric):
    """d^2 = |mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)) between Gaussians fitted to features of two sets.

    Heusel et al. 2017, equation 6, by torchmetrics, in float64: ``num_samples`` samples of all processes against the
    ``reference``. Samples of pixel data are measured as uint8 pixels, as an image file would hold them. The distance is
    biased upwards by about 1 / num_samples, so values are comparable only at the same num_samples and reference.

    ``reference`` is the whole split test (held out) or train, which papers report, or an npz file of the mean ``mu``
    (D,) and the covariance ``sigma`` (D, D) of the same features, as those of EDM and ADM. The name of the distance
    says which, but for test. ``floor`` is what real examples reach: training examples against the held-out ones, and
    held-out examples against any other reference, which may be of the training examples.

    The sums of a split are computed once and kept in ``cache_dir`` (None: ``$XDG_CACHE_HOME/diffusion_fw`` or
    ``~/.cache/diffusion_fw``) under the fingerprints of examples and features. Raises ConfigError for a split of fewer
    than two examples, for a file that does not hold such statistics, and for uint8 samples of float data or float
    samples of uint8 data.
    """

    label = "Fréchet distance"

    def __init__(
        self,
        features: Runtime[FeatureExtractor],
        train: Runtime[Examples],
        test: Runtime[Examples],
        num_samples: Annotated[int, Range(2)] = 500,
        cache_dir: str | None = None,
        reference: str = "test",
    ):
        super().__init__()
        from diffusion_fw.metrics._accumulator import Accumulator

        if len(test) < 2 or len(train) < 2:
            raise ConfigError(
                f"the Fréchet distance needs two examples of each split, but data=... holds {len(train)} for training "
                f"and {len(test)} held out; choose other data, or metric=none to train without a distance"
            )
        self.features = features
        splits = {"train": train, "test": test}
        self.test, self.reference = test, reference
        self.split = splits.get(reference)
        self.file = None if self.split else StatisticsFile.read(reference, features)
        self.real = train if reference == "test" else test
        self.num_samples = num_samples
        self.cache_dir = with_home(cache_dir) if cache_dir else default_cache()
        self.accumulator = Accumulator(features, num_samples)
        self._reference_statistics: Statistics | None = None if self.file is None else self.file.statistics

    @property
    def floor_samples(self) -> int:
        """num_samples, or the number of real examples to compare with the reference if there are fewer."""
        return min(self.num_samples, len(self.real))

    @property
    def floor_of(self) -> str:
        if self.split is None:
            return f"{self.floor_samples} held-out examples against {Path(self.reference).name}"
        kinds = ("training", "held-out") if self.reference == "test" else ("held-out", "training")
        return f"{self.floor_samples} {kinds[0]} against {len(self.split)} {kinds[1]} examples"

    def name(self, weights: str) -> str:
        """``fid/<features>@<num_samples>/<weights>``, e.g. ``fid/digits@500/ema``.

        The features are followed by (train), or by the name of the reference's file.
        """
        against = "" if self.reference == "test" else f"({Path(self.reference).stem})"
        return f"fid/{self.features.name}{against}@{self.num_samples}/{weights}"

    def description(self) -> dict[str, Any]:
        compared = (
            {"reference_samples": len(self.split), "reference_fingerprint": self.split.fingerprint()}
            if self.split is not None
            else {"reference_fingerprint": self.file.fingerprint if self.file else ""}
        )
        return {
            "features": self.features.name,
            "features_fingerprint": self.features.fingerprint(),
            "num_samples": self.num_samples,
            "reference": self.reference,
            **compared,
        }

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
            self.accumulator.enter(self._reference() if _rank() == 0 else None)
            return self.accumulator.compute().item()

    def floor(self) -> float:
        """The distance of ``floor_samples`` real examples, always the same ones, to the reference."""
        from diffusion_fw.metrics._accumulator import Accumulator

        order = torch.randperm(len(self.real), generator=torch.Generator().manual_seed(0))
        indices = order[: self.floor_samples].sort().values.tolist()
        with torch.inference_mode(False):
            accumulator = Accumulator(self.features, self.floor_samples, sync_on_compute=False)
            accumulator = accumulator.to(self.accumulator.device)
            accumulator.enter(self._reference())
            accumulator.add(self._statistics(self.real, indices))
            return accumulator.compute().item()

    @functools.cached_property
    def _reference_type(self) -> torch.dtype:
        return self.test.__getitems__([0])[0].dtype

    def _reference(self) -> Statistics:
        if self._reference_statistics is None:
            assert self.split is not None
            self._reference_statistics = self._statistics(self.split, range(len(self.split)))
        return self._reference_statistics

    def _statistics(self, examples: Examples, indices: list[int] | range) -> Statistics:
        return cached(self.features, examples, indices, self.accumulator.device, self.cache_dir)


def _rank() -> int:
    return (
        torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
    )
