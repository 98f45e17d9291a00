"""``philox.normal`` as one Triton kernel. Importing this module needs Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256


@triton.jit(do_not_specialize=["key", "size", "blocks"])  # type: ignore[untyped-decorator]
def _fill(out, rows, key, size, blocks, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    index = tl.load(rows + row)
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    zero = block * 0
    low = (zero + (index & 0xFFFFFFFF).to(tl.int32, bitcast=False)).to(tl.uint32, bitcast=True)
    high = (zero + (index >> 32).to(tl.int32)).to(tl.uint32, bitcast=True)
    words = tl.philox(key, block.to(tl.uint32, bitcast=True), low, high, zero.to(tl.uint32, bitcast=True))
    for pair in tl.static_range(2):
        radius = tl.sqrt(-2 * tl.log((words[2 * pair].to(tl.float32) + 1) * (1 / 4294967296)))
        angle = words[2 * pair + 1].to(tl.float32) * (6.283185307179586 / 4294967296)
        for part in tl.static_range(2):
            value = radius * (tl.cos(angle) if part == 0 else tl.sin(angle))
            place = block + (2 * pair + part) * blocks
            tl.store(out + row * size + place, value, mask=(block < blocks) & (place < size))


def normal(key: int, rows: Tensor, size: int) -> Tensor:
    """(B, size) standard normal noise, float32, for rows (B,), int64, on a GPU."""
    out = torch.empty(len(rows), size, device=rows.device)
    blocks = -(-size // 4)
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(rows):
        _fill[(len(rows), triton.cdiv(blocks, BLOCK))](out, rows, key, size, blocks, BLOCK=BLOCK)
    return out
