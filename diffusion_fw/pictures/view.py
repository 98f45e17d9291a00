"""One interface to draw examples of any kind, images or points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusion_fw.data.dataset import to_pixels
from diffusion_fw.pictures import image_grids, point_clouds
from diffusion_fw.provenance import Record, stamp
from diffusion_fw.registry import ConfigError

MOST_COLUMNS = 16
"""A grid of images has a column for each of so many classes; of more, each image has its class below."""


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
        case (_, _, _):
            return ImageView(bounds)
        case (dimensions,) if dimensions >= 2:
            return PointView()
    raise ConfigError(
        f"data: examples of shape {tuple(shape)} cannot be drawn; images are (C, H, W), points (D,) with D >= 2"
    )
