"""Measures a training run from inside: seconds a step, memory, the host's profile, and where the host waits."""

from __future__ import annotations

import cProfile
import json
import pstats
import time
from pathlib import Path
from typing import Any

from diffusion_fw import PositiveInt, Runtime, register

SHOWN = 40


@register("callbacks", "device_watch")
def device_watch(
    folder: Runtime[Path], first: PositiveInt = 10, steps: PositiveInt = 20, profile: bool = False, syncs: bool = False
) -> Any:
    """Time ``steps`` steps after step ``first``, then profile the host and count its waits over as many more each."""
    import lightning
    import torch

    from benchmarks.device.card import synchronize
    from benchmarks.device.syncs import Syncs

    class Watch(lightning.Callback):
        def __init__(self) -> None:
            windows = ["time", *(["profile"] if profile else []), *(["syncs"] if syncs else [])]
            self.begins = {first + index * steps: name for index, name in enumerate(windows)}
            self.found: dict[str, Any] = {"steps": steps}
            self.current = ""

        def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()

        def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step in self.begins and not self.current:
                self.current = self.begins[trainer.global_step]
                self.last = trainer.global_step + steps
                getattr(self, f"begin_{self.current}")()

        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            if self.current and trainer.global_step == self.last:
                getattr(self, f"end_{self.current}")()
                self.current = ""
                self.write()

        def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
            self.write()

        def write(self) -> None:
            (folder / "device_watch.json").write_text(json.dumps(self.found, indent=1))

        def begin_time(self) -> None:
            synchronize()
            if torch.cuda.is_available():
                # cuDNN has tried its algorithms by now, some with large workspaces.
                self.found["peak_memory_of_first_steps"] = torch.cuda.max_memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            self.since = time.perf_counter()

        def end_time(self) -> None:
            synchronize()
            self.found["seconds_per_step"] = (time.perf_counter() - self.since) / steps
            if torch.cuda.is_available():
                self.found["peak_memory_of_steps"] = torch.cuda.max_memory_allocated()

        def begin_profile(self) -> None:
            self.profile = cProfile.Profile()
            self.profile.enable()

        def end_profile(self) -> None:
            self.profile.disable()
            rows = pstats.Stats(self.profile).stats.items()  # type: ignore[attr-defined]
            slowest = sorted(rows, key=lambda item: item[1][2], reverse=True)[:SHOWN]
            self.found["host_profile"] = [
                {
                    "function": f"{'/'.join(path.split('/')[-3:])}:{line} {name}",
                    "calls": calls / steps,
                    "own_ms": 1e3 * own / steps,
                    "with_callees_ms": 1e3 * cumulative / steps,
                }
                for (path, line, name), (_, calls, own, cumulative, _) in slowest
            ]

        def begin_syncs(self) -> None:
            self.syncs = Syncs()
            self.syncs.__enter__()

        def end_syncs(self) -> None:
            self.syncs.__exit__(None, None, None)
            self.found["syncs"] = self.syncs.sites()
            self.found["syncs_per_step"] = self.syncs.total / steps

    return Watch()
