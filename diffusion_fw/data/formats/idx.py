"""The IDX format of MNIST: a header of big-endian integers, then bytes (LeCun et al. 1998)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_fw.files import open_regular
from diffusion_fw.registry import ConfigError

UNSIGNED_BYTE = 0x08
LARGEST_ARRAY = 1 << 30
"""In bytes. EMNIST has 5e8; a header can claim any number."""


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The array of an IDX file of unsigned bytes, plain or .gz. Raises ConfigError for any other file."""
    offset = 4 + 4 * dimensions
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    try:
        with open_regular(path) as stored, gzip.open(stored) if path.suffix == ".gz" else stored as file:
            header = file.read(offset)
            if header[:4] != expected:
                raise ConfigError(
                    f"data.root: {path} begins with {header[:4].hex(' ') or 'nothing'}, but an IDX file of bytes in "
                    f"{dimensions} dimensions begins with {expected.hex(' ')}; get the file again"
                )
            if len(header) < offset:
                raise ConfigError(f"data.root: {path} ends within its header; get the file again")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            claimed = f"{' x '.join(map(str, shape))} = {size:,}"
            if size > LARGEST_ARRAY:
                raise ConfigError(f"data.root: the header of {path} says {claimed} bytes, more than {LARGEST_ARRAY:,}")
            # Unpack no more than the header states: a .gz file of kilobytes can hold gigabytes.
            content = bytearray(file.read(size + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"data.root: {path} cannot be read ({error}); get the file again") from None
    if len(content) != size:
        held = f"{len(content):,}" if len(content) < size else "more"
        raise ConfigError(
            f"data.root: {path} holds {held} bytes of data, but its header says {claimed}; get the file again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape))
