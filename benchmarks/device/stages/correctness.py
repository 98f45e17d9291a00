"""Every component on the GPU against itself on the CPU, in float32 without TF32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import diffusion_fw as dfw
from benchmarks.device.card import device
from benchmarks.device.options import Options
from benchmarks.device.record import Record
from benchmarks.device.syncs import Syncs
from diffusion_fw import philox
from diffusion_fw.checking.built_ins import settings
from diffusion_fw.checking.network_laws import accepted_shapes, inputs_for
from diffusion_fw.checking.subject import Subject
from diffusion_fw.networks.network import is_classifier
from diffusion_fw.training.ema import Weights

WITHIN = 1e-4
"""The largest relative difference, in the Euclidean norm, between the two devices."""

STEPS = 6
WANTED: dict[str, dict[str, Any]] = {"restart": {"intervals": ((3, 2, 0.5, 1.0),)}}
"""Settings for samplers whose defaults are made for more steps than STEPS."""


def difference(ours: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """|ours - reference| / |reference|, the largest over the pairs."""
    largest = 0.0
    for one, other in zip(ours, reference, strict=True):
        assert one.shape == other.shape, f"shapes {tuple(one.shape)} and {tuple(other.shape)}"
        one, other = one.detach().cpu().double(), other.detach().cpu().double()
        size = float(torch.linalg.vector_norm(other))
        ratio = float(torch.linalg.vector_norm(one - other)) / (size or 1.0)
        largest = max(largest, ratio if ratio == ratio else float("inf"))
    return largest


def network(name: str = "unet", shape: tuple[int, ...] = (3, 8, 8), **options: Any) -> nn.Module:
    """A small network without a zero among its weights, the same each time."""
    torch.manual_seed(0)
    own = {"channels": 16, "channel_mult": (1, 2), "attention_resolutions": (4,)} if name == "unet" else {}
    result: nn.Module = dfw.build("network", name, shape=shape, **own, **options)
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return result.eval()


class Replayed:
    """Normal noise drawn on the CPU, whatever the device of the tensor that it is drawn like."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like.device)


def both(compute: Callable[[torch.device], Iterable[Tensor]], within: float = WITHIN) -> dict[str, Any]:
    """``compute`` on the GPU against ``compute`` on the CPU."""
    found = difference(compute(device()), compute(torch.device("cpu")))
    return {"text": f"{found:.1e}", "ok": found <= within, "difference": found}


def run(record: Record, options: Options) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1 if options.toy else 4)
    count = 2 if options.toy else 16

    def denoiser(where: torch.device, parameterization: str = "v", **options: Any) -> dfw.NetworkDenoiser:
        schedule = dfw.build("schedule", "vp")
        said = assembled("parameterization", parameterization, schedule=schedule)
        return dfw.NetworkDenoiser(network(**options), schedule, said).to(where)

    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    clean = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    times = torch.linspace(0.05, 0.95, count, dtype=torch.float64)
    classes = torch.arange(count) % 3

    def each(group: str, check: Callable[[str], dict[str, Any]], names: Iterable[str] | None = None) -> None:
        for name in dfw.names(group) if names is None else names:
            record.measure(f"{group}={name}", check, name, group=f"{group}: {device().type} against cpu")

    def assembled(group: str, name: str, **facts: Any) -> Any:
        return Subject(group, name).assemble(**facts)

    def sampled(name: str) -> dict[str, Any]:
        sampler = dfw.build("sampler", name, steps=2 if name == "ode" else STEPS, **WANTED.get(name, {}))
        return both(lambda where: [sampler(denoiser(where), noise.to(where), noise=Replayed())])

    each("sampler", sampled)

    def predicted(name: str) -> dict[str, Any]:
        def compute(where: torch.device) -> Iterable[Tensor]:
            model = denoiser(where, name)
            for t in (times, times[count // 2]):
                prediction = model(noise.to(where), model.schedule(t))
                yield from (prediction.x0, prediction.eps)

        return both(compute)

    each("parameterization", predicted)

    def scheduled(name: str) -> dict[str, Any]:
        schedule = dfw.build("schedule", name)
        t = schedule.snap(times)

        def values(where: Any) -> list[Tensor]:
            level = schedule(t.to(where)).map(lambda value: value.clamp(-1e6, 1e6))
            return [level.t, level.alpha, level.sigma, level.log_snr]

        return both(values, within=1e-10)

    each("schedule", scheduled)

    def learned(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
        """The output and the gradient."""

        def compute(where: torch.device) -> Iterable[Tensor]:
            own = copy.deepcopy(model).to(where)
            x, label = (value.to(where) for value in inputs_for(shape, model))
            output = own(x, label) if is_classifier(own) else own(x, label, None)
            output.square().mean().backward()
            gradients = [parameter.grad for parameter in own.parameters() if parameter.grad is not None]
            return [output, torch.cat([gradient.flatten() for gradient in gradients])]

        # In float32 the gradient of ncsnv2 is 3.5e-4 from that in float64, on a CPU too.
        return both(compute, within=1e-3)

    group = f"network: {device().type} against cpu"
    for name, parameters in settings("network"):
        for shape, model in accepted_shapes(Subject("network", name, parameters)).items():
            record.measure(f"network={name} {parameters} for {shape}", learned, model, shape, group=group)

    def loss(name: str) -> dict[str, Any]:
        schedule, variance = dfw.build("schedule", "cosine"), dfw.build("variance", "learned_range")
        known = {"weighting": dfw.build("weighting", "native"), "schedule": schedule, "variance": variance}
        objective = assembled("objective", name, **known)

        def compute(where: torch.device) -> Iterable[Tensor]:
            own = copy.deepcopy(objective)
            own = own.to(where) if isinstance(own, nn.Module) else own
            model = dfw.NetworkDenoiser(network(outputs=2), schedule, dfw.build("parameterization", "epsilon")).to(
                where
            )
            losses = own(model, clean.to(where), schedule(schedule.snap(times)), noise.to(where))
            losses.mean().backward()
            return [losses, torch.cat([item.grad.flatten() for item in model.parameters() if item.grad is not None])]

        return both(compute)

    # The others draw directions on the device, or take labels.
    each("objective", loss, sorted(set(dfw.names("objective")) - {"classifier", "sliced_score_matching"}))

    def guided(name: str) -> dict[str, Any]:
        own: dict[str, dict[str, Any]] = {"rescheduled": {"schedule": "flow"}, "classifier_free": {"num_classes": 3}}
        chosen = own.get(name, {})
        target = dfw.build("schedule", "flow" if name == "rescheduled" else "vp")

        def compute(where: torch.device) -> Iterable[Tensor]:
            model = denoiser(where, num_classes=3, class_conditional=True)
            wrapped = dfw.build("guidance", name, denoiser=model, **chosen)
            for t in (times, times[count // 2]):
                prediction = wrapped(noise.to(where), target(t), classes.to(where))
                yield from (prediction.x0, prediction.eps)

        return both(compute)

    each("guidance", guided, ("clip", "dynamic_threshold", "classifier_free", "rescheduled"))

    def averaged(name: str) -> dict[str, Any]:
        def compute(where: torch.device) -> Iterable[Tensor]:
            averages = assembled("ema", name, batch_size=128)
            trained = network().to(where)
            copies = [copy.deepcopy(trained) for _ in averages.tracks]
            optimizer = torch.optim.Adam(trained.parameters())
            source = Replayed()
            for step in range(1, 11):
                with torch.no_grad():
                    for parameter in trained.parameters():
                        parameter.add_(0.01 * source(parameter))
                for track, average in zip(averages.tracks, copies, strict=True):
                    track.update(Weights.of(average), Weights.of(trained), step, optimizer)
            return [parameter for model in (trained, *copies) for parameter in model.parameters()]

        return both(compute)

    each("ema", averaged)

    digits = dfw.build("data", "digits")

    def featured(name: str) -> dict[str, Any]:
        features = dfw.build("features", name, shape=digits.shape)
        pixels, _ = digits.test.__getitems__(range(4 * count))
        return both(lambda where: [features.to(where)(pixels.to(where))])

    each("features", featured, ("digits", "pixels"))

    def distance() -> dict[str, Any]:
        generated, _ = digits.train.__getitems__(range(64 if options.toy else 500))

        def compute(where: torch.device) -> Iterable[Tensor]:
            metric: Any = dfw.build(
                "metric",
                "fid",
                features=dfw.build("features", "digits", shape=digits.shape),
                train=digits.train,
                test=digits.test,
                num_samples=len(generated),
                cache_dir=str(options.work / str(where)),
            )
            metric = metric.to(where)
            metric.reset()
            metric.update(generated.to(where))
            yield torch.tensor(metric.compute())
            yield torch.tensor(metric.floor())

        return both(compute, within=1e-3)

    record.measure("metric=fid, and its floor", distance)

    def density() -> dict[str, Any]:
        few = clean[:2]
        return both(
            lambda where: [
                dfw.likelihood.log_prob(
                    denoiser(where), few.to(where), divergence="rademacher", noise=Replayed(), atol=1e-3, rtol=1e-3
                )
            ],
            within=1e-3,
        )

    record.measure("likelihood of the probability flow", density)

    def draw() -> dict[str, Any]:
        rows = torch.tensor([0, 1, 2**31, 2**32 + 1])
        return both(lambda where: [philox.normal(2**62 + 1, rows.to(where), (3, 32, 32))])

    record.measure("noise of a GPU, as its formula says", draw)

    def waits(name: str) -> dict[str, Any]:
        model, x = denoiser(device()), noise.to(device())
        counted = []
        for steps in (STEPS, 2 * STEPS):
            sampler = dfw.build("sampler", name, steps=steps, **WANTED.get(name, {}))
            sampler(model, x)
            with Syncs() as syncs:
                sampler(model, x)
            counted.append(syncs)
        each_step = (counted[1].total - counted[0].total) / STEPS
        sites = counted[1].sites()
        return {"text": f"{each_step:g} a step, {counted[1].total} in all", "per_step": each_step, "sites": sites}

    if torch.cuda.is_available():
        for name in dfw.names("sampler"):
            if name != "ode":
                record.measure(f"waits of the host, sampler={name}", waits, name)
