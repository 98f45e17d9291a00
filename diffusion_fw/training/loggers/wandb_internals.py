"""What wandb itself would do, from interfaces that it does not promise to keep; nothing else here uses such ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.lib import wbauth

READ_IN = "0.31"
"""The version of wandb in which these interfaces were read."""


def settings() -> Any:
    """The settings of a new run, from the files of settings and the environment; no service is started.

    wandb's own are those of the first time that they were read in this process.
    """
    found: Any = wandb.Settings(silent=True)
    folder = os.environ.get("WANDB_CONFIG_DIR")
    found.settings_system = os.fspath(Path(folder or "~/.config/wandb").expanduser() / "settings")
    found.update_from_system_settings()
    found.update_from_env_vars(dict(os.environ))
    return found


def has_credentials(host: str) -> bool:
    """Whether wandb would find a key or an identity token for a host. It is not asked for one, nor is the host.

    Raises wandb.errors.AuthenticationError for a key that can be none.
    """
    found = wbauth.authenticate_session(host=host, source="diffusion_fw", prompt=False, update_session=False)
    return found is not None


def unlock(config: Any, keys: Iterable[str]) -> None:
    """Let the run's own values take the place of those that a sweep of W&B chose, under these keys of its config.

    The sweep chose a group by a name, and locks it; the config has a whole section there.
    """
    for key in keys:
        config._locked.pop(key, None)
