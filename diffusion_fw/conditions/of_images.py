"""What conditions that are made of images have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.condition import Told
from diffusion_fw.conditions.source import Asked, Kind, Source, Table
from diffusion_fw.data.dataset import Data, to_model
from diffusion_fw.data.formats import given_images
from diffusion_fw.denoiser import Noise
from diffusion_fw.registry import ConfigError, section_of


@dataclass(frozen=True)
class OfImages(Source):
    """A condition that is made of x_0, an image (C, H, W), and has its sides.

    In sampling ``image=FILE`` is the image that the samples belong to, as it was before the condition was made of it,
    or [FILE, FILE] for images that take turns; without, they are held-out examples.
    """

    kind: ClassVar[Kind] = "images"
    asked_by: ClassVar[tuple[str, ...]] = ("image",)

    def size(self, data: Data) -> int:
        if len(data.shape) != 3:
            name = (section_of(self) or {"name": type(self).__name__})["name"]
            raise ConfigError(
                f"condition={name} is made of images (C, H, W), but an example of data=... has the shape {data.shape}"
            )
        return self.channels(data.shape)

    @abstractmethod
    def channels(self, shape: tuple[int, ...]) -> int:
        """How many channels the condition has; ConfigError for images of a shape that it cannot be made of."""

    def asked(self, asked: Asked, shape: tuple[int, ...], noise: Noise) -> Table:
        paths = several(asked["image"])
        if not paths:
            raise ConfigError("image=[]: must have at least one; leave it out for held-out examples")
        told = [self.told(path, asked, shape, noise) for path in paths]
        return Table(Told.cat(told), torch.arange(len(paths)), [Path(path).name for path in paths])

    def told(self, path: str, asked: Asked, shape: tuple[int, ...], noise: Noise) -> Told:
        """What is made of the image of a file; ConfigError for one of another size."""
        return self.of(model_image(path, "image", shape)[None], noise)


def several(given: Any) -> Sequence[str]:
    """One file or several."""
    return [str(item) for item in given] if isinstance(given, (list, tuple)) else [str(given)]


def read_image(path: str, key: str, channels: int) -> Tensor:
    """The pixels uint8 (channels, H, W) of a file; ConfigError that names the key."""
    try:
        return given_images.read_image(path, channels)
    except ConfigError as error:
        raise ConfigError(f"{key}={error}") from None


def model_image(path: str, key: str, shape: tuple[int, ...], sides: tuple[int, ...] | None = None) -> Tensor:
    """The image (C, H, W) of a file as the model sees it; ConfigError unless it has ``sides``, or else the data's."""
    pixels = read_image(path, key, shape[0])
    wanted = tuple(shape[1:]) if sides is None else sides
    if tuple(pixels.shape[1:]) != wanted:
        height, width = pixels.shape[1:]
        raise ConfigError(f"{key}={path} is {width} x {height} pixels; the model takes {wanted[1]} x {wanted[0]}")
    return to_model(pixels)
