from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from diffusion_fw.pictures.bound_terms import rate_distortion
from diffusion_fw.pictures.curves import HEIGHT, _smooth, distance_curve, loss_by_log_snr, loss_curve
from diffusion_fw.pictures.schedule_curves import schedule
from diffusion_fw.pictures.style import PAGE, PALETTE, page, scale_y
from diffusion_fw.process.level import NoiseLevel, variance_exploding
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import Linear

# Constrained layout only warns when it fails, and then leaves axes on top of one another.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def colours(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (PAGE, HEIGHT)
        return np.asarray(picture.convert("RGB"))


def rows_of(path: Path, colour: str, columns: slice) -> np.ndarray:
    """The rows, from the top, at which pure pixels of a colour stand in these columns below the legend."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return 40 + np.nonzero((colours(path)[40:, columns] == rgb).all(-1))[0]


def test_a_falling_loss_is_drawn_falling(tmp_path: Path) -> None:
    steps = list(range(1, 401))
    path = loss_curve(tmp_path / "loss.png", steps, [math.exp(-step / 100) for step in steps])
    assert rows_of(path, PALETTE[0], slice(100, 250)).mean() + 100 < rows_of(path, PALETTE[0], slice(700, 890)).mean()


def test_held_out_losses_are_drawn_over_the_training_losses(tmp_path: Path) -> None:
    without = loss_curve(tmp_path / "a.png", [1, 2, 3], [1.0, 0.9, 0.8])
    held_out = loss_curve(tmp_path / "b.png", [1, 2, 3], [1.0, 0.9, 0.8], [[1, 0.95], [3, 0.85]])
    assert not len(rows_of(without, PALETTE[1], slice(0, PAGE)))
    assert len(rows_of(held_out, PALETTE[1], slice(0, PAGE)))


@pytest.mark.parametrize("losses", [[], [1.0], [math.nan, math.inf, 1.0, -math.inf], [math.nan], [0.0, -1.0, 5.0]])
def test_losses_that_are_missing_or_not_finite_leave_a_picture(tmp_path: Path, losses: list[float]) -> None:
    steps = list(range(len(losses)))
    colours(loss_curve(tmp_path / "loss.png", steps, losses, [[s, y] for s, y in zip(steps, losses, strict=True)]))
    colours(loss_by_log_snr(tmp_path / "snr.png", steps, losses, irreducible=losses))
    colours(distance_curve(tmp_path / "fid.png", {"fid": list(zip(steps, losses, strict=True))}, "distance"))


def test_smoothing_keeps_constants_and_the_first_value_and_lowers_the_variance_by_its_window() -> None:
    noise = np.random.default_rng(0).standard_normal(20_000)
    smooth = _smooth(noise, 10)
    assert _smooth(np.full(50, 3.0), 7) == pytest.approx(3.0)
    assert smooth[0] == noise[0]
    assert _smooth(noise, 0) == pytest.approx(noise)
    # Two means over n: a triangle of weights (n - |k|) / n^2, whose squares sum to (2 n^2 + 1) / (3 n^3).
    assert smooth[100:-100].var() == pytest.approx((2 * 21**2 + 1) / (3 * 21**3), rel=0.1)


def test_the_floor_is_drawn_below_larger_distances(tmp_path: Path) -> None:
    curve = {"fid/digits@500/ema": [(100, 1679.0), (1500, 48.0)]}
    path = distance_curve(tmp_path / "fid.png", curve, "Fréchet distance", floor=20.0)
    floor = rows_of(path, "#6B7480", slice(150, 800))
    rows, counts = np.unique(floor, return_counts=True)
    long = rows[counts > 200]
    axis = long.max()
    assert any(rows_of(path, PALETTE[0], slice(150, 880)).max() < row < axis - 3 for row in long)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0], "linear"), ([1.0, 100.0], "log"), ([-1.0, 100.0], "linear"), ([math.nan], "linear"), ([], "linear")],
)
def test_y_is_logarithmic_only_for_positive_values_of_a_large_range(values: list[float], expected: str) -> None:
    axes = Figure().add_subplot()
    scale_y(axes, values)
    assert axes.get_yscale() == expected


class Exploding(Schedule):
    """sigma from 0.01 to 50, and no noise at t = 0."""

    def __call__(self, t: torch.Tensor) -> NoiseLevel:
        log_snr = torch.where(t == 0, torch.inf, -2 * (math.log(0.01) + t * math.log(5000)))
        return NoiseLevel(t, *variance_exploding(log_snr), log_snr)


@pytest.mark.parametrize(
    "path",
    [Linear(), Linear(num_steps=50), Linear(zero_terminal_snr=True), VP(), Exploding()],
    ids=lambda item: type(item).__name__,
)
def test_schedules_are_drawn_to_their_infinite_ends(tmp_path: Path, path: Schedule) -> None:
    picture = colours(schedule(tmp_path / "schedule.png", path, "name"))
    for colour, half in ((PALETTE[0], slice(0, PAGE // 2)), (PALETTE[2], slice(PAGE // 2, PAGE))):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        drawn = np.nonzero((picture[:, half] == rgb).all(-1))[1]
        assert drawn.max() - drawn.min() > 300


def test_a_failing_picture_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    loss_curve(path, [1, 2], [1.0, 0.5])
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="midway"), page(path, HEIGHT):
        raise RuntimeError("midway")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_rate_rises_and_distortion_falls_from_noise_to_data(tmp_path: Path) -> None:
    times = [1 - i / 20 for i in range(20)]
    path = rate_distortion(tmp_path / "rate.png", times, [i**2 / 200 for i in range(20)], [100.0 * t for t in times])
    third = PAGE // 3
    falling, rising = ((PALETTE[0], 0), (PALETTE[1], third))
    for (colour, left), sign in ((falling, 1), (rising, -1)):
        ends = [rows_of(path, colour, slice(left + a, left + b)).mean() for a, b in ((60, 150), (200, third))]
        assert sign * (ends[1] - ends[0]) > 50
