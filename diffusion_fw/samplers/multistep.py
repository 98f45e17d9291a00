"""Methods that use the predictions of earlier steps, and how they begin without any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.samplers.linear import Stage

Weights = Callable[[int, int], tuple[float, Sequence[float]]]
"""(i, order) -> c_x and the weights of the predictions at levels i, i - 1, .., i - order + 1, of step i -> i + 1."""

Start = Callable[[int], tuple[Stage, ...]]
"""i -> the stages of a one-step method from level i to i + 1, of one order less than the multistep method."""


def decreasing_orders(order: int, levels: NoiseLevel, lower_order_final: bool) -> list[int]:
    """The order of every step: 1 to sigma = 0, where the grid ends there, and if asked for 2, 3, .. before it."""
    steps = len(levels.t) - 1
    if levels.sigma[-1] > 0:
        return [order] * steps
    if lower_order_final:
        return [min(order, steps - i) for i in range(steps)]
    return [*[order] * (steps - 1), 1]


def multistep_stages(
    levels: NoiseLevel, orders: Sequence[int], weights: Weights, start: Start | None = None
) -> list[tuple[Stage, ...]]:
    """The stages of every step. A step with too few predictions behind it uses those it has, at a lower order.

    One step of order p - 1 leaves a global error of order p, but a lower one does not: with ``start`` the steps whose
    predictions allow less than p - 1 are one-step ones.
    """
    stages: list[tuple[Stage, ...]] = []
    asked: list[int] = []
    evaluations = 0
    for i, (level, order) in enumerate(zip(levels.unbind(), orders, strict=False)):
        asked.append(evaluations)
        if start is not None and i + 1 < order - 1:
            stages.append(start(i))
        else:
            c_x, values = weights(i, min(order, i + 1))
            spread = [0.0] * (evaluations - asked[i + 1 - len(values)] + 1)
            for j, value in enumerate(values):
                spread[evaluations - asked[i - j]] = value
            stages.append((Stage(level, c_x, tuple(spread)),))
        evaluations += len(stages[-1])
    return stages
