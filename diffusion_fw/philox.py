"""Philox4x32-10: random numbers as a function of a counter and a key, computed where they are needed.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import functools
import logging
import math
import subprocess
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WORD = 2**32
ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def philox(key: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random 32-bit words for each counter of four 32-bit words. Words are int64 tensors, the key has 64 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key % WORD, key // WORD
    for _ in range(ROUNDS):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) % WORD, (k1 + KEY_STEPS[1]) % WORD
    return c0, c1, c2, c3


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low word of a b. The product may overflow int64, which keeps its 64 bits."""
    product = b * a
    return (product >> 32) & (WORD - 1), product & (WORD - 1)


def normal(key: int, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (B, *shape), float32, on the device of ``rows`` (B,), int64.

    Row j is a function of (key, rows[j], shape) alone. It takes one kernel on a GPU where Triton works, otherwise many.
    """
    size = math.prod(shape)
    draw = _fastest(rows.device) if rows.is_cuda else _normal
    return draw(key, rows, size).view(len(rows), *shape)


def _normal(key: int, rows: Tensor, size: int) -> Tensor:
    """(B, size) by Box and Muller's method. The words of counter b are the elements b, b + n, b + 2n, b + 3n of a row.

    n = ceil(size / 4) counters (b, row) give a row its elements.
    """
    blocks = torch.arange(-(-size // 4), device=rows.device)[None]
    low, high, zero = (rows % WORD)[:, None], (rows // WORD)[:, None], torch.zeros_like(rows)[:, None]
    words = philox(key, (blocks, low, high, zero))
    parts = [part for pair in (words[:2], words[2:]) for part in _box_muller(*pair)]
    return torch.cat(parts, dim=1)[:, :size].contiguous()


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    radius = (-2 * ((first.float() + 1) * (1 / WORD)).log()).sqrt()
    angle = second.float() * (2 * math.pi / WORD)
    return radius * angle.cos(), radius * angle.sin()


@functools.cache
def _fastest(device: torch.device) -> Callable[[int, Tensor, int], Tensor]:
    """``_normal`` as one Triton kernel; ``_normal`` itself where Triton is missing or finds no C compiler."""
    try:
        from diffusion_fw import philox_kernel

        philox_kernel.normal(0, torch.zeros(1, dtype=torch.int64, device=device), 4)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())
        logger.warning("noise on %s takes many kernels instead of one, since Triton fails: %.200s", device, reason)
        return _normal
    return philox_kernel.normal
