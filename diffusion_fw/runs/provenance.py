"""What produced a run's numbers: the code with its changes, the plugins, the packages, the machine."""

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
"""A repository's own config may name programs that git would start; none is: see also _filters."""
GIT_SECONDS = 20
LARGEST_DIFF = 16 << 20
"""Bytes: what is longer is no change of code, and only its hash is kept."""
MOST_UNTRACKED = 200


def provenance(folder: Path) -> dict[str, Any]:
    """The state of everything that a run in ``folder`` depends on beside its config; changes of code go to git-*.diff.

    ``repositories``: for each git repository that this package, the working directory or a plugin is in, the commit,
    the file with its uncommitted changes, and the files that git does not know. Environment variables are not read:
    they hold secrets.
    """
    found, diffs = _of_process()
    for name, content in diffs.items():
        if not (folder / name).exists():
            with atomic_write(folder / name) as file:
                file.write(content)
    return found


@functools.cache
def _of_process() -> tuple[dict[str, Any], dict[str, bytes]]:
    """At the first run of this process: its modules stay what they were then, whatever becomes of their files."""
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
    """The version of every installed package; of one that is there twice, the one that is imported."""
    # A folder that pip left half removed has neither name nor version.
    pairs = [(item.name, item.version) for item in importlib.metadata.distributions()]
    return dict(sorted({name: version for name, version in reversed(pairs) if name and version}.items()))


def repositories(places: Iterable[Path]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The state of each git repository that one of ``places`` is in, and their diffs by name; empty without git."""
    said = (_git(place, "rev-parse", "--show-toplevel") for place in places)
    states, diffs = [], {}
    for top in dict.fromkeys(Path(line.strip()) for line in said if line):
        commit = _git(top, "rev-parse", "HEAD")
        plainly = ("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=dirty")
        changes = _git(top, "diff", *plainly, "HEAD", settings=_filters(top))
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
    """The settings under which no filter that the repository's config names is run on a file that is compared."""
    named = (_git(top, "config", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process|smudge)$") or "").split(
        "\n"
    )
    required = {f"{name.rpartition('.')[0]}.required": "false" for name in named if name}
    return {**{name: "" for name in named if name}, **required}


def _git(place: Path, *words: str, settings: Mapping[str, str] = {}) -> str | None:
    """What git says in ``place``; None where it cannot say, as there is no git, or no repository."""
    stated = {"GIT_CONFIG_COUNT": str(len(settings))}
    for index, (key, value) in enumerate(settings.items()):
        stated |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    try:
        done = subprocess.run(
            [*GIT, *words],
            cwd=place,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **stated},
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")
