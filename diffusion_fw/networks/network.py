"""What a network and a classifier are: functions of the scaled x_t and the time label, of no process."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Network(Protocol):
    """network(x, label, cond) -> F, an nn.Module in training.

    A registered one is built with shape, num_classes and outputs, as far as its signature has these as Runtime.
    """

    class_conditional: bool
    """Whether it uses the class. One without the attribute is unconditional: its cond is always None."""

    uses_label: bool
    """Whether the output depends on the time label. One without the attribute uses it."""

    known_labels: tuple[float, float]
    """The smallest and the largest time label that it was built for. One without the attribute takes any."""

    writes_weights: bool
    """Whether forward changes weights in place in training. One without the attribute leaves that to the optimizer."""

    augment_dim: int
    """How many numbers it takes as ``augmentation`` (B, augment_dim), a further argument that says how an example was
    augmented; without it none was. One without the attribute takes none."""

    def __call__(self, x: Tensor, label: Tensor, cond: Tensor | None = None, /) -> Tensor:
        """F (B, *shape), or (B, 2 shape[0], *shape[1:]) of a network with ``outputs`` = 2, like x.

        x (B, *shape) is c_in x_t, label (B,) float32, and cond (B,) int64 in 0 .. num_classes, where num_classes
        stands for "no class", as does cond=None. An example's output does not depend on the other examples.
        """
        ...


class Classifier(Protocol):
    """classifier(x, label) -> logits, an nn.Module in training: a network that tells the class of a noisy example.

    A registered one is built with shape and num_classes. objective=classifier trains it, guidance=classifier uses it.
    """

    gives_logits: bool
    """True. A network without the attribute gives F."""

    def __call__(self, x: Tensor, label: Tensor, cond: Tensor | None = None, /) -> Tensor:
        """Logits (B, num_classes) of c_in x_t as x (B, *shape) at the time label (B,); cond is always None."""
        ...


def is_class_conditional(network: Network | nn.Module) -> bool:
    """Whether the network uses the class: its ``class_conditional``, False if it has none."""
    return bool(getattr(network, "class_conditional", False))


def is_classifier(network: Network | Classifier | nn.Module) -> bool:
    """Whether the network gives the logits of classes instead of F."""
    return bool(getattr(network, "gives_logits", False))


def is_autoencoder(network: Network | Classifier | nn.Module) -> bool:
    """Whether the network encodes and reconstructs clean examples: its ``reconstructs``, False if it has none."""
    return bool(getattr(network, "reconstructs", False))


def uses_label(network: Network | nn.Module) -> bool:
    """Whether the network uses the time label: its ``uses_label``, True if it has none."""
    return bool(getattr(network, "uses_label", True))


def known_labels(network: Network | nn.Module) -> tuple[float, float] | None:
    """The smallest and the largest time label of the network: its ``known_labels``, None if it has none."""
    found: tuple[float, float] | None = getattr(network, "known_labels", None)
    return found


def augment_dim(network: Network | nn.Module) -> int:
    """How many numbers the network takes that describe an augmentation: its ``augment_dim``, 0 if it has none."""
    return int(getattr(network, "augment_dim", 0))


def writes_weights(part: object) -> bool:
    """Whether a network, or an objective, changes its weights in place in training: its ``writes_weights``."""
    return bool(getattr(part, "writes_weights", False))
