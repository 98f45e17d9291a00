"""Errors for the user, and text that is safe to show."""

from __future__ import annotations

import logging

LONGEST_NAME = 100
"""Longer names are compared by their beginning."""
LONGEST_MESSAGE = 4000


def printable(text: str) -> str:
    r"""``text`` with its control characters written as escapes, and without its middle where it is too long.

    File names, archives and checkpoints of strangers can hold control characters (which move the cursor or change the
    colors of a terminal) and names of any length. Line ends are kept; ESC becomes the four characters ``\x1b``.
    """
    hidden = len(text) - LONGEST_MESSAGE
    if hidden > 0:
        begin = LONGEST_MESSAGE * 3 // 4
        text = f"{text[:begin]} ... ({hidden:,} characters left out) ... {text[begin + hidden :]}"
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return ascii(char)[1:-1]


class ConfigError(ValueError):
    """A mistake in the config: the message says what was given, what is allowed and which key to change."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(str(message)))


class RegistrationError(TypeError):
    """A component that cannot be registered, because its name is taken or its signature cannot be checked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(str(message)))


class PrintableRecord(logging.LogRecord):
    """A log record whose message is printable; the programs make all records of this kind."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return printable(super().getMessage())
