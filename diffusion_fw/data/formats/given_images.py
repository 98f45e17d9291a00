"""Images that are judged as they are: a folder, a zip or an npz file of one size, without resizing."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.data.dataset import Batch, Examples, InMemory
from diffusion_fw.data.formats.decode import FORMATS, LARGEST_IMAGE, on_white
from diffusion_fw.data.formats.image_files import Folder, ImageFiles, Zip
from diffusion_fw.files import version, with_home
from diffusion_fw.npz import read_npz
from diffusion_fw.registry import ConfigError

LARGEST = 1 << 34
"""Bytes of the arrays of an npz file."""
ARRAYS = ("arr_0", "samples", "images")
"""The names of the array that holds the samples, in the order in which they are looked for."""


@dataclass(frozen=True)
class GivenImages:
    """Image files of one size, decoded when they are used."""

    files: ImageFiles
    paths: list[str]
    shape: tuple[int, int, int]
    where: str
    """The key and the path that the user gave."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        wanted = torch.as_tensor(indices).tolist()
        return torch.stack([decoded(self.files, self.paths[index], self.shape, self.where) for index in wanted]), None

    def fingerprint(self) -> str:
        """A hash of the content of all files, in their order."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        content = hashlib.sha256(repr(self.shape).encode())
        for path in self.paths:
            content.update(hashlib.sha256(self.files.read(path)).digest())
        return content.hexdigest()[:16]


def given_images(path: str, key: str) -> Examples:
    """The images at ``path``: a folder or zip of image files in the order of their names, or an npz file.

    An npz holds uint8 images (N, H, W, C) or (N, C, H, W) or videos (N, C, T, H, W), or floats of series (N, C, L) or
    points (N, D), as ``arr_0``, ``samples`` or its only array. Raises ConfigError, with the config key, for a path
    without images, for images of several sizes, and for images that are no 8-bit pixels, as their range could only be
    guessed.
    """
    place, where = with_home(path), f"{key}={path}"
    if not place.exists():
        raise ConfigError(f"{where}: there is no such file or folder")
    if place.suffix == ".npz":
        return InMemory(_array(path, where))
    files: ImageFiles = Folder(place) if place.is_dir() else Zip(place, version(place))
    try:
        names, _ = files.names()
    except ConfigError as error:
        raise ConfigError(f"{where}: must be a folder or a zip of images, or an npz file ({error})") from None
    if not names:
        raise ConfigError(f"{where}: it holds no image")
    sizes: dict[tuple[int, int, int], str] = {}
    for name in names:
        sizes.setdefault(_shape(files, name, where), name)
    if len(sizes) > 1:
        shown = ", ".join(f"{name[:60]} {width}x{height}" for (_, height, width), name in list(sizes.items())[:2])
        raise ConfigError(
            f"{where}: its images must be of one size and kind, but it holds {len(sizes)}, such as {shown}; a distance "
            "depends on how they are resized, so resize them yourself"
        )
    return GivenImages(files, list(names), next(iter(sizes)), where)


def _shape(files: ImageFiles, name: str, where: str) -> tuple[int, int, int]:
    """(C, H, W) by the header of a file."""
    try:
        with Image.open(io.BytesIO(files.read(name)), formats=list(FORMATS)) as image:
            return (1 if image.mode in ("1", "L", "LA") else 3, image.height, image.width)
    except Exception as error:  # a corrupt file can raise anything
        raise ConfigError(f"{where}: {name[:100]} is not a readable image: {str(error)[:200]}") from None


def decoded(files: ImageFiles, name: str, shape: tuple[int, int, int], where: str) -> Tensor:
    """uint8 (C, H, W) of one file; ConfigError that names it where it cannot be read."""
    return _decoded(files, name, shape[0], f"{where}: {name[:100]}")


def read_image(path: str, channels: int) -> Tensor:
    """uint8 (channels, H, W) of one image file in its own size, for 1 or 3 channels; ConfigError for no image.

    Colours, orientation and transparency are read as those of training images: see ``decode.Decoder``.
    """
    if channels not in (1, 3):
        raise ConfigError(f"{path}: images of files have 1 or 3 channels, but the model's have {channels}")
    place = with_home(path)
    if not place.exists():
        raise ConfigError(f"{path}: there is no such file")
    return _decoded(Folder(place.parent), place.name, channels, path)


def read_images(paths: str | Sequence[str], shape: tuple[int, ...], key: str) -> Tensor:
    """uint8 pixels (N, *shape) of image files, or of those in folders and zips in the order of their names.

    Raises ConfigError, with the config key, for a path without images and for images of another size.
    """
    found: list[Tensor] = []
    for path in [paths] if isinstance(paths, str) else paths:
        place = with_home(path)
        try:
            if place.is_dir() or zipfile.is_zipfile(place):
                files: ImageFiles = Folder(place) if place.is_dir() else Zip(place, version(place))
                names = list(files.names()[0])
                values = [_decoded(files, name, shape[0], f"{path}: {name[:100]}") for name in names]
            else:
                values = [read_image(path, shape[0])]
        except (ConfigError, OSError) as error:
            raise ConfigError(f"{key}: {error}") from None
        for image in values:
            if tuple(image.shape) != shape:
                raise ConfigError(
                    f"{key}={path}: an image has {image.shape[2]} x {image.shape[1]} pixels; the model's have "
                    f"{shape[2]} x {shape[1]}"
                )
        found += values
    if not found:
        raise ConfigError(f"{key}={paths}: holds no image")
    return torch.stack(found)


def _decoded(files: ImageFiles, name: str, channels: int, where: str) -> Tensor:
    try:
        with Image.open(io.BytesIO(files.read(name)), formats=list(FORMATS)) as image:
            if image.height * image.width > LARGEST_IMAGE:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {LARGEST_IMAGE:,}")
            values = np.array(on_white(image, "L" if channels == 1 else "RGB"))
    except Exception as error:  # a corrupt file can raise anything
        raise ConfigError(f"{where} is not a readable image: {str(error)[:200]}") from None
    return torch.from_numpy(values).view(*values.shape[:2], channels).permute(2, 0, 1)


def _array(path: str, where: str) -> Tensor:
    try:
        # Other arrays, such as labels or texts, are not read where samples have a known name.
        arrays = read_npz(str(with_home(path)), LARGEST, wanted=ARRAYS) or read_npz(str(with_home(path)), LARGEST)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    name = next((name for name in ARRAYS if name in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if name is None or not len(arrays[name]):
        raise ConfigError(
            f"{where}: it holds {', '.join(arrays) or 'nothing'}; samples are the array {' or '.join(ARRAYS)}"
        )
    values = arrays[name]
    if values.ndim in (2, 3) and values.is_floating_point():
        return values.float()
    if values.ndim == 5 and values.dtype == torch.uint8:
        return values
    if values.ndim != 4 or not {values.shape[1], values.shape[3]} & {1, 3}:
        raise ConfigError(
            f"{where}: {name} is of shape {tuple(values.shape)}; it must be images (N, H, W, C) or (N, C, H, W) of one "
            "or three channels, videos (N, C, T, H, W) of bytes, series (N, C, L) or points (N, D) of floats"
        )
    if values.dtype != torch.uint8:
        low, high = float(values.min()), float(values.max())
        raise ConfigError(
            f"{where}: {name} is {str(values.dtype).removeprefix('torch.')} from {low:.3g} to {high:.3g}; it must be "
            "8-bit pixels (uint8), since a distance depends on how floats are rounded: of values in [-1, 1] write "
            "round(127.5 x + 127.5), of values in [0, 1] round(255 x)"
        )
    return values.permute(0, 3, 1, 2) if values.shape[3] in (1, 3) else values
