"""The sweepers that Hydra finds: those of `sweep=basic` and `sweep=optuna`, which call diffusion_fw.sweeps.

No __init__.py stands beside this file, because all of Hydra's plugin packages share the name hydra_plugins. The file
does not postpone its annotations: Hydra runs it before it is in sys.modules, where dataclasses would look them up.
"""

from dataclasses import dataclass
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridSweeperConf:
    """The settings `hydra.sweeper.*` of a sweep over listed values."""

    _target_: str = "hydra_plugins.diffusion_fw_sweepers.GridSweeper"
    # Overrides that a file keeps: a mapping of keys to the listed values. Those of the command line replace them.
    params: Any = None
    # How many jobs are handed to the launcher at once; by default all of them.
    max_batch_size: Optional[int] = None  # noqa: UP045
    # The job's number, which names its folder; the sweeper sets it for each job.
    job: Optional[int] = None  # noqa: UP045


@dataclass
class OptunaSweeperConf:
    """The settings `hydra.sweeper.*` of a search."""

    _target_: str = "hydra_plugins.diffusion_fw_sweepers.OptunaSweeper"
    # Overrides that a file keeps, as above.
    params: Any = None
    # The most trials that are handed to the launcher at once, if fewer than ``parallel``.
    max_batch_size: Optional[int] = None  # noqa: UP045
    # The trials that the study has at the end, existing ones included.
    n_trials: int = 20
    # tpe or random; see diffusion_fw.sweeps.optuna_search.SAMPLERS.
    sampler: str = "tpe"
    # median, halving or none; see diffusion_fw.sweeps.optuna_search.PRUNERS.
    pruner: str = "median"
    seed: int = 0
    # How many trials are drawn together and run side by side.
    parallel: int = "${oc.select:hydra.launcher.n_jobs,1}"  # type: ignore[assignment]
    # An SQLAlchemy URL; by default study.db in the sweep's folder.
    storage: Optional[str] = None  # noqa: UP045
    # The number of the job's trial; the sweeper sets it for each job.
    trial: Optional[int] = None  # noqa: UP045


for name, conf in (("diffusion_fw_grid", GridSweeperConf), ("diffusion_fw_optuna", OptunaSweeperConf)):
    ConfigStore.instance().store(group="hydra/sweeper", name=name, node=conf, provider="diffusion_fw")


class LaunchingSweeper(Sweeper):
    """A sweeper that holds the chosen launcher."""

    def __init__(self, **settings: Any) -> None:
        self.config: DictConfig
        self.launcher: Launcher
        self.hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )


class GridSweeper(LaunchingSweeper):
    """Runs every combination of the listed values."""

    def sweep(self, arguments: list[str]) -> Any:
        from diffusion_fw.sweeps.grid_sweep import sweep
        from diffusion_fw.training.signals import signals_raise

        with signals_raise():
            return sweep(self.config, arguments, self.hydra_context.config_loader, self.launcher.launch)


class OptunaSweeper(LaunchingSweeper):
    """Searches for the smallest distance that a run returns."""

    def sweep(self, arguments: list[str]) -> Any:
        from diffusion_fw.sweeps.optuna_search import search
        from diffusion_fw.training.signals import signals_raise

        with signals_raise():
            return search(self.config, arguments, self.hydra_context.config_loader, self.launcher.launch)
