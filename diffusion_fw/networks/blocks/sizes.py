"""Sizes of images at the levels of a network that halves them exactly."""

from __future__ import annotations

from diffusion_fw.registry import ConfigError


def halved_sizes(name: str, shape: tuple[int, ...], levels: int, halvings: int) -> list[tuple[int, int]]:
    """(height, width) after 0 .. ``halvings`` halvings of an image of ``shape`` (C, H, W).

    Raises ConfigError for data other than images and for a size that 2^halvings does not divide. It names the
    ``network=name`` and the key network.channel_mult, whose number of factors is ``levels``.
    """
    if len(shape) != 3:
        raise ConfigError(
            f"network={name} needs images (C, H, W), but an example of data=... has the shape {tuple(shape)}; "
            "choose network=mlp or other data"
        )
    height, width = shape[1:]
    # More halvings than any image allows would take long to count.
    multiple = 2 ** min(halvings, 64)
    if height % multiple or width % multiple:
        possible = next(count for count in range(65) if height % 2 ** (count + 1) or width % 2 ** (count + 1))
        next_size = "x".join(str(-(-side // multiple) * multiple) for side in (height, width))
        raise ConfigError(
            f"network.channel_mult has {levels} factors, so that network={name} halves an image {halvings} times, but "
            f"{height}x{width} can be halved {possible} times; give network.channel_mult "
            f"{levels - halvings + possible} factors or fewer, or choose data=... of another size: the next that fits "
            f"is {next_size}"
        )
    return [(height >> count, width >> count) for count in range(halvings + 1)]
