"""Which settings of Hydra a run can take: none by which Hydra writes into the folder before the run has locked it.

Hydra makes a job's folder, opens its log, saves its config and calls its callbacks before the program is called.
Another run may have the folder then.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_fw.registry import ConfigError

TOO_EARLY = "Hydra would write into the folder before the run has locked it, even if another run is using it"


def check_hydra(node: DictConfig) -> None:
    """ConfigError for a setting in the node ``hydra`` of a config by which Hydra writes too early or cannot start."""
    hydra: Any = OmegaConf.to_container(node, resolve=False)
    if hydra["output_subdir"] is not None:
        raise ConfigError(
            f"hydra.output_subdir={hydra['output_subdir']}: {TOO_EARLY}; leave it out; each run writes .hydra/ itself"
        )
    for logs in ("job_logging", "hydra_logging"):
        for name, handler in ((hydra[logs] or {}).get("handlers") or {}).items():
            if isinstance(handler, dict) and "filename" in handler:
                raise ConfigError(
                    f"hydra.{logs}.handlers.{name} has a file: {TOO_EARLY}; choose hydra/{logs}=stdout, as each run "
                    "writes its log itself"
                )
    for name in hydra["callbacks"]:
        raise ConfigError(
            f"hydra.callbacks.{name}: {TOO_EARLY}; remove it. What runs during training is chosen by callbacks=..."
        )
    for part, group in (("launcher", "launcher"), ("sweeper", "sweep")):
        if hydra[part] is None:
            raise ConfigError(f"hydra.{part}=null: a sweep needs one; leave it out, or choose {group}=...")
    size = hydra["sweeper"].get("max_batch_size")
    if size is not None and size < 1:
        raise ConfigError(f"hydra.sweeper.max_batch_size={size}: must be at least 1, or null for all jobs at once")
    if "BasicSweeper" in str(hydra["sweeper"].get("_target_")):
        raise ConfigError(
            f"hydra/sweeper=basic: {TOO_EARLY}; leave it out or give sweep=basic, which runs every combination too"
        )
