"""The class label as a vector, with one more for "no class"."""

from __future__ import annotations

from torch import Tensor, nn

from diffusion_fw.registry import ConfigError


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
    """Leaves the time embedding as it is, whatever the class."""

    def forward(self, embedding: Tensor, cond: Tensor | None) -> Tensor:
        return embedding


def class_embedding(class_conditional: bool, num_classes: int, features: int) -> nn.Module:
    """The module that adds the class; ConfigError where the data has no classes to be conditioned on."""
    if not class_conditional:
        return Unconditional()
    if num_classes == 0:
        raise ConfigError(
            "network.class_conditional=true needs classes, and this data has none; "
            "set network.class_conditional=false or choose data=... with classes"
        )
    return ClassEmbedding(num_classes, features)
