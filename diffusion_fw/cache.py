"""Tensors that are computed once and kept in a file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffusion_fw.files import atomic_write, open_regular

DIGEST = "sha256"
"""The name under which a file holds the hash of its other tensors."""

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


def cached(path: Path, compute: Callable[[], Tensors], check: Callable[[Tensors], None]) -> Tensors:
    """The tensors in ``path``; if there is no such file, or it is damaged, those of ``compute``, which are then kept.

    A file is damaged if its hash is not that of its content, or if ``check`` raises ValueError. Files are replaced
    atomically, so that processes can share the folder. If the file cannot be written, a warning says so.
    """
    try:
        tensors = _read(path)
        check(tensors)
        return tensors
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, SafetensorError, ValueError) as error:
        logger.warning("%s in the cache is damaged (%.200s) and is computed again", path, error)
    tensors = compute()
    try:
        with atomic_write(path) as file:
            file.write(save({**tensors, DIGEST: digest(path.name, tensors)}))
    except OSError as error:
        logger.warning("%s could not be cached: %s", path, error)
    return tensors


def _read(path: Path) -> Tensors:
    with open_regular(path) as file:
        tensors = load(file.read())
    if DIGEST not in tensors or not torch.equal(tensors.pop(DIGEST), digest(path.name, tensors)):
        raise ValueError("its hash is not that of its content")
    return tensors


def digest(name: str, tensors: Tensors) -> Tensor:
    """SHA-256 of the tensors and of what they are called together: the file of another name is no substitute."""
    content = hashlib.sha256(name.encode(errors="replace"))
    for key, value in sorted(tensors.items()):
        content.update(repr((key, value.dtype, tuple(value.shape))).encode())
        content.update(value.numpy().tobytes())
    return torch.tensor(list(content.digest()), dtype=torch.uint8)
