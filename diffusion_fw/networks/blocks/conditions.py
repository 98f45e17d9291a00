"""What networks make of a Condition: a vector for their blocks, tokens for cross-attention, channels beside x."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion_fw.condition import Condition, Told, told_parts
from diffusion_fw.networks.blocks.norms import group_norm
from diffusion_fw.networks.blocks.zeroed import zeroed

Tokens = tuple[Tensor, Tensor]
"""Tokens (B, N, features), and whether each is there: bool (B, N)."""


class VectorEmbedding(nn.Module):
    """W_2 silu(W_1 v) of a vector v (B, size), or a learned vector for "not told": (B, features)."""

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(size, features)
        self.second = nn.Linear(features, features)
        self.untold = nn.Parameter(torch.zeros(features))

    def forward(self, part: Told | None, count: int) -> Tensor:
        if part is None:
            return self.untold.expand(count, -1)
        embedded = self.second(nn.functional.silu(self.first(part.value)))
        return torch.where(part.told[:, None], embedded, self.untold)


class SequenceEmbedding(nn.Module):
    """The tokens of a sequence e (B, length, size), W e_i + p_i, after one that is learned and always there.

    So attention has something to attend to where nothing is told. ``pooled`` is the mean of all tokens.
    """

    def __init__(self, length: int, size: int, features: int) -> None:
        super().__init__()
        self.project = nn.Linear(size, features)
        self.positions = nn.Parameter(0.02 * torch.randn(length, features))
        self.always = nn.Parameter(0.02 * torch.randn(features))

    def forward(self, part: Told | None, count: int) -> Tokens:
        first = self.always.expand(count, 1, -1)
        there = torch.ones(count, 1, dtype=torch.bool, device=first.device)
        if part is None:
            return first, there
        tokens = torch.cat([first, self.project(part.value) + self.positions], dim=1)
        return tokens, torch.cat([there, part.told], dim=1)

    @staticmethod
    def pooled(tokens: Tokens) -> Tensor:
        """The mean of the tokens that are there: (B, features)."""
        values, there = tokens
        weights = there.to(values.dtype)[..., None]
        return (values * weights).sum(1) / weights.sum(1)


class Conditions(nn.Module):
    """The vectors, sequences and images that a network is told, besides the class; without any it has no weights.

    The sizes are those of the facts of a model. ``features`` is the width of the time embedding.
    """

    def __init__(
        self,
        features: int,
        vectors: Mapping[str, int] | None = None,
        sequences: Mapping[str, tuple[int, int]] | None = None,
        images: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.images = dict(images or {})
        self.vectors = nn.ModuleDict({name: VectorEmbedding(size, features) for name, size in (vectors or {}).items()})
        self.sequences = nn.ModuleDict(
            {name: SequenceEmbedding(*size, features) for name, size in (sequences or {}).items()}
        )
        self.pools = nn.ModuleDict({name: nn.Linear(features, features) for name in (sequences or {})})

    @property
    def image_channels(self) -> int:
        """The channels that ``beside`` adds to x."""
        return sum(self.images.values())

    def forward(
        self, embedding: Tensor, cond: Tensor | Condition | None, x: Tensor
    ) -> tuple[Tensor, Tensor, Tokens | None]:
        """The time embedding (B, features) with what is told, x with the images beside it, and the tokens, if any."""
        parts, count = told_parts(cond), len(x)
        for name, vector in self.vectors.items():
            embedding = embedding + vector(parts.get(name), count)
        found: list[Tokens] = []
        for name, sequence in self.sequences.items():
            found.append(sequence(parts.get(name), count))
            embedding = embedding + self.pools[name](SequenceEmbedding.pooled(found[-1]))
        tokens = None
        if found:
            tokens = torch.cat([item for item, _ in found], dim=1), torch.cat([there for _, there in found], dim=1)
        return embedding, self.beside(x, parts), tokens

    def beside(self, x: Tensor, parts: Mapping[str, Told]) -> Tensor:
        """x (B, C, ...) and the images, one after another as channels; zeros for those that are not told."""
        if not self.images:
            return x
        told = []
        for name, channels in self.images.items():
            part = parts.get(name)
            if part is None:
                told.append(x.new_zeros(len(x), channels, *x.shape[2:]))
            else:
                told.append(torch.where(part.told.view(-1, *[1] * (x.ndim - 1)), part.value, 0.0).to(x))
        return torch.cat([x, *told], dim=1)


class CrossAttention(nn.Module):
    """h + W_o softmax(Q K^T / sqrt(d)) V with Q from norm(h) and K, V from tokens, in num_heads heads; W_o starts at 0.

    Rombach et al. 2022, section 3.3. h (B, C, ...) keeps its shape.
    """

    def __init__(self, channels: int, num_heads: int, features: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = group_norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(features, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, h: Tensor, tokens: Tokens) -> Tensor:
        values, there = tokens
        query = self.query(self.norm(h).flatten(2).transpose(1, 2)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(values).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
        result: Tensor = h + self.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, h.shape[2:])
        return result
