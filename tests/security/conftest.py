"""Shared by the attacks: a trained checkpoint to change, and a trap that shows whether code ran."""

from __future__ import annotations

import contextlib
import copy
import os
import resource
from pathlib import Path

import pytest
import torch


class Runs:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def trap(tmp_path):
    """A path that an attack would make, and the calls that would make it."""
    path = tmp_path / "it_ran"
    calls = {
        "os.system": Runs(os.system, f"mkdir {path}"),
        "os.mkdir": Runs(os.mkdir, str(path)),
        "builtins.exec": Runs(exec, f"__import__('os').mkdir({str(path)!r})"),
        "builtins.eval": Runs(eval, f"__import__('os').mkdir({str(path)!r})"),
    }
    return path, calls


@pytest.fixture
def forged(trained_content, tmp_path):
    """forged(change) -> the path of the checkpoint after change(content)."""

    def make(change=lambda content: None):
        content = copy.deepcopy(trained_content)
        change(content)
        path = tmp_path / "forged.ckpt"
        torch.save(content, path)
        return path

    return make


@pytest.fixture
def limited():
    """limited(bytes) -> a context in which so much more address space than now is an error."""

    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("the address space in use is read from /proc")

    @contextlib.contextmanager
    def limit(more):
        used = int(pages.read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    return limit
