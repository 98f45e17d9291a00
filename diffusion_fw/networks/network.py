"""What a network is: a function of the scaled x_t, the time label and the class that knows nothing of the process."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Network(Protocol):
    """network(x, label, cond) -> F, an nn.Module in training.

    A registered one is built with shape, num_classes and outputs, as far as its signature has these as Runtime.
    """

    class_conditional: bool
    """Whether it uses the class. One without the attribute is unconditional: its cond is always None."""

    def __call__(self, x: Tensor, label: Tensor, cond: Tensor | None = None, /) -> Tensor:
        """F (B, *shape), or (B, 2 shape[0], *shape[1:]) of a network with ``outputs`` = 2, like x.

        x (B, *shape) is c_in x_t, label (B,) float32, and cond (B,) int64 in 0 .. num_classes, where num_classes
        stands for "no class", as does cond=None. An example's output does not depend on the other examples.
        """
        ...


def is_class_conditional(network: Network | nn.Module) -> bool:
    """Whether the network uses the class: its ``class_conditional``, False if it has none."""
    return bool(getattr(network, "class_conditional", False))
