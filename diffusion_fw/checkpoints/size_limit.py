"""A limit on the model that a file describes: it may hold no more than the file."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

from torch.nn.modules import module as registration

from diffusion_fw.registry import ConfigError

SPARE_TENSORS = 1000
SPARE_VALUES = 1 << 24
"""Allowed beyond the weights in the file, for computed buffers and modules without weights."""


@contextlib.contextmanager
def limit_model_size(tensors: int, values: int) -> Iterator[None]:
    """Raise ConfigError as soon as the modules that the block builds exceed what the file holds.

    The file holds ``tensors`` tensors with ``values`` numbers in all. The limits are twice the tensors and once the
    values, each plus the allowance above, and 100 modules for each tensor. Tensors are counted when they are
    registered, so that building stops at the limit; one that several modules share counts once.
    """
    known: dict[int, weakref.ref[Any]] = {}
    counted = {"tensors": 0, "values": 0, "modules": 0}
    limits = {"tensors": 2 * tensors + SPARE_TENSORS, "values": values + SPARE_VALUES, "modules": 0}
    limits["modules"] = 100 * limits["tensors"]

    def count(kind: str, number: int) -> None:
        counted[kind] += number
        if counted[kind] > limits[kind]:
            raise ConfigError(
                f"the model that its config describes has more than {limits[kind]:,} {kind}, but the file holds "
                f"{tensors:,} tensors of {values:,} values"
            )

    def of_tensor(_module: Any, _name: str, tensor: Any) -> None:
        if tensor is None or (id(tensor) in known and known[id(tensor)]() is tensor):
            return
        known[id(tensor)] = weakref.ref(tensor)
        count("tensors", 1)
        count("values", tensor.numel())

    def of_module(_module: Any, _name: str, _child: Any) -> None:
        count("modules", 1)

    handles = (
        registration.register_module_parameter_registration_hook(of_tensor),
        registration.register_module_buffer_registration_hook(of_tensor),
        registration.register_module_module_registration_hook(of_module),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
