"""Every two choices make an experiment that trains, or are refused with the declared error."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffusion_fw import registry
from diffusion_fw.composition import experiment as composition
from diffusion_fw.composition import facts as facts_of_data
from diffusion_fw.composition import parts
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.facts import Facts
from diffusion_fw.config.compose import STACKED
from diffusion_fw.registry import ConfigError, Runtime
from diffusion_fw.sampling.draw import draw

GROUPS = sorted(set(registry.GROUPS) - {"settings", "trainer"})
SAMPLING = {"data", "network", "schedule", "parameterization", "sampler", "grid", "guidance"}
TRAINING = set(GROUPS) - {"sampler", "grid", "guidance", "features", "metric", "logger", "callbacks"}

# Choices that a command line alone cannot complete: they need files or Python objects.
NEEDS_MORE = {
    ("data", "cifar10"),
    ("data", "image_folder"),
    ("data", "mnist"),
    ("data", "webdataset"),
    ("guidance", "autoguidance"),
    ("guidance", "classifier"),
    ("guidance", "posterior"),
    ("guidance", "replacement"),
    ("guidance", "rescheduled"),
    ("metric", "nll"),  # of a finished run
}
EXTRAS = {("features", "efficientnet_lite0"), ("features", "inception")}

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
COMPANIONS = (
    {},
    {"schedule": "vp"},
    {"parameterization": "v"},
    {"network.class_conditional": True},
    {"sampler.steps": 10},
    {"variance": "learned_range"},
    {"objective": "hybrid"},
    {"variance": "learned_range", "objective": "hybrid"},
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
    strategy = SimpleNamespace(all_gather=lambda values: values)

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
    """attempt(choices, settings): build, train and draw once for what each depends on; ConfigError where refused."""
    folder = tmp_path_factory.mktemp("runs")
    done = set()

    def first_time(groups, choices, setting):
        key = (tuple(choice for choice in choices if choice[0] in groups), frozenset(map(str, setting.items())))
        return key not in done and not done.add(key)

    def run(choices, setting):
        changes = {**setting, **{group: [name] if group in STACKED else name for group, name in choices}}
        if ("grid", "explicit") in choices:
            changes["sampler.steps"] = 2
        config = tiny({"trainer": "loop", **dict(sorted(changes.items(), key=lambda item: "." in item[0]))})
        experiment = build_experiment(config, folder)
        if first_time(TRAINING, choices, setting):
            experiment.trainer.fit(experiment.module, experiment.data.train.__getitems__(range(8)))
        if first_time(SAMPLING, choices, setting):
            conditional = parts.is_conditional(experiment.denoiser)
            facts = Facts.of(experiment.data, config)
            denoiser = parts.build_wrappers(config, facts, conditional)(experiment.denoiser)
            classes = facts.num_classes if conditional else 0
            ((_, x),) = draw(experiment.sampler, denoiser, facts.shape, range(2), seed=0, num_classes=classes)
            assert x.shape == (2, *facts.shape)
            assert x.isfinite().all()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            registry.components,
            "_entries",
            {group: dict(known) for group, known in registry.components._entries.items()},
        )
        registry.register("trainer", "loop")(Loop)
        read = functools.cache(lambda items: parts.assemble("data", dict(items)))
        patch.setattr(composition, "build_data", lambda config: read(tuple(config["data"].items())))
        patch.setattr(facts_of_data, "measure", functools.cache(facts_of_data.measure))
        yield run


def works(attempt, choices, settings):
    """Whether the choices make a run on one of the settings; any error but the declared one is raised."""
    for setting in settings:
        try:
            attempt(choices, setting)
        except ConfigError:
            continue
        except Exception as error:
            raise AssertionError(f"{' '.join(map('='.join, choices))} on {setting}") from error
        return True
    return False


@pytest.fixture(scope="module")
def needs_images(attempt):
    """Whether a choice does not fit the points by itself."""
    return functools.cache(lambda choice: not works(attempt, [choice], [POINTS]))


EVERY = [(group, name) for group in GROUPS for name in registry.names(group)]
COMPLETE = [choice for choice in EVERY if choice not in NEEDS_MORE | EXTRAS]


@pytest.mark.parametrize("choice", EVERY, ids="=".join)
def test_every_choice_trains_and_samples_where_it_fits(attempt, choice):
    settings = [{**data, **companion} for data in (POINTS, IMAGES) for companion in COMPANIONS]
    fits = works(attempt, [choice], settings)
    assert fits != (choice in NEEDS_MORE) or choice in EXTRAS


@pytest.mark.parametrize("pair", itertools.combinations(GROUPS, 2), ids="-".join)
def test_every_two_choices_train_and_sample_or_are_refused(attempt, needs_images, pair):
    first, second = ([choice for choice in COMPLETE if choice[0] == group] for group in pair)
    worked = [
        works(attempt, [a, b], [POINTS, IMAGES] if needs_images(a) or needs_images(b) else [POINTS])
        for a, b in itertools.product(first, second)
    ]
    assert any(worked)
