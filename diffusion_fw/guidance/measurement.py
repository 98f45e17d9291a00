"""Measurements y = A x_0 of one example, from the files that a user has: images, or an npz file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from diffusion_fw.files import with_home
from diffusion_fw.guidance.guidance import Guidance, Known
from diffusion_fw.guidance.operators import (
    LARGEST_BLUR,
    AveragePool,
    Blur,
    ChannelMatrix,
    Grayscale,
    LinearOperator,
    Mask,
    Matrix,
)
from diffusion_fw.npz import read_npz
from diffusion_fw.registry import ConfigError, Range, Runtime, Size

IN_FILES: dict[str, Callable[[Tensor, tuple[int, ...]], LinearOperator]] = {
    "mask": lambda array, shape: Mask(array),
    "average_pool": lambda array, shape: AveragePool(int(array)),
    "blur": lambda array, shape: Blur(float(array)),
    "matrix": Matrix,
    "channel_matrix": lambda array, shape: ChannelMatrix(array),
}
"""The operators of an npz file, from an array and the shape of an example."""

LARGEST = 1 << 30
"""Bytes of a file's arrays, unless the file itself is larger: a few kilobytes can unpack to any number."""

KNOWN_FROM = 128
"""The smallest gray value of a mask's known pixels."""

CHOICES = "one of mask=MASK.png, average_pool=2, blur=1.5 and grayscale=true"

Blurring = Annotated[float, Range(0, LARGEST_BLUR, low_open=True)]


def read_measurement(path: str, shape: tuple[int, ...]) -> tuple[LinearOperator, Tensor]:
    """The operator and the measurement y of one example of this shape, from an npz file.

    The file holds y as ``measurement``, float values as the model sees them or uint8 pixels, and the operator as
    ``mask``, ``average_pool``, ``blur``, ``matrix`` or ``channel_matrix``. ConfigError for another file, and for
    another shape.
    """
    arrays = read_npz(str(with_home(path)), LARGEST)
    names = sorted(arrays.keys() & IN_FILES.keys())
    if len(names) != 1 or arrays.keys() != {"measurement", *names}:
        raise ConfigError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; it must hold measurement and one of "
            f"{', '.join(IN_FILES)}"
        )
    (name,), y = names, arrays["measurement"]
    y = of_pixels(y) if y.dtype == torch.uint8 else y.float()
    try:
        operator = IN_FILES[name](arrays[name], shape)
        measured, example = operator(torch.zeros(1, *shape))[0], operator.transpose(y[None])[0]
        fits = measured.shape == y.shape and example.shape == shape
    except (RuntimeError, ValueError):
        fits = False
    if not fits:
        raise ConfigError(
            f"{path}: {name} {tuple(arrays[name].shape)} and measurement {tuple(y.shape)} do not fit examples of "
            f"shape {shape}"
        )
    return operator, y


def of_pixels(values: Tensor) -> Tensor:
    """uint8 pixels as the model sees them."""
    return values.float() / 127.5 - 1


@dataclass(frozen=True)
class Measured(Guidance):
    """A guidance by a measurement y = A x_0: operator and measurement in Python, or files.

    A is one of mask, average_pool, blur and grayscale. y is the image ``measured``, or A of the image ``image``. The
    npz ``file`` has both A and y. measurement: of one example's shape, or (B, ...). ConfigError where something is
    missing, given twice, or does not fit.
    """

    operator: Runtime[LinearOperator | None] = None
    measurement: Runtime[Tensor | None] = None
    shape: Runtime[tuple[int, ...] | None] = None
    pixels: Runtime[bool] = False
    read_image: Runtime[Callable[[str, int], Tensor] | None] = None
    seed: Runtime[int] = 0
    image: str | None = None
    measured: str | None = None
    file: str | None = None
    mask: str | None = None
    average_pool: Size | None = None
    blur: Blurring | None = None
    grayscale: bool = False

    def __post_init__(self) -> None:
        # A bad file is refused when the guidance is built, not at the first evaluation.
        _ = self.known

    @functools.cached_property
    def known(self) -> Known:
        if self.operator is not None and self.measurement is not None:
            return Known(self.operator, self.measurement)
        sources, operators = self._given("image", "measured", "file"), self._given(*OPERATORS)
        if len(sources) > 1:
            raise ConfigError(f"{' and '.join(sources)} are given, which are two measurements; leave out one")
        if not sources or self.shape is None:
            raise ConfigError(
                f"it needs a measurement; give {self._key('image')}=ORIGINAL.png, which is then degraded, or "
                f"{self._key('measured')}=MEASUREMENT.png, each with {CHOICES}, or {self._key('file')}=FILE.npz with "
                f"measurement and one of {', '.join(IN_FILES)}, or in Python operator=... and measurement=..."
            )
        if self.file is not None:
            if operators:
                raise ConfigError(
                    f"{self._key('file')} holds the operator already; leave out {' and '.join(operators)}"
                )
            try:
                return Known(*read_measurement(self.file, self.shape))
            except ConfigError as error:
                raise ConfigError(f"{self._key('file')}: {error}") from None
        if len(operators) != 1:
            found = f", not {' and '.join(operators)}" if operators else ""
            raise ConfigError(f"{next(iter(sources))} needs one operator{found}; give beside it {CHOICES}")
        if not self.pixels or len(self.shape) != 3:
            raise ConfigError(
                f"{next(iter(sources))}: the model's examples, of shape {self.shape}, are no images of 8-bit pixels; "
                f"give {self._key('file')}=FILE.npz"
            )
        (name,) = (key for key in OPERATORS if self._key(key) in operators)
        operator = OPERATORS[name](self, self.shape)
        if self.measured is not None:
            wanted = tuple(operator(torch.zeros(1, *self.shape)).shape[1:])
            return Known(operator, self._read("measured", wanted, f" with {self._key(name)}"))
        original = self._read("image", self.shape)
        return Known(operator, self.observed(operator(original[None])[0]), original)

    def observed(self, y: Tensor) -> Tensor:
        """The measurement of y = A x_0."""
        return y

    def _key(self, name: str) -> str:
        return f"guidance.{type(self).__name__.lower()}.{name}"

    def _given(self, *names: str) -> Mapping[str, Any]:
        """The keys of these parameters that are given, with their values."""
        values = {self._key(name): getattr(self, name) for name in names}
        return {key: value for key, value in values.items() if value is not None and value is not False}

    def _read(self, name: str, shape: tuple[int, ...], why: str = "") -> Tensor:
        """The image of a key as the model sees it; ConfigError for one of another shape."""
        path, (channels, height, width) = getattr(self, name), shape
        if self.read_image is None:
            raise ConfigError(
                f"{self._key(name)}: images are read by the programs; in Python give operator=... and measurement=..."
            )
        try:
            values = self.read_image(path, channels)
        except ConfigError as error:
            raise ConfigError(f"{self._key(name)}: {error}") from None
        if tuple(values.shape) != shape:
            raise ConfigError(
                f"{self._key(name)}={path} has {values.shape[2]} x {values.shape[1]} pixels; it must have "
                f"{width} x {height}{why}, since the model's images have {self.shape[2]} x {self.shape[1]}"  # type: ignore[index]
            )
        return of_pixels(values)

    def masked(self, shape: tuple[int, ...]) -> LinearOperator:
        """The operator of ``mask``."""
        known = self._read("mask", (1, *shape[1:])) >= of_pixels(torch.tensor(KNOWN_FROM))
        if not known.any():
            raise ConfigError(f"{self._key('mask')}={self.mask} is black: known is what is white, so nothing would be")
        return Mask(known)

    def pooled(self, shape: tuple[int, ...]) -> LinearOperator:
        """The operator of ``average_pool``."""
        size = self.average_pool or 1
        if shape[1] % size or shape[2] % size:
            raise ConfigError(
                f"{self._key('average_pool')}={size}: must divide both sides of the model's images, "
                f"{shape[2]} x {shape[1]}"
            )
        return AveragePool(size)

    def blurred(self, shape: tuple[int, ...]) -> LinearOperator:
        """The operator of ``blur``."""
        return Blur(self.blur or 0.0)

    def gray(self, shape: tuple[int, ...]) -> LinearOperator:
        """The operator of ``grayscale``."""
        if shape[0] != 3:
            raise ConfigError(f"{self._key('grayscale')}=true takes colour images, but the model's have one channel")
        return Grayscale()


OPERATORS: dict[str, Callable[[Measured, tuple[int, ...]], LinearOperator]] = {
    "mask": Measured.masked,
    "average_pool": Measured.pooled,
    "blur": Measured.blurred,
    "grayscale": Measured.gray,
}
"""The operators of the config, each by its key."""
