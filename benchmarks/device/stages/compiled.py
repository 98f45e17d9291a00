"""The compiled network in training: train.py, the bare step and diffusers, each of which compiles it for itself."""

from __future__ import annotations

from benchmarks.device.ddpm import Timed
from benchmarks.device.options import Options
from benchmarks.device.record import Record


def run(record: Record, options: Options) -> None:
    if options.toy:
        record.add("compiled network", "left out: compiling takes a minute on a CPU")
        return
    timed, batch = Timed(record, options), 512
    record.measure("bf16 matrix product", timed.matmul)
    record.measure(f"train.py compile=true, batch {batch}", timed.program, "ours", batch, "compile=true", needs=30)
    name = f"bf16 channels_last, compiled, batch {batch}"
    record.measure(f"bare, {name}", timed.bare, "bf16", "channels_last", batch, True, needs=25)
    record.measure(f"diffusers, {name}", timed.peer, "bf16", "channels_last", batch, True, needs=45)
