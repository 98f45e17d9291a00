"""Decodes the bytes of an image file to pixels of a fixed shape."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Those that are read, with the suffixes of their files."""
with contextlib.suppress(ImportError):
    from PIL import AvifImagePlugin  # since Pillow 11.3, where it was built with libavif

    if AvifImagePlugin.SUPPORTED:
        FORMATS["AVIF"] = (".avif",)

LARGEST_IMAGE = 80_000_000
"""Larger images are refused before they are decoded: a file of a few kilobytes can claim any number of pixels."""


class CorruptImageError(ValueError):
    """A file that holds no readable image; the message says why."""


@dataclass(frozen=True)
class Decoder:
    """Decodes a file to uint8 (channels, size, size): the shorter side is resized to ``size``, the centre cropped.

    Resizing is bicubic with antialiasing; an image of the right size keeps its pixels. The camera's orientation tag is
    applied, transparent parts become white, 16-bit gray is rounded to 8 bits, colour turns gray by ITU-R 601 luma, and
    the first frame stands for an animation.
    """

    size: int
    channels: Literal[1, 3]

    def __call__(self, content: bytes) -> Tensor:
        try:
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
                if image.width * image.height > LARGEST_IMAGE:
                    raise ValueError(f"{image.width} x {image.height} pixels, more than {LARGEST_IMAGE:,}")
                plain = on_white(ImageOps.exif_transpose(image)).convert("L" if self.channels == 1 else "RGB")
                fitted = ImageOps.fit(plain, (self.size, self.size), Image.Resampling.BICUBIC)
        except Exception as error:  # a corrupt file can raise anything
            raise CorruptImageError(str(error) or type(error).__name__) from error
        pixels = torch.from_numpy(np.array(fitted))
        return pixels.view(self.size, self.size, self.channels).permute(2, 0, 1)


def on_white(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel and white in place of transparency."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range is unknown")
    if "A" in image.getbands() or "transparency" in image.info:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image
