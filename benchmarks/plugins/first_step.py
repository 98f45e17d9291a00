"""Writes down when the first training step has ended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from diffusion_fw import Runtime, register


@register("callbacks", "first_step")
def first_step(folder: Runtime[Path]) -> Any:
    """Writes the time after step 1 into ``first_step`` in the folder of the run."""
    import lightning

    class FirstStep(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step == 1:
                (folder / "first_step").write_text(str(time.time()))

    return FirstStep()
