"""The LightningModule: a training step of any combination of components, and moving averages of the network."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from diffusion_fw.conditions.conditioner import Conditioner
from diffusion_fw.data.dataset import Batch, Examples, resident, to_model
from diffusion_fw.denoiser import NetworkClassifier, NetworkDenoiser
from diffusion_fw.noise import batch_noise, generator
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.time_sampler import TimeSampler
from diffusion_fw.training.archive import RECORD_KEY
from diffusion_fw.training.augmentation import Augmentation
from diffusion_fw.training.ema import Averages, Weights
from diffusion_fw.training.stream import ResidentLoader, ShuffledBatches

FREE_FRACTION = 0.25
"""The fraction of a GPU's free memory that examples may take there."""
TIME_STREAM, NOISE_STREAM, GLOBAL_STREAM, AUGMENTATION_STREAM, CONDITION_STREAM = range(5)
UNTOLD = Conditioner()


class DiffusionModule(lightning.LightningModule):
    """Trains ``denoiser`` and keeps ``averaged``, the same denoiser with the first moving average of its weights.

    Further averages are in ``further``. Without averages, ``averaged`` is ``denoiser`` itself.

    All randomness of a step is a function of (seed, step, process), so that a resumed run equals one that was never
    stopped. ``record`` is what every checkpoint says of itself: the resolved config, facts of the data, plugins.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser | NetworkClassifier,
        objective: Objective,
        time_sampler: TimeSampler,
        averages: Averages,
        *,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        lr_schedule: Callable[[int], float],
        examples: Examples,
        batch_size: int,
        seed: int,
        conditioner: Conditioner = UNTOLD,
        label_dropout: float = 0.0,
        num_workers: int = 0,
        augmentations: Sequence[Augmentation] = (),
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser: Any = denoiser
        copies = [copy.deepcopy(denoiser).requires_grad_(False).eval() for _ in averages.tracks]
        if copies:
            self.averaged = copies[0]
        else:
            # Not registered as a submodule, so that a checkpoint holds the weights once.
            self.__dict__["averaged"] = denoiser
        self.further = torch.nn.ModuleList(copies[1:])
        self.objective, self.time_sampler, self.averages = objective, time_sampler, averages
        self.optimizer_factory, self.lr_schedule = optimizer, lr_schedule
        self.examples, self.batch_size, self.seed, self.num_workers = examples, batch_size, seed, num_workers
        self.conditioner, self.label_dropout = conditioner, label_dropout
        self.augmentations = augmentations
        self.record = record or {}
        self.gradient_norm = torch.zeros(())
        self.draws: list[tuple[Tensor, Tensor]] = []
        self.noise = torch.empty(0)
        self.ends_with_step = False
        self.optimizer: Any = None
        self.learns_times = type(time_sampler).update is not TimeSampler.update
        # Dropout and some objectives draw from the global generator, which is then seeded at every step.
        dropout = any(getattr(layer, "p", 0) > 0 for layer in denoiser.modules() if _is_dropout(layer))
        self.draws_globally = dropout or objective.draws

    @functools.cached_property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters of the network, and of the objective if it has any."""
        return [item for item in self.parameters() if item.requires_grad]

    @functools.cached_property
    def resident(self) -> Examples | None:
        """The examples in the memory of the training device; None where they are read batch by batch."""
        if self.num_workers:
            return None
        device = self.trainer.strategy.root_device
        most = FREE_FRACTION * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
        return resident(self.examples, device, most)

    @property
    def loading(self) -> str:
        """Where the examples are read from, for a person."""
        device = self.trainer.strategy.root_device
        if self.resident is not None:
            return f"examples are held in the memory of {device}"
        reader = f"{self.num_workers} worker processes" if self.num_workers else "the training process"
        return f"examples are read batch by batch by {reader}"

    def configure_optimizers(self) -> Any:
        self.optimizer = optimizer = self.optimizer_factory(self.trained)
        # Otherwise a fused optimizer would get gradients that were clipped before they were unscaled.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        # A lambda, as the state of an object would be saved and bring back the old max_steps when a run is extended.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_schedule(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def repeated_batches(self) -> int:
        """The number of batches that the run repeats; 0 for none, all of its stream."""
        return int(self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def train_dataloader(self) -> Any:
        accumulate = self.trainer.accumulate_grad_batches
        batches = ShuffledBatches(
            len(self.examples),
            self.batch_size // accumulate,
            self.seed,
            start=self.trainer.global_step * accumulate,
            stop=self.trainer.max_steps * accumulate,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            repeat=self.repeated_batches * accumulate,
        )
        if self.resident is not None:
            return ResidentLoader(self.resident, batches, self.device)
        return torch.utils.data.DataLoader(
            self.examples,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=_unchanged,  # type: ignore[arg-type]
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def val_dataloader(self) -> Any:
        """One batch, as Lightning needs one: what an evaluation takes is the callbacks' own."""
        batches: Any = [self.examples.__getitems__([0])]
        return torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=_unchanged)  # type: ignore[arg-type]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Do nothing: the callbacks that evaluate do so before this step."""

    def on_validation_model_eval(self) -> None:
        # What evaluates are the averaged weights; Lightning restores the mode.
        self.averaged.eval()

    def batch_of_step(self, step: int) -> tuple[list[int], int]:
        """The indices of the examples of optimizer step ``step`` = 1, 2, ..., and their position in the stream."""
        places = {"start": step - 1, "stop": step, "repeat": self.repeated_batches}
        batches = ShuffledBatches(len(self.examples), self.batch_size, self.seed, **places)
        return next(iter(batches)), (step - 1) * self.batch_size

    def kept(self, count: int, source: torch.Generator, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Which of ``count`` examples are told something, and which are told each condition; bool, of these rows."""
        keep = (torch.rand(count, generator=source) >= self.label_dropout)[rows]
        dropouts = self.conditioner.dropouts().items()
        return keep, {name: (torch.rand(count, generator=source) >= dropout)[rows] for name, dropout in dropouts}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        values, told = batch
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        accumulate = self.trainer.accumulate_grad_batches
        step, part = self.trainer.global_step, batch_idx % accumulate
        x0 = to_model(values)
        # Drawn for the whole batch of the optimizer step, so that it does not depend on how the batch is divided among
        # accumulated parts and processes.
        source = generator(self.seed, TIME_STREAM, step)
        count = len(x0) * world_size
        mine = slice(part * count + rank, (part + 1) * count, world_size)
        t = self.time_sampler(accumulate * count, self.denoiser.schedule, source)[mine]
        keep, each = self.kept(accumulate * count, source, mine)
        if part == 0:
            whole = x0.new_empty((accumulate * len(x0), *x0.shape[1:]))
            self.noise = batch_noise(whole, (self.seed, NOISE_STREAM, step), rank, world_size)
        own = slice(part * len(x0), (part + 1) * len(x0))
        eps = self.noise[own]

        def draw(like: Tensor, number: int, stream: int = AUGMENTATION_STREAM) -> Tensor:
            whole = like.new_empty((accumulate * len(like), *like.shape[1:]))
            return batch_noise(whole, (self.seed, stream, step, number), rank, world_size)[own]

        x0, denoiser = self.augmented(x0, draw)
        numbers = itertools.count()
        cond = self.conditioner.cond(x0, told, keep, each, lambda like: draw(like, next(numbers), CONDITION_STREAM))
        if self.draws_globally:
            torch.manual_seed(generator(self.seed, GLOBAL_STREAM, step * accumulate + part, rank).initial_seed())
        level = self.denoiser.schedule(t)
        loss = self.objective(denoiser, x0, level, eps, cond)
        weighted = loss * self.time_sampler.weight(t).to(device=loss.device, dtype=loss.dtype, non_blocking=True)
        if part == 0:
            self.draws = []
        self.draws.append((t, loss.detach()))
        if self.learns_times and part == accumulate - 1:
            self._learn_times(*map(torch.cat, zip(*self.draws, strict=True)))
        return {"loss": weighted.mean(), "losses": loss.detach()}

    def augmented(self, x0: Tensor, draw: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Any]:
        """The augmented examples, and the denoiser that knows how. ``draw(like, i)`` is the noise of the i-th draw."""
        numbers = itertools.count()
        told = []
        for augmentation in self.augmentations:
            x0, labels = augmentation(x0, lambda like: draw(like, next(numbers)))
            told.append(labels)
        labels = torch.cat(told, dim=1) if told else x0.new_zeros(len(x0), 0)
        return x0, self.denoiser.augmented(labels) if labels.shape[1] else self.denoiser

    def _learn_times(self, t: Tensor, losses: Tensor) -> None:
        """Pass the losses of all processes to the time sampler, without those that are not finite."""
        mine = torch.stack([t.to(device=self.device, dtype=torch.float32, non_blocking=True), losses.float()], dim=1)
        everywhere = self.trainer.strategy.all_gather(mine).reshape(-1, len(mine), 2)
        everywhere = everywhere.transpose(0, 1).reshape(-1, 2).double().cpu()  # in the order of the global batch
        everywhere = everywhere[everywhere[:, 1].isfinite()]
        self.time_sampler.update(everywhere[:, 0], everywhere[:, 1])

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        limit = gradient_clip_val or float("inf")
        if gradient_clip_algorithm != "value":
            self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.trained, limit)
            return
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        self.gradient_norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grad_value_(self.trained, limit)

    def on_train_start(self) -> None:
        # A move to another device replaces buffers, and the process may be another.
        for looked_up in ("_weights", "resident"):
            self.__dict__.pop(looked_up, None)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.trainer.should_stop |= self.ends_with_step

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # A run that is to stop takes the rest of its step first: the next one would begin with what is left.
        self.ends_with_step = self.trainer.should_stop and (batch_idx + 1) % self.trainer.accumulate_grad_batches > 0
        if self.ends_with_step:
            self.trainer.should_stop = False

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Lightning counts this step after the hook has returned.
        self.update_averages(self.trainer.global_step + 1)

    def update_averages(self, step: int) -> None:
        """Update every average after optimizer step ``step`` = 1, 2, ..."""
        trained, averages = self._weights
        for averaged, track in zip(averages, self.averages.tracks, strict=True):
            track.update(averaged, trained, step, self.optimizer)

    @functools.cached_property
    def _weights(self) -> tuple[Weights, list[Weights]]:
        """The tensors of the trained network and of each average, on the device."""
        return Weights.of(self.denoiser), [Weights.of(averaged) for _, averaged in self.tracks()]

    def tracks(self) -> list[tuple[str, torch.nn.Module]]:
        """The averaged networks, each with the prefix of its weights in a checkpoint."""
        further = [(f"further.{index}.", item) for index, item in enumerate(self.further)]
        return [("averaged.", self.averaged), *further] if self.averages.tracks else []

    @property
    def weights_name(self) -> str:
        """The weights that samples are drawn with, as the names of metrics call them."""
        return self.averages.weights_name

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        lengths = {prefix: track.length for (prefix, _), track in zip(self.tracks(), self.averages.tracks, strict=True)}
        own = {"time_sampler": self.time_sampler.state_dict(), "averages": lengths}
        checkpoint[RECORD_KEY] = {**self.record, **own}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.time_sampler.load_state_dict(checkpoint[RECORD_KEY]["time_sampler"])


def _is_dropout(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.modules.dropout._DropoutNd)


def _unchanged(batch: Batch) -> Batch:
    return batch
