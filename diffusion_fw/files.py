"""Atomic writes, which leave a file whole or absent, opening regular files alone, and the folder for caches."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".part"

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors after which a later attempt may succeed."""

_locks: dict[Path, os.stat_result] = {}
"""The lock files that this process holds."""


@contextlib.contextmanager
def guarded(lock: Path) -> Iterator[None]:
    """While the block runs, atomic_write below the folder of ``lock`` raises OSError if that file was replaced.

    A lock holds a file, not its name: if the folder is removed and another run starts in a new one of the same name,
    the lock on the old file doesn't cover the new folder.
    """
    lock = lock.absolute()
    _locks[lock] = lock.stat()
    try:
        yield
    finally:
        del _locks[lock]


def _check_locks(path: Path) -> None:
    for lock, own in _locks.items():
        if lock.parent in path.absolute().parents and lock.exists() and not os.path.samestat(lock.stat(), own):
            raise OSError(errno.EBUSY, "the folder was removed, and another run uses the new one", str(lock.parent))


def unfinished(path: Path) -> Path:
    """An unpredictable name beside ``path``, for what replaces it once it is complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A temporary file that replaces ``path`` when the block ends, once its content is on the disk.

    If the block raises, ``path`` stays as it was. Several processes may write the same path at once.
    """
    _check_locks(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    # Fails if the name exists, even as a link: then it is not this process's.
    opened = temporary.open("xb")
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush the rename to the disk, on systems that can flush a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The file at ``path``, opened for reading; links are followed. Raises OSError for all but a regular file.

    A device such as /dev/zero never ends, and opening a pipe waits for a writer. The type is checked on the open file,
    so it cannot change in between.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        code = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
        raise OSError(code, f"it is {KINDS.get(kind, 'no regular file')}, not a regular file", os.fspath(path))
    return os.fdopen(handle, "rb")


def version(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written: its size, and the times of its content and of its inode.

    A copy may have the size and the first time of its original; the last time cannot be set.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_to_append(path: Path) -> BinaryIO:
    """The file at ``path``, opened for appending and created if needed. Raises OSError for a symbolic link.

    A file that has another name too, a hard link, is first replaced by a copy: nothing is written into the other one.
    """
    if hard_linked(path):
        with open_regular(path) as own, atomic_write(path) as copy:
            shutil.copyfileobj(own, copy)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def hard_linked(path: Path) -> bool:
    """Whether it is a file that has another name, anywhere."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink > 1


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files and folders that a killed run has left in ``folder``."""
    for path in folder.glob(f".*.*{UNFINISHED}"):
        if not re.fullmatch("[0-9a-f]+", path.name.split(".")[-2]):
            continue  # of another program
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/diffusion_fw``, by default in ``~/.cache``; no such path without a home."""
    return with_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "diffusion_fw"


def with_home(path: str) -> Path:
    """A path with ~ replaced by the user's home; one that cannot exist if the system knows no home for that user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(os.devnull) / path
