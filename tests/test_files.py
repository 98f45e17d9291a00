"""An atomic write leaves a file whole or absent, whatever happens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from diffusion_fw.files import UNFINISHED, atomic_write, open_regular, remove_unfinished


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
