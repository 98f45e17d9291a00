"""Methods that use the predictions of earlier steps, and how they begin without any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.samplers.methods.linear import Stage

Multistep = Callable[[int, int], Stage]
"""(i, order) -> the stage from level i to i + 1, its weights over the predictions at levels i, i - 1, ..."""

Start = Callable[[int], tuple[Stage, ...]]
"""i -> the stages of a one-step method from level i to i + 1."""


def decreasing_orders(order: int, levels: NoiseLevel, lower_order_final: bool) -> list[int]:
    """The order of every step: 1 to sigma = 0, where the grid ends there, and if asked for 2, 3, .. before it."""
    steps = len(levels.t) - 1
    if levels.sigma[-1] > 0:
        return [order] * steps
    if lower_order_final:
        return [min(order, steps - i) for i in range(steps)]
    return [*[order] * (steps - 1), 1]


def spread(weights: Sequence[float], asked: Sequence[int], levels: Sequence[int]) -> tuple[float, ...]:
    """The weights of the predictions at these levels, newest first, over all evaluations since the oldest of them.

    ``asked`` tells the number of the evaluation that was made at each level.
    """
    places = [asked[levels[0]] - asked[level] for level in levels]
    row = [0.0] * (max(places) + 1)
    for place, weight in zip(places, weights, strict=True):
        row[place] = weight
    return tuple(row)


def multistep_stages(
    orders: Sequence[int], multistep: Multistep, start: Start | None = None, started: int = 0
) -> list[tuple[Stage, ...]]:
    """The stages of every step. A step with too few predictions behind it uses those it has, at a lower order.

    One step of order p - 1 leaves a global error of order p, but a lower one does not: the first ``started`` steps are
    made by ``start`` instead, of which p - 2 of order p - 1 are enough.
    """
    stages: list[tuple[Stage, ...]] = []
    asked: list[int] = []
    evaluations = 0
    for i, order in enumerate(orders):
        asked.append(evaluations)
        if start is not None and i < started:
            stages.append(start(i))
        else:
            stage = multistep(i, min(order, i + 1))
            known = range(i, i - len(stage.weights), -1)
            stages.append((stage._replace(weights=spread(stage.weights, asked, known)),))
        evaluations += len(stages[-1])
    return stages
