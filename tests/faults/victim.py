"""train.py that notes its current phase in a file, so that a kill is counted under the phase that it hit."""

from __future__ import annotations

import os
from pathlib import Path

from diffusion_fw.app import train
from diffusion_fw.training.callbacks.evaluation import Evaluation
from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.durable import DurableIO

NOTE = Path(os.environ["PHASE_FILE"])
SAVED = Path(os.environ["SAVED_FILE"])


def noted(kind, method, phase):
    original = getattr(kind, method)

    def wrapped(self, *args, **kwargs):
        before = NOTE.read_text()
        NOTE.write_text(phase)
        result = original(self, *args, **kwargs)
        if phase == "checkpoint" and Path(args[1]).name == "last.ckpt":
            # A checkpoint is complete from here on, and must not be lost.
            SAVED.write_text(str(args[0]["global_step"]))
        NOTE.write_text(before)
        return result

    setattr(kind, method, wrapped)


def main():
    NOTE.write_text("start")
    noted(Evaluation, "evaluate", "evaluation")
    noted(DurableIO, "save_checkpoint", "checkpoint")
    begin = History.on_train_start

    def on_train_start(self, *args):
        begin(self, *args)
        NOTE.write_text("training")

    History.on_train_start = on_train_start
    train.main()


if __name__ == "__main__":
    main()
