"""What all tests share: one thread each, since they run side by side, and the smallest run that trains."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import complete
from registry_copy import copied_registry

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

TINY = {
    "network.channels": 4,
    "network.channel_mult": [1],
    "sampler.steps": 2,
    "features": "pixels",
    "metric.num_samples": 8,
    "logger": [],
    "callbacks": ["evaluation", "checkpoints"],
    "callbacks.evaluation.grid_images": 4,
    "callbacks.evaluation.every": 3,
    "callbacks.checkpoints.every": 3,
    "lr_schedule": "constant",
    "lr_schedule.warmup_steps": 2,
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 6,
    "trainer.log_every_n_steps": 3,
    "batch_size": 8,
}


def vary(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The checked config with keys changed; a group's value is a choice, or a list of choices where several hold."""
    from diffusion_fw import registry
    from diffusion_fw.config.compose import checked
    from diffusion_fw.config.groups import STACKED

    result = copy.deepcopy(config)
    for key, value in changes.items():
        if key in STACKED:
            result[key] = {name: complete(key, name) for name in value}
        elif key in registry.GROUPS:
            result[key] = complete(key, value)
        else:
            *path, last = key.split(".")
            place = result
            for part in path:
                place = place[part]
            place[last] = value
    return checked("train", result)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture
def scratch_registry() -> Iterator[dict[str, dict[str, Any]]]:
    """A registry whose changes are undone."""
    with copied_registry() as entries:
        yield entries


@pytest.fixture(scope="session", autouse=True)
def stored() -> None:
    """The components are in Hydra's store, whichever test comes first."""
    from diffusion_fw.config.compose import store_components

    store_components()


@pytest.fixture(scope="session", autouse=True)
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder to which evaluations of this process append their lines, instead of results/."""
    from diffusion_fw.runs import results

    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        append = results.append
        patch.setattr(
            results, "append", lambda given, lines: append(folder if given == Path("results") else given, lines)
        )
        yield folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """tiny(changes) -> the config of six steps of a network of some hundred weights on the digits."""
    from diffusion_fw.config.application import check_command_line

    cache = {"metric.cache_dir": str(tmp_path_factory.mktemp("cache"))}
    base = vary(check_command_line("train", [])[0], {**TINY, **cache})

    def configured(changes: dict[str, Any] | None = None) -> dict[str, Any]:
        return vary(base, changes or {})

    return configured


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """untrained(arguments) -> a checkpoint of train.py's arguments before the first step, each written once."""
    from diffusion_fw.composition.experiment import checkpoint_record
    from diffusion_fw.composition.facts import Facts
    from diffusion_fw.composition.parts import build_conditions, build_data, build_model
    from diffusion_fw.config.application import check_command_line
    from diffusion_fw.training.archive import RECORD_KEY

    folder = tmp_path_factory.mktemp("untrained")
    written: dict[tuple[str, ...], Path] = {}

    def write(*arguments: str) -> Path:
        if arguments not in written:
            (config,) = check_command_line("train", list(arguments))
            data = build_data(config)
            facts = Facts.of(data, config, build_conditions(config))
            torch.manual_seed(0)
            weights = {f"denoiser.{key}": value for key, value in build_model(config, facts).state_dict().items()}
            record = {**checkpoint_record(config, facts), "averages": {}, "fingerprints": data.fingerprints}
            written[arguments] = folder / f"{len(written)}.ckpt"
            torch.save({"state_dict": weights, "global_step": 0, RECORD_KEY: record}, written[arguments])
        return written[arguments]

    return write


@pytest.fixture(scope="session")
def trained_content(tiny: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a checkpoint of two steps, not to be changed."""
    from diffusion_fw.composition.experiment import build_experiment

    folder = tmp_path_factory.mktemp("trained")
    experiment = build_experiment(tiny({"trainer.max_steps": 2}), folder)
    experiment.trainer.fit(experiment.module)
    content: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content
