"""One image file that a user names."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.data.formats.decode import FORMATS, LARGEST_IMAGE, on_white
from diffusion_fw.files import open_regular, with_home
from diffusion_fw.registry import ConfigError


def read_image(path: str, key: str, channels: int) -> Tensor:
    """The pixels uint8 (channels, H, W) of an image file, gray for 1 channel; ConfigError that names ``key``."""
    if channels not in (1, 3):
        raise ConfigError(f"{key}={path}: image files have 1 or 3 channels, but the model takes {channels}")
    try:
        with open_regular(with_home(path)) as file:
            content = file.read()
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise ConfigError(f"{key}={path}: {image.width} x {image.height} pixels, more than {LARGEST_IMAGE:,}")
            pixels = np.array(on_white(image, "L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises any of them for a damaged file
        raise ConfigError(f"{key}={path} is no readable image: {error}") from None
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)
