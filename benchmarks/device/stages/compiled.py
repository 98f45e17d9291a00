"""The compiled network in training: train.py, the bare step and diffusers, each of which compiles it for itself.

The stage ``warm`` does the same before, aside, so that compiling is in the caches and this stage times training alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.device.ddpm import Timed
from benchmarks.device.options import Options
from benchmarks.device.record import Record

BATCH, SMALL = 512, 128
NAME = f"bf16 channels_last, compiled, batch {BATCH}"
WAYS: dict[str, tuple[int, Callable[[Timed], dict[str, Any]]]] = {
    f"train.py compile=true, batch {BATCH}": (30, lambda timed: timed.program("ours", BATCH, "compile=true")),
    f"bare, {NAME}": (25, lambda timed: timed.bare("bf16", "channels_last", BATCH, True)),
    f"diffusers, {NAME}": (30, lambda timed: timed.peer("bf16", "channels_last", BATCH, True)),
    f"train.py compile=reduce-overhead, batch {SMALL}": (
        30,
        lambda timed: timed.program("graphs", SMALL, "compile=reduce-overhead"),
    ),
}
"""Each way of training with the seconds that it needs."""


def run(record: Record, options: Options) -> None:
    if options.toy:
        record.add("compiled network", "left out: compiling takes a minute on a CPU")
        return
    timed = Timed(record, options)
    record.measure("bf16 matrix product", timed.matmul)
    for name, (needs, way) in WAYS.items():
        record.measure(name, way, timed, needs=needs)
