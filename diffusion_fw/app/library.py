"""The programs in Python, as in a notebook: compose a config, then train, sample and evaluate with it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
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
    """The values of a config, checked again, and its overrides with one for each value that was changed since."""
    from diffusion_fw.config.compose import checked, flatten

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
    before = dict(flatten(known))
    changed = [(key, value) for key, value in flatten(values) if key not in before or before[key] != value]
    return values, [*config.overrides, *(f"{key.removesuffix('.name')}={value}" for key, value in changed)]


def _check_resumed(run: str, place: Path) -> None:
    from diffusion_fw.runs.resume import folder_of

    if folder_of(run).absolute() != place.absolute():
        raise ConfigError(f"folder={place}: a run is resumed in its own folder, {folder_of(run)}")
