"""What a program prints may be lost, and its work goes on: a reader is gone, a terminal is dead, a disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors after which a later attempt may succeed."""


class Unfailing:
    """A text stream whose ``write`` and ``flush`` never raise; the rest is as in ``stream``.

    What can't be written is lost. Once nobody can read any more, the descriptor is /dev/null, so that writes by other
    means don't fail either.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # while a copy is made
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._carrying_on():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._carrying_on():
            self._stream.flush()

    @contextlib.contextmanager
    def _carrying_on(self) -> Iterator[None]:
        try:
            yield
        except ValueError:
            # It is closed.
            pass
        except OSError as error:
            if error.errno not in FULL:
                with contextlib.suppress(OSError, ValueError):
                    _discard(self._stream.fileno())


def _discard(descriptor: int) -> None:
    """Have a descriptor lead to /dev/null."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def guard() -> None:
    """Have this program's standard output and error never end it, in whatever state it was given them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed: otherwise the next file that is opened, such as a checkpoint, would have its number.
            _discard(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = os.fdopen(descriptor, "w", encoding="utf-8", closefd=False)
        if not isinstance(stream, Unfailing):
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Unfailing(stream))
