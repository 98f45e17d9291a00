"""Values for the parameters that a component has no default for, so that every one can be chosen in a test."""

from __future__ import annotations

import typing
from typing import Any

from diffusion_fw import registry
from diffusion_fw.checking.built_ins import SETTINGS
from diffusion_fw.config.compose import node
from diffusion_fw.process.schedule import Schedule

TINY_WORDS = (
    "data=moons",
    "network=mlp",
    "network.width=8",
    "features=identity",
    "trainer.accelerator=cpu",
    "metric.num_samples=8",
    "sampler.steps=2",
    "callbacks.evaluation.every=3",
    "callbacks.checkpoints.every=2",
    "logger=none",
    "batch_size=8",
)
"""A command line whose every step takes a millisecond."""

CANDIDATES: tuple[Any, ...] = (1, 0.5, "nowhere", [1.0, 0.5], [1], [[1.0]])


def example(annotation: Any) -> Any:
    """A value that an annotation allows."""
    words = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    for value in (*CANDIDATES, *words):
        try:
            registry.convert(annotation, value)
        except ValueError:
            continue
        return value
    raise AssertionError(f"no example of {annotation}")


def required(group: str, name: str) -> dict[str, Any]:
    """Values of the parameters without a default."""
    parameters = registry.entry(group, name).parameters
    return {key: example(item.annotation) for key, item in parameters.items() if item.required}


def on_schedule(group: str, name: str, schedule: Schedule, **settings: Any) -> Any:
    """A component with its defaults, which is passed the schedule if it asks for one."""
    runtime = {"schedule": schedule} if "schedule" in registry.entry(group, name).runtime else {}
    return registry.build(group, name, **runtime, **settings)


def complete(group: str, name: str) -> dict[str, Any]:
    """The node of a component, with nothing missing; a network as small as in the checks."""
    small = SETTINGS.get((group, name), [{}])[0] if group == "network" else {}
    return {**node(registry.entry(group, name)), **required(group, name), **small}


def plain_state(state: Any) -> Any:
    """A checkpoint's content with lists for tensors, so that == compares to the bit; without speeds."""
    if hasattr(state, "tolist"):
        return state.tolist()
    if isinstance(state, dict):
        return {key: plain_state(value) for key, value in state.items() if "per_second" not in str(key)}
    return [plain_state(item) for item in state] if isinstance(state, (list, tuple)) else state
