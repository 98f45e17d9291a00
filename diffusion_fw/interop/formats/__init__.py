"""One module for each code base whose weights can be read and written."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from diffusion_fw.interop.formats.format import Format


def formats() -> dict[str, Format]:
    """Every format by its name: the classes of this package's modules."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for item in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if inspect.isclass(item) and issubclass(item, Format) and not inspect.isabstract(item):
                found[item.name] = item()
    return dict(sorted(found.items()))
