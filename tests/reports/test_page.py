"""The page as a file: its size, its time, what it refers to, and the program that writes it."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from run_folders import evaluate_run, record, result_line, train_run

from diffusion_fw.app import report_page
from diffusion_fw.reports.page import LARGEST_PAGE, write_report
from diffusion_fw.reports.pictures import galleries
from diffusion_fw.reports.reading import read_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> bytes:
    """A picture that hardly compresses."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.effect_noise((300, 300), 90).convert("RGB").save(path)
    return path.read_bytes()


def test_the_page_of_36_runs_is_smaller_than_6_mb_whatever_their_pictures(tmp_path, photo):
    for job in range(36):
        train_run(tmp_path / str(job), {"seed": job}, pictures=False)
        (tmp_path / str(job) / "samples").mkdir()
        for step in range(3):
            (tmp_path / str(job) / "samples" / f"step_{step:07d}.png").write_bytes(photo)
    written = write_report([tmp_path])
    assert written.size == (tmp_path / "report.html").stat().st_size <= LARGEST_PAGE
    text = (tmp_path / "report.html").read_text()
    # Those that have no room are left out of all runs alike.
    assert text.count('<figure class="sequence"') == 36
    assert written.pictures_left_out == 3 * 36 - text.count("<img ") > 0
    assert f"{written.pictures_left_out} pictures had no room" in text


def test_a_picture_that_is_damaged_or_no_picture_is_a_note(tmp_path, photo):
    train_run(tmp_path, {"seed": 0})
    (tmp_path / "samples" / "step_0000100.png").write_bytes(photo[:3000])
    (tmp_path / "samples" / "step_0000200.png").write_text("<svg onload='alert(1)'>")
    (tmp_path / "samples" / "trajectory.gif").write_bytes(b"")
    (tmp_path / "samples" / "trajectory.png").symlink_to(tmp_path / "run.json")
    (run,) = read_runs([tmp_path])
    (gallery,), left_out = galleries([run], 10**6)
    assert [picture.at for picture in gallery.grids] == [300]
    assert (gallery.frames, left_out) == ([], 0)
    assert len(run.notes) == 4


def test_the_page_refers_to_nothing_outside(tmp_path):
    train_run(tmp_path, {"seed": 0})
    path = write_report([tmp_path]).path
    page = re.sub(r"<script.*?</script>", "", path.read_text(), flags=re.DOTALL)
    targets = re.findall(r"(?:src|href|action|url)\s*[=(]\s*[\"']?([^\"'\s>)]+)", page)
    assert targets
    assert [target for target in targets if not target.startswith(("#", "data:image/"))] == []
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "lines", [[], [result_line(1.0)], [result_line(3.0, metric="nll/ema", sampler=None, cost=None)]]
)
def test_a_page_of_any_one_run(tmp_path, lines):
    evaluate_run(tmp_path / "a", lines)
    record(tmp_path / "b", "sample", ["mode=encode"], status="interrupted", error="Interrupted, exit code 130")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metrics.csv").write_text("")
    assert write_report([tmp_path]).runs == 3


def test_the_program_writes_the_page_and_imports_no_torch(tmp_path):
    train_run(tmp_path / "run", {"seed": 0})
    script = (
        "import sys; from diffusion_fw.app.report_page import main; main(); "
        "print([name for name in ('torch', 'lightning', 'hydra', 'matplotlib') if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]
    said = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert re.fullmatch(rf"1 run on one page of 1\.\d MB: {re.escape(str(tmp_path / 'page.html'))}", said[0])
    assert said[1] == "[]"


@pytest.mark.parametrize(
    ("folder", "out", "said"),
    [
        ("none", "page.html", "no such folder; give the folder of a run or of a sweep"),
        (".", "page.html", "holds no run"),
        ("run", ".", "is a folder; give the name of a file in it"),
        ("run", "run/run.json/page.html", "the page cannot be written"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, folder, out, said):
    (tmp_path / "empty").mkdir()
    train_run(tmp_path / "run", {"seed": 0}, pictures=False)
    place = tmp_path / "empty" if folder == "." else tmp_path / folder
    monkeypatch.setattr(sys, "argv", ["report.py", str(place), "--out", str(tmp_path / out)])
    with pytest.raises(SystemExit) as ended:
        report_page.main()
    assert re.fullmatch(rf"ConfigError: .*{said}.*", str(ended.value))


def test_the_library_of_charts_is_the_published_file_that_the_notice_names():
    content = gzip.decompress((ROOT / "diffusion_fw/reports/assets/plotly-basic.min.js.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() in (ROOT / "NOTICE").read_text()
