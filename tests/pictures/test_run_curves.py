"""Curves of several runs: what compare reads and draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diffusion_fw.compare import compare, main, named
from diffusion_fw.pictures import formats
from diffusion_fw.pictures.curves import loss_curve
from diffusion_fw.pictures.sweep_jobs import jobs_grid, jobs_over, jobs_picture
from diffusion_fw.registry import ConfigError
from diffusion_fw.reports.reading import Run, read_runs
from diffusion_fw.runs.record import Result, recorded


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = []
    for index, schedule in enumerate(("cosine", "linear")):
        folder = tmp_path / schedule
        with recorded(folder, "train", [f"schedule={schedule}", "batch_size=8"], number=None, seed=0) as outcome:
            outcome.result = Result("fid/digits@500/ema", 0.3 + index, 0.25)
        rows = [f"{step},{1 / step + index},{0.5 / step}" for step in (10, 20, 30)]
        (folder / "metrics.csv").write_text("\n".join(["step,fid/digits@500/ema,train/loss", *rows]))
        folders.append(folder)
    return folders


def test_runs_are_named_by_what_they_do_not_share(runs: list[Path]) -> None:
    assert list(named(read_runs(runs))) == ["schedule=cosine", "schedule=linear"]
    alike = [Run(Path("a"), "a", {"overrides": ["seed=0"]}), Run(Path("b"), "b", {"overrides": ["seed=0"]})]
    assert list(named(alike)) == ["a", "b"]


def test_the_distance_and_the_loss_of_all_runs_are_drawn_with_the_floor(runs: list[Path], tmp_path: Path) -> None:
    text = compare(runs, tmp_path / "out.svg").read_text()
    # matplotlib writes each text as a comment beside its outlines.
    for said in ("schedule=cosine", "schedule=linear", "fid/digits@500/ema", "train/loss", "real data: 0.25"):
        assert f"<!-- {said} -->" in text
    assert "heldout/loss" not in text
    text = compare(runs, tmp_path / "out.svg", ["train/loss"]).read_text()
    assert "fid/digits" not in text


@pytest.mark.parametrize(
    ("out", "values", "message"),
    [
        ("out.jpg", None, r"must end in one of \.png, \.svg, \.pdf"),
        ("out.png", ["train/los"], "no run has it - did you mean 'train/loss'"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    runs: list[Path], tmp_path: Path, out: str, values: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(runs, tmp_path / out, values)
    assert not (tmp_path / out).exists()


def test_the_command_says_what_is_missing_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_curves_are_written_in_other_formats_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "also", ("svg", "pdf"))
    for folder in (tmp_path / "a", tmp_path / "b"):
        loss_curve(folder / "loss.png", [1, 2, 3], [3.0, 2.0, 1.0])
    assert (tmp_path / "a" / "loss.pdf").read_bytes().startswith(b"%PDF")
    for kind in ("png", "svg", "pdf"):
        first, second = ((tmp_path / name / f"loss.{kind}").read_bytes() for name in "ab")
        assert first == second, kind


def test_the_pictures_of_a_sweep_say_their_keys_marks_and_floor(tmp_path: Path) -> None:
    lines = jobs_picture(tmp_path / "a.svg", {"cosine": [0.3, 0.4], "vp": [float("nan")]}, "fid", "schedule", 0.25)
    text = lines.read_text()
    for said in ("schedule", "cosine", "mean over the seeds", "no result", "floor, real data: 0.25"):
        assert f"<!-- {said} -->" in text
    text = jobs_over(tmp_path / "b.svg", "sampler.steps", {"": {5: [0.9], 10: [0.4]}}, "fid", 0.25).read_text()
    assert "<!-- floor, real data: 0.25 -->" in text


def test_a_grid_has_the_mean_of_every_pair_of_values(tmp_path: Path) -> None:
    cells = {("cosine", "ddim"): [0.2, 0.4], ("linear", "ddpm"): [0.5], ("linear", "ddim"): [float("nan")]}
    text = jobs_grid(tmp_path / "grid.svg", ("schedule", "sampler"), cells, "fid").read_text()
    for said in ("schedule", "sampler", "cosine", "linear", "ddim", "ddpm", "0.3", "0.5"):
        assert f"<!-- {said} -->" in text
    assert text.count("<!-- no result -->") == 2
    with Image.open(jobs_grid(tmp_path / "grid.png", ("a", "b"), {("x", "y"): [float("nan")]}, "fid")) as picture:
        picture.verify()
