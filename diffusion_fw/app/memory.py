"""Estimates of a run's peak memory, before it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import group_norm, layer_norm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from diffusion_fw.composition.checks import is_gpu, processes
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import assemble, build_network
from diffusion_fw.networks.network import is_class_conditional, is_classifier
from diffusion_fw.sampling.chunk import Chunk, Following
from diffusion_fw.training.trainer import start_autograd


@dataclass(frozen=True)
class Memory:
    """Bytes of one process in training; the parts need not be held at once."""

    total: int
    """At the peak."""
    parameters: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    """What the forward pass keeps for the backward pass."""

    def __str__(self) -> str:
        total, *parts = (f"{name} {mib(value)}" for name, value in vars(self).items())
        return f"{total.removeprefix('total ')} MiB at the peak; {', '.join(parts)}"


def mib(size: float) -> str:
    """Bytes in MiB, as text."""
    return f"{size / 2**20:,.1f}"


class NormsInFloat32(TorchFunctionMode):
    """Norms take and give float32 under autocast, as on a GPU; on a CPU they keep the lower precision.

    For the network of DDPM this is two thirds of what the forward pass keeps.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function not in (group_norm, layer_norm):
            return function(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.float, (args, kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)


def estimate(config: Mapping[str, Any], facts: Facts, local_batch: int) -> Memory:
    """The peak of training with ``local_batch`` examples per process and accumulated part; nothing is allocated.

    One step (forward, backward, optimizer) runs on fake tensors. Workspaces of kernels, the data set and the libraries
    are not counted.
    """
    start_autograd()
    mixed = str(config["trainer"].get("precision", 32)).endswith("-mixed")
    with FakeTensorMode():
        network = build_network(config, facts)
        parameters = list(network.parameters())
        optimizer = assemble("optimizer", config["optimizer"], params=parameters)
        told = facts.blank(local_batch, takes_class=is_class_conditional(network))
        with Following() as watch:
            for item in parameters:
                watch.hold(item)
            weights = watch.now
            clean, times = torch.empty(local_batch, *facts.shape), torch.empty(local_batch)
            noise = torch.empty_like(clean)
            gpu = is_gpu(config["trainer"].get("accelerator", "auto"))
            rules = NormsInFloat32() if mixed and gpu else contextlib.nullcontext()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed), rules:
                output = network(clean + noise, times, told)
            kept = output.float() if is_classifier(network) else output.float().narrow(1, 0, clean.shape[1]) - noise
            errors = kept.square()
            loss = errors.mean()
            activations, forward = watch.now - weights, watch.peak
            loss.backward()
            del output, kept, errors, loss
            backward, before = watch.peak, watch.now
            gradients = sum(item.grad.nbytes for item in parameters if item.grad is not None)
            optimizer.step()
            state = watch.now - before
            # Lightning frees the gradients of the last step between forward and backward.
            peak = max(forward + gradients + state, backward + state, watch.peak)
    # The buffers in which DistributedDataParallel gathers gradients.
    buckets = gradients if processes(config) > 1 else 0
    averages = len(assemble("ema", config["ema"], batch_size=config["batch_size"]).tracks) * weights
    return Memory(peak + averages + buckets, weights, gradients + buckets, state, averages, activations)


def describe_memory(config: Mapping[str, Any], facts: Facts, local_batch: int) -> str:
    """The estimate as text, or the reason why there is none: a plugin's network need not run on fake tensors."""
    try:
        return str(estimate(config, facts, local_batch))
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return f"unknown: network={config['network']['name']} cannot run on fake tensors ({type(error).__name__})"


def describe_sampling_memory(network: torch.nn.Module, chunk: Chunk, size: int, kept: int = 0) -> str:
    """The peak of drawing samples in chunks of ``size``, as text; ``kept`` is the bytes of all samples collected."""
    weights = sum(item.nbytes for item in network.parameters())
    parts = {"weights": weights, f"a chunk of {size:,}": chunk.of(size), **({"samples": kept} if kept else {})}
    return f"{mib(sum(parts.values()))} MiB: {', '.join(f'{name} {mib(value)}' for name, value in parts.items())}"
