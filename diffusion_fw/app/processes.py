"""Several processes that share the work of sample.py and evaluate.py, as `torchrun` starts them."""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from diffusion_fw.sampling.share import rank

WAIT = datetime.timedelta(hours=6)
"""How long a process waits for the others, which may have slower devices."""


FOLDER = ("hydra.run.dir=", "resume=", "-m", "--multirun", "-h", "--help")
"""How an argument begins that names the folder of the run, or asks for something else than a run."""


def in_one_folder(arguments: list[str]) -> list[str]:
    """The arguments, with one folder for all processes that `torchrun` started: its default name is the time."""
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not shared or any(argument.startswith(FOLDER) for argument in arguments):
        return arguments
    # The store of torchrun itself, as Lightning connects the processes in its own way.
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
    key = f"diffusion_fw/folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if os.environ.get("RANK", "0") == "0":
        # As in conf/folders.yaml.
        store.set(key, time.strftime("outputs/%Y-%m-%d/%H-%M-%S"))
    return [*arguments, f"hydra.run.dir={store.get(key).decode()}"]


@contextlib.contextmanager
def folder_of_process(folder: Path) -> Iterator[Path]:
    """The folder of the run in the first process; in the others one that is removed, since the first writes."""
    if rank() == 0:
        yield folder
        return
    with tempfile.TemporaryDirectory() as other:
        yield Path(other)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Connect the processes that `torchrun` started, each with the GPU of its number; nothing for a single one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or torch.distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.distributed.init_process_group("gloo", timeout=WAIT)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
