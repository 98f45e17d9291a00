"""What a run's peak of memory will be, before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusion_fw.composition import Facts, assemble, build_network

PROBES = (2, 4)
"""Batch sizes at which activations are counted; they grow linearly."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process in training."""

    parameters: int
    gradients: int
    optimizer: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.averages + self.activations

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / 2**20:,.1f}" for name, value in vars(self).items())
        return f"{self.total / 2**20:,.1f} MiB: {parts}"


def estimate(config: Mapping[str, Any], facts: Facts, local_batch: int) -> Memory:
    """The peak of training with ``local_batch`` examples a process and accumulated part; nothing is allocated."""
    with FakeTensorMode():
        weights = sum(item.numel() * item.element_size() for item in build_network(config, facts).parameters())
    tracks = len(assemble("ema", config["ema"]).tracks)
    first, second = (saved_bytes(config, facts, count) for count in PROBES)
    each = (second - first) / (PROBES[1] - PROBES[0])
    activations = round(first + each * (local_batch - PROBES[0]))
    return Memory(weights, weights, round(weights * state_ratio(config)), tracks * weights, activations)


def stated(config: Mapping[str, Any], facts: Facts, local_batch: int) -> str:
    """The estimate in words; a plugin's network need not run on tensors without memory, which is then said."""
    try:
        return str(estimate(config, facts, local_batch))
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return f"not known, as network={config['network']['name']} cannot run on fake tensors ({type(error).__name__})"


def state_ratio(config: Mapping[str, Any]) -> float:
    """Bytes of the optimizer's state for a byte of weights, 2 for Adam: seen after one step of a small parameter."""
    parameter = torch.nn.Parameter(torch.zeros(1000))
    optimizer = assemble("optimizer", config["optimizer"], params=[parameter])
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held = sum(item.nbytes for item in optimizer.state[parameter].values() if isinstance(item, torch.Tensor))
    return round(held / parameter.nbytes, 1)


def saved_bytes(config: Mapping[str, Any], facts: Facts, count: int) -> int:
    """Bytes that autograd keeps of ``count`` examples for the backward pass, each storage once, without the weights."""
    held: dict[int, tuple[Any, int]] = {}
    with FakeTensorMode():
        network = build_network(config, facts)
        owned = {item.untyped_storage()._cdata for item in network.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in owned:
                # Kept, so that no later storage takes its place.
                held[storage._cdata] = (storage, storage.nbytes())
            return tensor

        classes = torch.zeros(count, dtype=torch.long) if getattr(network, "class_conditional", False) else None
        mixed = str(config["trainer"].get("precision", 32)).endswith("-mixed")
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=mixed),
        ):
            output = network(torch.empty(count, *facts.shape), torch.empty(count), classes)
            loss = output.float().square().mean()
        del loss
    return sum(size for _, size in held.values())


FREE_FRACTION = 0.5
"""The part of the free memory that batch_size=auto takes for sampling."""


def chunk_size(batch_size: int | str, config: Mapping[str, Any], facts: Facts, device: torch.device) -> int:
    """The batch size given, or for "auto" the largest power of two that fits, at most 256 on a CPU.

    An example is taken to need what autograd would keep of it, which is more than sampling does.
    """
    if not isinstance(batch_size, str):
        return batch_size
    if device.type == "cuda":
        free, most = torch.cuda.mem_get_info(device)[0], 1 << 16
    else:
        free, most = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 256
    each = max(1, saved_bytes(config, facts, 2) // 2)
    fits = max(1, int(FREE_FRACTION * free) // each)
    return min(most, 1 << (fits.bit_length() - 1))
