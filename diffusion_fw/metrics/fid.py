"""The Fréchet distance of samples to held-out data, on named features."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from diffusion_fw.data.dataset import Examples
from diffusion_fw.files import default_cache, with_home
from diffusion_fw.metrics.feature_statistics import Statistics, cached
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.registry import ConfigError, Range, Runtime, register


@register("metric", "fid")
class FrechetDistance(nn.Module, TrackedMetric):
    """d^2 = |mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)) between Gaussians fitted to features of two sets.

    Heusel et al. 2017, equation 6, by torchmetrics, in float64: ``num_samples`` samples of all processes against the
    whole held-out split. Samples of pixel data are measured as uint8 pixels, as an image file would hold them. The
    distance is biased upwards by about 1 / num_samples, so values are comparable only at the same num_samples and
    reference split; ``floor`` is what training examples reach.

    The sums of the reference are computed once and kept in ``cache_dir`` (None: ``$XDG_CACHE_HOME/diffusion_fw`` or
    ``~/.cache/diffusion_fw``) under the fingerprints of examples and features. Raises ConfigError for a split of fewer
    than two examples, and for uint8 samples of float data or float samples of uint8 data.
    """

    label = "Fréchet distance"

    def __init__(
        self,
        features: Runtime[FeatureExtractor],
        train: Runtime[Examples],
        reference: Runtime[Examples],
        num_samples: Annotated[int, Range(2)] = 500,
        cache_dir: str | None = None,
    ):
        super().__init__()
        from diffusion_fw.metrics._accumulator import Accumulator

        if len(reference) < 2 or len(train) < 2:
            raise ConfigError(
                f"the Fréchet distance needs two examples of each split, but data=... holds {len(train)} for training "
                f"and {len(reference)} held out; choose other data, or metric=none to train without a distance"
            )
        self.features = features
        self.train_examples = train
        self.reference = reference
        self.num_samples = num_samples
        self.cache_dir = with_home(cache_dir) if cache_dir else default_cache()
        self.accumulator = Accumulator(features, num_samples)
        self._reference_statistics: Statistics | None = None

    @property
    def floor_samples(self) -> int:
        """num_samples, or the number of training examples if there are fewer."""
        return min(self.num_samples, len(self.train_examples))

    def name(self, weights: str) -> str:
        """``fid/<features>@<num_samples>/<weights>``, e.g. ``fid/digits@500/ema``."""
        return f"fid/{self.features.name}@{self.num_samples}/{weights}"

    def description(self) -> dict[str, Any]:
        return {
            "features": self.features.name,
            "features_fingerprint": self.features.fingerprint(),
            "num_samples": self.num_samples,
            "reference_samples": len(self.reference),
            "reference_fingerprint": self.reference.fingerprint(),
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
        """The distance of ``floor_samples`` training examples, always the same ones, to the held-out split."""
        from diffusion_fw.metrics._accumulator import Accumulator

        order = torch.randperm(len(self.train_examples), generator=torch.Generator().manual_seed(0))
        indices = order[: self.floor_samples].sort().values.tolist()
        with torch.inference_mode(False):
            accumulator = Accumulator(self.features, self.floor_samples, sync_on_compute=False)
            accumulator = accumulator.to(self.accumulator.device)
            accumulator.enter(self._reference())
            accumulator.add(self._statistics(self.train_examples, indices))
            return accumulator.compute().item()

    @functools.cached_property
    def _reference_type(self) -> torch.dtype:
        return self.reference.__getitems__([0])[0].dtype

    def _reference(self) -> Statistics:
        if self._reference_statistics is None:
            self._reference_statistics = self._statistics(self.reference, range(len(self.reference)))
        return self._reference_statistics

    def _statistics(self, examples: Examples, indices: list[int] | range) -> Statistics:
        return cached(self.features, examples, indices, self.accumulator.device, self.cache_dir)


def _rank() -> int:
    return (
        torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
    )
