"""One way to look at data, whatever it is: the caller never asks whether it holds images or points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diffusion_fw.data.dataset import to_model, to_pixels
from diffusion_fw.pictures import image_grids, point_clouds
from diffusion_fw.registry import ConfigError


class View(ABC):
    """Pictures of examples as the data holds them, values (N, *shape); each is written to ``path`` and returned."""

    @abstractmethod
    def samples(self, path: Path, values: Tensor) -> Path:
        """Samples (N, *shape)."""

    @abstractmethod
    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        """Real examples (N, *shape) beside samples (M, *shape)."""

    @abstractmethod
    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        """The same samples (S, N, *shape) at S times from noise to data."""


class ImageView(View):
    """Images (C, H, W), uint8 pixels or values in [-1, 1]."""

    def samples(self, path: Path, values: Tensor) -> Path:
        return image_grids.image_grid(path, _pixels(values))

    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        return image_grids.comparison(path, _pixels(real), _pixels(generated), title)

    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        return image_grids.trajectory(path, _pixels(frames), times)


class PointView(View):
    """Points (D,), D >= 2, by their first two coordinates."""

    def samples(self, path: Path, values: Tensor) -> Path:
        return point_clouds.points(path, values)

    def comparison(self, path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
        return point_clouds.points_comparison(path, real, generated, title)

    def trajectory(self, path: Path, frames: Tensor, times: Sequence[float]) -> Path:
        return point_clouds.points_trajectory(path, frames, times)


def view_for(shape: Sequence[int]) -> View:
    """The view of data whose examples have this shape; ConfigError for a shape that no picture shows."""
    match tuple(shape):
        case (_, _, _):
            return ImageView()
        case (dimensions,) if dimensions >= 2:
            return PointView()
    raise ConfigError(
        f"data: no picture shows examples of shape {tuple(shape)}; images are (C, H, W), points (D,) with D >= 2"
    )


def _pixels(values: Tensor) -> Tensor:
    return to_pixels(to_model(values))
