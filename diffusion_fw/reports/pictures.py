"""The pictures of runs inside the page: small copies as data URIs, thinned until all of them fit."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from diffusion_fw.files import open_regular
from diffusion_fw.reports.reading import Run

T = TypeVar("T")

LARGEST_FILE = 32 << 20
MOST_PIXELS, MOST_FRAMES = 50_000_000, 1000
"""Larger pictures are left out, and later frames."""
WIDTHS = (640, 320, 160)
"""Pixels of an embedded picture: the first that has room. Small images keep their squares, as the factor is whole."""
WIDEST = WIDTHS[0]
AS_IT_IS = 24 << 10
"""Bytes; a PNG that is not larger and not wider is embedded as it is."""
PHOTO = 128 << 10
"""Bytes of a file in which hardly anything is left to compress without loss."""
MOST = 12
"""Sample grids, frames of a trajectory, and other pictures of a run."""
FORMATS = ("PNG", "GIF", "WEBP")
KINDS = ("grids", "frames", "others")

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


@dataclass(frozen=True)
class Candidate:
    """A picture that may be shown: the frame ``place`` of a file, in one of the three lists of a run's gallery."""

    rank: int
    kind: str
    run: int
    path: Path
    at: int
    label: str
    place: int = 0


def galleries(runs: Sequence[Run], budget: int) -> tuple[list[Gallery], int]:
    """The pictures of each run, with at most ``budget`` bytes together, and how many were left out.

    The last picture of each sequence comes first, then the first one, then those in the middle. Where all runs have no
    room for their next one, no run has it.
    """
    found = [Gallery() for _ in runs]
    candidates = [item for index, run in enumerate(runs) for item in _candidates(run, index)]
    left_out, sizes, reader = 0, dict.fromkeys(KINDS, 0), Reader()
    candidates.sort(key=lambda item: (item.rank, KINDS.index(item.kind)))
    for (_, kind), group in itertools.groupby(candidates, key=lambda item: (item.rank, item.kind)):
        items = list(group)
        # At least a third of what is left remains for the groups that follow.
        room = 2 * budget // (3 * len(items))
        if sizes[kind] > room:
            left_out += len(items)
            continue
        uris = [_picture(runs[item.run], item, room, reader) for item in items]
        for item, uri in zip(items, uris, strict=True):
            if uri:
                getattr(found[item.run], kind).append(Picture(item.at, item.label, uri))
        left_out += uris.count("")
        shown = [len(uri) for uri in uris if uri]
        budget -= sum(shown)
        sizes[kind] = max(shown, default=0)
    for gallery in found:
        for pictures in (gallery.grids, gallery.frames, gallery.others):
            pictures.sort(key=lambda picture: picture.at)
    return found, left_out


def _candidates(run: Run, index: int) -> Iterator[Candidate]:
    steps = [(int(match[1]), path) for path in _files(run.folder / "samples") if (match := STEP.fullmatch(path.name))]
    steps = evenly(sorted(steps), MOST)
    for rank, place in enumerate(ends_first(len(steps))):
        step, path = steps[place]
        yield Candidate(rank, "grids", index, path, step, f"step {step:,}")
    for name in TRAJECTORIES:
        if frames := _frames(run, run.folder / name):
            shown = evenly(range(frames), MOST)
            for place, frame in enumerate(shown):
                # The last one, then every other one, then the rest: in the file's order, in which frames decode fast.
                rank = 0 if place == len(shown) - 1 else 1 + place % 2
                label = f"frame {frame + 1} of {frames}" if frames > 1 else "all frames"
                yield Candidate(rank, "frames", index, run.folder / name, place, label, frame)
            break
    left_out = (*REDRAWN, *TRAJECTORIES)
    names = [path for path in _files(run.folder) if path.suffix == ".png" and path.name not in left_out]
    for rank, path in enumerate(names[:MOST]):
        yield Candidate(rank + 1, "others", index, path, rank, path.name)


def ends_first(count: int) -> list[int]:
    """The places 0 to count - 1: the last, the first, and then always the middle of the widest gap."""
    order = list(dict.fromkeys([count - 1, 0])) if count else []
    while len(order) < count:
        known = sorted(order)
        low, high = max(itertools.pairwise(known), key=lambda gap: gap[1] - gap[0])
        order.append((low + high) // 2)
    return order


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the items, evenly spaced, the last one among them."""
    if len(items) <= count:
        return list(items)
    return [items[(place + 1) * len(items) // count - 1] for place in range(count)]


def _frames(run: Run, path: Path) -> int:
    """The number of frames of a picture; 0 without one."""
    if path.is_file():
        with _noted(run, path):
            return min(getattr(Reader().open(path)[1], "n_frames", 1), MOST_FRAMES)
    return 0


def _picture(run: Run, item: Candidate, room: int, reader: Reader) -> str | None:
    """The data URI of a picture of at most ``room`` bytes; empty without room, None with a note if it can't be read.

    Only pictures that decode are embedded, so that nothing else passes for one.
    """
    with _noted(run, item.path):
        content, image = reader.open(item.path)
        frames = getattr(image, "n_frames", 1)
        image.seek(item.place)
        image.load()
        if image.format == "PNG" and frames == 1 and len(content) <= AS_IT_IS and image.width <= WIDEST:
            uri = _uri("png", content)
            if len(uri) <= room:
                return uri
        shown = image.convert("RGB")
        for width in WIDTHS:
            uri = _uri("webp", _small(shown, width, photo=len(content) > PHOTO * frames))
            if len(uri) <= room:
                return uri
        return ""
    return None


class Reader:
    """Opens pictures, and keeps the last one: a frame of a GIF decodes from those before it."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.opened: tuple[bytes, Image.Image]

    def open(self, path: Path) -> tuple[bytes, Image.Image]:
        """The bytes of a picture, and the picture before its pixels are decoded."""
        if path != self.path:
            self.opened, self.path = _opened(path), path
        return self.opened


def _opened(path: Path) -> tuple[bytes, Image.Image]:
    if path.is_symlink():
        raise OSError("it is a link")
    with open_regular(path) as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE >> 20} MiB")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"it is no picture of {' or '.join(FORMATS)}") from None
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    return content, image


@contextlib.contextmanager
def _noted(run: Run, path: Path) -> Iterator[None]:
    """What is wrong with a picture ends the block with a note of the run."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        note = f"{path.relative_to(run.folder)} cannot be shown: {' '.join(str(error).split()):.300}"
        if note not in run.notes:
            run.notes.append(note)


def _small(image: Image.Image, width: int, photo: bool) -> bytes:
    """A WebP picture, not wider than ``width``: lossless where that is small, as it is for enlarged pixels."""
    shown = image.reduce(-(-image.width // width)) if image.width > width else image
    file = io.BytesIO()
    if not photo:
        shown.save(file, "WEBP", lossless=True, method=1, quality=20)
    if photo or file.tell() > AS_IT_IS:
        file = io.BytesIO()
        shown.save(file, "WEBP", quality=75, method=2)
    return file.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
