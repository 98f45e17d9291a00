"""The registered callbacks. Each builder imports Lightning only when it is called, so that --help stays fast."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from diffusion_fw.registry import PositiveInt, Range, Runtime, Size, register


@register("callbacks", "progress")
def progress(history: Runtime[Any], refresh_rate: PositiveInt = 10) -> Any:
    """Show a progress bar with step, loss and images per second."""
    from diffusion_fw.training.callbacks.progress import Progress

    return Progress(history=history, refresh_rate=refresh_rate)


@register("callbacks", "checkpoints")
def checkpoints(history: Runtime[Any], folder: Runtime[Path], every: PositiveInt = 500) -> Any:
    """Write last.ckpt at intervals and at the end, and best.ckpt by distance, or with metric=none by held-out loss."""
    from diffusion_fw.training.callbacks.checkpointing import Checkpoints

    return Checkpoints(history=history, folder=folder / "checkpoints", every=every)


@register("callbacks", "evaluation")
def evaluation(
    history: Runtime[Any],
    data: Runtime[Any],
    sampler: Runtime[Any],
    wrap: Runtime[Any],
    metric: Runtime[Any],
    folder: Runtime[Path],
    seed: Runtime[int],
    every: PositiveInt = 500,
    batch_size: PositiveInt | Literal["auto"] = 256,
    grid_images: Size = 64,
) -> Any:
    """Draw samples from the averaged weights, measure their distance to held-out data, draw pictures.

    batch_size is the number of samples drawn at once; auto: as many as fit into half of the memory that is free at the
    first evaluation.
    """
    from diffusion_fw.training.callbacks.evaluation import Evaluation

    return Evaluation(
        history=history,
        data=data,
        sampler=sampler,
        wrap=wrap,
        metric=metric,
        folder=folder / "samples",
        every=every,
        batch_size=batch_size,
        grid_images=grid_images,
        seed=seed,
    )


@register("callbacks", "gradient_noise")
def gradient_noise(
    history: Runtime[Any],
    data: Runtime[Any],
    seed: Runtime[int],
    every: PositiveInt = 500,
    parts: Annotated[int, Range(2, 1_000_000)] = 32,
    part_size: Size = 32,
) -> Any:
    """Log the gradient noise scale B = tr(Sigma) / |G|^2: the batch size beyond which a step gains little.

    McCandlish et al. 2018, equation 2.9 and appendix A.1; Nichol & Dhariwal 2021, figure 3, compare their losses so. G
    is the mean gradient and Sigma the covariance of those of single examples. Both are estimated without bias from
    ``parts`` gradients of ``part_size`` examples each, which cost as many steps of that batch size without an
    optimizer, on each of several processes. part_size bounds the memory, and may differ from the batch size of a step.
    Where the noise hides the gradient, B is infinite; raise parts or part_size then. trainer.precision=16-mixed is
    refused.
    """
    from diffusion_fw.training.callbacks.gradient_noise import GradientNoiseScale

    return GradientNoiseScale(history=history, data=data, seed=seed, every=every, parts=parts, part_size=part_size)


@register("callbacks", "accuracy")
def accuracy(
    history: Runtime[Any],
    data: Runtime[Any],
    metric: Runtime[Any],
    classifier: Runtime[Any],
    seed: Runtime[int],
    every: PositiveInt = 500,
    batch_size: PositiveInt = 256,
) -> Any:
    """Log the held-out loss and accuracy of a classifier by log-SNR, in place of the evaluation, which draws samples.

    Where there are more than 5 classes, also how often the class is among the 5 most probable.
    """
    from diffusion_fw.training.callbacks.accuracy import Accuracy

    return Accuracy(
        history=history,
        data=data,
        metric=metric,
        classes=classifier.num_classes,
        every=every,
        batch_size=batch_size,
        seed=seed,
    )


@register("callbacks", "health")
def health(
    folder: Runtime[Path],
    action: Literal["stop", "skip", "lower_rate"] = "stop",
    loss_multiple: Annotated[float, Range(1, math.inf, low_open=True)] = 1e6,
    gradient_multiple: Annotated[float, Range(1, math.inf, low_open=True)] = 1e6,
    window: Size = 100,
    in_a_row: PositiveInt = 10,
    factor: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.5,
    most_times: PositiveInt = 5,
) -> Any:
    """Catch a step whose loss or gradient norm is not finite, or has exploded, before it changes a weight.

    Exploded means above loss_multiple or gradient_multiple times the median of the last window good steps; rare but
    healthy draws of weighting=elbo reach 6,000 times the median, all others stay below 30 (docs/health.md). action=stop
    ends the run and keeps its last good state; skip skips the step; lower_rate skips it and multiplies the learning
    rate by factor, at most most_times times. More than in_a_row bad steps in a row always end the run.
    """
    from diffusion_fw.training.callbacks.health import Health

    return Health(
        folder=folder / "checkpoints",
        action=action,
        multiples=(loss_multiple, gradient_multiple),
        window=window,
        in_a_row=in_a_row,
        factor=factor,
        most_times=most_times,
    )
