"""One interface to draw examples of any kind: images, videos, series or points."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusion_fw.data.dataset import to_pixels
from diffusion_fw.pictures import image_grids, point_clouds, waveforms
from diffusion_fw.provenance import Record, stamp
from diffusion_fw.registry import ConfigError

MOST_COLUMNS = 16
"""A grid of images has a column for each of so many classes; of more, each image has its class below."""
CLIPS, FRAMES = 8, 10
"""The most clips of a picture, and the most frames of each; of longer ones these are evenly spaced."""
MIDDLE = "the middle frame of each clip"


class View(ABC):
    """Draws examples (N, *shape) as the data set holds them; each picture is written to ``path``, which is returned."""

    @abstractmethod
    def samples(self, path: Path, values: Tensor, classes: Sequence[str] = (), title: str | None = None) -> Path:
        """Samples (N, *shape), with the name of the class of each if they have some, and a title."""

    @abstractmethod
    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        """Real examples (N, *shape) beside samples (M, *shape)."""

    @abstractmethod
    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
        """The same samples (S, N, *shape) at S times from noise to data, and the x_0 that is predicted from each."""

    @abstractmethod
    def animation(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        """The same as a GIF."""

    def strip(self, path: Path, pictures: Mapping[str, Path]) -> Path:
        """Pictures of this view side by side, each with its name above."""
        return image_grids.strip(path, pictures)

    @abstractmethod
    def table(self, path: Path, values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Path:
        """Examples (R, C, *shape) with a title for each row and each column."""


@dataclass(frozen=True)
class ImageView(View):
    """Images (C, H, W): uint8 pixels, or floats whose ``bounds`` are drawn black and white."""

    bounds: tuple[float, float]

    def samples(self, path: Path, values: Tensor, classes: Sequence[str] = (), title: str | None = None) -> Path:
        if 2 <= len(set(classes)) <= MOST_COLUMNS:
            return image_grids.class_grid(path, self._pixels(values), classes, title)
        return image_grids.image_grid(path, self._pixels(values), labels=classes, title=title)

    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        return image_grids.comparison(path, self._pixels(real), self._pixels(generated), title)

    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
        predicted = None if predictions is None else self._pixels(predictions)
        return image_grids.trajectory(path, self._pixels(frames), times, predicted)

    def animation(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        return image_grids.animation(path, self._pixels(frames), times)

    def table(self, path: Path, values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Path:
        return image_grids.table(path, self._pixels(values), rows, columns)

    def _pixels(self, values: Tensor) -> Tensor:
        if values.dtype == torch.uint8:
            return values
        low, high = self.bounds
        return to_pixels(2 * (values.float() - low) / ((high - low) or 1.0) - 1)


class ClipView(ImageView):
    """Videos (C, T, H, W), as pixels or floats like images: stills, and beside each one a GIF of its name that plays.

    Samples are shown as rows of frames from left to right. Where a page has other axes, it shows middle frames.
    """

    def samples(self, path: Path, values: Tensor, classes: Sequence[str] = (), title: str | None = None) -> Path:
        clips = self._pixels(values)
        side = max(1, math.isqrt(min(len(clips), MOST_COLUMNS**2)))
        image_grids.moving_table(path.with_suffix(".gif"), clips[: side**2].unflatten(0, (side, -1)), (), ())
        return self._rows(path, clips[:CLIPS], classes[:CLIPS], title)

    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        pair = [self._pixels(values) for values in (real, generated)]
        side = max(1, math.isqrt(min(len(clips) for clips in pair)))
        columns = min(side, CLIPS // 2)
        rows = min(side, CLIPS)
        shown = torch.cat([clips[: rows * columns].unflatten(0, (rows, columns)) for clips in pair], dim=1)
        names = [name for kind in ("Real", "Generated") for name in (kind, *[""] * (columns - 1))]
        image_grids.moving_table(path.with_suffix(".gif"), shown, (), names)
        few = [clips[: CLIPS // 2] for clips in pair]
        kinds = ["Real"] * len(few[0]) + ["Generated"] * len(few[1])
        return self._rows(path, torch.cat(few), kinds, title)

    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
        kinds = {"x_t": frames} | ({} if predictions is None else {"x_0": predictions})
        clips = torch.stack([self._pixels(values).transpose(0, 1) for values in kinds.values()], dim=1).flatten(0, 1)
        names, columns = [*kinds] * frames.shape[1], [f"t = {time:.2f}" for time in times]
        return self._middles(path, clips, names, columns, f"From noise to data, {MIDDLE}")

    def animation(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        middles = self._pixels(frames).select(3, frames.shape[3] // 2)
        return image_grids.animation(path, middles, times)

    def table(self, path: Path, values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Path:
        return self._middles(path, self._pixels(values), rows, columns, MIDDLE.capitalize())

    def _rows(self, path: Path, clips: Tensor, names: Sequence[str], title: str | None) -> Path:
        """uint8 clips (N, C, T, H, W), a row of frames for each."""
        length = clips.shape[2]
        shown = torch.linspace(0, length - 1, min(length, FRAMES)).round().long()
        columns = [f"frame {1 + index}" for index in shown.tolist()]
        return image_grids.table(path, clips[:, :, shown].transpose(1, 2), names, columns, title)

    def _middles(self, path: Path, clips: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> Path:
        """The middle frames of uint8 clips (R, C, C', T, H, W) in a table, and a GIF that plays all of it."""
        image_grids.moving_table(path.with_suffix(".gif"), clips, rows, columns)
        return image_grids.table(path, clips.select(3, clips.shape[3] // 2), rows, columns, title)


@dataclass(frozen=True)
class SeriesView(View):
    """Series (C, L) as lines, whose cells have the ``bounds`` as their lower and upper edges."""

    bounds: tuple[float, float]

    def samples(self, path: Path, values: Tensor, classes: Sequence[str] = (), title: str | None = None) -> Path:
        return waveforms.series(path, values, self.bounds, classes, title)

    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        return waveforms.series_comparison(path, real, generated, self.bounds, title)

    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
        return waveforms.series_trajectory(path, frames, times, self.bounds, predictions)

    def animation(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        return waveforms.series_animation(path, frames, times, self.bounds)

    def table(self, path: Path, values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Path:
        return waveforms.series_table(path, values, rows, columns, self.bounds)


class PointView(View):
    """Points (D,), D >= 2, by their first two coordinates."""

    def samples(self, path: Path, values: Tensor, classes: Sequence[str] = (), title: str | None = None) -> Path:
        return point_clouds.points(path, values, classes=classes, **({"title": title} if title else {}))

    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        return point_clouds.points_comparison(path, real, generated, title)

    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
        return point_clouds.points_trajectory(path, frames, times, predictions)

    def animation(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        return point_clouds.points_animation(path, frames, times)

    def table(self, path: Path, values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Path:
        return point_clouds.points_table(path, values, columns)


@dataclass(frozen=True)
class Stamped(View):
    """A view whose pictures say what made them; an animation, which is no PNG, does not."""

    view: View
    record: Record

    def samples(self, path: Path, values: Tensor, classes: Sequence[str] = (), title: str | None = None) -> Path:
        return stamp(self.view.samples(path, values, classes, title), self.record)

    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        return stamp(self.view.comparison(path, real, generated, title), self.record)

    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
        return stamp(self.view.trajectory(path, frames, times, predictions), self.record)

    def animation(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        return self.view.animation(path, frames, times)

    def strip(self, path: Path, pictures: Mapping[str, Path]) -> Path:
        return stamp(self.view.strip(path, pictures), self.record)

    def table(self, path: Path, values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Path:
        return stamp(self.view.table(path, values, rows, columns), self.record)


def view_for(shape: Sequence[int], bounds: tuple[float, float]) -> View:
    """The view of examples of this shape whose values lie within ``bounds``.

    Raises ConfigError for a shape that cannot be drawn.
    """
    match tuple(shape):
        case (_, _, _, _):
            return ClipView(bounds)
        case (_, _, _):
            return ImageView(bounds)
        case (_, length) if length >= 2:
            return SeriesView(bounds)
        case (dimensions,) if dimensions >= 2:
            return PointView()
    raise ConfigError(
        f"data: examples of shape {tuple(shape)} cannot be drawn; images are (C, H, W), videos (C, T, H, W), "
        "series (C, L) with L >= 2, points (D,) with D >= 2"
    )
