"""How SIGTERM, SIGINT and SIGHUP end the program and the processes that it forks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP says that the terminal is gone."""

INTERRUPTED = tuple(128 + number for number in SIGNALS)
"""Exit codes of a run that a signal ended."""

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(SystemExit):
    """The end of a run by a signal. The exit code is 128 + the signal: SIGTERM 143, SIGINT 130, SIGHUP 129."""


def raise_interrupted(number: int, frame: FrameType | None) -> None:
    """A handler that ends the program."""
    raise Interrupted(128 + number)


def is_ignored(number: int) -> bool:
    """Whether the program was started to outlive its terminal, as `nohup` does."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


@contextlib.contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Send SIGNALS to ``handler`` in the block. Does nothing outside the main thread, which alone receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS if not is_ignored(number)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def signals_raise() -> contextlib.AbstractContextManager[None]:
    """In the block SIGNALS raise Interrupted, so that it can clean up.

    A run that trains in the block sets its own handlers while it trains.
    """
    return handled_by(raise_interrupted)


def passed_on_to_children() -> contextlib.AbstractContextManager[None]:
    """In the block SIGNALS are passed on to the processes that a training strategy forks.

    Each of them ends as a single process would, by its Interruption; then Interrupted is raised here. A second SIGINT
    kills them and the program at once. A child that ends for another reason is left to whoever waits for it.
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
            # SIGTERM, since Ctrl-C has already reached them and a second SIGINT would keep them from saving.
            child.terminate()
        for child in children:
            child.join()
        if {child.exitcode for child in children} <= {0, *INTERRUPTED, *(-number for number in SIGNALS)}:
            raise Interrupted(128 + number)

    return handled_by(end)
