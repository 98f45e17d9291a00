"""What drawing samples really does: network evaluations, what guidance changes, operations, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusion_fw.condition import Condition, on
from diffusion_fw.data.dataset import to_model
from diffusion_fw.denoiser import Denoiser, NetworkDenoiser, Noise, seeded
from diffusion_fw.networks.network import is_class_conditional
from diffusion_fw.noise import generator
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.draw import CondOf, start

PROBED = 16
"""The first samples, which are drawn for this."""
NUMBERS = 8
"""The length of the fingerprint of a sample."""
SHOWN = 50
"""The most times at which the change by guidance is written down."""
PRINT_STREAM = 21


@dataclass(frozen=True)
class Probe:
    """How the first samples were made, and their fingerprints."""

    evaluations: float
    """Of the network for one sample, counted."""
    flops_per_sample: int | None
    """Floating-point operations of the network for one sample; None where they cannot be counted."""
    guidance_applied: list[tuple[float, float]]
    """(t, root mean square change of x_0 by guidance), at evenly spaced evaluations."""
    first_samples: list[list[float]]
    """``fingerprints`` of the first samples."""

    def record(self) -> dict[str, Any]:
        """As values of JSON."""
        return asdict(self)


def fingerprints(examples: Tensor) -> list[list[float]]:
    """NUMBERS random projections of each example, rounded to 5 digits: nearly equal for nearly equal examples.

    The examples are as the data hold them. The directions are the same for all examples of one shape, and each number
    is of the order of the root mean square of the values.
    """
    values = to_model(examples).flatten(1).double().cpu()
    directions = torch.randn(values.shape[1], NUMBERS, generator=generator(0, PRINT_STREAM), dtype=torch.float64)
    numbers = values @ directions / values.shape[1] ** 0.5
    return [[float(f"{number:.5g}") for number in row] for row in numbers.tolist()]


class _Watched:
    """A denoiser with its guidance that notes, at each evaluation, what the network said and what came out."""

    def __init__(self, denoiser: Denoiser, network: NetworkDenoiser, notes: list[tuple[float, float, int]]) -> None:
        self.denoiser, self.network, self.notes = denoiser, network, notes

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def seeded(self, noise: Noise) -> Denoiser:
        inner = seeded(self.denoiser, noise)
        return self if inner is self.denoiser else _Watched(inner, self.network, self.notes)

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        said: list[Tensor] = []
        rows: list[int] = []

        def note(module: Any, inputs: Any, output: Prediction) -> None:
            said.append(output.x0.detach())
            rows.append(len(output.x0))

        handle = self.network.register_forward_hook(note)
        try:
            result = self.denoiser(x, level, cond)
        finally:
            handle.remove()
        own = said[0][: len(x)] if said and said[0].shape[1:] == result.x0.shape[1:] else result.x0
        change = float((result.x0 - own).double().square().mean().sqrt())
        self.notes.append((float(level.t.flatten()[0]), change, sum(rows)))
        return result


@torch.no_grad()
def probe(
    sampler: Sampler,
    denoiser: Denoiser,
    network: NetworkDenoiser,
    shape: tuple[int, ...],
    cond_of: CondOf,
    as_data: Callable[[Tensor], Tensor],
    *,
    seed: int,
    device: torch.device,
) -> Probe:
    """Draw the first samples and watch. ``as_data`` turns samples into examples as the data hold them."""
    indices = range(PROBED)
    x, noise = start(denoiser, shape, indices, seed, device)
    cond = on(cond_of(indices), device)
    notes: list[tuple[float, float, int]] = []
    samples = sampler(_Watched(denoiser, network, notes), x, cond=cond, noise=noise)
    evaluations = sum(rows for _, _, rows in notes) / PROBED
    kept = torch.linspace(0, len(notes) - 1, min(len(notes), SHOWN)).round().long().tolist()
    return Probe(
        evaluations=evaluations,
        flops_per_sample=_flops(network, x[:1], None if cond is None else cond[:1], evaluations),
        guidance_applied=[(float(f"{notes[i][0]:.6g}"), float(f"{notes[i][1]:.4g}")) for i in kept],
        first_samples=fingerprints(as_data(samples)),
    )


def _flops(network: NetworkDenoiser, x: Tensor, cond: Any, evaluations: float) -> int | None:
    level = network.schedule(torch.tensor(0.5, dtype=torch.float64))
    # Labels may be those of a guidance.
    known = cond if isinstance(cond, Condition) or is_class_conditional(network.network) else None
    try:
        with FlopCounterMode(display=False) as counter:
            network(x, level, known)
    except (RuntimeError, NotImplementedError):  # a kernel that it cannot trace
        return None
    return round(counter.get_total_flops() * evaluations) or None
