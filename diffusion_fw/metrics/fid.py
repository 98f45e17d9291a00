"""The Fréchet distance of samples to held-out data, on named features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from diffusion_fw.data.dataset import Examples
from diffusion_fw.files import default_cache
from diffusion_fw.metrics.feature_statistics import Statistics, cached
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.metrics.metric import Measurement, Subject
from diffusion_fw.registry import ConfigError, Range, Runtime, register


@register("metric", "fid")
class FrechetDistance(nn.Module):
    """d^2 = |mu - mu_r|^2 + tr(C + C_r - 2 (C C_r)^(1/2)) between Gaussians fitted to features of two sets.

    Heusel et al. 2017, equation 6, by torchmetrics, in float64: num_samples generated examples against the whole
    held-out split, over all processes. ``update`` takes examples as the data set holds them: images are first rounded
    to uint8 pixels by ``diffusion_fw.data.dataset.to_pixels``, as a picture file would. The distance is biased upwards
    by some 1 / num_samples, so that two numbers compare only at one num_samples and one reference split; ``floor`` is
    what real examples reach. Keep it outside of the model (in a callback), whose checkpoints need no extractor.

    The reference's sums are computed once and kept in ``cache_dir`` (None: ``$XDG_CACHE_HOME/diffusion_fw`` or
    ``~/.cache/diffusion_fw``) under the fingerprints of examples and features. Raises ConfigError for a held-out
    split of less than two examples.
    """

    of_samples: ClassVar[bool] = True

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
                f"a distance needs two examples of each split, but data=... holds {len(train)} for training and "
                f"{len(reference)} held out; choose other data or switch the metric off"
            )
        self.features = features
        self.train_examples = train
        self.reference = reference
        self.num_samples = num_samples
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()
        self.accumulator = Accumulator(features, num_samples)
        self._reference_statistics: Statistics | None = None

    @property
    def floor_samples(self) -> int:
        """The number of training examples in the floor: num_samples, or all where there are fewer."""
        return min(self.num_samples, len(self.train_examples))

    def name(self, weights: str = "ema") -> str:
        """``fid/<features>@<num_samples>/<weights>``, e.g. ``fid/digits@500/ema``."""
        return f"fid/{self.features.name}@{self.num_samples}/{weights}"

    def floor_name(self) -> str:
        """``fid/<features>@<floor_samples>/floor``."""
        return f"fid/{self.features.name}@{self.floor_samples}/floor"

    def description(self) -> dict[str, Any]:
        """All that one must know to compare the number with another: recorded beside it."""
        return {
            "features": self.features.name,
            "features_fingerprint": self.features.fingerprint(),
            "num_samples": self.num_samples,
            "reference_samples": len(self.reference),
            "reference_fingerprint": self.reference.fingerprint(),
        }

    def reset(self) -> None:
        """Forget the generated examples."""
        with torch.inference_mode(False):
            self.accumulator.reset()

    def update(self, generated: Tensor) -> None:
        """Add this process's share of the generated examples: uint8 images (B, C, H, W) or points (B, D)."""
        with torch.inference_mode(False):
            self.accumulator.update(generated.to(self.accumulator.device), real=False)

    def compute(self) -> float:
        """The distance of the examples of all processes, each of which must call it.

        NaN where an example's features are not finite. Raises ValueError unless num_samples examples were given in all.
        """
        with torch.inference_mode(False):
            self.accumulator.enter(self._reference() if _rank() == 0 else None)
            return self.accumulator.compute().item()

    def evaluate(self, subject: Subject) -> Measurement:
        """The distance of the subject's samples."""
        from tqdm import tqdm

        floor = self.floor()
        self.reset()
        self.to(subject.device)
        with tqdm(total=self.num_samples, desc="sampling") as bar:
            for indices, examples in subject.samples():
                self.update(examples)
                bar.update(len(indices))
        distance, name = self.compute(), self.name(subject.weights)
        rows = {"distance": f"{distance:.4g}", "floor (train vs held-out)": f"{floor:.4g}"}
        return Measurement(name, distance, {"distance": distance, "floor": floor}, rows)

    def floor(self) -> float:
        """The distance of ``floor_samples`` training examples, always the same ones, to the held-out split.

        What a perfect model is expected to reach at that number of samples. Uses no other process: call it on one.
        """
        from diffusion_fw.metrics._accumulator import Accumulator

        order = torch.randperm(len(self.train_examples), generator=torch.Generator().manual_seed(0))
        indices = order[: self.floor_samples].sort().values.tolist()
        with torch.inference_mode(False):
            accumulator = Accumulator(self.features, self.floor_samples, sync_on_compute=False)
            accumulator = accumulator.to(self.accumulator.device)
            accumulator.enter(self._reference())
            accumulator.add(self._statistics(self.train_examples, indices))
            return accumulator.compute().item()

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
