"""The registered callbacks. Each builder imports Lightning only when it is called, so that --help stays fast."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from diffusion_fw.registry import (
    ConfigError,
    NonNegative,
    NonNegativeInt,
    PositiveInt,
    Range,
    Runtime,
    Size,
    register,
)


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


@register("callbacks", "model_checkpoint")
def model_checkpoint(
    folder: Runtime[Path], monitor: str = "distance", mode: Literal["min", "max"] = "min", save_top_k: PositiveInt = 3
) -> Any:
    """Keep checkpoints/step_*.ckpt of the save_top_k best evaluations: Lightning's ModelCheckpoint.

    monitor is the name of a number of the evaluations, such as the metric's own or heldout/loss; distance is what
    best.ckpt follows.
    """
    from diffusion_fw.training.callbacks.stock import TopCheckpoints

    return TopCheckpoints(folder / "checkpoints", monitor=monitor, mode=mode, save_top_k=save_top_k)


@register("callbacks", "early_stopping")
def early_stopping(
    monitor: str = "distance",
    mode: Literal["min", "max"] = "min",
    patience: PositiveInt = 3,
    min_delta: NonNegative = 0.0,
    stopping_threshold: float | None = None,
    divergence_threshold: float | None = None,
    check_finite: bool = True,
) -> Any:
    """End the run after `patience` evaluations without an improvement by min_delta: Lightning's EarlyStopping.

    Also once a number is better than stopping_threshold, worse than divergence_threshold, or not finite. monitor is the
    name of a number of the evaluations, such as the metric's own or heldout/loss; distance is what best.ckpt follows.
    """
    from diffusion_fw.training.callbacks.stock import Patience

    return Patience(
        monitor=monitor,
        mode=mode,
        patience=patience,
        min_delta=min_delta,
        stopping_threshold=stopping_threshold,
        divergence_threshold=divergence_threshold,
        check_finite=check_finite,
    )


@register("callbacks", "timer")
def timer(duration: str = "00:12:00:00") -> Any:
    """End the run after the step in which DD:HH:MM:SS of training are over, resumed or not: Lightning's Timer.

    The step ends with an evaluation and a checkpoint, whose time comes on top.
    """
    from lightning.pytorch.callbacks import Timer

    return Timer(duration)


@register("callbacks", "learning_rate_monitor")
def learning_rate_monitor(
    loggers: Runtime[list[Any]], log_momentum: bool = False, log_weight_decay: bool = False
) -> Any:
    """Log the learning rate of each group of parameters: Lightning's LearningRateMonitor."""
    from lightning.pytorch.callbacks import LearningRateMonitor

    return LearningRateMonitor("step", log_momentum=log_momentum, log_weight_decay=log_weight_decay)


@register("callbacks", "device_stats_monitor")
def device_stats_monitor(loggers: Runtime[list[Any]], cpu_stats: bool | None = None) -> Any:
    """Log the memory and the load of the device: Lightning's DeviceStatsMonitor.

    On a CPU, and everywhere with cpu_stats=true, it needs psutil.
    """
    import torch
    from lightning.pytorch.callbacks import DeviceStatsMonitor

    if (cpu_stats or (cpu_stats is None and not torch.cuda.is_available())) and not importlib.util.find_spec("psutil"):
        raise ConfigError(
            "callbacks=device_stats_monitor needs psutil for the load of the CPU: pip install psutil, or set "
            "callbacks.device_stats_monitor.cpu_stats=false"
        )
    return DeviceStatsMonitor(cpu_stats)


@register("callbacks", "throughput_monitor")
def throughput_monitor(loggers: Runtime[list[Any]], window_size: Annotated[int, Range(2)] = 100) -> Any:
    """Log steps and examples per second over the last window_size batches: Lightning's ThroughputMonitor.

    It waits for the device at each step.
    """
    from lightning.pytorch.callbacks import ThroughputMonitor

    return ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]), window_size=window_size)


@register("callbacks", "model_summary")
def model_summary(max_depth: NonNegativeInt = 2) -> Any:
    """Print the modules down to max_depth with their numbers of parameters: Lightning's RichModelSummary."""
    from lightning.pytorch.callbacks import RichModelSummary

    return RichModelSummary(max_depth=max_depth)


@register("callbacks", "evaluation")
def evaluation(
    history: Runtime[Any],
    data: Runtime[Any],
    conditioner: Runtime[Any],
    space: Runtime[Any],
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
        conditioner=conditioner,
        space=space,
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

    return GradientNoiseScale(history=history, seed=seed, every=every, parts=parts, part_size=part_size)


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


@register("callbacks", "reconstruction")
def reconstruction(
    history: Runtime[Any],
    data: Runtime[Any],
    metric: Runtime[Any],
    autoencoder: Runtime[Any],
    folder: Runtime[Path],
    seed: Runtime[int],
    every: PositiveInt = 500,
    batch_size: PositiveInt = 256,
) -> Any:
    """Log held-out loss and reconstruction error of an autoencoder, and write its checkpoints/codec.safetensors.

    It takes the place of the evaluation, which draws samples. The file is that of the best evaluation so far.
    """
    from diffusion_fw.training.callbacks.reconstruction import Reconstruction

    return Reconstruction(
        history=history,
        data=data,
        metric=metric,
        section=autoencoder,
        folder=folder,
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
