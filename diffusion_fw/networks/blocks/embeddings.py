"""Embeddings of the time label and of the class."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusion_fw.registry import ConfigError


class Sinusoids(nn.Module):
    """[sin(w_k label), cos(w_k label)] with w_k = max_period^(-k / d), k = 0..K-1, K = channels // 2; the waves' order.

    Vaswani et al. 2017, section 3.5. With ``endpoint`` d is K - 1, so that the last frequency is 1 / max_period (Ho et
    al. 2020), else K (Nichol & Dhariwal 2021). ``cosine_first`` swaps the halves. label (B,) is any real number, such
    as an index in 0..1000 or log(sigma) / 4 -> (B, 2 K), float32.
    """

    frequencies: Tensor

    def __init__(
        self, channels: int, *, endpoint: bool = True, cosine_first: bool = False, max_period: float = 10_000
    ) -> None:
        super().__init__()
        half = channels // 2
        step = -math.log(max_period) / (half - 1 if endpoint else half)
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * step)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.cosine_first = cosine_first

    def forward(self, label: Tensor) -> Tensor:
        angles = label.float()[:, None] * self.frequencies
        waves = angles.sin(), angles.cos()
        return torch.cat(waves[::-1] if self.cosine_first else waves, dim=1)


class FourierFeatures(nn.Module):
    """[sin(2 pi w label), cos(2 pi w label)] with fixed random frequencies w ~ N(0, scale^2): (B,) -> (B, 2 count).

    Tancik et al. 2020; Song et al. 2021, appendix H, with scale = 16 for the label log sigma. ``cosine_first`` swaps
    the halves. The frequencies are part of the state dict, since the weights were trained for them.
    """

    frequencies: Tensor

    def __init__(self, count: int, scale: float, *, cosine_first: bool = False) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(count))
        self.cosine_first = cosine_first

    def forward(self, label: Tensor) -> Tensor:
        angles = label.float()[:, None] * self.frequencies * (2 * math.pi)
        waves = angles.sin(), angles.cos()
        return torch.cat(waves[::-1] if self.cosine_first else waves, dim=1)


class TimeEmbedding(nn.Module):
    """W_2 silu(W_1 waves(label)): the sinusoids of DDPM, or other ``waves`` (B,) -> (B, channels), and two layers.

    Ho et al. 2020 (after Vaswani et al. 2017, section 3.5). label (B,) -> (B, features). Computed in float32 under
    autocast too: bf16 has only 507 distinct values for the labels 0..999.
    """

    def __init__(self, channels: int, features: int, waves: nn.Module | None = None) -> None:
        super().__init__()
        self.waves = waves or Sinusoids(channels)
        self.first = nn.Linear(channels // 2 * 2, features)
        self.second = nn.Linear(features, features)

    def forward(self, label: Tensor) -> Tensor:
        with in_float32(label.device.type):
            result: Tensor = self.second(nn.functional.silu(self.first(self.waves(label))))
            return result


def in_float32(device_type: str) -> contextlib.AbstractContextManager[None]:
    """A block without autocast, in which a network embeds its time label."""
    # The meta device, on which parameters are counted, has no autocast. To ask torch would break a compiled graph.
    return contextlib.nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


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


class ClassVectors(nn.Module):
    """Adds a learned vector of the class to the time embedding, and nothing for "no class".

    Dhariwal & Nichol 2021, section 3, whose models have no null class; Karras et al. 2022 train theirs with the zero
    vector for it. embedding (B, features), cond int64 (B,) in 0..num_classes, or None for "no class" throughout.
    """

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes, features)

    def forward(self, embedding: Tensor, cond: Tensor | None) -> Tensor:
        if cond is None:
            return embedding
        vectors = self.table(cond.clamp(max=self.num_classes - 1))
        return embedding + torch.where((cond < self.num_classes)[:, None], vectors, 0.0)


class Unconditional(nn.Module):
    """Returns the time embedding unchanged."""

    def forward(self, embedding: Tensor, cond: Tensor | None) -> Tensor:
        return embedding


def class_embedding(
    class_conditional: bool,
    num_classes: int,
    features: int,
    kind: Callable[[int, int], nn.Module] = ClassEmbedding,
) -> nn.Module:
    """The module of a ``kind`` that adds the class to the time embedding; ConfigError if the data have no classes."""
    if not class_conditional:
        return Unconditional()
    if num_classes == 0:
        raise ConfigError(
            "network.class_conditional=true needs classes, but this data has none; "
            "set network.class_conditional=false or choose data=... with classes"
        )
    return kind(num_classes, features)
