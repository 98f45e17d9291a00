"""A limit on the size of a model while it is built."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.modules import module as registration

from diffusion_fw.registry import ConfigError

MOST_TENSORS = 10_000
"""The largest published networks have some thousand."""


@contextlib.contextmanager
def limited(model: str, limits: Mapping[str, int], reason: str) -> Iterator[None]:
    """Raise ConfigError as soon as the modules that the block builds, the ``model``, exceed ``limits``.

    ``limits`` has a number for "tensors", one for the "values" in them and one for "modules". Tensors are counted when
    they are registered, so that building stops at the limit; one that several modules share counts once.
    """
    known: dict[int, weakref.ref[Any]] = {}
    counted = dict.fromkeys(limits, 0)

    def count(kind: str, number: int) -> None:
        counted[kind] += number
        if counted[kind] > limits[kind]:
            raise ConfigError(f"{model} has more than {limits[kind]:,} {kind}, {reason}")

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


def within_machine(section: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Refuse a network, whose ``section`` of the config is given, that this machine cannot hold in float32."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = {"tensors": MOST_TENSORS, "values": memory // 4, "modules": 100 * MOST_TENSORS}
    sizes = [f"network.{key}={value}" for key, value in section.items() if _is_size(value)]
    reason = f"which is beyond what a machine with {memory >> 30} GiB of memory trains; lower {' or '.join(sizes)}"
    return limited(f"network={section['name']}", limits, reason)


def _is_size(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_size, value))
    return type(value) is int


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Tensors that are made in the block take no memory. The block ends where one has to have values."""
    try:
        with torch.device("meta"):
            yield
    except (NotImplementedError, RuntimeError, TypeError):
        return
