"""DDPM's network for CIFAR-10 and the ways of training it that are timed against each other."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import diffusion_fw as dfw
from benchmarks.device.card import device, matmul_rate, release, seconds_per_call
from benchmarks.device.command import train
from benchmarks.device.options import Options
from benchmarks.device.record import Record

DDPM = {
    "channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_res_blocks": 2,
    "attention_resolutions": (16,),
    "dropout": 0.1,
}
TOY = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (16,), "dropout": 0.1}
SHAPE = (3, 32, 32)


def settings(options: Options) -> dict[str, Any]:
    return TOY if options.toy else DDPM


def network(options: Options) -> nn.Module:
    result: nn.Module = dfw.build("network", "unet", shape=SHAPE, **settings(options))
    return result


def overrides(options: Options) -> list[str]:
    """The same network on the command line."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in settings(options).items()}
    words = [f"network.{key}={value}".replace(" ", "") for key, value in values.items()]
    return ["data=emoji", "network.class_conditional=false", *words]


def flops_per_image(options: Options) -> float:
    """Of a training step: forward and backward, two for a multiplication with its addition."""
    model = network(options)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, *SHAPE), torch.zeros(2)).sum().backward()
    result: float = counter.get_total_flops() / 2
    return result


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def bare_step(
    model: nn.Module,
    batch: int,
    precision: str,
    call: Callable[..., Any] | None = None,
    shape: tuple[int, ...] = SHAPE,
) -> Callable[[], None]:
    """One training step as one writes it by hand."""
    where = device()
    average = copy.deepcopy(model).requires_grad_(False)
    forward = model if call is None else call
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.0, fused=True)
    clean = torch.rand(batch, *shape, device=where) * 2 - 1

    def step() -> None:
        eps, t = torch.randn_like(clean), torch.rand(batch, device=where)
        alpha, sigma = (value[:, None, None, None] for value in (torch.cos(t * 1.57), torch.sin(t * 1.57)))
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = (forward(alpha * clean + sigma * eps, 1000 * t).float() - eps).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1e-4)

    return step


def parameters(options: Options) -> int:
    return sum(item.numel() for item in network(options).parameters())


def diffusers_step(
    options: Options, precision: str, batch: int, channels_last: bool, compiled: bool
) -> Callable[[], None]:
    """A step of diffusers' network of this size with its average of the weights, under accelerate where it is there."""
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    own = settings(options)
    widths = tuple(own["channels"] * factor for factor in own["channel_mult"])
    attended = [32 >> level in own["attention_resolutions"] for level in range(len(widths))]
    network_of_peer: Any = UNet2DModel
    model = network_of_peer(
        sample_size=32,
        block_out_channels=widths,
        layers_per_block=own["num_res_blocks"],
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attended),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)),
        dropout=own["dropout"],
        attention_head_dim=None,
        norm_num_groups=8 if options.toy else 32,
    ).to(device())
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, foreach=True)
    average.to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000)
    clean = torch.rand(batch, *SHAPE, device=device()) * 2 - 1
    forward: Any = torch.compile(model) if compiled else model
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        # Another precision than that of an earlier step of this process.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")
        forward, optimizer = accelerator.prepare(forward, optimizer)
        backward, clip = accelerator.backward, accelerator.clip_grad_norm_
        context: Callable[[], Any] = contextlib.nullcontext
    except ImportError:

        def backward(loss: Any) -> None:
            loss.backward()

        clip = torch.nn.utils.clip_grad_norm_

        def context() -> Any:
            return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16")

    def step() -> None:
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (batch,), device=clean.device)
        noisy = scheduler.add_noise(clean, noise, t)
        with context():
            output = forward(noisy, t).sample
        backward(torch.nn.functional.mse_loss(output.float(), noise))
        clip(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())

    return step


class Timed:
    """The ways of training, each timed on this device: images/s, FLOP/s and their part of a matrix product's rate."""

    def __init__(self, record: Record, options: Options) -> None:
        torch.backends.cudnn.benchmark = True
        self.record, self.options = record, options
        self.most, self.within = (1, 0.2) if options.toy else (30, 1.2)
        self.flops = flops_per_image(options)
        self.rate: float | None = None

    def matmul(self) -> dict[str, Any]:
        self.rate = matmul_rate(256 if self.options.toy else 8192)
        return {"text": f"{self.rate / 1e12:,.1f} TFLOP/s", "flops_per_second": self.rate}

    def speed(self, seconds: float, batch: int, **values: Any) -> dict[str, Any]:
        images = batch / seconds
        part = f", {images * self.flops / self.rate:.0%} of the matmul rate" if self.rate else ""
        text = f"{images:,.0f} images/s, {images * self.flops / 1e12:,.1f} TFLOP/s{part}, {1e3 * seconds:.1f} ms a step"
        return {"text": text, "images_per_second": images, "seconds_per_step": seconds, "batch": batch, **values}

    def bare(self, precision: str, layout: str, batch: int, compiled: bool = False) -> dict[str, Any]:
        torch.manual_seed(0)
        where = device()
        kind = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        model = network(self.options).to(where).to(memory_format=kind)
        call = torch.compile(model) if compiled else None
        if where.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with tf32(precision == "tf32"):
            step = bare_step(model, batch, precision, call)
            seconds = seconds_per_call(step, within=self.within, most=self.most)
        values = {"peak_memory": torch.cuda.max_memory_allocated()} if where.type == "cuda" else {}
        return self.speed(seconds, batch, **values)

    def kernels(self, precision: str, layout: str, batch: int) -> dict[str, Any]:
        """Where the device's time goes in a bare step: the kernels that take most of it, and how busy it is."""
        torch.manual_seed(0)
        where = device()
        kind = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        step = bare_step(network(self.options).to(where).to(memory_format=kind), batch, precision)
        for _ in range(3):
            step()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if where.type == "cuda" else [])]
        with profile(activities=activities) as profiled:
            begin = time.perf_counter()
            step()
            if where.type == "cuda":
                torch.cuda.synchronize()
            wall = time.perf_counter() - begin
        # An operator has the time of its kernels, which stand there once more by their own names.
        kinds = [(item, item.device_type.name == "CPU") for item in profiled.key_averages()]
        times = [(item.self_device_time_total / 1e6, item.key) for item, operator in kinds if operator]
        most = sorted((pair for pair in times if pair[0] > 0), reverse=True)[:12]
        busy = sum(item.self_device_time_total for item, operator in kinds if not operator) / 1e6
        launched = sum(item.count for item, operator in kinds if not operator)
        shares = "; ".join(f"{name[:60]} {seconds / busy:.0%}" for seconds, name in most[:5]) if busy else "no device"
        text = f"device busy {1e3 * busy:.1f} of {1e3 * wall:.1f} ms, {launched} kernels of {shares}"
        kernels = [{"name": name, "seconds": seconds} for seconds, name in most]
        return {"text": text, "busy": busy, "wall": wall, "launched": launched, "kernels": kernels}

    def program(
        self, name: str, batch: int, *words: str, steps: int = 40, first: int = 20, **watch: bool
    ) -> dict[str, Any]:
        """train.py with its average, clipping, health check, progress bar and metrics.csv."""
        release()
        first, steps = (2, 2) if self.options.toy else (first, steps)
        watching = {"first": first, "steps": steps, **{key: str(value).lower() for key, value in watch.items()}}
        done = train(
            self.options.work / name,
            self.options.trainer,
            *overrides(self.options),
            f"batch_size={batch}",
            f"trainer.max_steps={first + (1 + sum(watch.values())) * steps}",
            "callbacks=[health,progress,device_watch]",
            *(f"callbacks.device_watch.{key}={value}" for key, value in watching.items()),
            "metric.num_samples=8",
            *words,
            timeout=self.record.left,
        )
        watched = done.watched
        more = {key: value for key, value in watched.items() if key not in ("steps", "seconds_per_step")}
        return self.speed(watched["seconds_per_step"], batch, whole_seconds=done.seconds, **more)

    def peer(self, precision: str, layout: str, batch: int, compiled: bool = False) -> dict[str, Any]:
        step = diffusers_step(self.options, precision, batch, layout == "channels_last", compiled)
        with tf32(False):
            # diffusers' script leaves torch's defaults: TF32 in convolutions, not in matrix products.
            torch.backends.cudnn.allow_tf32 = True
            return self.speed(seconds_per_call(step, within=self.within, most=self.most), batch)
