"""Carry on after errors from outside the run, such as a full disk or a server that does not answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class _Once(logging.Filter):
    """Passes each message once."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = message in self.logged
        self.logged.add(message)
        return not known


logger = logging.getLogger(__name__)
logger.addFilter(_Once())


@contextlib.contextmanager
def log_os_errors(what: str, then: str) -> Iterator[None]:
    """Carry on after an OSError in the block; log once ``what`` failed and what happens ``then``."""
    try:
        yield
    except OSError as error:
        warn_once(what, error, then)


def warn_once(what: str, error: Exception, then: str) -> None:
    """Log ``what`` failed, why, and what happens ``then``; the same message only once."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    logger.warning("%s failed: %s; %s", what, reason, then)
