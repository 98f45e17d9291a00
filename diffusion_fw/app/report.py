"""The report of a training run: pictures and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffusion_fw.app.memory import describe_memory
from diffusion_fw.composition.experiment import Experiment, plain
from diffusion_fw.composition.facts import Facts
from diffusion_fw.files import atomic_write
from diffusion_fw.noise import generator
from diffusion_fw.pictures import curves
from diffusion_fw.pictures.image_grids import film
from diffusion_fw.pictures.schedule_curves import schedule as draw_schedule
from diffusion_fw.pictures.view import View
from diffusion_fw.training.callbacks.stock import ended_early
from diffusion_fw.training.loggers.fan_out import print_places, tell
from diffusion_fw.training.os_errors import log_os_errors


class Report(lightning.Callback):
    """Writes config.yaml and logs the config when training starts, draws pictures and prints a table when it ends.

    Only in the first process. It is a callback because the history is in the process that trains, which is a child
    where a strategy forks.
    """

    def __init__(
        self,
        experiment: Experiment,
        config: Mapping[str, Any],
        folder: Path,
        *,
        floor: float | None,
        further: Mapping[str, str] | None = None,
    ) -> None:
        self.experiment, self.config, self.folder, self.floor = experiment, config, folder, floor
        self.further = further or {}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # Before the progress bar starts.
        if trainer.is_global_zero:
            local = self.config["batch_size"] // (trainer.world_size * trainer.accumulate_grad_batches)
            estimate = describe_memory(self.config, Facts.from_record(pl_module.record["facts"]), local)
            print(f"data={self.config['data']['name']}: {self.experiment.data.describe()}")
            print(pl_module.loading)
            print(f"memory per process, estimated: {estimate}")
            print_places(trainer.loggers)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            path = self.folder / "config.yaml"
            with (
                log_os_errors(f"writing {path}", "training continues; the checkpoints hold it too"),
                atomic_write(path) as file,
            ):
                file.write(yaml.safe_dump(plain(self.config), sort_keys=False).encode())
        tell(trainer.loggers, "log_hyperparams", plain(self.config))
        if trainer.is_global_zero and self.floor is not None:
            tell(trainer.loggers, "log_summary", {"floor": self.floor})

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            with log_os_errors(f"drawing into {self.folder}", "training is done; the checkpoints hold its numbers"):
                draw_report(self.experiment, self.config, self.folder, self.floor)
            self._log_files(trainer)
            print_summary(self.experiment, self.folder, self.floor, self.further)
            print_places(trainer.loggers)

    def _log_files(self, trainer: lightning.Trainer) -> None:
        """Send the final pictures to the loggers, and checkpoints and results to those that are to upload them."""
        step = trainer.global_step
        for name in LOGGED_PICTURES:
            if (path := self.folder / f"{name}.png").exists():
                tell(trainer.loggers, "log_picture", f"report/{name}", path, step)
        checkpoints = [path for path in (self.folder / "checkpoints").glob("*.ckpt") if path.stem in ("last", "best")]
        tell(trainer.loggers, "log_checkpoints", sorted(checkpoints), step)
        results = [path for path in map(self.folder.joinpath, RESULTS) if path.exists()]
        tell(trainer.loggers, "log_results", [*results, *sorted(self.folder.glob("*.png"))])


PROGRESS, FRAMES = 4, 60
"""How many evaluations are drawn side by side, and how many are frames of the animation, at most."""
LOGGED_PICTURES = ("loss", "loss_by_log_snr", "distance", "schedule", "real_and_generated", "progress")
"""The pictures at the end of a run; its samples are logged at each evaluation."""
RESULTS = ("config.yaml", "metrics.csv", "samples")
"""What a logger may be asked to upload, besides the pictures."""


def draw_report(experiment: Experiment, config: Mapping[str, Any], folder: Path, floor: float | None) -> None:
    """Draw the curves of loss, distance and schedule, and real examples beside generated ones."""
    history, evaluation = experiment.history, experiment.evaluation
    draw_schedule(folder / "schedule.png", experiment.denoiser.schedule, config["schedule"]["name"])
    if history.records:
        curves.loss_curve(
            folder / "loss.png",
            [record["step"] for record in history.records],
            [record["loss"] for record in history.records],
            heldout=history.heldout,
        )
    if evaluation is None or evaluation.last_samples is None:
        return
    centres, losses = evaluation.curve
    curves.loss_by_log_snr(folder / "loss_by_log_snr.png", centres, losses, evaluation.irreducible)
    metric, name = experiment.metric, experiment.metric.name(experiment.module.weights_name)
    curves.distance_curve(folder / "distance.png", {name: history.distances}, floor=floor, label=metric.label)
    generated = evaluation.last_samples
    # The first examples of a folder would all be of one class.
    order = torch.randperm(len(experiment.data.test), generator=generator(config["seed"]))
    real, _ = experiment.data.test.__getitems__(order[: len(generated)].tolist())
    evaluation.view.samples(folder / "samples.png", generated, evaluation.classes)
    draw_progress(folder, evaluation.view)
    evaluation.view.comparison(folder / "real_and_generated.png", real, generated)


def draw_progress(folder: Path, view: View) -> None:
    """Draw the samples of the same seeds at some steps, side by side and as an animation, if there are several."""
    known = sorted((folder / "samples").glob("step_*.png"))
    if len(known) < 2:
        return
    shown = {f"step {int(path.stem.removeprefix('step_')):,}": path for path in spread(known, PROGRESS)}
    view.strip(folder / "progress.png", shown)
    film(folder / "progress.gif", spread(known, FRAMES))


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` of the paths, evenly, the first and the last among them."""
    last = len(paths) - 1
    return list(dict.fromkeys(paths[round(i * last / (count - 1))] for i in range(count)))


def print_summary(
    experiment: Experiment, folder: Path, floor: float | None, further: Mapping[str, str] | None = None
) -> None:
    """Print the table that ends a run, with ``further`` rows below the floor."""
    history, trainer = experiment.history, experiment.trainer
    table = Table(title=f"run of {trainer.global_step} steps", show_header=False)
    name = experiment.metric.name(experiment.module.weights_name)
    if reason := ended_early(trainer):
        table.add_row("ended early", escape(reason))
    for step, value in history.distances:
        table.add_row(f"{name} at step {step:,}", f"{value:.4g}")
    if floor is not None:
        table.add_row(f"floor: {experiment.metric.floor_of}", f"{floor:.4g}")
    for name, text in (further or {}).items():
        table.add_row(name, text)
    table.add_section()
    if history.records:
        table.add_row("loss, last interval", f"{history.records[-1]['loss']:.4f}")
        if experiment.evaluation is not None and experiment.evaluation.irreducible is not None:
            least = experiment.evaluation.irreducible
            table.add_row(
                "held-out loss, of which irreducible",
                f"{history.heldout[-1][1]:.4f}, {sum(least) / len(least):.4f}",
            )
        rates = sorted(record["images_per_second"] for record in history.records)
        table.add_row("examples/s, median", f"{rates[len(rates) // 2]:,.0f}")
    parameters = sum(item.numel() for item in experiment.denoiser.network.parameters())
    table.add_row("parameters", f"{parameters:,}")
    table.add_section()
    for what, paths in (
        ("real and generated", ["real_and_generated.png"]),
        ("real and decoded by the codec", ["real_and_decoded.png"]),
        ("samples over training", ["progress.png", "progress.gif", "samples/"]),
        ("trajectory from noise to data", ["samples/trajectory.png"]),
        ("curves", ["loss.png", "loss_by_log_snr.png", "distance.png", "schedule.png"]),
        ("checkpoints", ["checkpoints/last.ckpt", "checkpoints/best.ckpt"]),
        ("numbers, config, what made them", ["metrics.csv", "config.yaml", "run.json"]),
    ):
        if written := [path for path in paths if (folder / path).exists()]:
            table.add_row(what, ", ".join(written))
    console = Console()
    console.print(table)
    console.print(f"everything is in [bold]{escape(str(folder))}[/bold]", soft_wrap=True)
