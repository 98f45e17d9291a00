"""The scheduler_config.json of diffusers in our terms: schedule, parameterization and variance, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_fw import registry
from diffusion_fw.registry import ConfigError, Positive, PositiveInt

Section = dict[str, Any]

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned": "learned",
    "learned_range": "learned_range",
}
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
TYPES: dict[str, Any] = {
    "num_train_timesteps": PositiveInt,
    "beta_start": Positive,
    "beta_end": Positive,
    "rescale_betas_zero_snr": bool,
}
DEFAULTS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "rescale_betas_zero_snr": False}
"""Of DDPMScheduler, for what a scheduler_config.json leaves out."""


def read_keys(
    settings: Mapping[str, Any], types: Mapping[str, Any], defaults: Mapping[str, Any], file: str = "config.json"
) -> Section:
    """The values of the keys of ``types``, by default ``defaults``; ConfigError for one of another type."""
    found: Section = {}
    for key, annotation in types.items():
        value = settings.get(key, defaults.get(key))
        try:
            found[key] = registry.convert(annotation, value)
        except ValueError:
            raise ConfigError(f"{file}: {key}={value!r:.100} must be {registry.describe(annotation)}") from None
    return found


def read_settings(settings: Mapping[str, Any]) -> tuple[Section, Section, Section]:
    """(schedule, parameterization, variance) of a scheduler_config.json; DDPM's where a key is absent.

    The label is the row's index. Raises ConfigError for a schedule that is not one of ours.
    """
    own = read_keys(settings, TYPES, DEFAULTS, "scheduler_config.json")
    steps = own["num_train_timesteps"]
    kind = _one_of(settings, "beta_schedule", SCHEDULES, "linear")
    if settings.get("trained_betas") is not None:
        raise ConfigError("scheduler_config.json: trained_betas are a table of their own; state schedule=... instead")
    schedule: Section = {"name": SCHEDULES[kind], "num_steps": steps}
    if kind in BETAS:
        # Ours are for 1000 rows, and scaled for other numbers.
        schedule |= {key: own[key] * steps / 1000 for key in ("beta_start", "beta_end")}
    schedule["zero_terminal_snr"] = own["rescale_betas_zero_snr"]
    prediction = _one_of(settings, "prediction_type", PREDICTIONS, "epsilon")
    parameterization: Section = {"name": PREDICTIONS[prediction], "label_scale": float(steps)}
    variance = _one_of(settings, "variance_type", VARIANCES, "fixed_small")
    return schedule, parameterization, {"name": VARIANCES[variance]}


SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepScheduler": "dpm_solver_pp",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "lms",
    "PNDMScheduler": "plms",
    "UniPCMultistepScheduler": "unipc",
}
"""Ours for the schedulers of diffusers but DDPMScheduler, whose pipelines take 50 steps."""


def read_sampler(settings: Mapping[str, Any]) -> Section:
    """The sampler of a scheduler_config.json; {} where its scheduler is none of SAMPLERS."""
    name = SAMPLERS.get(str(settings.get("_class_name")))
    return {"name": name, "steps": 50} if name else {}


def write_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler_config.json of a DDPMScheduler for the sections of a config.

    Raises ConfigError for a schedule, a parameterization or a time label that diffusers' table schedulers do not have.
    """
    schedule, parameterization = config["schedule"], config["parameterization"]
    variance = config.get("variance") or {"name": "small"}
    kinds = {value: key for key, value in SCHEDULES.items()}
    predictions = {value: key for key, value in PREDICTIONS.items()}
    variances = {value: key for key, value in VARIANCES.items() if not key.endswith("_log")}
    for group, section, allowed in (
        ("schedule", schedule, kinds),
        ("parameterization", parameterization, predictions),
        ("variance", variance, variances),
    ):
        if section["name"] not in allowed:
            raise ConfigError(
                f"{group}={section['name']} has no scheduler of diffusers; export needs {group}={'|'.join(allowed)}, "
                "or --to safetensors"
            )
    steps = schedule["num_steps"]
    label = parameterization.get("label_of", "time"), parameterization.get("label_scale", 1000.0)
    if label != ("time", float(steps)) or parameterization.get("label_shift", -1.0) != -1.0:
        raise ConfigError(
            f"diffusers gives a network the index of the row, but this one has label_scale={label[1]:g} with "
            f"schedule.num_steps={steps}"
        )
    written = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": steps,
        "beta_schedule": kinds[schedule["name"]],
        "prediction_type": predictions[parameterization["name"]],
        "variance_type": variances[variance["name"]],
        "rescale_betas_zero_snr": schedule.get("zero_terminal_snr", False),
        "clip_sample": True,
    }
    if kinds[schedule["name"]] in BETAS:
        start, end = BETAS[schedule["name"]]
        written["beta_start"] = schedule.get("beta_start", start) * 1000 / steps
        written["beta_end"] = schedule.get("beta_end", end) * 1000 / steps
    return written


def _one_of(settings: Mapping[str, Any], key: str, allowed: Mapping[str, str], default: str) -> str:
    value = settings.get(key, default)
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(
            f"scheduler_config.json: {key}={value!r:.100} is none of ours, which are {', '.join(allowed)}"
        )
    result: str = value
    return result
