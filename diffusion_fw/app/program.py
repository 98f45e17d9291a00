"""What the programs share: plugins, the check of the command line, Hydra, and how errors end."""

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

OWN = (".hydra", "*.log", "run.json", ".run.lock", "git-*.diff")
"""What every run begins with."""

Task = Callable[[dict[str, Any], Path], Result | None]


def run(
    program: str,
    task: Task,
    *,
    plugins: Path | None = None,
    before: Callable[..., bool] | None = None,
) -> None:
    """Run ``task(config, folder)`` under Hydra for each job of the command line, and keep run.json in each folder.

    ``plugins`` is the folder beside the script. ``before(configs, arguments)`` may answer the command line by itself
    (True: nothing is left to do). A ConfigError of a single run is one message and exit code 1, and leaves no folder;
    in a sweep a job's error is told, and left to the sweeper.
    """
    arguments = sys.argv[1:]
    try:
        discovery.load_plugins(*([plugins] if plugins and plugins.is_dir() else []))
        from diffusion_fw.config.compose import check_command_line, conf_dir, store_components

        if {"-h", "--help"} & set(arguments):
            # Hydra's own takes seconds: it loads the whole store once for every option.
            from diffusion_fw.app.help import print_help

            print_help(program, arguments)
            return
        store_components()
        configs = check_command_line(program, arguments)
        if before and configs and before(configs, arguments):
            return
    except (ConfigError, RegistrationError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        sys.exit(f"{type(error).__name__}: {error}")

    # A log that cannot be written to, on a full disk, is no reason for a traceback at each line.
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
        words, number = list(own.overrides.task), own.sweeper.get("job")
        try:
            with recorded(folder, program, words, number=number, seed=config.seed) as record:
                record.result = task(checked(program, OmegaConf.to_container(config, resolve=True)), folder)
            return record.result.value if record.result else None
        except ConfigError as error:
            if not swept:
                # Another run's folder is left to it.
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
        # The sweeper keeps it: what its traceback holds, the model and its data, would stay in memory.
        failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        raise failure

    hydra.main(version_base="1.3", config_path=os.fspath(conf_dir()), config_name=program)(job)()


def _discard(folder: Path) -> None:
    """Remove a folder that holds only what every run begins with, and the folders above it that are then empty."""
    own = {path.name for kind in OWN for path in folder.glob(kind)}
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= own:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for above in folder.absolute().parents:
        if Path.cwd() not in above.parents or any(above.iterdir()):
            return
        above.rmdir()
