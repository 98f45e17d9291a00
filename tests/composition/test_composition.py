"""Every two choices make an experiment that trains, or are refused by an error that names both; explain agrees."""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from registry_copy import copied_registry

from diffusion_fw import registry
from diffusion_fw.checking.built_ins import SETTINGS
from diffusion_fw.composition import experiment, parts
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.groups import STACKED, groups
from diffusion_fw.registry import ConfigError, Runtime
from diffusion_fw.sampling.draw import draw

GROUPS = sorted(registry.GROUPS.keys() & set(groups()) - {"trainer"})
SAMPLING = {"data", "network", "schedule", "parameterization", "sampler", "grid", "guidance", "condition"}
TRAINING = set(GROUPS) - {"sampler", "grid", "guidance", "features", "metric", "logger", "callbacks"}

# Choices that a command line alone cannot complete: they need files or Python objects.
NEEDS_MORE = {
    ("data", "cifar10"),
    ("data", "hf_dataset"),
    ("data", "image_folder"),
    ("data", "mnist"),
    ("data", "series"),
    ("data", "torchvision"),
    ("data", "webdataset"),
    ("guidance", "autoguidance"),
    ("guidance", "classifier"),
    ("guidance", "imputation"),
    ("guidance", "posterior"),
    ("guidance", "replacement"),
    ("guidance", "rescheduled"),
    # Of data that have numbers.
    ("condition", "attributes"),
    # Of a finished run.
    *(("metric", name) for name in registry.names("metric") if name not in ("fid", "none")),
    # They follow what another callback evaluates.
    ("callbacks", "early_stopping"),
    ("callbacks", "model_checkpoint"),
    # A classifier draws no samples.
    ("callbacks", "accuracy"),
    ("network", "adm_classifier"),
    ("objective", "classifier"),
    # Nor does an autoencoder, and a codec needs its file.
    ("callbacks", "reconstruction"),
    ("network", "kl_autoencoder"),
    ("objective", "autoencoder"),
    ("codec", "kl_autoencoder"),
    ("codec", "diffusers_kl"),
    ("codec", "diffusers_tiny"),
}
LARGE = {name: SETTINGS["network", name][0] for name in ("adm_unet", "ddpm_unet")}
"""Networks whose defaults are too large, with parameters that are not."""
# Networks of whose kind unet meets the other groups, and an augmentation that needs one of them.
ALIKE = {
    ("network", name)
    for name in (
        "adm_unet",
        "ddpm_unet",
        "ddpmpp",
        "dit",
        "edm2_unet",
        "hdit",
        "k_diffusion_unet",
        "ncsn",
        "ncsnpp",
        "ncsnv2",
        "uvit",
    )
} | {("augmentation", "edm")}
EXTRAS = {
    ("logger", "mlflow"),
    ("ema", "schedule_free"),
    ("text_encoder", "transformers"),
    *(("optimizer", name) for name in ("lion", "muon", "schedule_free")),
} | {("features", name) for name in ("clip", "dinov2", "efficientnet_lite0", "efficientnet_lite2", "inception")}

POINTS = {
    "data": "moons",
    "schedule": "vp",
    "network": "mlp",
    "network.width": 8,
    "network.depth": 1,
    "features": "identity",
    "guidance": [],
    "callbacks": [],
    "sampler.steps": 4,
}
IMAGES = {"callbacks": [], "sampler.steps": 4}
BASES = (POINTS, IMAGES)
COMPANIONS: tuple[dict[str, Any], ...] = (
    {},
    {"schedule": "cosine"},
    {"schedule": "vp"},
    {"parameterization": "v"},
    {"network.class_conditional": True},
    {"sampler.steps": 10},
    {"variance": "learned_range"},
    {"objective": "hybrid"},
    {"logger": ["csv"]},
    {"variance": "learned_range", "objective": "hybrid"},
    {"data": "emoji", "data.size": 8, "condition": ["text"]},
    {"network": "ddpmpp", "network.augment_dim": 9, "network.attention_resolutions": []},
    {"data": "tones", "features": "spectra"},
    {"data": "moving_digits", "features": "clips"},
)


@dataclass
class Loop:
    """Stands for Lightning's Trainer, which takes longer to make than the two steps."""

    loggers: Runtime[list[Any]]
    callbacks: Runtime[list[Any]]
    folder: Runtime[Path]
    max_steps: int = 2
    global_step: int = field(default=0, init=False)

    world_size = accumulate_grad_batches = 1
    global_rank = 0
    strategy = SimpleNamespace(all_gather=lambda values: values, root_device=torch.device("cpu"))

    def fit(self, module, batch):
        module.trainer = self
        optimizer = module.configure_optimizers()["optimizer"]
        for step in range(self.max_steps):
            self.global_step = step
            loss = module.training_step(batch, step)["loss"]
            optimizer.zero_grad()
            loss.backward()
            gradients = [item.grad for item in module.trained if item.grad is not None]
            assert loss.isfinite()
            assert gradients
            assert all(item.isfinite().all() for item in gradients)
            optimizer.step()
            module.update_averages(step + 1)


@pytest.fixture(scope="module")
def attempt(tiny, tmp_path_factory):
    """attempt(choices, setting): build, train and draw once for what each depends on; ConfigError where refused.

    The ConfigError is that of compose_parts, which is all that explain=true refuses by.
    """
    folder = tmp_path_factory.mktemp("runs")
    done, explained = set(), []

    def first_time(groups, choices, setting):
        key = (tuple(choice for choice in choices if choice[0] in groups), frozenset(map(str, setting.items())))
        return key not in done and not done.add(key)

    def compose_parts(config):
        composed = parts.compose_parts(config)
        explained.append(composed)
        return composed

    def run(choices, setting):
        explained.clear()
        try:
            build_and_run(choices, setting)
        except ConfigError as error:
            if explained:
                raise AssertionError("explain=true accepts it") from error
            raise
        return explained[-1]

    def build_and_run(choices, setting):
        chosen = {group: [name] if group in STACKED else name for group, name in choices}
        # The parameters of a component do not fit another that takes its place.
        fitting = {
            key: value for key, value in setting.items() if key.partition(".")[0] not in {*chosen} & {"network", "data"}
        }
        changes = {**fitting, **chosen}
        for name in {name for group, name in choices if group == "network"} & LARGE.keys():
            changes |= {f"network.{key}": value for key, value in LARGE[name].items()}
        if ("grid", "explicit") in choices:
            steps = changes["sampler.steps"]
            changes["grid.times"] = [1 - index / steps for index in range(steps)]
        config = tiny({"trainer": "loop", **dict(sorted(changes.items(), key=lambda item: "." in item[0]))})
        built = build_experiment(config, folder)
        if first_time(TRAINING, choices, setting):
            built.trainer.fit(built.module, built.module.examples.__getitems__(range(8)))
        if first_time(SAMPLING, choices, setting):
            shape, denoiser = built.data.shape, explained[-1].wrap(built.denoiser)
            takes_class = explained[-1].conditioner.num_classes > 0

            def told(indices):
                return explained[-1].facts.blank(len(indices), takes_class=takes_class)

            ((_, x),) = draw(built.sampler, denoiser, shape, range(2), seed=0, cond_of=told)
            assert x.shape == (2, *shape)
            assert x.isfinite().all()

    with copied_registry(), pytest.MonkeyPatch.context() as patch:
        registry.register("trainer", "loop")(Loop)
        read = functools.cache(lambda items: parts.assemble("data", dict(items)))
        patch.setattr(parts, "build_data", lambda config: read(tuple(config["data"].items())))
        patch.setattr(experiment, "compose_parts", compose_parts)
        yield run


EVERY = [(group, name) for group in GROUPS for name in registry.names(group)]
COMPLETE = [choice for choice in EVERY if choice not in NEEDS_MORE | EXTRAS]


def tried(attempt, choices, setting):
    """The ConfigError of the choices on a setting, None where they run; any other error is raised with its choices."""
    try:
        attempt(choices, setting)
    except ConfigError as error:
        return error
    except Exception as error:
        raise AssertionError(f"{' '.join(map('='.join, choices))} on {setting}") from error
    return None


@pytest.fixture(scope="module")
def home(attempt):
    """home(choice) -> for each base on which the choice runs, its number and the first companion that lets it."""

    def find(choice):
        for number, base in enumerate(BASES):
            for companion in COMPANIONS:
                if tried(attempt, [choice], {**base, **companion}) is None:
                    yield number, companion
                    break

    return functools.cache(lambda choice: dict(find(choice)))


def joined(one, other):
    """Both companions, without the keys of components of the one that the other replaces."""
    replaced = {key for key in other if "." not in key and one.get(key, other[key]) != other[key]}
    return {**{key: value for key, value in one.items() if key.partition(".")[0] not in replaced}, **other}


def settings(first, second):
    """Where two choices may run together: each base and companion on which either runs, and both their companions."""
    for number, base in enumerate(BASES):
        homes = [found[number] for found in (first, second) if number in found]
        if len(homes) == 2:
            homes = [joined(*homes), joined(*reversed(homes)), *homes]
        yield from ({**base, **companion} for index, companion in enumerate(homes) if companion not in homes[:index])


def groups_in(error):
    """The groups whose config keys an error names."""
    return {group for group in GROUPS if re.search(rf"\b{group}[=.]", str(error))}


@pytest.mark.parametrize("choice", EVERY, ids="=".join)
def test_every_choice_trains_and_samples_where_it_fits(home, choice):
    if choice == ("logger", "mlflow"):
        pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    assert bool(home(choice)) != (choice in NEEDS_MORE) or choice in EXTRAS


@pytest.mark.parametrize("pair", itertools.combinations(GROUPS, 2), ids="-".join)
def test_every_two_choices_train_and_sample_or_are_refused_by_their_keys(attempt, home, pair):
    """Refused on all that one of the two runs on by itself, by errors that together name both keys."""
    first, second = ([choice for choice in COMPLETE if choice[0] == group and choice not in ALIKE] for group in pair)
    for a, b in itertools.product(first, second):
        errors = []
        for setting in settings(home(a), home(b)):
            errors.append(tried(attempt, [a, b], setting))
            if errors[-1] is None:
                break
        else:
            named = [groups_in(error) for error in errors]
            assert all(len(names) > 1 for names in named), f"{a} {b}: {errors}"
            assert set(pair) <= set().union(*named), f"{a} {b}: {errors}"
