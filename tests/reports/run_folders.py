"""Folders of runs as the programs leave them, made without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

PACKAGES = {"torch": "2.12.0", "lightning": "2.6.6"}
DIFF = (
    "diff --git a/x.py b/x.py\n@@ -1 +1 @@\n-<b>old</b>\n+new </script><script>document.title = 'injected'</script>\n"
)


def record(folder: Path, program: str, overrides: Sequence[str], **changes: Any) -> None:
    """Write run.json."""
    attempt = {
        "began": "2026-01-31T12:00:00+00:00",
        "status": "finished",
        "seconds": 12.5,
        "host": "machine",
        "repositories": [{"folder": "/code", "commit": "0123456789abcdef", "diff": "git-0123456789ab.diff"}],
        "plugins": {"log_linear": "0da8e22b566451d5"},
        "packages": PACKAGES,
    }
    content = {
        "program": program,
        "job": 0,
        "overrides": list(overrides),
        "seed": 0,
        "metric": None,
        "result": None,
        "status": "finished",
        "error": None,
        "attempts": [attempt],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "git-0123456789ab.diff").write_text(DIFF)


def train_run(
    folder: Path,
    config: Mapping[str, Any],
    distances: Sequence[float] = (30.0, 20.0, 10.0),
    *,
    pictures: bool = True,
    columns: Mapping[str, float] = {},
    **changes: Any,
) -> None:
    """A training run that was evaluated after each 100 steps."""
    overrides = [f"{key}={value.get('name') if isinstance(value, dict) else value}" for key, value in config.items()]
    record(folder, "train", overrides, **{"metric": "fid/digits@64/ema", "result": min(distances), **changes})
    (folder / "config.yaml").write_text(yaml.safe_dump({"network": {"name": "unet", "channels": 8}, **config}))
    names = ["step", "train/loss", "fid/digits@64/ema", "heldout/loss at log-SNR -2.0", "heldout/loss at log-SNR +3.0"]
    rows = [",".join(f'"{name}"' for name in [*names, *columns])]
    for place, distance in enumerate(distances, 1):
        values = [100 * place, 1 / place, distance, 0.1 / place, 0.9 / place, *columns.values()]
        rows.append(",".join(map(str, values)))
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    if pictures:
        (folder / "samples").mkdir(exist_ok=True)
        for place in range(1, len(distances) + 1):
            Image.new("RGB", (64, 48), (60 * place, 20, 90)).save(folder / "samples" / f"step_{100 * place:07d}.png")
        frames = [Image.new("RGB", (32, 32), (50 * place, 0, 0)) for place in range(5)]
        frames[0].save(folder / "samples" / "trajectory.gif", save_all=True, append_images=frames[1:], duration=100)


def result_line(value: float, sampler: str = "ddim", steps: int = 10, **changes: Any) -> dict[str, Any]:
    """A line of the results as evaluate.py writes it."""
    return {
        "format": 1,
        "metric": "fid/digits@64/ema",
        "value": value,
        "better": "lower",
        "floor": 0.5,
        "interval": [value - 1, value + 1],
        "sampler": {"name": sampler, "steps": steps},
        "grid": {"name": "uniform"},
        "guidance": {},
        "evaluations": steps,
        "weights": "ema",
        "seed": 0,
        "checkpoint": {"path": "model.ckpt", "sha256": "00"},
        "device": "cpu",
        "cost": {
            "seconds": steps / 2,
            "seconds_per_sample": steps / 100,
            "evaluations": steps,
            "flops_per_sample": None,
        },
        **changes,
    }


def evaluate_run(folder: Path, lines: Sequence[Mapping[str, Any]], seed: int = 0, **changes: Any) -> None:
    """A run of evaluate.py."""
    sampler = lines[0].get("sampler", {}) if lines else {}
    overrides = [f"sampler={sampler.get('name')}", f"sampler.steps={sampler.get('steps')}", f"seed={seed}"]
    record(folder, "evaluate", overrides, seed=seed, **changes)
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"sampler": {"name": "own"}, "seed": seed}))
    if lines:
        content = {**lines[0], "results": [{**line, "seed": seed} for line in lines]}
        (folder / "evaluation.json").write_text(json.dumps(content))
