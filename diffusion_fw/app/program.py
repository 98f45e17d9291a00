"""What the programs share: plugins, the check of the command line, Hydra, and the handling of errors."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion_fw.registry import ConfigError, RegistrationError, discovery
from diffusion_fw.runs.record import InUseError, Result, recorded

logger = logging.getLogger(__name__)

FIRST_FILES = (".hydra", "*.log", "run.json", ".run.lock", "git-*.diff")
"""The files that every run writes before it builds anything."""

Task = Callable[[dict[str, Any], Path], Result | None]
Prepare = Callable[[list[dict[str, Any]], list[str]], list[dict[str, Any]]]


def run(
    program: str,
    task: Task,
    *,
    plugins: Path | None = None,
    complete: Callable[[list[str]], list[str]] | None = None,
    prepare: Prepare | None = None,
) -> None:
    """Run ``task(config, folder)`` under Hydra for each job of the command line, and keep run.json in each folder.

    ``plugins`` is the folder beside the script. ``complete(arguments)`` adds what a command line implies.
    ``prepare(configs, arguments)`` returns the configs to run, and none where nothing is left to do. A ConfigError of a
    single run ends it with one message and exit code 1, and leaves no folder; in a sweep an error is logged, and the
    sweeper decides.
    """
    arguments = sys.argv[1:]
    try:
        discovery.load_plugins(*([plugins] if plugins and plugins.is_dir() else []))
        if complete:
            # Hydra and processes that Lightning starts read them from there.
            arguments = sys.argv[1:] = complete(arguments)
        from diffusion_fw.config.compose import check_command_line, conf_dir, store_components

        if {"-h", "--help"} & set(arguments):
            # Hydra's own help takes seconds: it loads the whole store once for every option.
            from diffusion_fw.app.help import print_help

            print_help(program, arguments)
            return
        store_components()
        # Empty where the command line has flags of Hydra's own.
        configs = check_command_line(program, arguments)
        if prepare and configs:
            configs = prepare(configs, arguments)
            if not configs:
                return
    except (ConfigError, RegistrationError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        sys.exit(f"{type(error).__name__}: {error}")

    # On a full disk, no traceback for each line of a log.
    logging.raiseExceptions = False

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    def job(config: DictConfig) -> Any:
        from diffusion_fw.config.compose import checked

        own = HydraConfig.get()
        folder, swept = Path(own.runtime.output_dir), own.mode == RunMode.MULTIRUN
        if swept:
            # One group on W&B for a sweep.
            os.environ.setdefault("WANDB_RUN_GROUP", "/".join(Path(own.sweep.dir).parts[-2:]))
        # A launcher's worker is a fresh process.
        discovery.load_plugins()
        overrides, number = list(own.overrides.task), own.sweeper.get("job")
        try:
            # A job of a sweep may run in another process, and more jobs than those checked above may run.
            checked_before = configs and not swept
            given = configs[0] if checked_before else checked(program, OmegaConf.to_container(config, resolve=True))
            with recorded(folder, program, overrides, number=number, seed=given["seed"]) as record:
                record.result = task(given, folder)
            return record.result.value if record.result else None
        except ConfigError as error:
            if not swept:
                # The folder of another run stays as it is.
                if not isinstance(error, InUseError):
                    _discard(folder)
                if os.environ.get("HYDRA_FULL_ERROR"):
                    raise
                raise CompactHydraException(f"{type(error).__name__}: {error}") from error
            failure: Exception = error
            logger.error("job failed: %s: %s", type(error).__name__, error)
        except Exception as error:
            if not swept:
                raise
            failure = error
            logger.exception("job failed")
        # The sweeper keeps the error, whose traceback would keep the model and its data in memory.
        failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        raise failure

    hydra.main(version_base="1.3", config_path=os.fspath(conf_dir()), config_name=program)(job)()


def _discard(folder: Path) -> None:
    """Remove a folder that holds no more than FIRST_FILES, and the folders above it that are then empty."""
    first = {path.name for kind in FIRST_FILES for path in folder.glob(kind)}
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= first:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for above in folder.absolute().parents:
        if Path.cwd() not in above.parents or any(above.iterdir()):
            return
        above.rmdir()
