"""Loading a model imports what computes with it, and nothing that trains, composes, logs or plots."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "matplotlib", "PIL", "rich")
SCRIPT = """
import json, sys
import diffusion_fw as dfw
denoiser = dfw.load(sys.argv[1])
dfw.build("sampler", "ddim", steps=2)(denoiser, dfw.prior(denoiser.schedule, (2, 2)))
print(json.dumps(sorted(set(sys.argv[2:]) & set(sys.modules))))
"""


def test_loading_and_sampling_import_no_trainer_config_logger_or_plotter(untrained):
    path = untrained("data=moons", "network=mlp", "network.width=8")
    command = [sys.executable, "-c", SCRIPT, str(path), *HEAVY]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []
