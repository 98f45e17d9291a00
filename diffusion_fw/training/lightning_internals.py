"""What the training uses of Lightning beyond its public interface."""

from __future__ import annotations

import lightning

READ_IN = "2.6"
"""The version of Lightning in which all of it was read."""


def validate(trainer: lightning.Trainer) -> None:
    """Run the validation loop of ``fit`` now, within a training step, as Lightning runs it between two of them."""
    connector = trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter = first


def stops(trainer: lightning.Trainer) -> bool:
    """Whether training ends after this step, because it is the last or a callback asks for the end."""
    return trainer.global_step == trainer.max_steps or (trainer.should_stop and trainer.fit_loop._can_stop_early)
