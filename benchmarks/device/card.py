"""The card and how its work is timed; on a machine without one, the CPU stands in for it."""

from __future__ import annotations

import datetime
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
COMMIT_FILE = ROOT / ".device" / "commit"
"""Where a packed working tree keeps its commit, since it may travel without its repository."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def release() -> None:
    """Give back what this process keeps of the card's memory, so that another process can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def facts() -> dict[str, Any]:
    """What a number depends on beside the code that measured it."""
    has_card = torch.cuda.is_available()
    return {
        "card": torch.cuda.get_device_name() if has_card else f"none: CPU with {os.cpu_count()} cores",
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join(["python", "-m", "benchmarks.device", *sys.argv[1:]]),
    }


def commit() -> str:
    if COMMIT_FILE.is_file():
        return COMMIT_FILE.read_text().strip()
    return _first_line("git", "-C", str(ROOT), "rev-parse", "HEAD")


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip().partition("\n")[0]


def seconds_per_call(function: Callable[[], object], *, within: float, warmup: int = 3, most: int = 50) -> float:
    """The mean seconds of a call in a queue of calls that fills about ``within`` seconds; at least one call."""
    for _ in range(warmup):
        function()
    synchronize()
    begin = time.perf_counter()
    function()
    synchronize()
    count = max(1, min(most, int(within / max(1e-9, time.perf_counter() - begin))))
    begin = time.perf_counter()
    for _ in range(count):
        function()
    synchronize()
    return (time.perf_counter() - begin) / count


def matmul_rate(size: int) -> float:
    """FLOP/s of a product of two random bf16 matrices of this size."""
    a, b = (torch.randn(size, size, device=device(), dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_per_call(lambda: a @ b, within=0.5)
