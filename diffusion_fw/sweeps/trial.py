"""A run as a trial of a search: it reports its distances to the study, and stops early if the study prunes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning

from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.callbacks.step_callback import StepCallback

if TYPE_CHECKING:
    import optuna

STUDY = "sweep"
PRUNED_AT = "pruned at step"

PRUNERS = {"median": "MedianPruner", "halving": "SuccessiveHalvingPruner", "none": "NopPruner"}
"""Optuna's classes, by name because Optuna is an optional dependency.

``median`` prunes a trial that is worse than the median of at least five others at the same step, ``halving`` by
asynchronous successive halving (Li et al. 2020), ``none`` never.
"""


def build_pruner(name: str) -> optuna.pruners.BasePruner:
    """The pruner of this name in PRUNERS."""
    import optuna

    pruner: optuna.pruners.BasePruner = getattr(optuna.pruners, PRUNERS[name])()
    return pruner


def storage_url(hydra: Any) -> str:
    """The storage of a sweep's study: `hydra.sweeper.storage`, by default study.db in the sweep's folder."""
    return hydra.sweeper.storage or f"sqlite:///{Path(hydra.sweep.dir).absolute() / 'study.db'}"


def trial_callbacks(history: History) -> list[lightning.Callback]:
    """The callbacks of a run that is a trial of a search; none for any other run."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    if hydra.sweeper.get("trial") is None:
        return []
    return [TrialReports(history, storage_url(hydra), hydra.sweeper.trial, hydra.sweeper.pruner)]


class TrialReports(StepCallback):
    """Reports the distance after each evaluation; a pruned run ends as a complete one does, with its files."""

    def __init__(self, history: History, url: str, number: int, pruner: str) -> None:
        self.history, self.url, self.number, self.pruner = history, url, number, pruner

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if not self.history.distances or self.history.distances[-1][0] != step:
            return
        pruned = trainer.is_global_zero and self._report(step, self.history.distances[-1][1], trainer.max_steps)
        if trainer.strategy.broadcast(pruned):
            trainer.should_stop = True

    def _report(self, step: int, distance: float, last: int) -> bool:
        """Report a distance; returns whether the run is pruned."""
        # Opened here: a connection to SQLite must not survive a fork.
        import optuna

        study = optuna.load_study(study_name=STUDY, storage=self.url, pruner=build_pruner(self.pruner))
        trial = optuna.Trial(study, study.trials[self.number]._trial_id)
        trial.report(distance, step)
        if step >= last or not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED_AT, step)
        return True
