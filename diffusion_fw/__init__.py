"""diffusion_fw: diffusion experiments whose every axis is one registered component and one key of the config."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffusion_fw.registry import (
    ConfigError,
    Fraction,
    NonNegative,
    NonNegativeInt,
    OpenFraction,
    Positive,
    PositiveInt,
    Range,
    Runtime,
    build,
    names,
    register,
)
from diffusion_fw.registry.discovery import load_plugins

if TYPE_CHECKING:
    from diffusion_fw import checking, interop, likelihood, oracles
    from diffusion_fw.adapters import wrap
    from diffusion_fw.app.library import Config, compose, evaluate, sample, train
    from diffusion_fw.app.trained_model import load_space
    from diffusion_fw.checkpoints.load import load, load_classifier
    from diffusion_fw.checkpoints.pretrained import from_pretrained, push_to_hub, save, save_pretrained
    from diffusion_fw.codecs.codec import Codec
    from diffusion_fw.condition import Condition, Told
    from diffusion_fw.conditions.source import Source, Table
    from diffusion_fw.data.dataset import Batch, Data, Examples, InMemory, to_model, to_pixels
    from diffusion_fw.data.formats.map_style import DatasetData, MapDataset
    from diffusion_fw.data.latents import Space
    from diffusion_fw.denoiser import Denoiser, NetworkClassifier, NetworkDenoiser, Noise, prior
    from diffusion_fw.guidance.guidance import Guidance
    from diffusion_fw.guidance.operators import LinearOperator
    from diffusion_fw.metrics.comparison import SampleMetric
    from diffusion_fw.metrics.features.extractor import FeatureExtractor
    from diffusion_fw.metrics.metric import Measurement, Metric, Subject, TrackedMetric
    from diffusion_fw.metrics.sample_set import SampleSet
    from diffusion_fw.modes.mode import Mode, Model, Outcome
    from diffusion_fw.networks.network import Classifier, Network
    from diffusion_fw.objectives.objective import Objective
    from diffusion_fw.objectives.time_sampler import InverseTimeSampler, TimeSampler
    from diffusion_fw.objectives.weighting import Weighting, output_weight
    from diffusion_fw.process.level import NoiseLevel, noised
    from diffusion_fw.process.parameterization import Parameterization, Prediction, with_x0
    from diffusion_fw.process.schedule import BetaSchedule, DiscreteSchedule, LogSNRSchedule, Schedule
    from diffusion_fw.process.transition import Transition, posterior
    from diffusion_fw.process.variance import LogVariances, Variance
    from diffusion_fw.runs.record import Result
    from diffusion_fw.samplers.grid import Grid
    from diffusion_fw.samplers.sampler import Sampler, Step
    from diffusion_fw.text_encoders.encoder import TextEncoder
    from diffusion_fw.training.augmentation import Augmentation
    from diffusion_fw.training.callbacks.step_callback import StepCallback
    from diffusion_fw.training.ema import Average, Averages

__version__ = "0.1.0"

_PUBLIC = {
    "diffusion_fw.adapters": ("wrap",),
    "diffusion_fw.app.library": ("Config", "compose", "evaluate", "sample", "train"),
    "diffusion_fw.app.trained_model": ("load_space",),
    "diffusion_fw.checkpoints.load": ("load", "load_classifier"),
    "diffusion_fw.checkpoints.pretrained": ("from_pretrained", "push_to_hub", "save", "save_pretrained"),
    "diffusion_fw.codecs.codec": ("Codec",),
    "diffusion_fw.data.latents": ("Space",),
    "diffusion_fw.condition": ("Condition", "Told"),
    "diffusion_fw.conditions.source": ("Source", "Table"),
    "diffusion_fw.data.dataset": (
        "Batch",
        "Data",
        "Examples",
        "InMemory",
        "to_model",
        "to_pixels",
    ),
    "diffusion_fw.data.formats.map_style": ("DatasetData", "MapDataset"),
    "diffusion_fw.denoiser": (
        "Denoiser",
        "NetworkClassifier",
        "NetworkDenoiser",
        "Noise",
        "prior",
    ),
    "diffusion_fw.guidance.guidance": ("Guidance",),
    "diffusion_fw.guidance.operators": ("LinearOperator",),
    "diffusion_fw.metrics.comparison": ("SampleMetric",),
    "diffusion_fw.metrics.features.extractor": ("FeatureExtractor",),
    "diffusion_fw.metrics.metric": (
        "Measurement",
        "Metric",
        "Subject",
        "TrackedMetric",
    ),
    "diffusion_fw.metrics.sample_set": ("SampleSet",),
    "diffusion_fw.modes.mode": ("Mode", "Model", "Outcome"),
    "diffusion_fw.networks.network": ("Classifier", "Network"),
    "diffusion_fw.objectives.objective": ("Objective",),
    "diffusion_fw.objectives.time_sampler": (
        "InverseTimeSampler",
        "TimeSampler",
    ),
    "diffusion_fw.objectives.weighting": (
        "Weighting",
        "output_weight",
    ),
    "diffusion_fw.process.level": (
        "NoiseLevel",
        "noised",
    ),
    "diffusion_fw.process.parameterization": (
        "Parameterization",
        "Prediction",
        "with_x0",
    ),
    "diffusion_fw.process.schedule": (
        "BetaSchedule",
        "DiscreteSchedule",
        "LogSNRSchedule",
        "Schedule",
    ),
    "diffusion_fw.process.transition": (
        "Transition",
        "posterior",
    ),
    "diffusion_fw.process.variance": (
        "LogVariances",
        "Variance",
    ),
    "diffusion_fw.runs.record": ("Result",),
    "diffusion_fw.samplers.grid": ("Grid",),
    "diffusion_fw.samplers.sampler": (
        "Sampler",
        "Step",
    ),
    "diffusion_fw.text_encoders.encoder": ("TextEncoder",),
    "diffusion_fw.training.augmentation": ("Augmentation",),
    "diffusion_fw.training.callbacks.step_callback": ("StepCallback",),
    "diffusion_fw.training.ema": (
        "Average",
        "Averages",
    ),
}
_HOMES = {name: module for module, exported in _PUBLIC.items() for name in exported}
_ROOMS = ("checking", "interop", "likelihood", "oracles")

__all__ = [
    "Augmentation",
    "Average",
    "Averages",
    "Batch",
    "BetaSchedule",
    "Classifier",
    "Codec",
    "Condition",
    "Config",
    "ConfigError",
    "Data",
    "DatasetData",
    "Denoiser",
    "DiscreteSchedule",
    "Examples",
    "FeatureExtractor",
    "Fraction",
    "Grid",
    "Guidance",
    "InMemory",
    "InverseTimeSampler",
    "LinearOperator",
    "LogSNRSchedule",
    "LogVariances",
    "MapDataset",
    "Measurement",
    "Metric",
    "Mode",
    "Model",
    "Network",
    "NetworkClassifier",
    "NetworkDenoiser",
    "Noise",
    "NoiseLevel",
    "NonNegative",
    "NonNegativeInt",
    "Objective",
    "OpenFraction",
    "Outcome",
    "Parameterization",
    "Positive",
    "PositiveInt",
    "Prediction",
    "Range",
    "Result",
    "Runtime",
    "SampleMetric",
    "SampleSet",
    "Sampler",
    "Schedule",
    "Source",
    "Space",
    "Step",
    "StepCallback",
    "Subject",
    "Table",
    "TextEncoder",
    "TimeSampler",
    "Told",
    "TrackedMetric",
    "Transition",
    "Variance",
    "Weighting",
    "build",
    "checking",
    "compose",
    "evaluate",
    "from_pretrained",
    "interop",
    "likelihood",
    "load",
    "load_classifier",
    "load_plugins",
    "load_space",
    "names",
    "noised",
    "oracles",
    "output_weight",
    "posterior",
    "prior",
    "push_to_hub",
    "register",
    "sample",
    "save",
    "save_pretrained",
    "to_model",
    "to_pixels",
    "train",
    "with_x0",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first used, so that the registry alone costs nothing."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"diffusion_fw.{name}")
    raise AttributeError(f"module 'diffusion_fw' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
