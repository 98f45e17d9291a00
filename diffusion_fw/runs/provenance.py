"""The provenance of a run: its code with uncommitted changes, its plugins, its packages and its machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusion_fw.files import atomic_write
from diffusion_fw.registry import discovery

GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
"""A repository's config may name programs that git would start. None of them is started; see also _filters."""
GIT_SECONDS = 20
LARGEST_DIFF = 16 << 20
"""Bytes; of a longer diff, which is hardly one of code, only the hash is kept."""
MOST_UNTRACKED = 200


def provenance(folder: Path) -> dict[str, Any]:
    """What a run in ``folder`` depends on besides its config; uncommitted changes are written to git-*.diff there.

    ``repositories`` has, for each git repository that contains this package, the working directory or a plugin, the
    commit, the name of the file with the uncommitted changes, and the untracked files. Environment variables are left
    out, because they hold secrets.
    """
    found, diffs = _of_process()
    for name, content in diffs.items():
        if not (folder / name).exists():
            with atomic_write(folder / name) as file:
                file.write(content)
    return found


@functools.cache
def _of_process() -> tuple[dict[str, Any], dict[str, bytes]]:
    """The provenance at the first run of this process, whose modules stay as loaded when their files change."""
    places = [Path(__file__).parent, Path.cwd(), *map(Path, discovery.plugin_folders())]
    states, diffs = repositories(places)
    found = {
        "repositories": states,
        "plugins": discovery.plugin_hashes(),
        "packages": installed(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
    }
    return found, diffs


def installed() -> dict[str, str]:
    """The version of every installed package; of a package that is installed twice, the one that is imported."""
    # A package that pip removed only in part has neither name nor version.
    pairs = [(item.name, item.version) for item in importlib.metadata.distributions()]
    return dict(sorted({name: version for name, version in reversed(pairs) if name and version}.items()))


def repositories(places: Iterable[Path]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The state of each git repository that contains one of ``places``, and the diffs by name; empty without git."""
    tops = (_git(place, "rev-parse", "--show-toplevel") for place in places)
    states, diffs = [], {}
    for top in dict.fromkeys(Path(line.strip()) for line in tops if line):
        commit = _git(top, "rev-parse", "HEAD")
        no_programs = ("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=dirty")
        changes = _git(top, "diff", *no_programs, "HEAD", settings=_filters(top))
        untracked = (_git(top, "ls-files", "--others", "--exclude-standard") or "").splitlines()
        diff = None
        if changes:
            content = changes.encode(errors="surrogateescape")
            diff = f"git-{hashlib.sha256(content).hexdigest()[:12]}.diff"
            if len(content) <= LARGEST_DIFF:
                diffs[diff] = content
        state = {"folder": os.fspath(top), "commit": commit.strip() if commit else None, "diff": diff}
        states.append({**state, "untracked": untracked[:MOST_UNTRACKED]})
    return states, diffs


def _filters(top: Path) -> dict[str, str]:
    """The settings under which git runs none of the filters that the repository's config names."""
    pattern = r"^filter\..*\.(clean|process|smudge)$"
    named = (_git(top, "config", "--name-only", "--get-regexp", pattern) or "").split("\n")
    required = {f"{name.rpartition('.')[0]}.required": "false" for name in named if name}
    return {**{name: "" for name in named if name}, **required}


def _git(place: Path, *arguments: str, settings: Mapping[str, str] = {}) -> str | None:
    """The output of git in ``place``; None if it fails, for want of git or of a repository."""
    passed = {"GIT_CONFIG_COUNT": str(len(settings))}
    for index, (key, value) in enumerate(settings.items()):
        passed |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    try:
        done = subprocess.run(
            [*GIT, *arguments],
            cwd=place,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **passed},
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")
