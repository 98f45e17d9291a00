"""What the programs share: plugins, the check of the command line, Hydra, and the handling of errors."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_fw.app.output import guard
from diffusion_fw.registry import ConfigError, RegistrationError, catalogue, discovery
from diffusion_fw.registry.messages import PrintableRecord
from diffusion_fw.runs.record import Result, is_first_process, recorded

if TYPE_CHECKING:
    from diffusion_fw.config.application import Asked, Prepare

logger = logging.getLogger(__name__)

Task = Callable[[dict[str, Any], Path], Result | None]


def only(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """The config of the one job that explain=true prints; ConfigError for a sweep of several."""
    if len(configs) > 1:
        raise ConfigError(f"explain=true prints one job, but this sweep has {len(configs)}; give each key one value")
    return configs[0]


def unless_explained(asked: Asked) -> list[dict[str, Any]]:
    """``prepare`` of a program that uses a checkpoint: explain=true prints what would run, and nothing does."""
    if not asked.configs[0]["explain"]:
        return asked.configs
    from diffusion_fw.app.explain import explain_trained

    explain_trained(only(asked.configs), asked)
    return []


def all_of(asked: Asked) -> list[dict[str, Any]]:
    """``prepare`` of a program that runs whatever it is asked for."""
    return asked.configs


def run(
    program: str,
    task: Task,
    *,
    plugins: Sequence[Path | None] = (),
    complete: Callable[[list[str]], list[str]] = list,
    prepare: Prepare = all_of,
) -> None:
    """Run ``task(config, folder)`` under Hydra for each job of the command line, and keep run.json in each folder.

    ``plugins`` are folders of plugins, of which some may not exist. ``complete(words)`` adds the overrides that a
    command line implies. ``prepare(asked)`` returns the configs to run, and none where nothing is left to do. A
    ConfigError of a single run ends it with one message and exit code 1, and leaves no folder; in a sweep an error is
    logged, and the sweeper decides.
    """
    arguments = sys.argv[1:]
    guard()
    # Composing makes many small objects and leaves none; looking for some takes a third of its time.
    gc.disable()
    logging.setLogRecordFactory(PrintableRecord)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from diffusion_fw.app.processes import in_one_folder

        arguments = sys.argv[1:] = in_one_folder(arguments)
    try:
        discovery.add_plugin_folders(*(folder for folder in plugins if folder and folder.is_dir()))
        with catalogue.catalogued():
            if {"-h", "--help"} & set(arguments):
                # Hydra's own help takes seconds: it loads the whole store once for every option.
                from diffusion_fw.app.help import print_help

                print_help(program, arguments)
            else:
                _run(program, arguments, task, complete, prepare)
    except (ConfigError, RegistrationError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        sys.exit(f"{type(error).__name__}: {error}")
    finally:
        gc.enable()


def _run(
    program: str,
    arguments: list[str],
    task: Task,
    complete: Callable[[list[str]], list[str]],
    prepare: Prepare,
) -> None:
    """``run`` of a command line that is not for help, with the catalogue in the place of the components at first."""
    # On a full disk, no traceback for each line of a log.
    logging.raiseExceptions = False

    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException, HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from diffusion_fw.config.application import launch
    from diffusion_fw.config.compose import reason, store_components

    began = False
    configs: list[dict[str, Any]] = []

    store_components()

    def prepared(asked: Asked) -> list[dict[str, Any]]:
        # From here on components are built.
        gc.enable()
        catalogue.leave()
        configs[:] = prepare(asked)
        return configs

    def job(config: DictConfig) -> Any:
        from diffusion_fw.config.application import checked_job
        from diffusion_fw.runs.own_files import logged_to, save_hydra
        from diffusion_fw.samplers.sampler import warn_outside

        nonlocal began
        began = True
        # A launcher's worker is a fresh process.
        guard()
        warn_outside.cache_clear()
        own = HydraConfig.get()
        folder, swept = Path(own.runtime.output_dir), own.mode == RunMode.MULTIRUN
        discovery.load_plugins()
        overrides, number = list(own.overrides.task), own.sweeper.get("job")

        def attempt(given: dict[str, Any]) -> Result | None:
            kept = recorded(folder, program, overrides, number=number, seed=given["seed"], keep_mistakes=swept)
            with kept as record, logged_to(folder / f"{own.job.name}.log"):
                if is_first_process():
                    save_hydra(folder / (".hydra_resume" if given.get("resume") else ".hydra"), config)
                try:
                    record.result = task(given, folder)
                except Exception as error:
                    if swept:
                        logger.error(
                            "job failed: %s: %s",
                            type(error).__name__,
                            error,
                            exc_info=not isinstance(error, ConfigError),
                        )
                    raise
                return record.result

        try:
            # A job of a sweep may run in another process, and more jobs than those checked above may run.
            result = attempt(configs[0] if not swept else checked_job(program, config, overrides))
            return result.value if result else None
        except ConfigError as error:
            if not swept and not os.environ.get("HYDRA_FULL_ERROR"):
                sys.exit(f"{type(error).__name__}: {error}")
            failure: Exception = error
        except Exception as error:
            failure = error
        if swept:
            # The sweeper keeps the error, whose traceback would keep the model and its data in memory.
            failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        raise failure

    try:
        launch(program, arguments, job, prepared, complete)
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, OSError) as error:
        # An error that a sweep reports is a whole message; one of a job is the job's own.
        if os.environ.get("HYDRA_FULL_ERROR") or (began and not isinstance(error, CompactHydraException)):
            raise
        if isinstance(error, OSError):
            sys.exit(f"ConfigError: {error.filename}: {error.strerror}; give another hydra.run.dir or hydra.sweep.dir")
        sys.exit(reason(error) if type(error) is CompactHydraException else f"ConfigError: {reason(error)}")
