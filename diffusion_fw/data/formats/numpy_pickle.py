"""Reads NumPy arrays from untrusted pickles without running any of their code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError

LARGEST_FILE = 1 << 30
"""In bytes. A batch of CIFAR-10 has 31 million."""


def _latin1(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, which old protocols call to store bytes, always with this encoding."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


_reconstruct = np.empty(0).__reduce__()[0]
_frombuffer = np.empty(0).__reduce_ex__(5)[0]

# What arrays, lists, dicts and strings need. Anything else in a pickle is refused and never imported.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _latin1,
}


class _ArraysOnly(pickle._Unpickler):  # type: ignore[name-defined]
    # The pure Python version, as that in C allocates gigabytes for a large memo index.
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need")
        return ALLOWED[module, name]


def read_numpy_pickle(path: Path) -> Any:
    """The arrays, containers, numbers and strings of a pickle; strings of Python 2 become bytes.

    Raises ConfigError that names the file if it is corrupt or needs anything else.
    """
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise pickle.UnpicklingError(f"it has more than {LARGEST_FILE:,} bytes")
        return _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a corrupt pickle can raise anything
        raise ConfigError(f"data.root: {path} is not a batch of arrays: {error or type(error).__name__}") from None
