"""Resuming a run: its checkpoint, its own config, and what the command line may change of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_fw import registry
from diffusion_fw.checkpoints.read import checkpoint_of, read
from diffusion_fw.composition.experiment import plain
from diffusion_fw.config.application import Asked
from diffusion_fw.config.compose import checked
from diffusion_fw.config.groups import STACKED
from diffusion_fw.data.dataset import places
from diffusion_fw.registry import ConfigError, NonNegativeInt, convert, describe
from diffusion_fw.training.archive import RECORD_KEY

logger = logging.getLogger(__name__)

FREE = ("trainer", "callbacks", "logger", "num_workers", "explain", "resume")
"""What may change when a run is resumed: where and how long it runs, and what it writes."""

FIXED = (
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.accumulate_grad_batches",
    "trainer.overfit_batches",
)
"""The exceptions: they change the steps themselves."""


STATE: dict[str, Any] = {
    "global_step": (NonNegativeInt, "which step it reached"),
    "optimizer_states": (list, "the state of its optimizer"),
    "lr_schedulers": (list, "its learning rate"),
    "loops": (dict, "how far it is in the data"),
    "callbacks": (dict, "what it measured"),
}
"""What resuming needs of a checkpoint besides its record: the type of each, and what it says."""

OF_THE_USER = ("logger", "metric.cache_dir")
"""What is never taken from the checkpoint, which may be a stranger's: where this machine sends and writes things."""


def check_links(folder: Path) -> None:
    """ConfigError for a link in the folder of a run that is resumed: a write through it would change another file.

    Links of W&B to its own files stay; it replaces them.
    """
    logs = folder.resolve() / "wandb"
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not (logs in path.resolve().parents and folder / "wandb" in path.parents):
                raise ConfigError(
                    f"resume={folder}: {path.relative_to(folder)} is a link, through which the run would write into "
                    "other files; put the file or folder in its place"
                )


def folder_of(run: str | os.PathLike[str]) -> Path:
    """The folder of a run, from that folder itself or from a checkpoint in it."""
    path = Path(run)
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def continued(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``config``, with ``resume`` if it is that of a sweep's job that has left a checkpoint in ``folder``.

    Raises ConfigError where the folder holds a run of another config.
    """
    from hydra.core.hydra_config import HydraConfig

    sweeper = HydraConfig.get().sweeper if HydraConfig.initialized() else {}
    # A job that a sweeper has numbered is the same job when it runs again.
    numbered = any(sweeper.get(key) is not None for key in ("job", "trial"))
    if config["resume"] or not numbered or not (folder / "checkpoints" / "last.ckpt").is_file():
        return config
    check_links(folder)
    # Checked, so that former names of components and of their parameters count as the present ones.
    own = plain(checked("train", read(checkpoint_of(folder))[RECORD_KEY]["config"]))
    now = plain(config)
    if now["features"]["name"] == "auto":
        # The record holds the features that were chosen.
        now["features"]["name"] = own["features"]["name"]
    for path in dict([*_differences(now, own), *_differences(own, now)]):
        if path.partition(".")[0] not in FREE or path in FIXED:
            raise ConfigError(
                f"{folder} holds a run with {path}={_at(own, path)}, now it is {_at(now, path)}; choose another "
                "hydra.sweep.dir, or remove the folder"
            )
    return {**config, "resume": os.fspath(folder)}


def resumed(config: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """The run's own config with the command line's changes, such as the place where its data are now.

    ``config`` is what the command line alone composes. Raises ConfigError for a sweep, another folder, a change of the
    model, the data or the steps, and for fewer steps than the run has taken.
    """
    if asked.multirun:
        raise ConfigError("resume continues one run; a sweep cannot")
    folder = folder_of(config["resume"])
    for override in asked.overrides:
        # A process that Lightning starts is given the folder of the first one.
        if override.key_or_group == "hydra.run.dir" and Path(str(override.value())).absolute() != folder.absolute():
            raise ConfigError("hydra.run.dir: a run is resumed in its own folder; to start a new one, use init_from")
    check_links(folder)
    content = read(checkpoint_of(config["resume"]))
    missing = [key for key in STATE if key not in content]
    if missing:
        raise ConfigError(
            f"resume={config['resume']} holds no {', '.join(missing)}, which resuming needs; to start a new run from "
            f"its weights: init_from={config['resume']}"
        )
    for key, (kind, what) in STATE.items():
        try:
            convert(kind, content[key])
        except ValueError:
            raise ConfigError(
                f"resume={config['resume']} does not say {what}; it is damaged: its {key} must be {describe(kind)}, "
                f"not a {type(content[key]).__name__}"
            ) from None
    own = {**config, **{key: value for key, value in content[RECORD_KEY]["config"].items() if key in config}}
    own = checked("train", own)
    before, now = list(own["logger"]), list(config["logger"])
    if not set(before) <= set(now):
        logger.warning(
            "resume=%s: the run logged with logger=[%s], and goes on with logger=[%s], as the command line says",
            *(config["resume"], ",".join(before), ",".join(now)),
        )
    for key in OF_THE_USER:
        own = _replaced(own, key.split("."), _at(config, key)) if _at(own, key) is not None else own
    keys = [override.key_or_group for override in asked.overrides]
    default = asked.compose([])
    movable = [f"data.{place}" for place in places(own["data"]["name"])]
    for key in keys:
        top = key.partition(".")[0]
        if top in ("hydra", "logger") or key.startswith("hydra/") or key in OF_THE_USER:
            continue
        if key in movable:
            own = _replaced(own, key.split("."), _at(config, key))
        elif top not in FREE or key in FIXED:
            _check_same(key, own, config, default)
        elif key in STACKED:
            own[key] = {name: own[key].get(name, section) for name, section in config[key].items()}
        elif key in config and isinstance(config[key], Mapping):
            changed = dict(_differences(config[key], default[key], key))
            for path in (item for item in changed if item not in FIXED):
                own = _replaced(own, path.split("."), changed[path])
        else:
            own = _replaced(own, key.split("."), _at(config, key))
    own["resume"] = config["resume"]
    own = checked("train", own)
    taken, asked = content["global_step"], own["trainer"].get("max_steps", 0)
    if asked < taken:
        raise ConfigError(f"trainer.max_steps={asked}: resume={config['resume']} has taken {taken} steps already")
    return own


def with_data_of_run(arguments: Sequence[str]) -> list[str]:
    """The arguments, with data=<that of the resumed run> before the first that says where its data are."""
    runs = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("resume=")]
    keys = [argument.partition("=")[0] for argument in arguments]
    where = next((place for place, key in enumerate(keys) if key.startswith("data.")), None)
    if not runs or where is None or "data" in keys or "experiment" in keys:
        return list(arguments)
    data = read(checkpoint_of(runs[-1]))[RECORD_KEY]["config"].get("data")
    # The checkpoint may be a stranger's: only the name of a registered component becomes an argument.
    names = [name for name in registry.names("data") if isinstance(data, dict) and data.get("name") == name]
    return [*arguments[:where], *(f"data={name}" for name in names), *arguments[where:]]


def _check_same(key: str, own: Mapping[str, Any], config: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
    """ConfigError where the command line gives ``key`` another value than the run has."""
    if key == "experiment":
        wanted = {
            path: value
            for path, value in _differences(config, plain)
            if path.partition(".")[0] not in (*FREE, "init_from")
        }
    elif key in STACKED:
        wanted = {key: list(config[key])}
        own = {**own, key: list(own[key])}
    elif isinstance(_at(config, key), Mapping):
        wanted = {f"{key}.name": _at(config, key).get("name")}
    else:
        wanted = {key: _at(config, key)}
    for path, value in wanted.items():
        if _at(own, path) != value:
            raise ConfigError(
                f"{path}={value} cannot be changed by resume={config['resume']}, which has {_at(own, path)}; "
                f"what can: {', '.join(FREE[:-2])}. To start a new run from its weights: init_from={config['resume']}"
            )


def _differences(config: Mapping[str, Any], plain: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of ``config`` that differs from ``plain``, with its key."""
    for name, value in config.items():
        path = f"{above}.{name}" if above else name
        other = plain.get(name) if isinstance(plain, Mapping) else None
        if isinstance(value, Mapping):
            yield from _differences(value, other, path)
        elif value != other:
            yield path, value


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _replaced(config: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**config, first: _replaced(config.get(first) or {}, rest, value) if rest else value}
