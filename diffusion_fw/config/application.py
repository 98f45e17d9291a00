"""Hydra's application with our checks: they see what Hydra itself parsed and composed, before it acts on it.

All that is used of Hydra's private modules is used here, in ``command_line`` and in ``sources``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import hydra as hydra_module
from hydra._internal import utils
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion_fw.config import command_line
from diffusion_fw.config.compose import (
    COMPOSITION_ERRORS,
    check_choices,
    check_keys,
    reason,
    resolved,
    store_stacked,
)
from diffusion_fw.config.groups import conf_dir, further_conf_dirs
from diffusion_fw.config.hydra_settings import check_hydra
from diffusion_fw.config.sweep_overrides import check_installed, check_sweep_overrides, check_words, with_params
from diffusion_fw.registry import ConfigError

MAX_CHECKED_JOBS = 64


@dataclass
class Asked:
    """What a command line asks for, as Hydra parsed and composed it."""

    program: str
    config_name: str
    loader: Any
    """Hydra's loader of configs, with the search path of the command line."""
    overrides: list[Override]
    """Those of the command line, and of a sweep those that its file keeps (``hydra.sweeper.params``)."""
    hydra: DictConfig
    """Hydra's own settings."""
    multirun: bool
    configs: list[dict[str, Any]] = field(default_factory=list)
    """The checked config of each job, of at most MAX_CHECKED_JOBS."""
    folder: Path | None = None
    """The folder to run in, if not the one that the config names."""

    @property
    def choices(self) -> Mapping[str, Any]:
        """The choice of each group, Hydra's own included."""
        chosen: Mapping[str, Any] = self.hydra.runtime.choices
        return chosen

    def sources(self) -> list[ConfigSource]:
        """Where configs are looked up, in order."""
        words = [override.input_line for override in self.overrides]
        _, repository = self.loader._parse_overrides_and_create_caching_repo(self.config_name, words)
        found: list[ConfigSource] = repository.get_sources()
        return found

    def jobs(self) -> Iterator[list[str]]:
        """The overrides of each job; of an interval its two ends are taken."""
        return command_line.jobs(self.overrides)

    def compose_job(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The checked config of one job of the sweep; a ConfigError names the job by what is swept."""
        swept = {override.get_key_element() for override in self.overrides if override.is_sweep_override()}
        try:
            return self.compose(overrides)
        except ConfigError as error:
            varied = " ".join(word for word in overrides if word.partition("=")[0] in swept)
            raise ConfigError(f"{error}; in the job {varied}" if varied else str(error)) from None

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The checked config of one job with these overrides; ConfigError for what is wrong in it."""
        try:
            config = self.loader.load_configuration(self.config_name, list(overrides), RunMode.RUN, from_shell=False)
        except COMPOSITION_ERRORS as error:
            check_keys(self.program, self.loader, self.config_name, overrides)
            raise ConfigError(reason(error)) from None
        check_hydra(config.hydra)
        return checked_job(self.program, config, overrides)


def checked_job(program: str, config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The checked config of a job, without Hydra's own node."""
    return resolved(program, OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), overrides)


Prepare = Callable[[Asked], list[dict[str, Any]]]
"""Returns the configs to run, and none where nothing is left to do."""


class Application(Hydra):
    """Hydra's application: what it composes is checked before it runs, sweeps or prints anything.

    Hydra's main makes it of the class alone, so that ``launch`` gives each one a class of its own.
    """

    program: str
    options: argparse.Namespace
    prepare: Prepare

    def __init__(self, task_name: str, config_loader: Any) -> None:
        super().__init__(task_name, config_loader)
        self.asked: Asked
        self._composed: dict[Any, DictConfig] = {}

    @classmethod
    def create_main_hydra2(cls, task_name: str, config_search_path: ConfigSearchPath) -> Application:
        """Hydra's application, with the folders of configs of the user on its search path."""
        for folder in further_conf_dirs():
            schema = SearchPathQuery(provider="schema")
            config_search_path.prepend("diffusion_fw", f"file://{folder}", schema)
        application: Application = super().create_main_hydra2(task_name, config_search_path)  # type: ignore[assignment]
        return application

    def compose_config(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        with_log_configuration: bool = False,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Hydra's config of the overrides; ConfigError, with the nearest name, where it cannot be composed."""
        key = (config_name, tuple(overrides), run_mode)
        if key in self._composed and not with_log_configuration:
            return self._composed.pop(key)
        try:
            if config_name is not None:
                searching = command_line.Searching(self.config_loader, config_name, overrides)
                parsed = command_line.parse(overrides, searching)
                check_words(parsed, searching.get_group_options)
                check_choices(self.program, searching.get_group_options, parsed)
                check_installed(parsed)
            config = super().compose_config(
                config_name, overrides, run_mode, with_log_configuration, from_shell, validate_sweep_overrides
            )
        except ConfigError:
            raise
        except COMPOSITION_ERRORS as error:
            if config_name is not None:
                check_keys(self.program, self.config_loader, config_name, overrides)
            raise ConfigError(reason(error)) from None
        return config

    def get_mode(self, config_name: str | None, overrides: list[str]) -> Any:
        """What the config says, one run or a sweep; all jobs are checked, and prepared, here."""
        assert config_name is not None
        config = self.compose_config(config_name, overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)
        hydra = config.hydra
        multirun = self.options.multirun or hydra.mode == RunMode.MULTIRUN
        check_hydra(hydra)
        searching = command_line.Searching(self.config_loader, config_name, overrides)
        parsed = command_line.parse(overrides, searching)
        if multirun:
            parsed = with_params(hydra, parsed, searching)
        check_sweep_overrides(parsed, hydra, multirun=multirun)
        self.asked = Asked(self.program, config_name, self.config_loader, parsed, hydra, multirun)
        if multirun:
            for job in itertools.islice(self.asked.jobs(), MAX_CHECKED_JOBS):
                self.asked.configs.append(self.asked.compose_job(job))
        else:
            self.asked.configs.append(checked_job(self.program, config, overrides))
        self.asked.configs = self.prepare(self.asked)
        return hydra.mode

    def run(self, config_name: str | None, task_function: Any, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
        """Run the job, if one is left to run."""
        if not self.asked.configs:
            return None
        if self.asked.folder is not None:
            overrides = [*overrides, f"hydra.run.dir={command_line.quoted(os.fspath(self.asked.folder))}"]
        return super().run(config_name, task_function, overrides, *args, **kwargs)

    def multirun(
        self, config_name: str | None, task_function: Any, overrides: list[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Run the jobs, if some are left to run."""
        if self.asked.configs:
            return super().multirun(config_name, task_function, overrides, *args, **kwargs)
        return None

    def show_cfg(self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any) -> None:
        """Print a config that could run; ConfigError for any other."""
        config = self.compose_config(config_name, overrides, RunMode.RUN)
        check_hydra(config.hydra)
        checked_job(self.program, config, overrides)
        # Which composes it once more.
        self._composed[config_name, tuple(overrides), RunMode.RUN] = config
        super().show_cfg(config_name, overrides, *args, **kwargs)


def launch(
    program: str,
    arguments: Sequence[str],
    task: Callable[[DictConfig], Any],
    prepare: Prepare,
    complete: Callable[[list[str]], list[str]] = list,
) -> None:
    """Run Hydra's main on the arguments, with ``task`` for each job, once ``prepare`` has said that there are some.

    ``complete(words)`` adds the overrides that others imply. Raises ConfigError before Hydra makes a folder, and
    Hydra's own errors.
    """
    options = command_line.read(arguments)
    options.overrides = complete(options.overrides)
    store_stacked(program)
    own = {"program": program, "options": options, "prepare": staticmethod(prepare)}
    known = hydra_module.Hydra, utils.run_and_report, GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    hydra_module.Hydra = type(Application.__name__, (Application,), own)  # type: ignore
    # Hydra's own prints a traceback and exits.
    utils.run_and_report = lambda func: func()
    version.setbase("1.3")
    try:
        utils._run_hydra(options, utils.get_args_parser(), task, os.fspath(conf_dir()), program)
    finally:
        hydra_module.Hydra, utils.run_and_report, GlobalHydra.instance().hydra = known  # type: ignore


def ask(program: str, arguments: Sequence[str], complete: Callable[[list[str]], list[str]] = list) -> Asked:
    """What a command line of a program asks for, with every job checked; nothing runs.

    Raises ConfigError for an unknown choice, key, type or value.
    """
    found: list[Asked] = []

    def keep(asked: Asked) -> list[dict[str, Any]]:
        found.append(dataclasses.replace(asked))
        return []

    launch(program, arguments, _never, keep, complete)
    return found[0]


def _never(config: DictConfig) -> None:
    raise AssertionError("a command line that is only checked runs nothing")


def check_command_line(program: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The checked config of every job that the arguments ask for, of at most MAX_CHECKED_JOBS."""
    return ask(program, arguments).configs
