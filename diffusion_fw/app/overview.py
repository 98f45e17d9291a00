"""What there is: the programs of the package, and every choice of the config as a YAML file to copy.

python -m diffusion_fw                                  # the programs
python -m diffusion_fw conf write schedule=cosine       # conf/schedule/my_cosine.yaml, to change and to choose
python -m diffusion_fw conf write all --to choices      # choices/schedule/cosine.yaml and all others, to read
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusion_fw import registry
from diffusion_fw.files import atomic_write
from diffusion_fw.registry import ConfigError, RegistrationError, catalogue, discovery

PROGRAMS = {
    "dfw-train": ("python train.py", "trains a model"),
    "dfw-sample": ("python sample.py", "draws from a model"),
    "dfw-evaluate": ("python evaluate.py", "measures a model or images"),
    "dfw-report": ("python report.py", "compares runs on one page"),
    "python -m diffusion_fw.verify": ("", "tells whether a result still holds"),
    "python -m diffusion_fw.provenance": ("", "tells what made a file"),
    "python -m diffusion_fw.interop": ("", "imports and exports published weights"),
    "python -m diffusion_fw.checking": ("", "checks a component against the laws of its group"),
    "python -m diffusion_fw conf write": ("", "writes choices of the config as YAML files"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The program `python -m diffusion_fw`; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print_programs()
        return 0
    parser = argparse.ArgumentParser(prog="python -m diffusion_fw")
    kinds = parser.add_subparsers(required=True, metavar="conf")
    actions = kinds.add_parser("conf", help="choices of the config as files").add_subparsers(required=True)
    write = actions.add_parser("write", help="write choices as YAML files")
    write.add_argument("choices", nargs="+", metavar="GROUP=NAME", help="a choice, a GROUP for all of it, or `all`")
    write.add_argument("--to", type=Path, metavar="FOLDER", help="the folder; by default conf, under my_NAME.yaml")
    options = parser.parse_args(given)
    try:
        discovery.add_plugin_folders(*(folder for folder in [Path("plugins")] if folder.is_dir()))
        with catalogue.catalogued():
            for path in write_choices(options.choices, options.to):
                print(path)
    except (ConfigError, RegistrationError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def print_programs() -> None:
    """Print the programs, by their installed names and those of the scripts of a checkout."""
    width = max(map(len, PROGRAMS))
    for name, (script, what) in PROGRAMS.items():
        print(f"{name:{width}}  {what}{f'; in a checkout: {script}' if script else ''}")
    print("\nEach states its options with --help; dfw-train --help lists every choice of the config.")


def write_choices(words: Sequence[str], folder: Path | None = None) -> Iterator[Path]:
    """Write each choice as a file, and yield its path.

    A file in conf/ is called my_NAME, as a component keeps its name; in another folder NAME. Raises ConfigError for
    a choice that does not exist, and for a file that does.
    """
    for entry in _entries(words):
        path = folder / entry.group / f"{entry.name}.yaml" if folder else own_path(entry)
        if path.exists():
            raise ConfigError(f"{path} exists already; rename it, or give another folder by --to")
        with atomic_write(path) as file:
            file.write(text(entry).encode())
        yield path


def own_path(entry: registry.Entry) -> Path:
    """Where a user's own variant of a component is found."""
    return Path("conf") / entry.group / f"my_{entry.name}.yaml"


def _entries(words: Sequence[str]) -> Iterator[registry.Entry]:
    groups = [group for group in registry.GROUPS if group != "settings"]
    for word in words:
        group, _, name = word.partition("=")
        if group != "all" and group not in groups:
            raise ConfigError(f"{word}: no such group{registry.nearest(group, groups)}; groups: {', '.join(groups)}")
        if name:
            yield registry.entry(group, name)
        else:
            for each in groups if group == "all" else [group]:
                yield from registry.entries(each).values()


def text(entry: registry.Entry) -> str:
    """A component as a file of the config: its keys, with what they allow and their defaults."""
    import yaml

    group = registry.GROUPS[entry.group]
    package = f"# @package {entry.group}.{entry.name}\n" if group.several else ""
    lines = [f"{package}# {line}".rstrip() for line in entry.documentation.splitlines()[:1]]
    lines.append(f"name: {entry.name}")
    for key, parameter in entry.parameters.items():
        lines.append(f"# {registry.describe(parameter.annotation)}")
        lines.append(f"{key}: ???" if parameter.required else yaml.safe_dump({key: _plain(parameter.default)}).strip())
    return "\n".join([*lines, ""])


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
