"""Multistep methods: they use the predictions of earlier steps, and need a start without any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.samplers.methods.linear import Stage

Multistep = Callable[[int, int], Stage]
"""(i, order) -> the stage from level i to i + 1, with the weights of the predictions at levels i, i - 1, ..."""

Start = Callable[[int], tuple[Stage, ...]]
"""i -> the stages of a one-step method from level i to i + 1."""


def decreasing_orders(order: int, levels: NoiseLevel, lower_order_final: bool) -> list[int]:
    """The order of every step: 1 for a step to sigma = 0, and with ``lower_order_final`` 2, 3, .. before that."""
    steps = len(levels) - 1
    if levels.sigma[-1] > 0:
        return [order] * steps
    if lower_order_final:
        return [min(order, steps - i) for i in range(steps)]
    return [*[order] * (steps - 1), 1]


def spread(weights: Mapping[int, float], evaluations: Sequence[int]) -> tuple[float, ...]:
    """The weights of predictions, given by level, as a row over all evaluations, newest first.

    ``evaluations`` holds the number of the evaluation at each level; the newest one has a weight. Steps of several
    stages evaluate between the levels too: those predictions have weight 0.
    """
    newest = max(evaluations[level] for level in weights)
    row = [0.0] * (newest - min(evaluations[level] for level in weights) + 1)
    for level, weight in weights.items():
        row[newest - evaluations[level]] = weight
    return tuple(row)


def multistep_stages(
    orders: Sequence[int], multistep: Multistep, start: Start | None = None, started: int = 0
) -> list[tuple[Stage, ...]]:
    """The stages of every step. A step with too few earlier predictions uses those that exist, at a lower order.

    One step of order p - 1 keeps a global error of order p, a step of lower order does not. So ``start`` makes the
    first ``started`` steps; p - 2 steps of order p - 1 are enough.
    """
    stages: list[tuple[Stage, ...]] = []
    evaluations: list[int] = []
    count = 0
    for i, order in enumerate(orders):
        evaluations.append(count)
        if start is not None and i < started:
            stages.append(start(i))
        else:
            stage = multistep(i, min(order, i + 1))
            weights = {i - k: weight for k, weight in enumerate(stage.weights)}
            stages.append((stage._replace(weights=spread(weights, evaluations)),))
        count += len(stages[-1])
    return stages
