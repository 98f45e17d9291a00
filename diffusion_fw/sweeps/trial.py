"""A run's side of a search: it tells the study its distances, and ends early where the study sees no hope for it."""

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
"""Worse than the median of five others at the same step; asynchronous successive halving (Li et al. 2020); never."""


def pruner(name: str) -> optuna.pruners.BasePruner:
    """Optuna's pruner of this name in PRUNERS."""
    import optuna

    chosen: optuna.pruners.BasePruner = getattr(optuna.pruners, PRUNERS[name])()
    return chosen


def storage_url(hydra: Any) -> str:
    """Where the study of a sweep is: Hydra's `sweeper.storage`, or study.db in the sweep's folder."""
    return hydra.sweeper.storage or f"sqlite:///{Path(hydra.sweep.dir).absolute() / 'study.db'}"


def trial_callbacks(history: History) -> list[lightning.Callback]:
    """The callbacks of a run that is a trial of a search; of any other run, none."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    if hydra.sweeper.get("trial") is None:
        return []
    return [TrialReports(history, storage_url(hydra), hydra.sweeper.trial, hydra.sweeper.pruner)]


class TrialReports(StepCallback):
    """After each evaluation the first process reports the distance; a pruned run ends as a whole one does."""

    def __init__(self, history: History, url: str, number: int, pruner: str) -> None:
        self.history, self.url, self.number, self.pruner = history, url, number, pruner

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if not self.history.distances or self.history.distances[-1][0] != step:
            return
        hopeless = trainer.is_global_zero and self._report(step, self.history.distances[-1][1], trainer.max_steps)
        if trainer.strategy.broadcast(hopeless):
            trainer.should_stop = True

    def _report(self, step: int, distance: float, last: int) -> bool:
        # Opened here, since a connection to SQLite must not be carried over a fork.
        import optuna

        study = optuna.load_study(study_name=STUDY, storage=self.url, pruner=pruner(self.pruner))
        trial = optuna.Trial(study, study.trials[self.number]._trial_id)
        trial.report(distance, step)
        if step >= last or not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED_AT, step)
        return True
