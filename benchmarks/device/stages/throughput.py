"""DDPM's network for CIFAR-10 in training: the bare step, train.py's whole path, and diffusers, in one run on one card.

The bare step is forward, backward, fused AdamW and an average of the weights in one foreach call, on one batch that
lies on the card. train.py's data are 1,529 uint8 images of 3x32x32, which cost what CIFAR-10's do.
"""

from __future__ import annotations

from benchmarks.device.ddpm import Timed, parameters
from benchmarks.device.options import Options
from benchmarks.device.record import Record


def run(record: Record, options: Options) -> None:
    timed = Timed(record, options)
    middle, *others = (2,) if options.toy else (512, 128, 1024)

    record.add("the network", f"{parameters(options):,} parameters, {timed.flops / 1e9:.1f} GFLOP a training image")
    record.measure("bf16 matrix product", timed.matmul)
    for batch in (middle, *others):
        name = f"bare, bf16 channels_last, batch {batch}"
        record.measure(name, timed.bare, "bf16", "channels_last", batch, needs=4)
    for precision, layout in (("bf16", "channels_last"), ("bf16", "contiguous"), ("tf32", "channels_last")):
        name = f"kernels of a bare step, {precision} {layout}, batch {middle}"
        record.measure(name, timed.kernels, precision, layout, middle, needs=4)
    for batch in () if options.toy else (middle, *others):
        name = f"train.py, the preset, batch {batch}"
        record.measure(name, timed.program, f"preset_{batch}", batch, needs=12)
    for precision, layout in (("tf32", "channels_last"), ("fp32", "channels_last"), ("bf16", "contiguous")):
        name = f"bare, {precision} {layout}, batch {middle}"
        record.measure(name, timed.bare, precision, layout, middle, needs=4)
    for precision, layout in (("fp32", "contiguous"), ("bf16", "channels_last")):
        name = f"diffusers, {precision} {layout}, batch {middle}"
        record.measure(name, timed.peer, precision, layout, middle, needs=6)
    if not options.toy:
        words = ("trainer.precision=32",)
        name = f"train.py {words[0]}, batch {middle}"
        record.measure(name, lambda: timed.program("tf32", middle, *words, steps=10, first=10), needs=15)
