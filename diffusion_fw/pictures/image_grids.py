"""Grids of images, drawn exactly: each pixel of an image becomes a square of whole pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusion_fw.files import atomic_write
from diffusion_fw.pictures.style import INK, PAGE, QUIET

CELL = 80
"""The side in pixels to which small images are enlarged, rounded up to a whole multiple of theirs."""
LARGEST_FACTOR = 8
TITLE = 22
"""The height in pixels of the title of an animation."""
FRAME_MS, LAST_FRAME_MS = 300, 1500
"""How long an animation shows a frame, and its last one."""
CLIP_MS = 150
"""How long a frame of a clip is shown."""
STRIP, FILM = 260, 640
"""The largest height in pixels of the pictures of a strip, and the largest side of a frame of a film."""
GAP = 4
MARGIN = 16
BETWEEN = (205, 211, 219)
"""The colour between cells, distinct from the black and white in which images often end."""


def factor(images: Tensor) -> int:
    """The whole factor by which images (..., H, W) are enlarged: 8 for 8x8, 3 for 28x28 and 32x32, 1 from 80x80."""
    return min(LARGEST_FACTOR, math.ceil(CELL / max(images.shape[-2:])))


def panel(images: Tensor, columns: int) -> Tensor:
    """uint8 images (N, C, H, W) in cells, row by row: RGB (H', W', 3).

    Pixel (y, x) of the image in row i and column j is the square of side f = factor(images) whose upper left corner is
    (g + i (f H + g) + f y, g + j (f W + g) + f x), with the gap g = GAP. Of one or two channels the first is shown in
    grey, of more than three the first three in colour.
    """
    count, channels, height, width = images.shape
    scale = factor(images)
    rgb = images.cpu()[:, :3] if channels >= 3 else images.cpu()[:, :1].expand(-1, 3, -1, -1)
    cells = rgb.repeat_interleave(scale, -2).repeat_interleave(scale, -1).permute(0, 2, 3, 1)
    down, right = scale * height + GAP, scale * width + GAP
    between = torch.tensor(BETWEEN, dtype=torch.uint8)
    canvas = torch.full((GAP + math.ceil(count / columns) * down, GAP + columns * right, 3), 255, dtype=torch.uint8)
    for i, cell in enumerate(cells):
        top, left = GAP + i // columns * down, GAP + i % columns * right
        canvas[top - GAP : top + down, left - GAP : left + right] = between
        canvas[top : top + down - GAP, left : left + right - GAP] = cell
    return canvas


def image_grid(
    path: Path, images: Tensor, columns: int = 8, labels: Sequence[str] = (), title: str | None = None
) -> Path:
    """uint8 images (N, C, H, W) row by row, with ``labels`` below the images and a title above all."""
    columns = min(columns, max(1, len(images)))
    top = MARGIN + 28 if title else 0
    if not labels:
        page = _page([(panel(images, columns), MARGIN if title else 0, top)], margin=MARGIN if title else 0)
    else:
        rows = [panel(row, columns) for row in images.split(columns)]
        pitch = rows[0].shape[0] + 20
        page = _page([(row, MARGIN, max(top, MARGIN) + i * pitch) for i, row in enumerate(rows)], margin=MARGIN + 20)
        right = factor(images) * images.shape[-1] + GAP
        for i, label in enumerate(labels[: len(images)]):
            x = MARGIN + GAP // 2 + (i % columns + 0.5) * right
            y = max(top, MARGIN) + i // columns * pitch + rows[0].shape[0] + 3
            _write(page, (x, y), _fitted(label, right - GAP), size=12, anchor="ma")
    if title:
        _write(page, (MARGIN, MARGIN), _fitted(title, page.width - 2 * MARGIN, 14), size=14)
    return _save(path, page)


def class_grid(path: Path, images: Tensor, classes: Sequence[str], title: str | None = None) -> Path:
    """uint8 images (N, C, H, W) with a column for each of their ``classes`` (N,), in the order of numbers and names.

    A column has its images in their order, and ends where they do. Of few or unequal classes each has several columns
    side by side, so that no page is much higher than wide.
    """
    order = sorted(set(classes), key=lambda name: (int(name) if name.isdecimal() else math.inf, name))
    columns: dict[str, list[int]] = {name: [] for name in order}
    for index, name in enumerate(classes):
        columns[name].append(index)
    most = max(map(len, columns.values()))
    each = math.ceil(most / max(8, math.ceil(math.sqrt(len(images)))))
    rows = math.ceil(most / each)
    down, right = (factor(images) * side + GAP for side in images.shape[-2:])
    top, wide = MARGIN + (28 if title else 0), each * right + (GAP if each > 1 else 0)
    page = Image.new("RGB", (2 * MARGIN + len(columns) * wide + GAP, top + 20 + rows * down + GAP + MARGIN), "white")
    for j, (name, members) in enumerate(columns.items()):
        page.paste(_image(panel(images[members], min(each, len(members)))), (MARGIN + j * wide, top + 20))
        label = _fitted(name, each * right - GAP)
        _write(page, (MARGIN + GAP // 2 + j * wide + each * right / 2, top), label, size=12, anchor="ma")
    if title:
        _write(page, (MARGIN, MARGIN), _fitted(title, page.width - 2 * MARGIN, 14), size=14)
    return _save(path, page)


def strip(path: Path, pictures: Mapping[str, Path]) -> Path:
    """Pictures side by side in one height, each with its name above, at most STRIP pixels high."""
    images = {name: Image.open(picture).convert("RGB") for name, picture in pictures.items()}
    height = min(STRIP, *(image.height for image in images.values()))
    widths = [round(image.width * height / image.height) for image in images.values()]
    page = Image.new("RGB", (sum(widths) + MARGIN * (len(widths) + 1), height + 2 * MARGIN + 20), "white")
    x = MARGIN
    for (name, image), width in zip(images.items(), widths, strict=True):
        page.paste(image.resize((width, height), Image.Resampling.LANCZOS), (x, MARGIN + 20))
        _write(page, (x, MARGIN), _fitted(name, width), size=12)
        x += width + MARGIN
    return _save(path, page)


def film(path: Path, pictures: Sequence[Path]) -> Path:
    """Pictures one after another as a GIF without end, on pages as the last, made smaller to at most FILM pixels."""

    def reduced(picture: Path) -> Image.Image:
        with Image.open(picture) as image:
            shown: Image.Image = image.convert("RGB")
        shown.thumbnail((FILM, FILM))
        return shown

    size = reduced(pictures[-1]).size

    def page(picture: Path) -> Image.Image:
        whole = Image.new("RGB", size, "white")
        whole.paste(reduced(picture))
        return whole

    return _save_gif(path, len(pictures), map(page, pictures))


def comparison(path: Path, real: Tensor, generated: Tensor, title: str | None = None) -> Path:
    """Real images beside generated ones, uint8 (N, C, H, W), as many as fit into two squares on the page."""
    cell = factor(real) * real.shape[-1] + GAP
    fitting = max(1, (PAGE - 3 * MARGIN) // 2 // cell)
    columns = min(fitting, max(1, math.ceil(math.sqrt(max(len(real), len(generated))))))
    left, right = (panel(images[: columns**2], columns) for images in (real, generated))
    top = MARGIN + (30 if title else 0)
    second = MARGIN + left.shape[1] + 2 * MARGIN
    page = _page([(left, MARGIN, top + 26), (right, second, top + 26)], margin=MARGIN)
    if title:
        _write(page, (MARGIN, MARGIN), title, size=16)
    _write(page, (MARGIN, top), "Real", size=14)
    _write(page, (second, top), "Generated", size=14)
    return _save(path, page)


def trajectory(path: Path, frames: Tensor, times: Sequence[float], predictions: Tensor | None = None) -> Path:
    """uint8 frames (S, N, C, H, W) at S times: a row per sample, a column per time, from noise to data.

    With ``predictions`` of x_0 (S, N, C, H, W) each sample has a second row of them.
    """
    moments = frames.shape[0]
    shown = frames[None] if predictions is None else torch.stack([frames, predictions])
    images = panel(shown.permute(2, 0, 1, 3, 4, 5).flatten(0, 2), moments)
    left = MARGIN if predictions is None else MARGIN + 32
    page = _page([(images, left, MARGIN + 44)], margin=MARGIN)
    down, right = (factor(frames) * side + GAP for side in frames.shape[-2:])
    _write(page, (left, MARGIN), "Noise", size=14)
    _write(page, (left + images.shape[1], MARGIN), "Data", size=14, anchor="ra")
    _arrow(page, left + 60, left + images.shape[1] - 52, MARGIN + 9)
    for i, time in enumerate(times):
        x = left + GAP // 2 + (i + 0.5) * right
        _write(page, (x, MARGIN + 25), f"t = {time:.2f}", size=12, anchor="ma", colour=QUIET)
    if predictions is not None:
        for i, name in enumerate(("x_t", "x_0") * frames.shape[1]):
            y = MARGIN + 44 + GAP // 2 + (i + 0.5) * down
            _write(page, (left - 6, y), name, size=12, anchor="rm", colour=QUIET)
    return _save(path, page)


def animation(path: Path, frames: Tensor, times: Sequence[float]) -> Path:
    """uint8 frames (S, N, C, H, W) at S times as a GIF of the N images, from noise to data."""
    columns = math.ceil(math.sqrt(frames.shape[1]))
    return save_animation(path, [_page([(panel(frame, columns), 0, TITLE)], margin=0) for frame in frames], times)


def save_animation(path: Path, pages: Sequence[Image.Image], times: Sequence[float]) -> Path:
    """Write pages, which leave TITLE rows free at the top for the time, as a GIF without end."""
    for page, time in zip(pages, times, strict=True):
        _write(page, (4, 4), f"t = {time:.2f}", size=12, colour=QUIET)
    return _save_gif(path, len(pages), iter(pages))


def _save_gif(path: Path, count: int, pages: Iterator[Image.Image]) -> Path:
    lasts = [FRAME_MS] * (count - 1) + [LAST_FRAME_MS]
    with atomic_write(path) as file:
        next(pages).save(file, format="GIF", save_all=True, append_images=pages, duration=lasts, loop=0)
    return path


def table(path: Path, images: Tensor, rows: Sequence[str], columns: Sequence[str], title: str | None = None) -> Path:
    """uint8 images (R, C, C', H, W) with a title left of each row and above each column, and one above all."""
    return _save(path, _table(images, rows, columns, title))


def moving_table(path: Path, clips: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Path:
    """uint8 clips (R, C, C', T, H, W) in the same places, as a GIF that plays without end."""
    pages = (_table(images, rows, columns) for images in clips.unbind(3))
    with atomic_write(path) as file:
        first = next(pages)
        first.save(file, format="GIF", save_all=True, append_images=pages, duration=CLIP_MS, loop=0)
    return path


def _table(images: Tensor, rows: Sequence[str], columns: Sequence[str], title: str | None = None) -> Image.Image:
    cells = panel(images.flatten(0, 1), images.shape[1])
    left = MARGIN + max((math.ceil(_font(12).getlength(row)) + 8 for row in rows if row), default=0)
    above = 28 if title else 0
    top = MARGIN + 20 + above
    page = _page([(cells, left, top)], margin=MARGIN)
    if title:
        _write(page, (MARGIN, MARGIN), _fitted(title, page.width - 2 * MARGIN, 14), size=14)
    down, right = (factor(images) * side + GAP for side in images.shape[-2:])
    for j, column in enumerate(columns):
        name = _fitted(column, right - GAP)
        _write(page, (left + GAP // 2 + (j + 0.5) * right, MARGIN + above), name, size=12, anchor="ma")
    for i, row in enumerate(rows):
        _write(page, (left - 8, top + GAP // 2 + (i + 0.5) * down), row, size=12, anchor="rm", colour=QUIET)
    return page


def _image(cells: Tensor) -> Image.Image:
    return Image.fromarray(cells.numpy())


def _page(panels: Sequence[tuple[Tensor, int, int]], margin: int) -> Image.Image:
    """A white page with panels at (x, y) and a margin at the right and at the bottom."""
    width = max(x + panel.shape[1] for panel, x, _ in panels) + margin
    height = max(y + panel.shape[0] for panel, _, y in panels) + margin
    page = np.full((height, width, 3), 255, dtype=np.uint8)
    for panel, x, y in panels:
        page[y : y + panel.shape[0], x : x + panel.shape[1]] = panel.numpy()
    return Image.fromarray(page)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _write(
    page: Image.Image, position: tuple[float, float], text: str, size: int, anchor: str = "la", colour: str = INK
) -> None:
    ImageDraw.Draw(page).text(position, text, fill=colour, font=_font(size), anchor=anchor)


def _fitted(text: str, width: int, size: int = 12) -> str:
    """The text, cut with an ellipsis if it is wider than ``width`` pixels."""
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _arrow(page: Image.Image, start: int, end: int, y: int) -> None:
    draw = ImageDraw.Draw(page)
    draw.line([(start, y), (end - 6, y)], fill=QUIET, width=1)
    draw.polygon([(end, y), (end - 8, y - 4), (end - 8, y + 4)], fill=QUIET)


def _save(path: Path, page: Image.Image) -> Path:
    with atomic_write(path) as file:
        page.save(file, format="PNG", optimize=True)
    return path
