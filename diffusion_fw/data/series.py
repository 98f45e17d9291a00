"""Windows of series from files: sound, measurements, or any numbers over time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, InMemory
from diffusion_fw.data.formats.series_files import READERS, read_series
from diffusion_fw.data.split import held_out_by_hash, uniform_hash
from diffusion_fw.files import with_home
from diffusion_fw.registry import ConfigError, PositiveInt, Range, register


@register("data", "series")
@dataclass(frozen=True)
class Series(Data):
    """Windows (C, length) of the series in a file, or in the files of a folder, at ``path``: npy, npz, csv or wav.

    An array of an npy or npz file is a series (T,) or (C, T), or N series (N, C, T). A csv file has a row for each time
    and a column for each channel. wav files are read as PCM in [-1, 1).

    Windows begin every ``stride`` values (by default ``length``, so that they don't overlap); what is left at the end
    is not used. Of several series, ``test_fraction`` are held out as a whole, by a hash of their names. Of a single one
    the end is held out. So no value is in both splits. With ``standardize`` the model sees (x - m) / s, with the mean m
    and the deviation s of each channel in the training series; the line about the data says them.

    Raises ConfigError for a path without series, for series of different numbers of channels, and for splits without a
    window.
    """

    path: str
    length: Annotated[int, Range(2, 1 << 20)] = 128
    stride: PositiveInt | None = None
    test_fraction: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.1
    standardize: bool = True

    default_features: ClassVar[str] = "spectra"
    value_range: ClassVar[tuple[float, float] | None] = None
    places: ClassVar[tuple[str, ...]] = ("path",)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(next(iter(self.series.values()))), self.length)

    @functools.cached_property
    def series(self) -> Mapping[str, Tensor]:
        """Every series (C, T) by its name, which is relative to ``path``."""
        place = with_home(self.path)
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.suffix.lower() in READERS and file.is_file())
        else:
            files = [place]
        kinds = ", ".join(kind.removeprefix(".") for kind in READERS)
        if not place.exists() or (place.is_file() and place.suffix.lower() not in READERS) or not files:
            raise ConfigError(f"data.path={self.path}: is no file of the kinds {kinds}, nor a folder that holds some")
        found: dict[str, Tensor] = {}
        for file in files:
            folder = file.parent.relative_to(place) if place.is_dir() else Path()
            found |= {str(folder / name): values for name, values in read_series(file).items()}
        channels = {len(values): name for name, values in found.items()}
        if len(channels) > 1:
            said = ", ".join(f"{name} has {count}" for count, name in sorted(channels.items())[:3])
            raise ConfigError(f"data.path={self.path}: series must have the same number of channels, but {said}")
        return found

    @functools.cached_property
    def parts(self) -> Mapping[str, list[Tensor]]:
        """The series, or the part of the single one, of each split."""
        names = list(self.series)
        if len(names) == 1:
            (whole,) = self.series.values()
            border = whole.shape[1] - round(self.test_fraction * whole.shape[1])
            return {"train": [whole[:, :border]], "test": [whole[:, border:]]}
        hashes = torch.tensor([uniform_hash(PurePosixPath(name)) for name in names], dtype=torch.float64)
        held = held_out_by_hash(hashes, torch.zeros(len(names), dtype=torch.int64), self.test_fraction).tolist()
        return {
            split: [self.series[name] for name, out in zip(names, held, strict=True) if out == (split == "test")]
            for split in ("train", "test")
        }

    @property
    def division(self) -> str:
        whole = f"{self.test_fraction:g} of {len(self.series)} series held out by a hash of the name"
        text = f"the last {self.test_fraction:g} held out" if len(self.series) == 1 else whole
        if not self.standardize:
            return text
        means, deviations = (", ".join(f"{float(item):.4g}" for item in each) for each in self._scale)
        return f"{text}; (x - m) / s with m = {means} and s = {deviations}"

    def load(self, split: str) -> InMemory:
        stride = self.stride or self.length
        means, deviations = self._scale
        windows = [
            part.unfold(1, self.length, stride).transpose(0, 1)
            for part in self.parts[split]
            if part.shape[1] >= self.length
        ]
        if not windows:
            longest = max(part.shape[1] for part in self.parts[split])
            kind = "training" if split == "train" else "held-out"
            raise ConfigError(
                f"data.length={self.length}: the {kind} series of {self.path} have at most {longest} values; choose "
                "a smaller data.length, or another data.test_fraction"
            )
        return InMemory((torch.cat(windows) - means[:, None]) / deviations[:, None])

    @functools.cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        """The mean and the deviation of each channel of the training series; 0 and 1 without standardize."""
        values = torch.cat(self.parts["train"], dim=1).double()
        means, deviations = torch.zeros(len(values)), torch.ones(len(values))
        if self.standardize:
            means, deviations = values.mean(1).float(), values.std(1, correction=0).float()
        # A constant channel stays as it is.
        return means, torch.where(deviations > 0, deviations, 1.0)
