"""Trouble outside the run, a full disk or a server that doesn't answer, which training survives."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class _Once(logging.Filter):
    """Lets each message through once."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = message in self.told
        self.told.add(message)
        return not known


logger = logging.getLogger(__name__)
logger.addFilter(_Once())


@contextlib.contextmanager
def log_os_errors(what: str, then: str) -> Iterator[None]:
    """An OSError inside, as of a full disk or of a lost connection, is told once with what comes of it, and goes by."""
    try:
        yield
    except OSError as error:
        warn_once(what, error, then)


def warn_once(what: str, error: Exception, then: str) -> None:
    """Warn, once for each text, of what failed, why, and what happens ``then``."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    logger.warning("%s failed: %s; %s", what, reason, then)
