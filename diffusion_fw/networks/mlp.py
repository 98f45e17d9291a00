"""A residual multilayer perceptron, for points in the plane and other small vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from torch import Tensor, nn

from diffusion_fw.condition import Condition, class_labels
from diffusion_fw.networks.blocks.conditions import Conditions
from diffusion_fw.networks.blocks.embeddings import TimeEmbedding, class_embedding
from diffusion_fw.networks.blocks.zeroed import zeroed
from diffusion_fw.registry import Range, Runtime, Size, register

INPUT_GAIN = 4.0


class ResidualLayer(nn.Module):
    """h + W_2 silu(W_1 silu(h) + W_e e), for h and e of (B, width); W_2 starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.embedding = nn.Linear(width, width)
        self.second = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(nn.functional.silu(h)) + self.embedding(embedding)
        result: Tensor = h + self.second(nn.functional.silu(hidden))
        return result


@register("network", "mlp")
class MLP(nn.Module):
    """W_out silu(h_depth), h_0 = W_in x, h_k a residual layer of h_(k-1) and the time embedding; W_out starts at 0.

    A fully connected version of DDPM's residual blocks (Ho et al. 2020, appendix B). network(x, label, cond): x
    (B, *shape), label (B,), cond (B,) classes, a Condition with vectors, or None -> (B, outputs shape[0], *shape[1:]),
    which is 0 before training.

    Raises ConfigError for class_conditional on data without classes.
    """

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        vectors: Runtime[Mapping[str, int] | None] = None,
        width: Annotated[int, Range(4, 1_000_000)] = 96,
        depth: Size = 3,
        class_conditional: bool = False,
    ) -> None:
        super().__init__()
        dimension = math.prod(shape)
        self.output_shape = (outputs * shape[0], *shape[1:])
        self.time = TimeEmbedding(width, width)
        self.class_conditional = class_conditional
        self.classes = class_embedding(class_conditional, num_classes, width)
        self.num_classes = num_classes
        self.told = Conditions(width, vectors)
        self.enter = nn.Linear(dimension, width)
        # Otherwise the first layer is almost linear on data of scale 1, and thin structures are learned late.
        for parameter in self.enter.parameters():
            nn.init.uniform_(parameter, -INPUT_GAIN / math.sqrt(dimension), INPUT_GAIN / math.sqrt(dimension))
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.leave = zeroed(nn.Linear(width, outputs * dimension))

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | Condition | None = None) -> Tensor:
        embedding = self.classes(self.time(label), class_labels(cond, self.num_classes))
        embedding = nn.functional.silu(self.told(embedding, cond, x)[0])
        h = self.enter(x.flatten(1))
        for layer in self.layers:
            h = layer(h, embedding)
        result: Tensor = self.leave(nn.functional.silu(h)).unflatten(1, self.output_shape)
        return result
