"""Train: build the experiment, fit it, write its pictures and print a table."""

from __future__ import annotations

import contextlib
import math
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_fw.app.program import only, run
from diffusion_fw.registry import ConfigError
from diffusion_fw.runs.record import Result

if TYPE_CHECKING:
    from diffusion_fw.config.application import Asked


def train(config: dict[str, Any], folder: Path) -> Result:
    """One training run in ``folder``; returns its best distance, which sweeps minimise; inf where none is finite."""
    import logging
    import warnings

    import lightning.pytorch  # noqa: F401 - it sets the levels of its loggers, which are set again below
    import torch

    from diffusion_fw.app.codec import quality_of, with_codec
    from diffusion_fw.app.report import Report
    from diffusion_fw.checkpoints.read import checkpoint_of, read
    from diffusion_fw.checkpoints.warm_start import warm_start
    from diffusion_fw.checkpoints.weights import check_optimizer, check_weights
    from diffusion_fw.codecs.codec import FILE
    from diffusion_fw.composition.experiment import build_experiment, plain
    from diffusion_fw.composition.parts import (
        assemble,
        build_data,
        build_tracked_metric,
        check_data,
        encoding_device,
    )
    from diffusion_fw.pictures import formats
    from diffusion_fw.pictures.view import Stamped
    from diffusion_fw.sweeps.trial import trial_callbacks
    from diffusion_fw.training.archive import RECORD_KEY
    from diffusion_fw.training.callbacks.checkpointing import Checkpoints
    from diffusion_fw.training.callbacks.history import LOGGERS_KEY
    from diffusion_fw.training.callbacks.interruption import Interruption
    from diffusion_fw.training.callbacks.stock import ended_early
    from diffusion_fw.training.signals import passed_on_to_children

    for message in (
        "does not have many workers",
        "logs directory .* exists and is not empty",
        "in eval mode at the start of training",
        "is smaller than the logging interval",
        "all_gather is deprecated",
        "It is recommended to use `self.log",
        "When using the `ThroughputMonitor`, you need to define",
        "Checkpoint directory .* exists and is not empty",
        "isinstance.treespec, LeafSpec.* is deprecated",
        "You're resuming from a checkpoint that ended before the epoch ended",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")
    checkpoint = None
    if config["resume"]:
        checkpoint = checkpoint_of(config["resume"])
        content = read(checkpoint)
        step = content["global_step"]
        if step == config["trainer"]["max_steps"]:
            print(f"{folder} has taken its {step:,} steps; to train further, raise trainer.max_steps")
            metric, _ = build_tracked_metric(config, build_data(config))
            with restoring(checkpoint):
                best = _best(content)
            weights = assemble("ema", config["ema"], batch_size=config["batch_size"]).weights_name
            return Result(metric.name(weights), best, metric.floor() if metric.measures else None)
    experiment = build_experiment(with_codec(config, folder), folder)
    if checkpoint:
        check_data(experiment.data, config, content[RECORD_KEY])
        experiment.space.check_same(content[RECORD_KEY].get("codec"), f"resume={config['resume']}")
    if experiment.evaluation is not None:
        experiment.evaluation.view = Stamped(experiment.evaluation.view, provenance(config))
    trainer = experiment.trainer
    quality = None
    if not experiment.space.codec.identity:
        # The record says what was given, and the codec itself lies beside the checkpoints.
        experiment.module.record["config"]["codec"] = plain(config["codec"])
        if trainer.is_global_zero:
            if not checkpoint:
                experiment.space.codec.save(folder / "checkpoints" / FILE)
            quality = quality_of(experiment, encoding_device(config), folder, provenance(config))
            print("\n".join(f"{name}: {text}" for name, text in quality.rows().items()))
    if checkpoint:
        check_weights(content["state_dict"], experiment.module.state_dict(), f"resume={config['resume']}")
        check_optimizer(
            content["optimizer_states"],
            experiment.module.trained,
            lambda params: assemble("optimizer", config["optimizer"], params=params),
            f"resume={config['resume']}",
        )
        for logger in (logger for logger in trainer.loggers if hasattr(logger, "resume")):
            with restoring(checkpoint):
                logger.resume(step, content.get(LOGGERS_KEY, {}).get(type(logger).__name__, {}))
    elif config["init_from"]:
        raw = config["init_raw_weights"]
        print(warm_start(experiment.module, config["init_from"], raw_weights=raw, space=experiment.space))
    formats.also = tuple(config["picture_formats"])
    floor = experiment.metric.floor() if experiment.metric.measures else None
    further = quality.rows() if quality else {}
    trainer.callbacks.append(Report(experiment, config, folder, floor=floor, further=further))
    trainer.callbacks.extend(trial_callbacks(experiment.history))
    writers = [item for item in trainer.callbacks if isinstance(item, Checkpoints)]
    trainer.callbacks.append(Interruption(writers[0] if writers else None))
    with passed_on_to_children(), errors_of_children(), restoring(checkpoint, RESTORES):
        trainer.fit(experiment.module, ckpt_path=checkpoint)
    if checkpoint and trainer.global_step == step:
        print(
            f"{folder} ended at step {step:,}: {str(ended_early(trainer)).rstrip('.')}; to train further, raise "
            "trainer.max_time, or repeat callbacks=[...] with a larger callbacks.early_stopping.patience or "
            "callbacks.timer.duration"
        )
    # A strategy that forks brings these back from the process that trained.
    best = float(trainer.callback_metrics.get("best_distance", float("inf")))
    # Lightning keeps it in float32.
    best = experiment.history.best if math.isclose(best, experiment.history.best, rel_tol=1e-6) else best
    return Result(experiment.metric.name(experiment.module.weights_name), best, floor)


def _best(content: dict[str, Any]) -> float:
    """The smallest finite distance of a run, from its checkpoint."""
    distances = [value for _, value in content["callbacks"]["History"]["distances"]]
    return min((value for value in distances if math.isfinite(value)), default=math.inf)


def provenance(config: dict[str, Any]) -> dict[str, Any]:
    """What the pictures of samples say about what made them."""
    from diffusion_fw import __version__
    from diffusion_fw.provenance import config_hash

    return {
        "generated": True,
        "program": "diffusion_fw train.py",
        "version": __version__,
        "config_sha256": config_hash(config),
        "seed": config["seed"],
    }


RESTORES = "checkpoint_connector.py"
"""Where Lightning restores the state of a run."""


@contextlib.contextmanager
def restoring(checkpoint: Path | None, module: str | None = None) -> Iterator[None]:
    """Turn errors of the block into a ConfigError that names the checkpoint whose state is restored there.

    A damaged or forged state can be wrong in any way, and each part of the run restores its own. With ``module``, only
    errors that pass through this file's code: the rest of the block trains.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        passed = {Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)}
        if checkpoint is None or isinstance(error, ConfigError) or (module and module not in passed):
            raise
        said = " ".join(str(error).split())
        raise ConfigError(
            f"resume={checkpoint}: its state cannot be restored: {type(error).__name__}: {said:.400}"
        ) from error


@contextlib.contextmanager
def errors_of_children() -> Iterator[None]:
    """End this process as its forked children ended.

    A ConfigError or NumericalError, which arrives as the text of its traceback, is raised as one. Where a signal ended
    the children, or their state could not be written, this program exits with their code.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    from diffusion_fw.training.callbacks.health import NumericalError
    from diffusion_fw.training.signals import Interrupted

    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code < 0:
            raise
        raise Interrupted(error.exit_code) from None
    except ProcessRaisedException as error:
        # The last entry of the traceback starts with the name of its class.
        *_, last = re.split(r"^(?=[\w.]+: )", str(error).strip(), flags=re.MULTILINE)
        name, _, message = last.partition(": ")
        kind = {"ConfigError": ConfigError, "NumericalError": NumericalError}.get(name.rpartition(".")[2])
        if kind is None:
            raise
        raise kind(message) from None


def check_sweep(asked: Asked) -> None:
    """Refuse a sweep whose jobs would run the whole command line, and so the sweep, again in each of their processes.

    Raises ConfigError with the strategies that start their processes otherwise.
    """
    from diffusion_fw.composition.checks import processes

    on_cluster = str(asked.choices.get("hydra/launcher")).startswith("submitit")
    if not asked.multirun or on_cluster:
        return
    for config in asked.configs:
        strategy = config["trainer"].get("strategy", "auto")
        if processes(config) > 1 and "_fork" not in strategy:
            raise ConfigError(
                f"trainer.strategy={strategy}: each of its processes would run the whole sweep again; in a sweep use "
                "trainer.strategy=ddp_fork or launcher=submitit_slurm"
            )


def prepare(asked: Asked) -> list[dict[str, Any]]:
    """The configs to run: that of a resumed run is its own. None after explain=true, which prints what would run."""
    check_sweep(asked)
    configs = asked.configs
    if any(config["resume"] for config in configs):
        from diffusion_fw.runs.resume import folder_of, resumed

        configs = [resumed(configs[0], asked)]
        asked.folder = folder_of(configs[0]["resume"])
    if not configs[0]["explain"]:
        return configs
    from diffusion_fw.app.explain import explain

    explain(only(configs), asked)
    return []


def main(plugins: Path | None = None) -> None:
    """The program `python train.py`."""

    def task(config: dict[str, Any], folder: Path) -> Result:
        from diffusion_fw.runs.resume import continued

        return train(continued(config, folder), folder)

    def complete(words: list[str]) -> list[str]:
        if not any(word.startswith("resume=") for word in words):
            return words
        from diffusion_fw.runs.resume import with_data_of_run

        return with_data_of_run(words)

    # The other programs open the checkpoints of strangers, perhaps in a folder that came with one.
    run("train", task, plugins=[plugins, Path("plugins")], complete=complete, prepare=prepare)
