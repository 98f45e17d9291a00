"""Which of a checkpoint's weights to use: the trained ones, an average, or one reconstructed after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.registry import LONGEST_NAME, ConfigError
from diffusion_fw.training.archive import RECORD_KEY
from diffusion_fw.training.power_profile import LONGEST, Fit, Profile, fit
from diffusion_fw.training.snapshots import FOLDER, Snapshot, before

SHORTEST = 1e-3
POINTS = 2000
"""Points at which a profile is drawn."""
FIRST = "averaged."


@dataclass(frozen=True)
class Choice:
    """Weights, their name in a metric's name, and the fit by which they were reconstructed, if they were."""

    name: str
    weights: dict[str, Tensor] = field(repr=False)
    fit: Fit | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The entries of a file of results."""
        if self.fit is None:
            return {"weights": self.name}
        made = {"averages": len(self.fit.profiles), "residual": self.fit.residual}
        return {"weights": self.name, "reconstruction": made}

    @property
    def rows(self) -> dict[str, str]:
        """The rows of a printed table."""
        if self.fit is None:
            return {}
        count, residual = len(self.fit.profiles), self.fit.residual
        return {"weights": f"{self.name}, made of {count} averages; the profile's error is {residual:.2%}"}

    def pictures(self, folder: Path) -> list[Path]:
        """The wanted profile and the one that was reached, if the weights were reconstructed."""
        if self.fit is None:
            return []
        from diffusion_fw.pictures.ema_profiles import profiles

        target, time = self.fit.target, self.fit.target.time
        steps = torch.linspace(0, time, POINTS + 1, dtype=torch.float64)[1:]
        parts = [profile.density(steps).masked_fill(steps > profile.time, torch.nan) for profile in self.fit.profiles]
        return [
            profiles(
                folder / "ema_profile.png",
                steps,
                time * target.density(steps),
                time * self.fit.density(steps),
                time * torch.stack(parts),
                f"Average of std={target.std:g} at step {time:g}: the profile's error is {self.fit.residual:.2%}",
            )
        ]


def choose(content: dict[str, Any], path: Path, *, raw_weights: bool, rate: float | None, std: float | None) -> Choice:
    """The weights of a checkpoint's content that the options name; by default the first average.

    Raises ConfigError for options that exclude each other, and for an average that the checkpoint neither holds nor
    can give; the message lists those that it holds.
    """
    given = {key: value for key, value in (("rate", rate), ("std", std)) if value is not None}
    if len(given) + raw_weights > 1:
        options = [f"ema.{key}={value}" for key, value in given.items()] + ["raw_weights=true"] * raw_weights
        raise ConfigError(f"{' and '.join(options)} name different weights; give one of them")
    held = _held(content, path)
    alone = _alone(content)
    if alone and (raw_weights or given):
        raise ConfigError(
            f"checkpoint={path} holds the weights {alone} alone: leave out raw_weights and ema, or give another "
            "checkpoint of its run"
        )
    if raw_weights or (not held and not given):
        return Choice(alone or "raw", _part(content, "denoiser."))
    if not given:
        return Choice("ema", _part(content, FIRST))
    (key, value), *_ = given.items()
    for prefix, length in held.items():
        if length == given:
            return Choice(f"ema({key}={value:g})", _part(content, prefix))
    available = ", ".join(f"ema.{key}={value:g}" for length in held.values() for key, value in length.items())
    available = available or "no average whose length is known"
    available = f"checkpoint={path} holds {available}, and the trained weights (raw_weights=true)"
    stds = {prefix: length["std"] for prefix, length in held.items() if set(length) == {"std"}}
    if key != "std" or not stds or content[RECORD_KEY]["config"].get("ema", {}).get("name") != "post_hoc":
        raise ConfigError(f"ema.{key}={value:g}: {available}; training with ema=post_hoc makes any ema.std available")
    if not SHORTEST <= value <= LONGEST:
        raise ConfigError(
            f"ema.std={value:g} must be between {SHORTEST:g} and {LONGEST:.3f}, the average of all steps alike"
        )
    return _reconstruct(content, path, value, stds)


def check_weights(given: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Raise ConfigError for weights of the right shape that training cannot have written.

    Their type is not the model's, such as int8 or complex instead of floats, or they are not finite where the untrained
    model's, ``own``, are. A buffer may hold infinity from the start.
    """
    pairs = {key: (given[key], value) for key, value in own.items() if key in given and given[key].shape == value.shape}
    for key, (new, old) in pairs.items():
        if new.dtype != old.dtype and not (new.is_floating_point() and old.is_floating_point()):
            raise ConfigError(
                f"{source}: {key} is of type {_type(new)}, but the model's of {_type(old)}; they are not the "
                "numbers that training wrote"
            )
    bad = [key for key, (new, old) in pairs.items() if bool((old.isfinite() & ~new.to(old.dtype).isfinite()).any())]
    if bad:
        raise ConfigError(
            f"{source}: {len(bad)} of its {len(pairs)} tensors, such as {bad[0]}, hold values that are not finite; the "
            "training diverged or the file was changed. Take another checkpoint of the run, such as "
            "checkpoints/best.ckpt or checkpoints/last_good.ckpt"
        )


def check_optimizer(
    states: Sequence[Any],
    parameters: Sequence[Tensor],
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    source: str,
) -> None:
    """Raise ConfigError for the state of an optimizer that does not fit the ``parameters``; ``make`` makes a new one.

    The state of a sharded model, which is by name, is left to its strategy.
    """
    state = states[0].get("state") if states and isinstance(states[0], Mapping) else None
    if not isinstance(state, Mapping) or any(not isinstance(key, int) for key in state):
        return
    # An optimizer may group them in another order, and may keep other things for a matrix than for a vector.
    ordered = [item for group in make(list(parameters)).param_groups for item in group["params"]]
    wanted = {axes: _kept(make, axes) for axes in {item.ndim for item in ordered}}
    wrong = "it has none" if any(wanted.values()) and not state else None
    for index, held in state.items():
        if not 0 <= index < len(ordered) or not isinstance(held, Mapping):
            wrong = f"it has one for parameter {index} of {len(ordered)}"
        elif missing := sorted(wanted[ordered[index].ndim] - held.keys()):
            wrong = f"parameter {index} lacks {', '.join(missing)}"
        else:
            shape = ordered[index].shape
            bad = [key for key, item in held.items() if isinstance(item, Tensor) and item.shape not in (shape, ())]
            if bad:
                wrong = f"{bad[0]} of parameter {index} has the shape {tuple(held[bad[0]].shape)}, not {tuple(shape)}"
    if wrong:
        raise ConfigError(
            f"{source}: the state of its optimizer does not fit its model: {wrong}; take another checkpoint of the "
            "run, or start a new run from its weights by init_from"
        )


def _kept(make: Callable[[list[Tensor]], torch.optim.Optimizer], axes: int) -> set[str]:
    """What such an optimizer keeps for a parameter of so many axes, by a step of one."""
    parameter = torch.nn.Parameter(torch.zeros((1,) * axes))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = make([parameter])
    optimizer.step()
    return {key for key, value in optimizer.state[parameter].items() if value is not None}


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _alone(content: dict[str, Any]) -> str:
    """The name of the weights of a file that was saved from a checkpoint with an average alone; empty for another."""
    name = content[RECORD_KEY].get("weights", "")
    known = isinstance(name, str) and len(name) <= LONGEST_NAME and name.isprintable() and name != "raw"
    return name if known else ""


def _held(content: dict[str, Any], path: Path) -> dict[str, dict[str, float]]:
    """The averages of a checkpoint, by their place in it, with their lengths, which version 0.1.0 did not record."""
    held = content[RECORD_KEY].get("averages", {FIRST: {}})
    right = isinstance(held, dict) and all(
        isinstance(prefix, str)
        and isinstance(length, dict)
        and set(length) <= {"rate", "std"}
        and all(isinstance(value, float) and 0 <= value <= 1 for value in length.values())
        for prefix, length in held.items()
    )
    if not right:
        raise ConfigError(f"checkpoint={path} was not loaded: its record of the averages holds no lengths")
    result: dict[str, dict[str, float]] = held
    return result


def _part(content: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    weights = content["state_dict"].items()
    return {key.removeprefix(prefix): value for key, value in weights if key.startswith(prefix)}


def _reconstruct(content: dict[str, Any], path: Path, std: float, stds: dict[str, float]) -> Choice:
    """The average of length ``std`` at the checkpoint's step, from the run's snapshots and the checkpoint."""
    step = content.get("global_step")
    if not isinstance(step, int) or step < 1:
        raise ConfigError(f"ema.std={std:g}: checkpoint={path} was written before the first step")
    folder = path.absolute().parent.parent / FOLDER
    snapshots = before(folder, step)
    if not snapshots:
        raise ConfigError(f"ema.std={std:g}: no snapshots from before step {step} in {folder}; keep it with its run")
    sources: list[tuple[Profile, Snapshot | str, int]] = [
        (profile, snapshot, index) for snapshot in snapshots for index, profile in enumerate(snapshot.profiles)
    ]
    sources += [(Profile(value, step), prefix, 0) for prefix, value in stds.items()]
    found = fit(Profile(std, step), [profile for profile, _, _ in sources])
    like = _part(content, FIRST)
    total: dict[str, Tensor] = {}
    for x, (_, source, index) in zip(found.coefficients, sources, strict=True):
        parameters = _part(content, source).items() if isinstance(source, str) else source.parameters(index, like)
        for key, value in parameters:
            if value.is_floating_point():
                total[key] = total.get(key, torch.zeros(value.shape, dtype=torch.float64)).add_(value, alpha=x)
    # Buffers are not averaged: the checkpoint's are taken.
    made = {key for snapshot in snapshots[:1] for key, _ in snapshot.parameters(0, like)}
    weights = {key: total[key].to(value.dtype) if key in made else value for key, value in like.items()}
    return Choice(f"ema(std={std:g}, reconstructed)", weights, found)
