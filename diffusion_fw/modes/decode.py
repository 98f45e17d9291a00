"""Samples of latents x_T that a file holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffusion_fw.data.dataset import from_model
from diffusion_fw.files import with_home
from diffusion_fw.modes.mode import Mode, Model, Outcome
from diffusion_fw.modes.samples import MOST_SHOWN
from diffusion_fw.npz import read_npz
from diffusion_fw.registry import ConfigError, register

LARGEST = 1 << 30
"""Bytes of a file's arrays, unless the file itself is larger."""


@register("mode", "decode")
@dataclass(frozen=True)
class Decode(Mode):
    """The samples x_0 of the latents x_T in an npz ``file``, such as mode=encode or mode=interpolate writes.

    The file holds ``latents`` (..., *shape) in the scale of the model, and perhaps their ``labels`` (...). Without, a
    model that takes labels gets the chosen classes in turn, or none if it learned to do without. num_samples counts
    nothing. The npz holds the samples (N, *shape), and the labels.
    """

    file: str | None = None

    def __call__(self, model: Model) -> Outcome:
        latents, labels = self.read(model)
        if not model.class_names:
            labels = None
        elif model.chosen:
            labels = torch.tensor(model.chosen)[torch.arange(len(latents)) % len(model.chosen)]
        elif labels is None and not model.null_class:
            raise ConfigError(
                f"mode.file={self.file} holds no labels, which the model takes, and it learned nothing without "
                "(label_dropout=0); class=3 or class=[3,5] gives them"
            )
        samples = from_model(model.decode(latents, labels), model.pixels)
        names = [] if labels is None else [model.class_names[label] for label in labels[:MOST_SHOWN].tolist()]
        picture = model.view.samples(model.folder / "decode.png", samples[:MOST_SHOWN], names)
        return Outcome({"samples": samples, **({} if labels is None else {"labels": labels})}, [picture])

    def read(self, model: Model) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The latents (N, *shape) and the labels (N,) of the file; ConfigError where they do not fit the model."""
        if self.file is None:
            raise ConfigError("mode=decode needs the latents; give mode.file=encode.npz, as mode=encode writes")
        try:
            arrays = read_npz(str(with_home(self.file)), LARGEST, wanted=("latents", "labels"))
        except ConfigError as error:
            raise ConfigError(f"mode.file: {error}") from None
        latents, labels = arrays.get("latents"), arrays.get("labels")
        if latents is None or not latents.is_floating_point() or latents.shape[-len(model.shape) :] != model.shape:
            found = "none" if latents is None else f"{latents.dtype} {tuple(latents.shape)}"
            raise ConfigError(
                f"mode.file={self.file}: it must hold latents of floats (..., {', '.join(map(str, model.shape))}), "
                f"but it holds {found}"
            )
        number = latents.shape[: -len(model.shape)].numel()
        if not number or not latents.isfinite().all():
            raise ConfigError(f"mode.file={self.file}: its latents must be at least one, and finite")
        fits = labels is None or (
            labels.dtype == torch.int64
            and labels.numel() == number
            and (not model.class_names or bool(((labels >= 0) & (labels < len(model.class_names))).all()))
        )
        if not fits:
            raise ConfigError(
                f"mode.file={self.file}: its labels must be one integer for each of the {number} latents, of the "
                f"model's {len(model.class_names)} classes"
            )
        return latents.reshape(number, *model.shape).float(), None if labels is None else labels.flatten()
