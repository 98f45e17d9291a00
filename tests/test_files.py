"""An atomic write leaves a file whole or absent, whatever happens."""

from __future__ import annotations

import pytest

from diffusion_fw.files import UNFINISHED, atomic_write, remove_unfinished


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
