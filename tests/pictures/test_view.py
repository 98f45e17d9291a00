from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.data.dataset import to_model
from diffusion_fw.pictures.point_clouds import points_comparison
from diffusion_fw.pictures.view import view_for
from diffusion_fw.registry import ConfigError

RANGE = (-1.0, 1.0)


def draw_images(count: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)


def draw_points(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("shape", "draw"),
    [((1, 8, 8), draw_images), ((3, 32, 32), draw_images), ((2,), draw_points), ((5,), draw_points)],
)
def test_one_interface_draws_every_kind_of_data_and_leaves_no_other_file(
    tmp_path: Path, shape: tuple[int, ...], draw: Callable[[int, tuple[int, ...]], Tensor]
) -> None:
    view, folder = view_for(shape, RANGE), tmp_path / "made" / "on demand"
    values = draw(12, shape)
    written = {
        view.samples(folder / "samples.png", values),
        view.comparison(folder / "comparison.png", values, values.flip(0), title="title"),
        view.trajectory(folder / "trajectory.png", values.view(6, 2, *shape), [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]),
    }
    assert set(folder.iterdir()) == written
    for path in written:
        with Image.open(path) as picture:
            picture.verify()


def test_images_held_as_floats_give_the_picture_of_their_pixels(tmp_path: Path) -> None:
    values, view = draw_images(4, (3, 8, 8)), view_for((3, 8, 8), RANGE)
    pixels = view.samples(tmp_path / "pixels.png", values)
    floats = view.samples(tmp_path / "floats.png", to_model(values))
    assert pixels.read_bytes() == floats.read_bytes()


def test_the_bounds_of_floats_are_black_and_white_whatever_they_are(tmp_path: Path) -> None:
    """p = 255 (x - low) / (high - low); beyond the bounds as at them."""
    values = draw_images(4, (3, 8, 8))
    pixels = view_for((3, 8, 8), RANGE).samples(tmp_path / "pixels.png", values)
    floats = values.float() / 255 * 4 - 3
    floats = torch.where(values == 255, 9.0, floats)
    wide = view_for((3, 8, 8), (-3.0, 1.0)).samples(tmp_path / "floats.png", floats)
    assert pixels.read_bytes() == wide.read_bytes()


def test_points_outside_the_real_points_window_do_not_change_it(tmp_path: Path) -> None:
    real = draw_points(200, (2,))
    near = points_comparison(tmp_path / "near.png", real, real)
    far = points_comparison(tmp_path / "far.png", real, torch.cat([real, torch.tensor([[1e6, 0.0], [torch.nan, 0.0]])]))
    below_titles = (0, 60, 900, 470)
    with Image.open(near) as a, Image.open(far) as b:
        assert a.size == (900, 470)
        assert a.crop(below_titles).tobytes() == b.crop(below_titles).tobytes()
        assert a.tobytes() != b.tobytes()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_points_that_are_all_equal_or_not_finite_leave_a_picture(tmp_path: Path, value: float) -> None:
    values, view = torch.full((3, 2), value), view_for((2,), RANGE)
    assert view.samples(tmp_path / "a.png", values).is_file()
    assert view.comparison(tmp_path / "b.png", values, values).is_file()
    assert view.trajectory(tmp_path / "c.png", values[None], [0.0]).is_file()


@pytest.mark.parametrize("shape", [(), (1,), (8, 1), (3, 8, 8, 8, 8)])
def test_a_shape_without_a_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot be drawn"):
        view_for(shape, RANGE)


def test_drawing_needs_neither_a_display_nor_lightning() -> None:
    code = (
        "import sys, diffusion_fw.pictures.view, diffusion_fw.pictures.curves, diffusion_fw.pictures.schedule_curves;"
        "print([name for name in ('lightning', 'hydra', 'torchmetrics', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("shape", "draw"), [((1, 8, 8), draw_images), ((3, 32, 32), draw_images), ((3,), draw_points)])
def test_an_animation_has_a_frame_for_each_time_and_rests_on_the_last(
    tmp_path: Path, shape: tuple[int, ...], draw: Callable[[int, tuple[int, ...]], Tensor]
) -> None:
    frames = draw(4 * 6, shape).unflatten(0, (4, 6))
    if len(shape) == 1:
        frames[0, 0] = torch.nan  # a diverged sample is left out
    path = view_for(shape, RANGE).animation(tmp_path / "a.gif", frames, [1.0, 0.5, 0.25, 0.0])
    with Image.open(path) as moving:
        assert getattr(moving, "n_frames", 1) == 4
        assert moving.info["loop"] == 0
        durations = []
        for frame in range(4):
            moving.seek(frame)
            durations.append(moving.info["duration"])
    assert durations[-1] > durations[0] == durations[1] == durations[2]


def test_an_animation_shows_the_pixels_of_the_images(tmp_path: Path) -> None:
    frames = torch.stack([torch.full((4, 1, 8, 8), value, dtype=torch.uint8) for value in (0, 255)])
    path = view_for((1, 8, 8), RANGE).animation(tmp_path / "a.gif", frames, [1.0, 0.0])
    with Image.open(path) as moving:
        for frame, value in enumerate((0, 255)):
            moving.seek(frame)
            page = moving.convert("RGB")
            # Two columns of two images of 8 times 8 pixels, each 8 times enlarged, under the title.
            places = [(4 + 32 + 68 * column, 22 + 4 + 32 + 68 * row) for row in (0, 1) for column in (0, 1)]
            assert {page.getpixel(place) for place in places} == {(value, value, value)}
