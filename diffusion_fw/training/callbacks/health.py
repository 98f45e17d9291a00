"""Numerical health: detects a bad step on the device before the optimizer takes it, and reports its cause."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from diffusion_fw.registry import ConfigError
from diffusion_fw.training.callbacks.history import log

logger = logging.getLogger(__name__)

LAST_GOOD = "last_good.ckpt"
SHOWN = 5
"""The largest number of examples, and of parameters, that a message lists."""


class NumericalError(ConfigError):
    """A run that was ended by bad values; the message states the step, the examples and the parameters."""


@dataclass(frozen=True)
class Evidence:
    """The values of one optimizer step, kept on the device; they are read only after a bad step."""

    step: int
    names: list[str]
    norms: list[Tensor]
    """The gradient norm of each named parameter."""
    draws: list[tuple[Tensor, Tensor]]
    """Times and losses of this process's examples, one pair per accumulated batch."""
    values: Tensor
    """The mean loss and the gradient norm, over all processes."""
    limits: Tensor
    """Upper limits of these; inf before there is a median."""
    verdict: Tensor
    """Whether the step is bad; being copied to the host."""
    arrived: Callable[[], object]
    """Waits until the verdict has arrived on the host."""


class Health(lightning.Callback):
    """Checks the mean loss and the gradient norm of each optimizer step before the optimizer takes it.

    A step is bad if one of them is not finite or exceeds ``multiples`` times its median over the last ``window`` good
    steps (once half of these exist). A bad step changes neither the weights nor the optimizer's state; the moving
    averages are updated with the unchanged weights. The verdict depends only on values that all processes share, so
    all of them decide alike.

    A fused optimizer gets the verdict as its ``found_inf`` and skips the step on the device. On a GPU the host reads
    the verdict one step later, so that it never waits for the current step; with action=stop all steps after a bad one
    are skipped too. With any other optimizer the verdict is read at once, and the gradients of a bad step are removed.
    Under a loss scaler (16-mixed), overflowing gradients are left to the scaler and do not count as bad; a loss that
    is not finite does.

    ``skipped`` counts the skipped steps, and ``lowered`` how often the rate was lowered.
    """

    def __init__(
        self,
        *,
        folder: Path,
        action: str,
        multiples: tuple[float, float],
        window: int,
        in_a_row: int,
        factor: float,
        most_times: int,
    ) -> None:
        self.folder, self.action, self.multiples = folder, action, multiples
        self.in_a_row, self.factor, self.most_times = in_a_row, factor, most_times
        self.skipped = self.lowered = self._row = self._seen = 0
        self._good = torch.full((2, window), math.inf)
        self._stopped = torch.zeros((), dtype=torch.bool)
        self._pending: deque[Evidence] = deque()

    # ----------------------------------------------------------------------------------------------------------------
    # The verdict
    # ----------------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        device = pl_module.device
        self._parameters = [(name, item) for name, item in pl_module.named_parameters() if item.requires_grad]
        self._good, self._stopped = self._good.to(device), self._stopped.to(device)
        self._multiples = torch.tensor(self.multiples, device=device)
        # A loss scaler itself skips gradients that overflow, and then lowers its scale.
        self._counts = torch.tensor([True, getattr(trainer.precision_plugin, "scaler", None) is None], device=device)

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        named = [(name, item.grad) for name, item in self._parameters if item.grad is not None]
        norms = list(torch._foreach_norm([gradient for _, gradient in named]))
        loss = torch.cat([losses for _, losses in pl_module.draws]).float().mean()
        values = torch.stack([loss, torch.linalg.vector_norm(torch.stack(norms)).float()])
        if trainer.world_size > 1:
            values = trainer.strategy.reduce(values, reduce_op="mean")
        # Not median: on a GPU torch has none that is deterministic.
        medians = self._good.sort(dim=1).values[:, (self._good.shape[1] - 1) // 2]
        limits = torch.where(medians > 0, self._multiples * medians, math.inf)
        finite = values.isfinite()
        bad = torch.where(finite, values > limits, self._counts).any() | self._stopped
        place = self._seen % self._good.shape[1]
        self._good[:, place] = torch.where(bad | ~finite.all(), self._good[:, place], values)
        self._seen += 1
        if self.action == "stop":
            self._stopped = bad
        if _skips_on_device(optimizer):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        elif bool(bad):
            optimizer.zero_grad(set_to_none=True)
        names = [name for name, _ in named]
        step = trainer.global_step + 1
        verdict, arrived = _send_to_host(bad)
        self._pending.append(Evidence(step, names, norms, pl_module.draws, values, limits, verdict, arrived))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A GPU runs behind the host; the verdict of the last step arrives without waiting for the current one.
        self._judge(trainer, pl_module, behind=1 if pl_module.device.type == "cuda" else 0)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._judge(trainer, pl_module, behind=0)

    # ----------------------------------------------------------------------------------------------------------------
    # Its consequences
    # ----------------------------------------------------------------------------------------------------------------

    def _judge(self, trainer: lightning.Trainer, module: Any, behind: int) -> None:
        while len(self._pending) > behind:
            evidence = self._pending.popleft()
            evidence.arrived()
            if not bool(evidence.verdict):
                self._row = 0
                continue
            self.skipped += 1
            self._row += 1
            message = report(trainer, module, evidence)
            if self.action == "stop":
                hint = "To skip such steps, set callbacks.health.action=skip or lower_rate"
                self._stop(trainer, module, f"{message}. {hint}")
            if self._row > self.in_a_row:
                reason = f"It follows callbacks.health.in_a_row={self.in_a_row} other bad steps"
                self._stop(trainer, module, f"{message}. {reason}")
            if self.action == "lower_rate":
                if self.lowered == self.most_times:
                    reason = f"The rate was already lowered callbacks.health.most_times={self.most_times} times"
                    self._stop(trainer, module, f"{message}. {reason}")
                self._lower(trainer)
                rate = self.factor**self.lowered
                message += f". It was skipped, and the learning rate is now {rate:g} times the configured one"
            else:
                message += ". It was skipped"
            if trainer.is_global_zero:
                logger.warning("%s", message)
            log(trainer, {"health/skipped": self.skipped, "health/rate": self.factor**self.lowered}, evidence.step)

    def _lower(self, trainer: lightning.Trainer) -> None:
        """Multiply the rate of every group by the factor, now and for the rest of the schedule."""
        self.lowered += 1
        for config in trainer.lr_scheduler_configs:
            config.scheduler.base_lrs = [rate * self.factor for rate in config.scheduler.base_lrs]  # type: ignore[union-attr]
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            group["lr"] *= self.factor
            group["initial_lr"] *= self.factor

    def _stop(self, trainer: lightning.Trainer, module: Any, message: str) -> None:
        spoiled = not_finite(trainer, module)
        if spoiled:
            raise NumericalError(
                f"{message}. The state itself is not finite ({listed(spoiled)}); resume from an older checkpoint in "
                f"{self.folder}"
            )
        path = self.folder / LAST_GOOD
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            raise NumericalError(f"{message}. The state before that step could not be written: {error}") from None
        raise NumericalError(f"{message}. The state before that step is kept in {path}")

    # ----------------------------------------------------------------------------------------------------------------
    # The state of a resumed run
    # ----------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "good": self._good.cpu(),
            "seen": self._seen,
            "skipped": self.skipped,
            "lowered": self.lowered,
            "row": self._row,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["good"].shape == self._good.shape:  # another window starts empty
            self._good, self._seen = state_dict["good"], state_dict["seen"]
        self.skipped, self.lowered, self._row = state_dict["skipped"], state_dict["lowered"], state_dict["row"]


def _send_to_host(flag: Tensor) -> tuple[Tensor, Callable[[], object]]:
    """The flag in the host's memory, and a function to call before it is read."""
    if flag.device.type != "cuda":
        return flag, lambda: None
    copy, event = flag.to("cpu", non_blocking=True), torch.cuda.Event()
    event.record()
    return copy, event.synchronize


def _skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer is one of torch's fused ones, which skip a step if their attribute ``found_inf`` is 1."""
    return all(group.get("fused") for group in optimizer.param_groups)


def not_finite(trainer: lightning.Trainer, module: Any) -> list[str]:
    """The names of the weights, averages and optimizer states that are not finite."""
    state = dict(module.state_dict())
    for number, optimizer in enumerate(trainer.optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            state.update({f"optimizer {number}, parameter {index}, {key}": value for key, value in values.items()})
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return [name for name, value in tensors.items() if not bool(value.isfinite().all())]


def listed(items: list[str]) -> str:
    """The first SHOWN items, and the number of all."""
    return ", ".join(items[:SHOWN]) + (f", ... ({len(items)} in all)" if len(items) > SHOWN else "")


def report(trainer: lightning.Trainer, module: Any, evidence: Evidence) -> str:
    """A message: the step, the bad values, the examples with their t and log-SNR, the parameters.

    Every process must call it, as the examples of all of them are gathered.
    """
    loss, norm = evidence.values.tolist()
    limits = evidence.limits.tolist()
    found = [
        f"its {name} {value:.4g} is " + (f"above {limit:.4g}" if math.isfinite(value) else "not finite")
        for name, value, limit in zip(("loss", "gradient norm"), (loss, norm), limits, strict=True)
        if not value <= limit or math.isinf(value)
    ]
    parts = [f"step {evidence.step} is bad: {' and '.join(found)}", examples(trainer, module, evidence)]
    sizes = torch.stack(evidence.norms).double().cpu()
    broken = [name for name, size in zip(evidence.names, sizes.tolist(), strict=True) if not math.isfinite(size)]
    if broken:
        parts.append(f"gradients not finite: {listed(broken)}")
    elif not norm <= limits[1]:
        largest = [evidence.names[index] for index in sizes.argsort(descending=True)[:SHOWN].tolist()]
        parts.append(f"largest gradients: {', '.join(largest)}")
    return "; ".join(parts)


def examples(trainer: lightning.Trainer, module: Any, evidence: Evidence) -> str:
    """The examples whose loss is not finite, else those of the largest losses: index, position, t, log-SNR, loss."""
    device = module.device
    mine = torch.stack([torch.stack([t.to(device), losses.double()]) for t, losses in evidence.draws])
    everywhere = trainer.strategy.all_gather(mine).reshape(-1, *mine.shape)
    # Row j of process r is row j world_size + r of the global batch.
    times, losses = everywhere.permute(2, 1, 3, 0).flatten(1).cpu()
    broken = (~losses.isfinite()).nonzero().flatten()
    title = "examples whose loss is not finite" if len(broken) else "examples of the largest losses"
    chosen = (broken if len(broken) else losses.argsort(descending=True))[:SHOWN].tolist()
    indices, first = module.batch_of_step(evidence.step)
    log_snr = module.denoiser.schedule(times).log_snr
    lines = [
        f"{indices[row]} (position {first + row} of the stream): t={times[row]:.6g}, log-SNR={log_snr[row]:.4g}, "
        f"loss={losses[row]:.4g}"
        for row in chosen
    ]
    count = f" ({len(broken)} of {len(losses)})" if len(broken) else ""
    return f"{title}{count}: {'; '.join(lines)}"
