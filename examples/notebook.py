"""The programs in a notebook: compose a config, train, sample and evaluate; each part is a cell.

`python examples/notebook.py` does the same as train.py, sample.py and evaluate.py with these overrides.
"""

from __future__ import annotations

from pathlib import Path

import diffusion_fw as dfw


def main(folder: Path, overrides: tuple[str, ...] = ("trainer.max_steps=1400",), num_samples: int = 500) -> float:
    """Train, sample and evaluate in ``folder``; the distance."""
    # Compose: the overrides are those of the command line, and the result is a dict.
    config = dfw.compose(["schedule=linear", "parameterization=v", "seed=1", *overrides])
    config["sampler"]["steps"] = 25

    # Train: the folder holds checkpoints, pictures, metrics.csv and run.json.
    result = dfw.train(config, folder / "run")
    print(f"{result.name}: {result.value:.3f}")

    # Sample: the arrays are those of samples.npz.
    checkpoint = f"checkpoint={folder / 'run' / 'checkpoints' / 'last.ckpt'}"
    outcome = dfw.sample(
        dfw.compose([checkpoint, "num_samples=16", "sampler=dpm_solver_pp"], "sample"), folder / "samples"
    )
    print(f"samples of shape {tuple(outcome.arrays['samples'].shape)}, drawn in {outcome.pictures[0]}")

    # Evaluate: every number with its floor and its interval.
    metrics = ["metric=[fid,kid]", f"metric.num_samples={num_samples}", f"results={folder / 'results'}"]
    numbers = dfw.evaluate(dfw.compose([checkpoint, *metrics], "evaluate"), folder / "evaluation")
    for number in numbers:
        print(f"{number.name}: {number.value:.3f}, of real examples {number.floor}")
    return numbers[0].value


if __name__ == "__main__":
    main(Path("outputs/notebook"))
