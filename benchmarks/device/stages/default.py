"""`python train.py` as it is, in float32 and in bf16: time, speed, distance beside its floor, and the loss curves."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.device.command import Done, train
from benchmarks.device.options import TINY, Options
from benchmarks.device.record import Record

BAND = 0.05
"""How far the bf16 loss may be from the float32 loss on average, relative to it."""


def run(record: Record, options: Options) -> None:
    few = ("trainer.max_steps=6", "trainer.log_every_n_steps=2", "callbacks.evaluation.every=3")
    small = (*TINY, *few) if options.toy else ()
    done: dict[str, Done] = {}

    def one(precision: str) -> dict[str, Any]:
        overrides = (options.trainer, f"trainer.precision={precision}", *small)
        result = done[precision] = train(options.work / precision, *overrides, timeout=record.left)
        speed = statistics.median(value for _, value in result.column("train/images_per_second"))
        (*_, (_, distance)) = result.column("fid/")
        floor = result.number(r"floor: [^│]*│\s*([\d.,e+-]+)")
        return {
            "text": f"{result.seconds:.1f} s, {speed:,.0f} images/s, distance {distance:.3g}, floor {floor}",
            "ok": True,
            "whole_seconds": result.seconds,
            "images_per_second": speed,
            "distance": distance,
            "floor": floor,
            "loss": result.column("train/loss"),
        }

    for precision in ("bf16-mixed", "32"):
        record.measure(f"default run, {precision}", one, precision, needs=8)

    def curves() -> dict[str, Any]:
        pairs = zip(*(done[precision].column("train/loss") for precision in ("32", "bf16-mixed")), strict=True)
        differences = [abs(low - full) / full for (_, full), (_, low) in pairs]
        mean = statistics.mean(differences)
        text = f"mean difference {mean:.2%}, largest {max(differences):.2%} of {len(differences)} intervals"
        return {"text": text, "ok": mean <= BAND, "band": BAND, "differences": differences}

    if len(done) == 2:
        record.measure("loss curve, bf16 against float32", curves)
