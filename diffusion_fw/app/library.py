"""The programs in Python, as in a notebook: compose a config, then train, sample and evaluate with it."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffusion_fw import registry
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.record import Outcome, Result, recorded

if TYPE_CHECKING:
    from diffusion_fw.metrics.metric import Measurement
    from diffusion_fw.modes import mode

PROGRAMS = ("train", "sample", "evaluate")

logger = logging.getLogger(__name__)


class Config(dict[str, Any]):
    """A composed config: a dict whose values may be changed. They are checked again when it is used."""

    def __init__(self, values: dict[str, Any], program: str, overrides: Sequence[str]) -> None:
        super().__init__(values)
        self.program, self.overrides = program, list(overrides)


def compose(overrides: Sequence[str] = (), program: str = "train") -> Config:
    """The checked config of a program with the overrides of its command line: ``compose(["data=moons", "seed=1"])``.

    ``program`` is "train", "sample" or "evaluate". Components that are registered in Python, as in a cell above, are
    choices too. With resume=RUN it is the config of that run. Raises ConfigError for a wrong choice, key or value, and
    for a sweep.
    """
    from diffusion_fw.config.application import ask
    from diffusion_fw.config.compose import store_components

    if program not in PROGRAMS:
        raise ConfigError(f"program={program}: must be one of {', '.join(PROGRAMS)}")
    if isinstance(overrides, str):
        raise ConfigError(f"{overrides}: give the overrides as a list, [{overrides!r}]")
    words = list(overrides)
    for word in words:
        if word.startswith(("-", "hydra.", "hydra/", "+hydra", "explain=")):
            raise ConfigError(f"{word}: only on a command line; in Python give what belongs to the config")
    if any(word.startswith("resume=") for word in words):
        from diffusion_fw.runs.resume import with_data_of_run

        words = with_data_of_run(words)
    store_components()
    asked = ask(program, words)
    config, *further = asked.configs
    if further:
        raise ConfigError(f"{' '.join(words)}: a sweep; compose each of its jobs, or run it on the command line")
    if config.get("resume"):
        from diffusion_fw.runs.resume import resumed

        config = resumed(config, asked)
    return Config(config, program, words)


def train(config: Config, folder: str | PathLike[str]) -> Result:
    """Train in ``folder``, as ``python train.py`` does with the same overrides; its best distance and its name.

    The folder then holds checkpoints, pictures and run.json, so that sample.py, evaluate.py, report.py and resume=
    take it. Raises ConfigError for what ``compose`` did not give, and where the parts don't fit together.
    """
    from diffusion_fw.app.train import train as run

    with _kept("train", config, folder) as kept:
        if kept.config["resume"]:
            _check_resumed(kept.config["resume"], kept.folder)
        kept.outcome.result = run(kept.config, kept.folder)
        return kept.outcome.result


def sample(config: Config, folder: str | PathLike[str]) -> mode.Outcome:
    """Do with a checkpoint what ``python sample.py`` does; the arrays of its mode, such as the samples, and pictures.

    ``sample(compose(["checkpoint=RUN/checkpoints/last.ckpt"], "sample"), "out").arrays["samples"]``. Files go to
    ``folder``. Raises ConfigError as ``train``.
    """
    from diffusion_fw.app.sample import sample as run

    with _kept("sample", config, folder) as kept:
        return run(kept.config, kept.folder)


def evaluate(config: Config, folder: str | PathLike[str]) -> list[Measurement]:
    """Measure a checkpoint, or samples, as ``python evaluate.py`` does; all numbers with their floors and intervals.

    evaluation.json goes to ``folder``, and a line for each number to the folder ``results`` of the config. Raises
    ConfigError as ``train``.
    """
    from diffusion_fw.app.evaluate import measurements, result_of
    from diffusion_fw.app.sample_source import check_source

    with _kept("evaluate", config, folder) as kept:
        check_source(kept.config)
        found = measurements(kept.config, kept.folder, shlex.join(["python", "evaluate.py", *kept.words]))
        kept.outcome.result = result_of(found)
        return found


class Kept(NamedTuple):
    """A run whose record and log are kept."""

    config: dict[str, Any]
    folder: Path
    words: list[str]
    """The overrides that compose its config."""
    outcome: Outcome


@contextlib.contextmanager
def _kept(program: str, config: Config, folder: str | PathLike[str]) -> Iterator[Kept]:
    """Keep the record and the log of a run while the block runs; ConfigError for a config that is not the program's."""
    from diffusion_fw.runs.own_files import logged_to
    from diffusion_fw.samplers.sampler import warn_outside

    values, words = _checked(program, config)
    place = Path(folder)
    warn_outside.cache_clear()
    place.mkdir(parents=True, exist_ok=True)
    kept = recorded(place, program, words, number=None, seed=values["seed"], keep_mistakes=False)
    with kept as outcome, logged_to(place / f"{program}.log"):
        yield Kept(values, place, words, outcome)


def _checked(program: str, config: Config) -> tuple[dict[str, Any], list[str]]:
    """The values of a config, checked again, and the overrides that compose it, changes in Python included."""
    from diffusion_fw.config.compose import checked

    if getattr(config, "program", None) != program:
        what = f"the config of {config.program}.py" if isinstance(config, Config) else f"a {type(config).__name__}"
        raise ConfigError(f'dfw.{program} takes what dfw.compose([...], "{program}") gives, not {what}')
    known = compose(config.overrides, program)
    for key in config.keys() - known.keys():
        listed = ", ".join(sorted(known))
        raise ConfigError(f"{key}: no such key{registry.nearest(key, known)}; keys at the top: {listed}")
    for key in known.keys() - config.keys():
        raise ConfigError(f"{key} is missing in the config; leave it as dfw.compose gave it")
    values = checked(program, dict(config))
    if values["explain"]:
        raise ConfigError("explain=true: only on a command line; in Python the config is a dict to look at")
    return values, _overrides(program, config.overrides, _complete(known), _complete(values))


def _overrides(program: str, words: list[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The overrides, of which those of a changed section are replaced; warns where no overrides say the change."""
    changed = dict(_changes("", before, now))
    kept = [word for word in words if not _is_of(word.lstrip("+~").partition("=")[0], changed)]
    found = [*kept, *(word for key, value in changed.items() for word in _spelled(key, value))]
    try:
        whole = not changed or _complete(compose(found, program)) == now
    except ConfigError:
        whole = False
    if not whole:
        logger.warning(
            "no overrides say all that was changed in the config of %s, so that those in run.json do not either; "
            "config.yaml does",
            ", ".join(changed),
        )
    return found


def _changes(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What was changed, by its key: values of a component that is the same one, and whole sections otherwise."""
    for name, value in now.items():
        key, old = f"{path}{name}", before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and _alike(old, value):
            yield from _changes(f"{key}.", old, value)
        elif value != old:
            yield key, value


def _alike(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two sections are of the same component, or of the same several, whatever their values."""
    return bool(now) and now.keys() == before.keys() and now.get("name") == before.get("name")


def _is_of(key: str, changed: Iterable[str]) -> bool:
    return any(key == other or key.startswith((f"{other}.", f"{other}@")) for other in changed)


def _spelled(key: str, value: Any) -> list[str]:
    """The overrides that set a key, a component with all its parameters, or a group of several."""
    if not isinstance(value, Mapping):
        return [f"{key}={_text(value)}"]
    parts = {name: item for name, item in value.items() if name != "name"}
    choice = []
    if "." not in key:
        if "name" in value:
            choice = [f"{key}={value['name']}"]
        elif all(isinstance(item, Mapping) for item in parts.values()):
            choice = [f"{key}=[{','.join(parts)}]" if parts else f"{key}=none"]
    return [*choice, *(word for name, item in parts.items() for word in _spelled(f"{key}.{name}", item))]


def _text(value: Any) -> str:
    """A value as an override has it."""
    from diffusion_fw.config.command_line import quoted

    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the defaults of every component that leaves them out, as plain lists and dicts."""

    def section(group: str, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return list(given) if isinstance(given, tuple) else given
        if given.get("name") in registry.names(group):
            parameters = registry.entry(group, given["name"]).parameters
            given = {**{key: item.default for key, item in parameters.items() if not item.required}, **given}
        return {name: section(group, item) for name, item in given.items()}

    return {key: section(key, value) if key in registry.GROUPS else value for key, value in config.items()}


def _check_resumed(run: str, place: Path) -> None:
    from diffusion_fw.runs.resume import folder_of

    if folder_of(run).absolute() != place.absolute():
        raise ConfigError(f"folder={place}: a run is resumed in its own folder, {folder_of(run)}")
