"""Output that cannot be written is lost, and the program goes on: the reader or terminal is gone, or a disk is full."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from diffusion_fw.files import FULL


class Unfailing:
    """A text stream whose ``write`` and ``flush`` never raise; the rest is as in ``stream``.

    Text that cannot be written is lost. Once the reader is gone, the descriptor points at /dev/null, so that other
    writes to it do not fail either.
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
    """Point a descriptor at /dev/null."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def guard() -> None:
    """Wrap standard output and error so that a failed write does not end the program, even if they start out closed."""
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
