"""The pictures of runs inside the page: small copies as data URIs, thinned until all of them fit."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageSequence

from diffusion_fw.files import open_regular
from diffusion_fw.reports.reading import Run

LARGEST_FILE = 32 << 20
MOST_PIXELS = 50_000_000
"""Larger pictures are left out."""
WIDEST = 640
"""Pixels of an embedded picture; wider ones are reduced by a whole factor, which keeps the squares of small images."""
AS_IT_IS = 24 << 10
"""Bytes; a PNG that is not larger and not wider is embedded as it is."""
MOST_STEPS, MOST_FRAMES = 12, 12
"""Sample grids and frames of a trajectory for each run."""

STEP = re.compile(r"step_(\d+)\.png")
TRAJECTORIES = ("samples/trajectory.gif", "samples/trajectory.webp", "samples/trajectory.png", "trajectory.png")
REDRAWN = ("loss.png", "loss_by_log_snr.png", "distance.png", "schedule.png", "samples.png")
"""Pictures of a run that the page draws anew, or shows as a sample grid."""


@dataclass(frozen=True)
class Picture:
    """A picture and where it belongs: a step of the training, a frame, or the name of its file."""

    at: int
    label: str
    uri: str


@dataclass
class Gallery:
    """The pictures of one run."""

    grids: list[Picture] = field(default_factory=list)
    frames: list[Picture] = field(default_factory=list)
    others: list[Picture] = field(default_factory=list)

    @property
    def lists(self) -> tuple[list[Picture], ...]:
        return self.grids, self.frames, self.others

    @property
    def size(self) -> int:
        return sum(len(item.uri) for pictures in self.lists for item in pictures)


def galleries(runs: Sequence[Run], budget: int) -> tuple[list[Gallery], int]:
    """The pictures of each run, and how many were left out so that all have at most ``budget`` bytes together."""
    found = [_gallery(run) for run in runs]
    before = sum(len(pictures) for gallery in found for pictures in gallery.lists)
    fit(found, budget)
    return found, before - sum(len(pictures) for gallery in found for pictures in gallery.lists)


def fit(galleries: Sequence[Gallery], budget: int) -> None:
    """Take out pictures until they fit: every other one of the longest sequences first, the last grids at the end."""
    while sum(gallery.size for gallery in galleries) > budget:
        longest = max(len(pictures) for gallery in galleries for pictures in (gallery.grids, gallery.frames))
        if longest > 2:
            for gallery in galleries:
                for pictures in (gallery.grids, gallery.frames):
                    if len(pictures) == longest:
                        del pictures[-2::-2]
            continue
        for which in ("others", "frames", "grids"):
            having = [gallery for gallery in galleries if getattr(gallery, which)]
            if having:
                # Of the largest gallery, so that many runs keep some.
                del getattr(max(having, key=lambda gallery: gallery.size), which)[0]
                break


def _gallery(run: Run) -> Gallery:
    gallery = Gallery()
    steps = [(int(match[1]), path) for path in _files(run.folder / "samples") if (match := STEP.fullmatch(path.name))]
    for step, path in evenly(sorted(steps), MOST_STEPS):
        gallery.grids += [Picture(step, f"step {step:,}", uri) for uri in _pictures(run, path)]
    for name in TRAJECTORIES:
        if (run.folder / name).is_file():
            uris = _pictures(run, run.folder / name)
            gallery.frames = [Picture(at, f"frame {at + 1} of {len(uris)}", uri) for at, uri in enumerate(uris)]
            break
    left_out = (*REDRAWN, *TRAJECTORIES)
    names = [path for path in _files(run.folder) if path.suffix == ".png" and path.name not in left_out]
    for place, path in enumerate(names[:MOST_STEPS]):
        gallery.others += [Picture(place, path.name, uri) for uri in _pictures(run, path)]
    return gallery


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def evenly(items: Sequence[tuple[int, Path]], count: int) -> list[tuple[int, Path]]:
    """At most ``count`` of the items, evenly spaced, the last one among them."""
    if len(items) <= count:
        return list(items)
    return [items[(place + 1) * len(items) // count - 1] for place in range(count)]


def _pictures(run: Run, path: Path) -> list[str]:
    """The data URIs of a picture's frames; none, and a note, if it can't be read."""
    try:
        if path.is_symlink():
            raise OSError("it is a link")
        with open_regular(path) as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE >> 20} MiB")
        return list(_embedded(content))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        run.notes.append(f"{path.relative_to(run.folder)} cannot be shown: {' '.join(str(error).split()):.300}")
        return []


def _embedded(content: bytes) -> Iterator[str]:
    """Only pictures that decode are embedded, so that nothing else passes for one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content), formats=("PNG", "GIF", "WEBP"))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    count = getattr(image, "n_frames", 1)
    if image.format == "PNG" and count == 1 and len(content) <= AS_IT_IS and image.width <= WIDEST:
        image.load()
        yield _uri("png", content)
        return
    for place, frame in enumerate(ImageSequence.Iterator(image)):
        if place >= MOST_FRAMES:
            return
        yield _uri("webp", _small(frame))


def _small(image: Image.Image) -> bytes:
    """A WebP picture: lossless where that is small, as it is for enlarged pixels."""
    shown = image.convert("RGB")
    if shown.width > WIDEST:
        shown = shown.reduce(-(-shown.width // WIDEST))
    file = io.BytesIO()
    shown.save(file, "WEBP", lossless=True, method=1, quality=20)
    if file.tell() > AS_IT_IS:
        file = io.BytesIO()
        shown.save(file, "WEBP", quality=80, method=2)
    return file.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
