"""Fills the caches of torch.compile for the stage ``compiled``, each way of training in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.device.ddpm import Timed
from benchmarks.device.options import Options
from benchmarks.device.record import Record
from benchmarks.device.stages.compiled import WAYS


def run(record: Record, options: Options) -> None:
    if options.toy:
        record.add("compiled network", "left out: compiling takes a minute on a CPU")
        return
    context = multiprocessing.get_context("spawn")
    begin = time.monotonic()
    processes = {}
    for index, name in enumerate(WAYS):
        own = replace(options, work=options.work / str(index))
        own.work.mkdir()
        path = record.path.with_name(f"warm_{index}.part")
        processes[name] = context.Process(target=_one, args=(name, own, path, record.left))
        processes[name].start()
    for name, process in processes.items():
        process.join(max(0.0, record.left))
        text = f"{time.monotonic() - begin:.0f} s" if process.exitcode == 0 else f"exit code {process.exitcode}"
        record.add(f"compiling: {name}", text, process.exitcode == 0 or None)
        process.kill()


def _one(name: str, options: Options, path: Path, seconds: float) -> None:
    WAYS[name][1](Timed(Record(path, name, seconds), options))
    path.unlink(missing_ok=True)
