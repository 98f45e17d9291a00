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

from diffusion_fw.registry import ConfigError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The array of an IDX file of unsigned bytes, plain or .gz; ConfigError that names a file that isn't one."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"data.root: {path} cannot be read ({error}); get the file again") from None
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != expected:
        raise ConfigError(
            f"data.root: {path} begins with {content[:4].hex(' ') or 'nothing'}, but an IDX file of bytes in "
            f"{dimensions} dimensions begins with {expected.hex(' ')}; get the file again"
        )
    offset = 4 + 4 * dimensions
    if len(content) < offset:
        raise ConfigError(f"data.root: {path} ends within its header; get the file again")
    shape = struct.unpack(f">{dimensions}I", content[4:offset])
    if len(content) - offset != math.prod(shape):
        raise ConfigError(
            f"data.root: {path} holds {len(content) - offset:,} bytes of data, but its header says "
            f"{' x '.join(map(str, shape))} = {math.prod(shape):,}; get the file again"
        )
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8, offset=offset).reshape(shape))
