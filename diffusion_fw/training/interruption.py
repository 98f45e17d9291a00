"""Signals end a run at the end of its step, with what it knows on the disk."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import lightning

from diffusion_fw.training.callbacks.checkpointing import Checkpoints
from diffusion_fw.training.outages import log_os_errors

logger = logging.getLogger(__name__)


SIGNALS = (signal.SIGTERM, signal.SIGINT)

ORDER = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Of several that came in one step the last of these counts."""

INTERRUPTED = tuple(128 + number for number in SIGNALS)
"""Exit codes of a run that a signal ended."""

AGREE_EVERY = 10
"""Steps between two questions of several processes to each other: each one waits for the devices."""


Handler = Callable[[int, FrameType | None], Any]


class Interrupted(SystemExit):
    """A run that a signal ended; its exit code is 128 + the signal's number: 143 for SIGTERM, 130 for SIGINT."""


def _end(number: int, frame: FrameType | None) -> None:
    raise Interrupted(128 + number)


OURS = (_end, signal.default_int_handler)
"""Handlers that end the program, as Interruption does."""


@contextlib.contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """SIGNALS go to ``handler`` inside; in a thread beside the main one, which gets none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def signals_raise() -> contextlib.AbstractContextManager[None]:
    """SIGTERM and SIGINT raise Interrupted inside, so that what has begun is left in order.

    A run that trains inside has handlers of its own meanwhile.
    """
    return handled_by(_end)


class Interruption(lightning.Callback):
    """Writes last.ckpt at the end of the step in which a signal came, and ends the program.

    The step includes an evaluation or a checkpoint that is due. All processes of a run end together, whichever the
    signal came to, at the next step that is a multiple of AGREE_EVERY. A second SIGINT ends the program at once. The
    exit code is 1 where last.ckpt could not be written.

    Where a program around the run had handlers of its own, as submitit has on a cluster, they decide once the
    checkpoint is written: SIGUSR2, which comes before the time is up, then sends the job again, and of SIGTERM
    submitit waits for what follows. SLURM's SIGUSR1 is left to Lightning. It must be the last callback.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self.checkpoints = checkpoints
        # Before Lightning sets its own.
        self._around: dict[int, Any] = {number: signal.getsignal(number) for number in ORDER}
        self._process = os.getpid()
        self._received: set[int] = set()
        self._before: dict[int, Any] = {}

    def _decides(self, number: int) -> Handler | None:
        """What handled a signal in this process before the run began to, if anything."""
        handler = self._around[number]
        if os.getpid() != self._process or handler in OURS or not callable(handler):
            return None
        return handler

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning has set its own handlers by now, and sets back those before them when it is done.
        if threading.current_thread() is threading.main_thread():
            for number in (number for number in ORDER if number in SIGNALS or self._decides(number)):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._received:
            os._exit(128 + number)
        if not self._received:
            # The logging module's lock may be held by what was interrupted.
            os.write(2, b"\na checkpoint after this step, then the end; Ctrl-C again quits at once\n")
        self._received.add(number)

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
        if handler := self._decides(number):
            self._received = set()
            handler(number, None)
            return
        # Lightning does it for an exception, but not in a process that was forked.
        for item in trainer.loggers:
            with log_os_errors(f"closing the logs in {item.save_dir}", "its last numbers may be missing"):
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


def passed_on_to_children() -> contextlib.AbstractContextManager[None]:
    """A SIGTERM or SIGINT that comes inside is for the processes that a strategy forks there.

    They end as one process would, each with its Interruption; then Interrupted is raised here. A second SIGINT ends
    them and the program at once. What else ends a child is left to whoever waits for it.
    """
    owner, received = os.getpid(), 0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if os.getpid() != owner:
            # A forked process that has not begun to train.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        children = multiprocessing.active_children()
        if number == signal.SIGINT and received == signal.SIGINT:
            for child in children:
                child.kill()
            os._exit(128 + number)
        received = number
        for child in children:
            # Ctrl-C has reached them too, and a second SIGINT would not let them write a checkpoint.
            child.terminate()
        for child in children:
            child.join()
        if {child.exitcode for child in children} <= {0, *INTERRUPTED, *(-number for number in SIGNALS)}:
            raise Interrupted(128 + number)

    return handled_by(end)
