"""Embeddings of the time label and of the class."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, nn

from diffusion_fw.registry import ConfigError


class TimeEmbedding(nn.Module):
    """W_2 silu(W_1 [sin(w_k label), cos(w_k label)]) with w_k = 10000^(-k / (K - 1)), k = 0..K-1, K = channels // 2.

    Ho et al. 2020 (after Vaswani et al. 2017, section 3.5). label (B,) is any real number, such as an index in 0..1000
    or log(sigma) / 4 -> (B, features). Computed in float32 under autocast too: bf16 has only 507 distinct values for
    the labels 0..999.
    """

    frequencies: Tensor

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        half = channels // 2
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000) / (half - 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first = nn.Linear(2 * half, features)
        self.second = nn.Linear(features, features)

    def forward(self, label: Tensor) -> Tensor:
        with _float32(label.device.type):
            angles = label[:, None] * self.frequencies
            waves = torch.cat([angles.sin(), angles.cos()], dim=1)
            result: Tensor = self.second(nn.functional.silu(self.first(waves)))
            return result


def _float32(device_type: str) -> contextlib.AbstractContextManager[None]:
    # The meta device, on which parameters are counted, has no autocast.
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


class ClassEmbedding(nn.Module):
    """Adds a learned vector of the class to the time embedding; the last of num_classes + 1 means "no class".

    Dhariwal & Nichol 2021, section 3 (classes); Ho & Salimans 2022 (the null class of classifier-free guidance).
    embedding (B, features), cond int64 (B,) in 0..num_classes, or None for "no class" throughout.
    """

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, features)

    def forward(self, embedding: Tensor, cond: Tensor | None) -> Tensor:
        return embedding + (self.table.weight[self.num_classes] if cond is None else self.table(cond))


class Unconditional(nn.Module):
    """Returns the time embedding unchanged."""

    def forward(self, embedding: Tensor, cond: Tensor | None) -> Tensor:
        return embedding


def class_embedding(class_conditional: bool, num_classes: int, features: int) -> nn.Module:
    """The module that adds the class to the time embedding; ConfigError for class_conditional without classes."""
    if not class_conditional:
        return Unconditional()
    if num_classes == 0:
        raise ConfigError(
            "network.class_conditional=true needs classes, but this data has none; "
            "set network.class_conditional=false or choose data=... with classes"
        )
    return ClassEmbedding(num_classes, features)
