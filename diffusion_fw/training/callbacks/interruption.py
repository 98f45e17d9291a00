"""Ends a run by a signal: after the current step, with a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning

from diffusion_fw.training.callbacks.checkpointing import Checkpoints
from diffusion_fw.training.os_errors import log_os_errors
from diffusion_fw.training.signals import SIGNALS, Handler, Interrupted, is_ignored, raise_interrupted

logger = logging.getLogger(__name__)

ORDER = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2)
"""If several signals arrive in one step, the last of these counts."""

AGREE_EVERY = 10
"""Steps between the exchanges in which processes agree to end; each exchange waits for the devices."""

ENDING = (raise_interrupted, signal.default_int_handler)
"""Handlers that end the program, as Interruption does."""


class Interruption(lightning.Callback):
    """Writes last.ckpt at the end of the step in which a signal arrived, and ends the program.

    An evaluation or a checkpoint that is due belongs to the step. All processes of a run end together, whichever of
    them received the signal, at the next step that is a multiple of AGREE_EVERY. A second SIGINT ends the program at
    once. The exit code is 1 if last.ckpt could not be written.

    If the surrounding program has handlers of its own, as submitit has on a cluster, they are called once the
    checkpoint is written: SIGUSR2, which warns of the time limit, then requeues the job, and after SIGTERM submitit
    waits for what follows. SLURM's SIGUSR1 is left to Lightning. This must be the last callback.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self.checkpoints = checkpoints
        # Read now, before Lightning sets its own.
        self._around: dict[int, Any] = {number: signal.getsignal(number) for number in ORDER}
        self._process = os.getpid()
        self._received: set[int] = set()
        self._before: dict[int, Any] = {}

    def _surrounding(self, number: int) -> Handler | None:
        """The handler that the surrounding program has set for a signal in this process, if any."""
        handler: Handler = self._around[number]
        if os.getpid() != self._process or handler in ENDING or not callable(handler):
            return None
        return handler

    def _is_handled(self, number: int) -> bool:
        return (number in SIGNALS and not is_ignored(number)) or self._surrounding(number) is not None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning has set its own handlers by now, and restores the earlier ones when it is done.
        if threading.current_thread() is threading.main_thread():
            for number in filter(self._is_handled, ORDER):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._received:
            os._exit(128 + number)
        first = not self._received
        self._received.add(number)
        if first:
            # Not by the logging module, whose lock the interrupted code may hold. Nobody may be there to read it.
            with contextlib.suppress(OSError):
                os.write(2, b"\nwriting a checkpoint after this step, then ending; Ctrl-C again quits at once\n")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        place = max((ORDER.index(number) + 1 for number in self._received), default=0)
        if trainer.world_size > 1:
            if trainer.global_step % AGREE_EVERY:
                return
            place = int(trainer.strategy.reduce(pl_module.draws[0][1].new_tensor(float(place)), reduce_op="max"))
        if not place:
            return
        number = ORDER[place - 1]
        error = None
        if self.checkpoints:
            error = self.checkpoints.save(trainer, "last.ckpt")
        if error:
            logger.error("the state of step %d is lost: %s", trainer.global_step, error)
        if handler := self._surrounding(number):
            self._received = set()
            handler(number, None)
            return
        # Lightning does this after an exception, but not in a forked process.
        for item in trainer.loggers:
            with log_os_errors(f"closing the logs in {item.save_dir}", "its last values may be missing"):
                item.finalize("failed")
        raise Interrupted(1 if error else 128 + number)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._restore()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
