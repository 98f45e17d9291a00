"""Errors of samples given a measurement, beside a baseline without a model: the table of docs/inverse_problems.md.

    python -m benchmarks.inverse_problems --digits RUN --emoji RUN

Each method solves each problem for held-out images, with several samples for each. Results are written to
benchmarks/results/cpu/inverse_problems.json, and the table is made of them; without a run only the table is.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffusion_fw as dfw
from benchmarks.machine import facts
from diffusion_fw.app.trained_model import Trained, open_trained
from diffusion_fw.data.dataset import to_model
from diffusion_fw.guidance.operators import AveragePool, Blur, Grayscale, Mask
from diffusion_fw.sampling.draw import draw

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu" / "inverse_problems.json"
PAGE = ROOT / "docs" / "inverse_problems.md"
BEGIN, END = (
    "<!-- Begin of the results of `python -m benchmarks.inverse_problems`. -->",
    "<!-- End of these results. -->",
)
METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "replacement": ("replacement", {}),
    "imputation": ("imputation", {}),
    "posterior": ("posterior", {}),
    "posterior, data_std=0.5": ("posterior", {"data_std": 0.5}),
}


@dataclass(frozen=True)
class Problem:
    """An inverse problem on one of the data sets; noise_std is that of the measurement, which posterior is told."""

    data: str
    name: str
    operator: dfw.LinearOperator
    noise_std: float = 0.0


def lower_half_missing(shape: tuple[int, ...]) -> Mask:
    known = torch.zeros(shape, dtype=torch.bool)
    known[:, : shape[1] // 2] = True
    return Mask(known)


PROBLEMS = (
    Problem("digits", "inpainting: the lower half is missing", lower_half_missing((1, 8, 8))),
    Problem("digits", "super-resolution: 4x4 to 8x8", AveragePool(2)),
    Problem("digits", "deblurring: standard deviation 1 pixel", Blur(1.0)),
    Problem("digits", "deblurring: the same with noise of 0.1", Blur(1.0), 0.1),
    Problem("emoji", "super-resolution: 4x4 to 16x16", AveragePool(4)),
    Problem("emoji", "colourisation", Grayscale()),
)


def measure(problem: Problem, model: Trained, count: int, draws: int) -> Iterator[dict[str, Any]]:
    """The baseline and each method: root mean square errors for data scaled to [0, 1]."""
    values, _ = model.data.test.__getitems__(range(0, len(model.data.test), len(model.data.test) // count))
    x0 = to_model(values[:count])
    y = problem.operator(x0)
    y = y + problem.noise_std * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    fixed = {"data": problem.data, "problem": problem.name, "count": count, "draws": draws}

    def row(method: str, x: Tensor) -> dict[str, Any]:
        """Of draws x (D, N, ...)."""
        measured = torch.stack([problem.operator(item) - y for item in x])
        errors = {"error": x - x0, "error_of_mean": x.mean(0) - x0, "measured": measured}
        return {**fixed, "method": method, **{key: float(rms(value)) for key, value in errors.items()}}

    yield row(f"baseline: {problem.operator.plain}", problem.operator.baseline(y).clamp(-1, 1)[None])
    for method, (name, settings) in METHODS.items():
        known: dict[str, Any] = {"operator": problem.operator, "measurement": y, **settings}
        if name == "posterior":
            # [posterior,clip]: the gradient does not pass through the clipping.
            known["noise_std"] = problem.noise_std
            guided = dfw.build(
                "guidance", "clip", denoiser=dfw.build("guidance", name, denoiser=model.network, **known)
            )
        else:
            guided = dfw.build("guidance", name, denoiser=model.denoiser, **known)
        shape, size = model.facts.shape, len(x0)
        drawn = [
            next(draw(model.sampler, guided, shape, range(size), seed=seed, batch_size=size))[1].clamp(-1, 1)
            for seed in range(draws)
        ]
        yield row(method, torch.stack(drawn))


def rms(difference: Tensor) -> Tensor:
    """The root mean square of a difference of values in [-1, 1], for data scaled to [0, 1]."""
    return difference.double().square().mean().sqrt() / 2


def table(content: dict[str, Any]) -> str:
    """The results in Markdown; the smallest error of a problem is bold."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["data"] == data]
        settings = f"{rows[0]['count']} held-out images, {rows[0]['draws']} samples of each"
        lines += [f"**{data}**, {settings}:", ""]
        lines += ["| problem | method | error of a sample | of the mean of the samples | of the measured part |"]
        lines += ["|---|---|---|---|---|"]
        for row in rows:
            best = {key: min(other[key] for other in rows if other["problem"] == row["problem"]) for key in COLUMNS[:2]}
            cells = [f"**{shown(row[key])}**" if row[key] == best.get(key) else shown(row[key]) for key in COLUMNS]
            lines.append(f"| {' | '.join([row['problem'], row['method'], *cells])} |")
        lines.append("")
    lines += [f"{content['cpu']}; torch {content['torch']}; {content['date']}, commit {content['commit']}.", ""]
    return "\n".join(lines)


COLUMNS = ("error", "error_of_mean", "measured")


def shown(value: float) -> str:
    return f"{value:.3f} ({-20 * math.log10(value):.1f} dB)" if value >= 5e-4 else "0"


def write(content: dict[str, Any]) -> None:
    """Write the table into the page again."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(content)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inverse_problems", description=__doc__.split("\n")[0])
    parser.add_argument("--digits", help="the run of `python train.py`")
    parser.add_argument("--emoji", help="the run on emoji of docs/inverse_problems.md")
    parser.add_argument("--count", type=int, default=32, help="held-out images (default: 32)")
    parser.add_argument("--draws", type=int, default=4, help="samples of each (default: 4)")
    given = parser.parse_args()
    runs = {name: vars(given)[name] for name in ("digits", "emoji") if vars(given)[name]}
    if runs:
        rows = []
        models = {
            name: open_trained(dfw.compose([f"checkpoint={run}", "device=cpu"], "sample")) for name, run in runs.items()
        }
        for problem in PROBLEMS:
            if problem.data in models:
                for row in measure(problem, models[problem.data], given.count, given.draws):
                    print(row, flush=True)
                    rows.append(row)
        RESULTS.write_text(json.dumps({**facts(), "rows": rows}, indent=1) + "\n")
    write(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
