"""Series from files of anyone: numbers of npy, npz and csv files and the samples of wav files, as float32 (C, T)."""

from __future__ import annotations

import csv
import io
import os
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_fw.files import open_regular
from diffusion_fw.npz import read_npz
from diffusion_fw.registry import ConfigError

LARGEST = 1 << 32
"""Bytes of a file, and those to which an npz file may unpack."""


def read_series(path: Path) -> dict[str, Tensor]:
    """The series of a file by their names, each float32 (C, T); several in a file have numbers or names of arrays.

    npy, npz   (T,), (C, T), or (N, C, T) for N series
    csv        a row for each time and a column for each channel; a first row that is no numbers is a heading
    wav        PCM of 8, 16, 24 or 32 bits, in [-1, 1)

    Raises ConfigError, which names the file, for any other content and for values that are not finite.
    """
    try:
        found = READERS[path.suffix.lower()](path)
    except (OSError, EOFError, ValueError, wave.Error, csv.Error) as error:
        raise ConfigError(f"data.path: {path} is not a readable series: {str(error)[:200]}") from None
    series = dict(item for name, values in found.items() for item in _series(path, name, values))
    for name, values in series.items():
        if not bool(values.isfinite().all()):
            raise ConfigError(f"data.path: {name} holds values that are not finite numbers of float32")
    return series


def _series(path: Path, name: str, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The series of one array, (C, T)."""
    named = f"{path.name}:{name}" if name else path.name
    if values.is_complex() or not 1 <= values.ndim <= 3 or not values.numel():
        raise ConfigError(
            f"data.path: {path} holds an array of shape {tuple(values.shape)} and type {str(values.dtype)[6:]}; a "
            "series is real, of shape (T,) or (C, T), and several are (N, C, T)"
        )
    if values.ndim == 3:
        yield from ((f"{named}:{index}", each.float()) for index, each in enumerate(values))
    else:
        yield named, torch.atleast_2d(values).float()


def _npy(path: Path) -> dict[str, Tensor]:
    with open_regular(path) as file:
        _check_size(path, os.fstat(file.fileno()).st_size)
        values = np.load(file, allow_pickle=False)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"its values are of type {values.dtype}, not numbers")
    return {"": torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))}


def _npz(path: Path) -> dict[str, Tensor]:
    return read_npz(str(path), LARGEST)


def _csv(path: Path) -> dict[str, Tensor]:
    with open_regular(path) as file:
        _check_size(path, os.fstat(file.fileno()).st_size)
        rows = [row for row in csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline="")) if row]
    if rows and not _numbers(rows[0]):
        rows = rows[1:]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("its rows don't have the same number of columns, or there are none")
    return {"": torch.tensor([[float(cell) for cell in row] for row in rows], dtype=torch.float64).T}


def _numbers(row: list[str]) -> bool:
    try:
        return bool([float(cell) for cell in row])
    except ValueError:
        return False


def _wav(path: Path) -> dict[str, Tensor]:
    with open_regular(path) as file:
        _check_size(path, os.fstat(file.fileno()).st_size)
        with wave.open(file) as sound:
            width, channels = sound.getsampwidth(), sound.getnchannels()
            content = sound.readframes(sound.getnframes())
    if width == 1:
        values = np.frombuffer(content, np.uint8).astype(np.int32) - 128
    elif width == 3:
        # The three bytes are the upper ones of four.
        parts = np.frombuffer(content, np.uint8).reshape(-1, 3)
        padded = np.concatenate([np.zeros((len(parts), 1), np.uint8), parts], axis=1)
        values = np.ascontiguousarray(padded).view("<i4").reshape(-1) >> 8
    else:
        values = np.frombuffer(content, {2: "<i2", 4: "<i4"}[width])
    scaled = torch.from_numpy(values.astype(np.float64)) / 2 ** (8 * width - 1)
    return {"": scaled.view(-1, channels).T}


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST:
        raise ConfigError(f"data.path: {path} has {size:,} bytes; at most {LARGEST:,} are read")


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".wav": _wav}
