"""Weights and inputs that are a function of a name and a shape, so that two code bases can be given the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SHOWN = 24


def seeded(name: str, shape: Sequence[int]) -> Tensor:
    """Standard normal values, float32, of a generator that is seeded by the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def seeded_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights that keep activations of size 1: matrices over the root of their inputs, vectors near 1 or 0."""

    def weight(name: str, shape: Sequence[int]) -> Tensor:
        values = seeded(name, shape)
        if len(shape) < 2:
            return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
        return values / math.sqrt(math.prod(shape[1:]))

    return {name: weight(name, shape) for name, shape in shapes.items()}


def fill(module: torch.nn.Module) -> dict[str, list[int]]:
    """Give a module seeded weights, its buffers excepted; the shapes of all of its state, by name."""
    parameters = {name: list(value.shape) for name, value in module.named_parameters()}
    with torch.no_grad():
        for name, value in seeded_weights(parameters).items():
            module.get_parameter(name).copy_(value)
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def record(output: Tensor) -> dict[str, Any]:
    """What is kept of an output: its shape, evenly spaced values, and the sums of values and of squares."""
    flat = output.detach().double().flatten()
    shown = flat[torch.linspace(0, len(flat) - 1, SHOWN, dtype=torch.float64).round().long()]
    return {
        "shape": list(output.shape),
        "values": [round(value, 8) for value in shown.tolist()],
        "sum": flat.sum().item(),
        "squares": flat.square().sum().item(),
    }


WITHIN = 3e-5
"""A ``gap`` that float32 explains on a processor other than the record's: up to 1.7e-5 was seen."""


def gap(output: Tensor, recorded: Mapping[str, Any]) -> float:
    """The largest difference of an output from a record, relative to the record's root mean square."""
    own = record(output)
    assert own["shape"] == recorded["shape"]
    size = math.sqrt(recorded["squares"] / math.prod(recorded["shape"]))
    differences = [abs(a - b) for a, b in zip(own["values"], recorded["values"], strict=True)]
    spread = math.sqrt(recorded["squares"])
    differences.append(abs(own["sum"] - recorded["sum"]) / math.sqrt(math.prod(recorded["shape"])))
    differences.append(abs(math.sqrt(own["squares"]) - spread) / math.sqrt(math.prod(recorded["shape"])))
    return max(differences) / size
