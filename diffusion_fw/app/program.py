"""What the programs share: plugins, the check of the command line, Hydra, and how errors end."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion_fw import discovery
from diffusion_fw.registry import ConfigError, RegistrationError

Task = Callable[[dict[str, Any], Path], Any]


def run(program: str, task: Task, *, plugins: Path | None = None, before: Callable[..., bool] | None = None) -> None:
    """Run ``task(config, folder)`` under Hydra for each job of the command line.

    ``plugins`` is the folder beside the script. ``before(configs, arguments)`` may answer the command line by itself
    (True: nothing is left to do). A ConfigError is one message and exit code 1, and leaves no folder.
    """
    arguments = sys.argv[1:]
    try:
        discovery.load_plugins(*([plugins] if plugins and plugins.is_dir() else []))
        from diffusion_fw.config import check_command_line, conf_dir, store_components

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

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from omegaconf import DictConfig, OmegaConf

    def job(config: DictConfig) -> Any:
        from diffusion_fw.config import checked

        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            # A launcher's worker is a fresh process.
            discovery.load_plugins()
            return task(checked(program, OmegaConf.to_container(config, resolve=True)), folder)
        except ConfigError as error:
            _discard(folder)
            if os.environ.get("HYDRA_FULL_ERROR"):
                raise
            raise CompactHydraException(f"{type(error).__name__}: {error}") from error

    hydra.main(version_base="1.3", config_path=os.fspath(conf_dir()), config_name=program)(job)()


def _discard(folder: Path) -> None:
    """Remove a run's folder that holds nothing but Hydra's own files, and the folders above it that are then empty."""
    own = {".hydra", *(path.name for path in folder.glob("*.log"))}
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} <= own:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for above in folder.absolute().parents:
        if Path.cwd() not in above.parents or any(above.iterdir()):
            return
        above.rmdir()
