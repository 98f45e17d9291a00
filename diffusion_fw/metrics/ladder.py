"""Known corruptions of real examples, measured as samples are: what a number can tell apart."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad

from diffusion_fw.data.dataset import from_model, to_model, to_pixels
from diffusion_fw.metrics.comparison import Beside, Comparison
from diffusion_fw.metrics.metric import Measurement, Subject
from diffusion_fw.metrics.sample_set import seen
from diffusion_fw.noise import generator
from diffusion_fw.pictures.ladder_marks import ladder_marks

BLURS = (0.5, 1.0, 2.0)
"""Deviations of a Gaussian, in pixels."""
NOISES = (0.05, 0.1, 0.2, 0.4)
"""Deviations of Gaussian noise, in units of the data's: half of the range of images, the deviation of points."""
QUALITIES = (75, 25, 5)
"""Of JPEG."""
REPEATS = (2, 10, 50)
"""How often each training example occurs."""
PIECES = (2, 4)
"""Of the time of series and videos, which are put together in the opposite order."""

Change = Callable[[Tensor], Tensor]
"""Of examples in [-1, 1], or of points in units of their deviation."""


@dataclass(frozen=True)
class Rung:
    """Real examples that are changed in a known way, as the data hold them."""

    corruption: str
    strength: float
    examples: Tensor
    labels: Tensor | None


def ladder(metric: Comparison, subject: Subject, measured: Measurement) -> Beside:
    """The numbers of known corruptions on the same features and against the same reference, beside those ``measured``.

    As many real examples as for the floor are corrupted, from the same split: blur, noise and JPEG of images, noise of
    points, and one class missing. ``copies`` are training examples that occur several times, as of a model that
    memorised only few.
    """
    measure = metric.measuring(subject.device)
    features = None if metric.features is None else metric.features.to(subject.device)
    found = []
    for rung in rungs(metric, subject):
        numbers = measure(seen(features, metric.takes, rung.examples, rung.labels, subject.device))
        found.append((rung.corruption, rung.strength, {name: numbers[name] for name in metric.numbers}))
    model = dict(zip(metric.numbers, [measured, *measured.further], strict=True))
    picture = ladder_marks(
        subject.folder / f"ladder_{next(iter(metric.numbers))}.png",
        [f"{corruption} {strength:g}" for corruption, strength, _ in found],
        {name: [numbers[name] for *_, numbers in found] for name in metric.numbers},
        {name: item.value for name, item in model.items()},
        {name: item.floor for name, item in model.items()},
        metric.numbers,
    )
    return Beside(
        {"ladder": [{"corruption": what, "strength": size, "numbers": numbers} for what, size, numbers in found]},
        {
            f"ladder: {what} {size:g}": ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            for what, size, numbers in found
        },
        [picture],
    )


def rungs(metric: Comparison, subject: Subject) -> Iterator[Rung]:
    """The corruptions that mean something for the data."""
    data = subject.data
    examples, indices = metric.chosen(metric.other, metric.num_samples)
    values, labels = examples.__getitems__(indices)
    x = to_model(values)
    low, high = data.bounds
    images = len(data.shape) == 3
    middle, unit = ((low + high) / 2, (high - low) / 2 or 1.0) if images else (x.mean(0), float(x.std(0).mean()) or 1.0)

    def corrupted(change: Change) -> Tensor:
        changed = change((x - middle) / unit)
        return from_model((changed.clamp(-1, 1) if images else changed) * unit + middle, data.pixels)

    for size in NOISES:
        yield Rung("noise", size, corrupted(partial(noisy, deviation=size)), labels)
    if images:
        for size in BLURS:
            yield Rung("blur", size, corrupted(partial(blurred, deviation=size)), labels)
        if data.shape[0] in (1, 3):
            for quality in QUALITIES:
                yield Rung("JPEG quality", quality, corrupted(partial(compressed, quality=quality)), labels)
    if len(data.shape) in (2, 4):
        for pieces in PIECES:
            yield Rung("reversed pieces of time", pieces, corrupted(partial(reordered, pieces=pieces)), labels)
    if data.num_classes > 1:
        every, order = metric.chosen(metric.other)
        all_values, all_labels = every.__getitems__(order)
        assert all_labels is not None
        random = torch.randperm(len(all_labels), generator=generator(0))
        missing = int(all_labels.bincount().argmax())
        kept = random[all_labels[random] != missing][: len(x)]
        yield Rung("without class", missing, all_values[kept], all_labels[kept])
    for repeats in REPEATS:
        train, few = metric.chosen("train", math.ceil(len(x) / repeats))
        copies, of_copies = train.__getitems__([few[i % len(few)] for i in range(len(x))])
        yield Rung("copies", repeats, copies, of_copies)


def noisy(examples: Tensor, deviation: float) -> Tensor:
    """Examples with Gaussian noise, the same one for every deviation."""
    return examples + deviation * torch.randn(examples.shape, generator=generator(0))


def blurred(images: Tensor, deviation: float) -> Tensor:
    """Images (N, C, H, W) convolved with a Gaussian of that deviation in pixels, up to three deviations away."""
    reach = min(math.ceil(3 * deviation), *(side - 1 for side in images.shape[-2:]))
    place = torch.arange(-reach, reach + 1).float()
    weight = torch.exp(-((place / deviation) ** 2) / 2)
    weight = weight / weight.sum()
    flat = images.flatten(0, 1)[:, None]
    flat = conv2d(pad(flat, (reach, reach, 0, 0), mode="reflect"), weight.view(1, 1, 1, -1))
    flat = conv2d(pad(flat, (0, 0, reach, reach), mode="reflect"), weight.view(1, 1, -1, 1))
    return flat.view(images.shape)


def reordered(examples: Tensor, pieces: int) -> Tensor:
    """Series (N, C, L) or videos (N, C, T, H, W) whose pieces of time are in the opposite order."""
    return torch.cat(examples.tensor_split(pieces, dim=2)[::-1], dim=2)


def compressed(images: Tensor, quality: int) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] of one or three channels, written as JPEG and read again."""
    found = []
    for image in to_pixels(images).movedim(1, -1):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1).numpy()).save(file, "JPEG", quality=quality)
        with Image.open(file) as opened:
            found.append(torch.from_numpy(np.array(opened)).reshape(image.shape))
    return to_model(torch.stack(found).movedim(-1, 1))
