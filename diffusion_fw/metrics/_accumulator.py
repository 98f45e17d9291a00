"""torchmetrics' FID on any features, in float64; a module of its own, as torchmetrics takes over a second to import."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from diffusion_fw.metrics.feature_statistics import Fitted, Statistics, extract
from diffusion_fw.metrics.features.extractor import FeatureExtractor


class _Float64(nn.Module):
    """The features in float64, the type in which torchmetrics then returns the distance."""

    def __init__(self, features: FeatureExtractor):
        super().__init__()
        self.features = features
        self.num_features = features.num_features

    def forward(self, examples: Tensor) -> Tensor:
        return extract(self.features, examples)


class Accumulator(FrechetInceptionDistance):
    """Sums of the features of samples, beside those of the reference; torchmetrics adds them up over all ranks.

    The distance is that of ``Fitted``, as the eigenvalues by which torchmetrics computes it lose half of their digits
    where covariances have a low rank. ``compute`` raises ValueError unless there are ``num_samples`` samples on all
    ranks together, and is NaN if one of their features is not finite.
    """

    def __init__(self, features: FeatureExtractor, num_samples: int, **kwargs: Any):
        super().__init__(feature=_Float64(features), **kwargs)
        self.num_samples = num_samples
        self.orig_dtype = torch.float64

    def enter(self, reference: Statistics | None) -> None:
        """Set the sums of the reference; None on every rank but one, as the sums of all ranks are added up."""
        self.real_features_num_samples.zero_()
        self.real_features_sum.zero_()
        self.real_features_cov_sum.zero_()
        if reference is not None:
            self.real_features_num_samples.copy_(reference.count)
            self.real_features_sum.copy_(reference.total)
            self.real_features_cov_sum.copy_(reference.outer)

    def add(self, generated: Statistics) -> None:
        """Add samples by their sums instead of one by one."""
        self.fake_features_num_samples += generated.count.to(self.device)
        self.fake_features_sum += generated.total.to(self.device)
        self.fake_features_cov_sum += generated.outer.to(self.device)
        self._update_count += 1

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """One all_reduce per state, as all are sums; torchmetrics would gather the states of all ranks on each."""
        for name in self._reductions:
            total = getattr(self, name).clone()
            torch.distributed.all_reduce(total, group=process_group or self.process_group)
            setattr(self, name, total)

    def compute(self) -> Tensor:
        count = int(self.fake_features_num_samples)
        if count != self.num_samples:
            raise ValueError(f"{count} samples were given for a distance of {self.num_samples}")
        if not self.fake_features_cov_sum.isfinite().all():
            return self.fake_features_sum.new_tensor(math.nan)
        real = Statistics(self.real_features_num_samples, self.real_features_sum, self.real_features_cov_sum)
        generated = Statistics(self.fake_features_num_samples, self.fake_features_sum, self.fake_features_cov_sum)
        return Fitted.of(generated).distance(Fitted.of(real))
