"""How large a model may become that a file describes: never larger than what the file holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.nn.modules import module as registration

from diffusion_fw.registry import ConfigError

SPARE_TENSORS = 1000
SPARE_VALUES = 1 << 24
"""What a model may have beyond the weights in its file: buffers that are computed, modules without weights."""


@contextlib.contextmanager
def limit_model_size(tensors: int, values: int) -> Iterator[None]:
    """ConfigError as soon as the modules built inside exceed what the file holds.

    That is: more than ``tensors`` parameters and buffers or ``values`` numbers in them, each with the spare above, or
    more modules than 100 times the tensors. Counted as they are registered, so that no endless loop is run to its end.
    """
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
        count("tensors", 1)
        count("values", 0 if tensor is None else tensor.numel())

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
