"""Decodes the bytes of an image file to pixels of a fixed shape."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
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
LARGEST_SIDE = 8192
"""The most pixels of a side to which images are scaled; 3 x 8192 x 8192 bytes are 192 MiB."""
DECODED_BYTES = 1 << 30
"""The most that all threads together decode at once; a single image may have more."""
BYTES_PER_PIXEL = 8
"""Of an image while it is decoded: its own channels and those it is converted to."""
STRIP = 1 << 20
"""The pixels that are converted at once, so that no second copy of a large image is needed."""


class CorruptImageError(ValueError):
    """A file that holds no readable image; the message says why."""


class Budget:
    """An amount that threads share: each waits until what it needs is free, or nobody else uses any."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self.used == 0 or self.used + amount <= self.limit)
            self.used += amount
        try:
            yield
        finally:
            with self._changed:
                self.used -= amount
                self._changed.notify_all()


MEMORY = Budget(DECODED_BYTES)


@dataclass(frozen=True)
class Decoder:
    """Decodes a file to uint8 (channels, size, size): the shorter side is resized to ``size``, the centre cropped.

    Resizing is bicubic with antialiasing; an image of the right size keeps its pixels. The camera's orientation tag is
    applied, transparent parts become white, gray of 12 or 16 bits is rounded to 8, colour turns gray by ITU-R 601 luma,
    and the first frame stands for an animation. Pixels of unknown range are refused: floats, and integers that are
    signed or have 32 bits.
    """

    size: int
    channels: Literal[1, 3]

    def __call__(self, content: bytes) -> Tensor:
        try:
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
                pixels = image.width * image.height
                if pixels > LARGEST_IMAGE:
                    raise ValueError(f"{image.width} x {image.height} pixels, more than {LARGEST_IMAGE:,}")
                with MEMORY.take(pixels * BYTES_PER_PIXEL):
                    values = fitted(image, self.size, self.channels)
                    # Before another thread takes its memory.
                    image.close()
        except UnidentifiedImageError:
            reason = f"it begins with {content[:16]!r}" if content else "0 bytes"
            raise CorruptImageError(reason) from None
        except Exception as error:  # a corrupt file can raise anything
            raise CorruptImageError(str(error) or type(error).__name__) from error
        return values


def fitted(image: Image.Image, size: int, channels: int) -> Tensor:
    """An image as uint8 (channels, size, size): the shorter side is resized, the centre cropped, on white."""
    plain = on_white(image, "L" if channels == 1 else "RGB")
    pixels = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(pixels)).view(size, size, channels).permute(2, 0, 1)


def on_white(image: Image.Image, mode: str) -> Image.Image:
    """The image upright, in ``mode`` with 8 bits per channel, and with white in place of transparency."""
    convert = conversion(image)
    ImageOps.exif_transpose(image, in_place=True)
    if convert is None and image.mode == mode:
        return image
    result = Image.new(mode, image.size)
    rows = max(STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste((convert(strip) if convert else strip).convert(mode), (0, top))
    return result


def conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """How an image that is not yet loaded becomes opaque, with 8 bits per channel; None if it is.

    Raises ValueError where the meaning of its values is unknown.
    """
    tiles = getattr(image, "tile", None)
    options = tiles[0][3] if tiles else ""
    raw = str(options[0] if isinstance(options, tuple) else options)
    tags = getattr(image, "tag_v2", {})
    clear = image.info.get("transparency")
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range is unknown")
    if set(tags.get(SAMPLE_FORMAT) or (1,)) != {1} or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError("its pixels are signed integers or have 32 bits, so that their range is unknown")
    if image.mode == "I" or image.mode.startswith("I;16"):
        largest = 4095 if raw == "I;12" else 65535
        # Pillow inverts this only where there are 8 bits.
        inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
        return lambda strip: deep_gray(strip, largest, inverted, clear)
    if clear is not None and raw == "RGB;16B":
        raise ValueError("it states a transparent colour of 16 bits, of which 8 are read")
    if isinstance(clear, int) and raw in ("L;2", "L;4"):
        # Pillow scales the pixels to 8 bits, but not this.
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[raw]
    return opaque if clear is not None or "A" in image.getbands() else None


SAMPLE_FORMAT, PHOTOMETRIC, WHITE_IS_ZERO = 339, 262, 0
"""Tags of TIFF; a sample format of 1 is that of unsigned integers."""


def deep_gray(image: Image.Image, largest: int, inverted: bool, clear: int | None) -> Image.Image:
    """Gray values of 0 .. ``largest`` as 8 bits, and white where they are ``clear``."""
    values = np.asarray(image)
    gray = (values.clip(0, largest) / (largest / 255)).round().astype(np.uint8)
    if inverted:
        gray = 255 - gray
    return Image.fromarray(gray if clear is None else np.where(values == clear, np.uint8(255), gray))


def opaque(image: Image.Image) -> Image.Image:
    """The image laid on white."""
    colour = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
