"""An atomic write leaves a file whole or absent, whatever happens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from diffusion_fw import files
from diffusion_fw.files import (
    UNFINISHED,
    atomic_write,
    default_cache,
    open_regular,
    open_to_append,
    remove_unfinished,
    unfinished,
)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"first")

    def fail():
        with atomic_write(path) as file:
            file.write(b"half of the sec")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_content_stays_until_the_new_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_the_unfinished_file_of_a_killed_writer_is_removed(tmp_path):
    (tmp_path / f".last.ckpt.123{UNFINISHED}").write_bytes(b"half")
    (tmp_path / "last.ckpt").write_bytes(b"whole")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_regular_file_is_opened_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for path, kind in {"/dev/zero": "a device", ".": "a folder", "pipe": "a pipe"}.items():
            before = len(list(Path("/proc/self/fd").iterdir()))
            with pytest.raises(OSError, match=f"it is {kind}, not a regular file") as error:
                open_regular(path)
            assert error.value.filename == path
            assert len(list(Path("/proc/self/fd").iterdir())) == before
        with pytest.raises(OSError):
            open_regular("socket")


def test_the_name_of_an_unfinished_file_cannot_be_foreseen(tmp_path):
    seen = set()
    for _ in range(3):
        with atomic_write(tmp_path / "file"):
            seen |= {path.name for path in tmp_path.glob(f".file.*{UNFINISHED}")}
    assert len(seen) == 3
    assert not any(str(os.getpid()) in name.split(".") for name in seen)


def test_a_link_or_file_of_that_name_is_neither_followed_nor_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "unfinished", lambda path: path.with_name("foreseen.part"))
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "foreseen.part").symlink_to(target)
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert target.read_text() == "mine"


def test_a_link_is_replaced_when_written_and_refused_when_appended_to(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OSError), open_to_append(tmp_path / "link") as file:
        file.write(b"x")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"whole")
    assert target.read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


def test_nothing_is_written_through_a_hard_link(tmp_path):
    (tmp_path / "other").write_text("mine\n")
    for name in ("appended", "written"):
        (tmp_path / name).hardlink_to(tmp_path / "other")
    with open_to_append(tmp_path / "appended") as file:
        file.write(b"more")
    with atomic_write(tmp_path / "written") as file:
        file.write(b"whole")
    texts = {name: (tmp_path / name).read_text() for name in ("other", "appended", "written")}
    assert texts == {"other": "mine\n", "appended": "mine\nmore", "written": "whole"}


def test_what_a_killed_run_has_left_is_removed_and_nothing_that_a_link_leads_to(tmp_path):
    for name in ("run", "run/folder", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "x.png").write_text("mine")
    unfinished(tmp_path / "run" / "images").mkdir()
    (next((tmp_path / "run").glob(".images*")) / "000000.png").write_text("half")
    unfinished(tmp_path / "run" / "samples.npz").write_text("half")
    (tmp_path / "run" / ".of_another_program.part").write_text("mine")
    unfinished(tmp_path / "run" / "link").symlink_to(tmp_path / "mine")
    remove_unfinished(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".of_another_program.part", "folder"]
    assert (tmp_path / "mine" / "x.png").read_text() == "mine"


def test_a_file_is_as_readable_as_any_other_of_the_user(tmp_path):
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    (tmp_path / "other").write_bytes(b"whole")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_without_a_home_nothing_is_cached_and_nothing_fails(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(OSError), atomic_write(default_cache() / "file") as file:
        file.write(b"x")
