"""Weights & Biases."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from diffusion_fw.registry import ConfigError, Runtime, register


@register("logger", "wandb")
def wandb(
    folder: Runtime[Path],
    mode: Literal["auto", "offline", "online"] = "auto",
    project: str = "diffusion_fw",
    entity: str | None = None,
    run_name: str | None = None,
    group: str | None = None,
    tags: list[str] = [],  # noqa: B006 - the default is read, never changed
) -> Any:
    """Log to W&B: online if a key is known (auto) or asked for, else offline; never prompts."""
    import wandb as client
    from lightning.pytorch.loggers import WandbLogger
    from lightning.pytorch.loggers.logger import rank_zero_experiment
    from lightning.pytorch.utilities import rank_zero_only

    from diffusion_fw.training.outages import tell

    known = _has_key()
    if mode == "online" and not known:
        raise ConfigError("mode=online needs a key: run `wandb login`, set WANDB_API_KEY, or use mode=offline")

    class Logger(WandbLogger):
        def log_picture(self, name: str, path: Path, step: int) -> None:
            self.log_image(name, [str(path)], step=step)

        def state(self) -> dict[str, Any]:
            return {"run_id": self.version}

        def resume(self, step: int, state: dict[str, Any]) -> None:
            """Go on in the same W&B run."""
            self._wandb_init.update(id=state.get("run_id"), resume="allow")

        @property
        @rank_zero_experiment
        def experiment(self) -> Any:
            """The run of W&B; one on this machine alone where the server does not answer."""
            try:
                return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
            except client.errors.Error as error:
                self._offline = True
                self._wandb_init["mode"] = "offline"
                run = WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
                kept = Path(run.dir).parent
                tell("W&B's server", error, f"this run is kept on the disk alone; `wandb sync {kept}` sends it later")
                return run

        @rank_zero_only
        def finalize(self, status: str) -> None:
            super().finalize(status)
            # A run left open would take in what the next job of a sweep logs.
            client.finish(exit_code=0 if status == "success" else 1)

    return Logger(
        name=run_name,
        project=project,
        entity=entity,
        group=group,
        tags=list(tags),
        save_dir=folder,
        offline=mode == "offline" or not known,
        settings=client.Settings(silent=True, init_timeout=60),
    )


def _has_key() -> bool:
    """Whether a key is in the environment or was stored by `wandb login`: looked up, never asked for."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
