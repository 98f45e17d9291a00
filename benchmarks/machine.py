"""What a number depends on beside the code that measured it, without names of hosts or paths."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.device.card import commit
from benchmarks.row import installed

PEERS = ("diffusers", "azula", "accelerate", "torchmetrics", "lightning")


def facts() -> dict[str, Any]:
    return {
        "cpu": _model(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PEERS if installed(name)},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit()[:12],
    }


def _model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
