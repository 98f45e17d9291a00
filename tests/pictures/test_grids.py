from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.app.report import spread
from diffusion_fw.pictures.image_grids import (
    GAP,
    MARGIN,
    class_grid,
    comparison,
    factor,
    film,
    image_grid,
    panel,
    strip,
    trajectory,
)
from diffusion_fw.pictures.view import ImageView


def images(count: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def read_cell(page: np.ndarray, image: Tensor, top: int, left: int) -> None:
    """Assert that each pixel of the image is a uniform square of the page, from (top, left) on."""
    scale = factor(image)
    height, width = image.shape[-2:]
    shown = page[top : top + scale * height, left : left + scale * width].reshape(height, scale, width, scale, 3)
    expected = image.expand(3, -1, -1).permute(1, 2, 0).numpy()[:, None, :, None]
    assert (shown == expected).all()


@pytest.mark.parametrize(("size", "expected"), [(8, 8), (16, 5), (28, 3), (32, 3), (64, 2), (80, 1), (256, 1)])
def test_small_images_are_enlarged_by_whole_factors(size: int, expected: int) -> None:
    assert factor(images(1, 1, size, size)) == expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (12, 20)])
def test_every_pixel_of_every_image_is_a_square_of_its_cell(tmp_path: Path, channels: int, size: tuple) -> None:
    batch = images(11, channels, *size)
    page = pixels(image_grid(tmp_path / "grid.png", batch, columns=4))
    down, right = (factor(batch) * side + GAP for side in size)
    assert page.shape == (3 * down + GAP, 4 * right + GAP, 3)
    for i, image in enumerate(batch):
        read_cell(page, image, GAP + i // 4 * down, GAP + i % 4 * right)


@pytest.mark.parametrize("value", [0, 255])
def test_neighbouring_images_are_told_apart_when_all_black_or_all_white(value: int) -> None:
    page = panel(torch.full((4, 1, 8, 8), value, dtype=torch.uint8), columns=2)
    gap = page[:, GAP + 64 : 2 * GAP + 64].float()
    assert (gap - value).abs().min() > 25


def test_fewer_images_than_columns_leave_no_empty_columns(tmp_path: Path) -> None:
    assert pixels(image_grid(tmp_path / "grid.png", images(3, 1, 8, 8))).shape[1] == 3 * (64 + GAP) + GAP


def test_labels_and_title_stand_outside_the_cells(tmp_path: Path) -> None:
    batch = images(5, 3, 32, 32)
    labels = ["a name far too long for a cell of this width", "two", "", "four", "five"]
    page = pixels(image_grid(tmp_path / "grid.png", batch, columns=3, labels=labels, title="Title"))
    top, pitch = MARGIN + 28, 96 + 2 * GAP + 20
    for i, image in enumerate(batch):
        read_cell(page, image, top + i // 3 * pitch + GAP, MARGIN + GAP + i % 3 * (96 + GAP))
    below_first = page[top + 96 + 2 * GAP : top + pitch, MARGIN : MARGIN + 96]
    below_third = page[top + 96 + 2 * GAP : top + pitch, MARGIN + 2 * (96 + GAP) + GAP : MARGIN + 3 * (96 + GAP)]
    assert below_first.min() < 100
    assert below_third.min() == 255
    assert page[:top].min() < 100


@pytest.mark.parametrize("title", [None, "after 100 steps"])
def test_comparison_shows_real_at_the_left_and_generated_at_the_right(tmp_path: Path, title: str | None) -> None:
    real, generated = images(64, 1, 8, 8), images(40, 1, 8, 8)
    page = pixels(comparison(tmp_path / "pair.png", real, generated, title))
    columns, cell = 6, 64 + GAP
    top = MARGIN + (30 if title else 0) + 26
    second = MARGIN + columns * cell + GAP + 2 * MARGIN
    assert 800 <= page.shape[1] <= 900
    for i in range(columns**2):
        row, column = divmod(i, columns)
        read_cell(page, real[i], top + GAP + row * cell, MARGIN + GAP + column * cell)
        read_cell(page, generated[i], top + GAP + row * cell, second + GAP + column * cell)


def test_columns_are_classes_in_order_and_keep_the_order_of_their_images(tmp_path: Path) -> None:
    batch = images(5, 1, 8, 8)
    page = pixels(class_grid(tmp_path / "grid.png", batch, ["10", "2", "10", "10", "2"]))
    top = MARGIN + 20 + GAP
    for column, members in enumerate(([1, 4], [0, 2, 3])):
        for row, index in enumerate(members):
            left = MARGIN + column * (64 + GAP) + GAP
            cell = page[top + row * (64 + GAP) : top + row * (64 + GAP) + 64, left : left + 64]
            expected = batch[index, 0].numpy().repeat(8, 0).repeat(8, 1)
            assert (cell == expected[..., None]).all()
    # The shorter column ends.
    assert (page[top + 2 * (64 + GAP) :, MARGIN : MARGIN + 64] == 255).all()


@pytest.mark.parametrize(("counts", "columns", "rows"), [((32, 32), 8, 8), ((62, 2), 16, 8), ((7, 7, 7), 3, 7)])
def test_a_grid_of_few_or_unequal_classes_is_not_much_higher_than_wide(
    tmp_path: Path, counts: tuple[int, ...], columns: int, rows: int
) -> None:
    classes = [str(index) for index, count in enumerate(counts) for _ in range(count)]
    height, width, _ = pixels(class_grid(tmp_path / "grid.png", images(len(classes), 1, 8, 8), classes)).shape
    assert (height - 2 * MARGIN - 20) // (64 + GAP) == rows
    assert (width - 2 * MARGIN) // (64 + GAP) == columns


def test_a_grid_of_many_classes_says_the_class_of_each_image(tmp_path: Path) -> None:
    batch, view = images(40, 1, 8, 8), ImageView((-1.0, 1.0))
    few, many = ([str(index % count) for index in range(40)] for count in (10, 20))
    assert pixels(view.samples(tmp_path / "few.png", batch, few)).shape[1] == 2 * MARGIN + 10 * (64 + GAP) + GAP
    wide = pixels(view.samples(tmp_path / "many.png", batch, many))
    expected = pixels(image_grid(tmp_path / "labels.png", batch, labels=many))
    assert wide.shape == expected.shape
    assert (wide == expected).all()


def test_a_trajectory_shows_the_prediction_below_each_state(tmp_path: Path) -> None:
    frames, predictions = images(6, 1, 8, 8).view(3, 2, 1, 8, 8), images(6, 1, 8, 8).flip(0).view(3, 2, 1, 8, 8)
    plain = pixels(trajectory(tmp_path / "a.png", frames, [1.0, 0.5, 0.0]))
    page = pixels(trajectory(tmp_path / "b.png", frames, [1.0, 0.5, 0.0], predictions))
    assert page.shape[0] - plain.shape[0] == 2 * (64 + GAP)
    left, top = page.shape[1] - MARGIN - 3 * (64 + GAP), MARGIN + 44 + GAP
    for row, expected in enumerate((frames[:, 0], predictions[:, 0], frames[:, 1], predictions[:, 1])):
        cells = page[top + row * (64 + GAP) :][:64, left : left + 64]
        assert (cells == expected[0, 0].numpy().repeat(8, 0).repeat(8, 1)[..., None]).all()


def test_a_strip_holds_pictures_of_one_height_side_by_side(tmp_path: Path) -> None:
    tall, wide = tmp_path / "tall.png", tmp_path / "wide.png"
    Image.new("RGB", (100, 520), "red").save(tall)
    Image.new("RGB", (600, 300), "blue").save(wide)
    page = pixels(strip(tmp_path / "strip.png", {"step 5": tall, "step 10": wide}))
    assert page.shape[:2] == (260 + 2 * MARGIN + 20, 50 + 520 + 3 * MARGIN)
    assert page[150, MARGIN + 25].tolist() == [255, 0, 0]
    assert page[150, 2 * MARGIN + 50 + 260].tolist() == [0, 0, 255]


def test_a_film_shows_pictures_in_order_and_the_last_one_longest(tmp_path: Path) -> None:
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "lime", "blue")]
    for path in paths:
        Image.new("RGB", (30, 20), path.stem).save(path)
    with Image.open(film(tmp_path / "film.gif", paths)) as moving:
        shown, lasts = [], []
        for index in range(moving.n_frames):
            moving.seek(index)
            shown.append(moving.convert("RGB").getpixel((5, 5)))
            lasts.append(moving.info["duration"])
    assert shown == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert lasts == [300, 300, 1500]
    large = tmp_path / "large.png"
    Image.new("RGB", (3000, 1500), "red").save(large)
    with Image.open(film(tmp_path / "film.gif", [large, large])) as moving:
        assert moving.size == (640, 320)


def test_the_shown_evaluations_are_spread_and_hold_the_first_and_the_last() -> None:
    paths = [Path(str(index)) for index in range(11)]
    assert spread(paths, 4) == [paths[index] for index in (0, 3, 7, 10)]
    assert spread(paths[:2], 4) == paths[:2]


def test_trajectory_has_a_row_for_each_sample_and_a_column_for_each_moment(tmp_path: Path) -> None:
    frames = images(12, 3, 8, 8).view(4, 3, 3, 8, 8)
    page = pixels(trajectory(tmp_path / "way.png", frames, [1.0, 0.5, 0.25, 0.0]))
    for moment in range(4):
        for sample in range(3):
            top, left = MARGIN + 44 + GAP + sample * (64 + GAP), MARGIN + GAP + moment * (64 + GAP)
            read_cell(page, frames[moment, sample], top, left)


@pytest.mark.parametrize(("channels", "shown"), [(2, [0, 0, 0]), (4, [0, 1, 2])])
def test_other_numbers_of_channels_show_the_first_ones(channels: int, shown: list[int]) -> None:
    image = images(1, channels, 80, 80)
    page = panel(image, columns=1)[GAP:-GAP, GAP:-GAP]
    assert torch.equal(page, image[0, shown].permute(1, 2, 0))
