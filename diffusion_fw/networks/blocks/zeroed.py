"""Layers that start as zero, so that a residual branch starts as the identity."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def zeroed(module: Module) -> Module:
    """The module with every parameter set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
