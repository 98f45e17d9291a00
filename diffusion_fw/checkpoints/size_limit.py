"""A limit on the model that a file describes: it may hold no more than the file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from torch import Tensor

from diffusion_fw.composition.size_limit import limited

SPARE_TENSORS = 1000
SPARE_VALUES = 1 << 24
"""Allowed beyond the weights in the file, for computed buffers and modules without weights."""


def limit_model_size(held: Iterable[Tensor]) -> AbstractContextManager[None]:
    """Raise ConfigError as soon as the modules that the block builds exceed what a file holds, the tensors ``held``.

    Tensors may share a storage, or repeat its values: each storage counts once. The limits are twice the tensors and
    once the values, each plus the allowance above, and 100 modules for each tensor.
    """
    found = list(held)
    storages = {value.untyped_storage().data_ptr(): value for value in found}
    values = sum(value.untyped_storage().nbytes() // value.element_size() for value in storages.values())
    tensors = len(found)
    most = 2 * tensors + SPARE_TENSORS
    limits = {"tensors": most, "values": values + SPARE_VALUES, "modules": 100 * most}
    return limited(
        "the model that its config describes", limits, f"but the file holds {tensors:,} tensors of {values:,} values"
    )
