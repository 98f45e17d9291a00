"""Several processes that share the work of sample.py and evaluate.py, as `torchrun` starts them."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator

import torch

WAIT = datetime.timedelta(hours=6)
"""How long a process waits for the others, which may have slower devices."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Connect the processes that `torchrun` started, each with the GPU of its number; nothing for a single one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or torch.distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.distributed.init_process_group("gloo", timeout=WAIT)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
