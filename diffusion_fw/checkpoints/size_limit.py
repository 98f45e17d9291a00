"""A limit on the model that a file describes: it may hold no more than the file."""

from __future__ import annotations

from contextlib import AbstractContextManager

from diffusion_fw.composition.size_limit import limited

SPARE_TENSORS = 1000
SPARE_VALUES = 1 << 24
"""Allowed beyond the weights in the file, for computed buffers and modules without weights."""


def limit_model_size(tensors: int, values: int) -> AbstractContextManager[None]:
    """Raise ConfigError as soon as the modules that the block builds exceed what the file holds.

    The file holds ``tensors`` tensors with ``values`` numbers in all. The limits are twice the tensors and once the
    values, each plus the allowance above, and 100 modules for each tensor.
    """
    most = 2 * tensors + SPARE_TENSORS
    limits = {"tensors": most, "values": values + SPARE_VALUES, "modules": 100 * most}
    return limited(
        "the model that its config describes", limits, f"but the file holds {tensors:,} tensors of {values:,} values"
    )
