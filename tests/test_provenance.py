"""Files of samples say what made them. Reading that is safe, and the pixels stay as they are."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusion_fw import provenance
from diffusion_fw.app.sample import sample
from diffusion_fw.app.train import train
from diffusion_fw.config.application import check_command_line

RECORD: provenance.Record = {"generated": True, "program": "diffusion_fw sample.py", "seed": 3, "index": 5, "x": None}


def png(path: Path, record: provenance.Record | None = RECORD) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, pnginfo=None if record is None else provenance.png_info(record))
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, samples=np.zeros(3), **arrays)
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_a_record_is_read_back_from_both_kinds_of_files(tmp_path: Path) -> None:
    assert provenance.read(png(tmp_path / "a.png")) == RECORD
    assert provenance.read(npz(tmp_path / "a.npz", provenance=np.array(provenance.text(RECORD)))) == RECORD
    assert provenance.read(png(tmp_path / "b.png", None)) is None
    assert provenance.read(npz(tmp_path / "b.npz")) is None


def test_a_stamp_changes_nothing_but_the_record(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", None)
    before = np.asarray(Image.open(path)).copy()
    provenance.stamp(path, RECORD)
    assert provenance.read(path) == RECORD
    with Image.open(path) as image:
        image.verify()
        assert json.loads(image.info["diffusion_fw"]) == RECORD
    assert np.array_equal(np.asarray(Image.open(path)), before)


def test_the_hash_of_a_config_is_that_of_what_makes_the_samples() -> None:
    config = {"checkpoint": "a.ckpt", "device": "cpu", "batch_size": 4, "sampler": {"name": "ddim", "steps": 5}}
    same = {"sampler": {"steps": 5, "name": "ddim"}, "checkpoint": "elsewhere/a.ckpt", "device": "cuda"}
    other = {**config, "sampler": {"name": "ddim", "steps": 6}}
    assert provenance.config_hash(config) == provenance.config_hash(same) != provenance.config_hash(other)


@pytest.fixture(scope="module")
def checkpoint(untrained: Any) -> Any:
    return untrained("network.class_conditional=true", "network.channels=4", "network.channel_mult=[1]")


def drawn(checkpoint: Any, folder: Path, *words: str) -> Path:
    folder.mkdir()
    given = [f"checkpoint={checkpoint}", "device=cpu", "num_samples=3", "npz=true", "sampler.steps=2", *words]
    sample(check_command_line("sample", given)[0], folder)
    return folder


def test_samples_say_what_made_them_unless_a_key_is_set(checkpoint: Any, tmp_path: Path) -> None:
    named, plain = drawn(checkpoint, tmp_path / "a"), drawn(checkpoint, tmp_path / "b", "provenance=false")
    files = [path.relative_to(named) for path in provenance.files_of(named)]
    assert [str(path) for path in files] == ["grid.png", *(f"images/00000{i}.png" for i in range(3)), "samples.npz"]
    records = [provenance.read(named / path) for path in files]
    for record in records:
        assert record is not None
        assert record["generated"] is True
        assert record["program"] == "diffusion_fw sample.py"
        assert record["checkpoint_sha256"] == provenance.file_hash(Path(checkpoint))
        assert record["seed"] == 0
        assert len(record["config_sha256"]) == 64
    assert [record["index"] for record in records if record and "index" in record] == [0, 1, 2, "0..2"]
    assert [provenance.read(plain / path) for path in files] == [None] * 5
    for path in files[:-1]:
        assert np.array_equal(np.asarray(Image.open(named / path)), np.asarray(Image.open(plain / path)))
    with np.load(named / "samples.npz") as one, np.load(plain / "samples.npz") as two:
        assert set(one) - set(two) == {"provenance"}
        assert all(np.array_equal(one[key], two[key]) for key in two)


def test_the_record_tells_other_samples_apart(checkpoint: Any, tmp_path: Path) -> None:
    commands = {"first": [], "again": ["batch_size=1"], "other": ["sampler.steps=3"], "seeded": ["seed=1"]}
    found: dict[str, Any] = {
        name: provenance.read(drawn(checkpoint, tmp_path / name, *words) / "images" / "000000.png")
        for name, words in commands.items()
    }
    assert found["first"] == found["again"]
    assert found["first"]["config_sha256"] != found["other"]["config_sha256"]
    assert found["seeded"]["seed"] == 1


def test_pictures_of_training_say_what_made_them(tiny: Any, tmp_path: Path) -> None:
    train(tiny(), tmp_path)
    for name in (
        "samples.png",
        "real_and_generated.png",
        "progress.png",
        "samples/step_0000006.png",
        "samples/trajectory.png",
    ):
        record = provenance.read(tmp_path / name)
        assert record is not None
        assert (record["program"], record["generated"]) == ("diffusion_fw train.py", True)
    assert provenance.read(tmp_path / "loss.png") is None


def hostile(folder: Path) -> dict[str, Path]:
    """Files that no program of ours writes."""
    whole = png(folder / "whole.png").read_bytes()
    bodies = {
        "empty.png": b"",
        "truncated.png": whole[:60],
        "crc.png": whole.replace(b"sample.py", b"sample.pz"),
        "long.png": whole[:33] + (0x7FFFFFFF).to_bytes(4, "big") + b"tEXt" + whole[33:],
        "nested.png": whole[:33] + chunk(b"tEXt", b"diffusion_fw\0" + b"[" * 60_000) + whole[33:],
        "list.png": whole[:33] + chunk(b"tEXt", b"diffusion_fw\0[1]") + whole[33:],
        "deep.png": whole[:33] + chunk(b"tEXt", b'diffusion_fw\0{"a": {"b": 1}}') + whole[33:],
        "many.png": whole[:33] + chunk(b"teSt", b"") * 20_000 + whole[33:],
        "text.png": b"text",
        "zip.npz": b"PK\x03\x04 and nothing else",
    }
    for name, content in bodies.items():
        (folder / name).write_bytes(content)
    np.savez(folder / "pickle.npz", provenance=np.array({"a": 1}, dtype=object))
    np.savez(folder / "numbers.npz", provenance=np.zeros((10, 10)))
    np.savez(folder / "json.npz", provenance=np.array("{"))
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("provenance.npy", b"\x93NUMPY\x01\x00" + bytes(50_000_000))
    with zipfile.ZipFile(folder / "huge.npz", "w") as archive:
        header = b"{'descr': '<U9', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
        archive.writestr("provenance.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    return {path.name: path for path in folder.iterdir() if path.name != "whole.png"}


def test_a_strangers_file_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in hostile(tmp_path).values():
        assert provenance.main([str(path)]) == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{path}: ")
        assert "no provenance" in line or "cannot be read: " in line


def test_a_record_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", {"generated": True, "red\x1b[31m": "a\nb\x1b[0m"})
    has, line = provenance.describe(path)
    assert has
    assert line.isprintable()


def test_no_change_of_bytes_ends_the_reader(tmp_path: Path) -> None:
    generator = random.Random(0)
    originals = [png(tmp_path / "a.png"), npz(tmp_path / "a.npz", provenance=np.array(provenance.text(RECORD)))]
    for original in originals:
        content = original.read_bytes()
        for _ in range(300):
            changed = bytearray(content)
            for _ in range(generator.randint(1, 8)):
                changed[generator.randrange(len(changed))] = generator.randrange(256)
            path = tmp_path / f"changed{original.suffix}"
            path.write_bytes(changed[: generator.randint(1, 2 * len(changed))])
            _, line = provenance.describe(path)
            assert line.isprintable()


def test_the_program_reads_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    png(tmp_path / "images" / "0.png")
    assert provenance.main([str(tmp_path)]) == 0
    found = capsys.readouterr().out
    assert found.startswith(f"{tmp_path}/images/0.png: generated=true program='diffusion_fw sample.py' seed=3 index=5")
    png(tmp_path / "1.png", None)
    assert provenance.main([str(tmp_path)]) == 1
    assert f"{tmp_path}/1.png: no provenance" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert provenance.main([str(tmp_path / "none")]) == 1
    assert "has no PNG or npz files" in capsys.readouterr().out
    assert provenance.main([str(tmp_path / "nowhere.png")]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().out
    assert provenance.main([]) == 2


def test_it_runs_as_a_module_without_torch(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png")
    program = [sys.executable, "-X", "importtime", "-m", "diffusion_fw.provenance", str(path)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: generated=true")
    assert not any(line.endswith("| torch") for line in done.stderr.splitlines())
