"""In which formats the curves of this process are written besides PNG, which the page and the loggers take."""

from __future__ import annotations

also: tuple[str, ...] = ()
"""Set once by a program, from ``picture_formats``."""
