"""The arrays of an npz file from anyone: no pickles, and no file that unpacks to more than it may."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError


def read_npz(path: str, limit: int, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
    """The arrays of an npz file by their names, or those of the ``wanted`` ones that it holds.

    ``limit`` is the most bytes that the file may unpack to, unless it is larger itself: a few kilobytes can unpack to
    any number. ConfigError for a larger one, and for a file that is no npz file of numbers.
    """
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(limit, os.fstat(file.fileno()).st_size):
                raise ConfigError(f"{path} unpacks to {unpacked:,} bytes; at most {limit:,} are read")
            file.seek(0)
            arrays = np.load(file, allow_pickle=False)
            return {key: torch.from_numpy(arrays[key]) for key in arrays if wanted is None or key in wanted}
    except (OSError, EOFError, MemoryError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path} is not an npz file of numbers: {error}") from None
