"""A command line: Hydra's options, its overrides as they were typed, and the jobs that they ask for."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override
from hydra.errors import HydraException

from diffusion_fw.registry import ConfigError

SEARCHPATH = "hydra.searchpath"
"""The override that names further folders of configs."""


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's own options and the overrides; ConfigError for an unknown option."""
    options, rest = get_args_parser().parse_known_args(list(arguments))
    for word in rest:
        if word.startswith("-"):
            raise ConfigError(f"{word}: no such option; --help and --hydra-help list what there is")
    if options.experimental_rerun:
        raise ConfigError(
            "--experimental-rerun unpickles a file, which can run code; to continue a run, give resume=RUN"
        )
    if options.config_path and "://" not in options.config_path:
        # Hydra's own is relative to the file of this package.
        options.config_path = os.path.abspath(options.config_path)
    for folder in (options.config_path, options.config_dir):
        if folder and "://" not in folder and not Path(folder).is_dir():
            raise ConfigError(f"{folder}: there is no such folder of configs")
    options.overrides = [*options.overrides, *rest]
    return options


def parse(words: Sequence[str], loader: Any = None) -> list[Override]:
    """The overrides; ``loader`` is what glob() takes choices from. ConfigError for one that is not key=value."""
    parser = OverridesParser.create(config_loader=loader)
    return [_parsed(parser, word) for word in words]


class Searching:
    """What glob() takes choices from: Hydra's loader, with the folders of configs that overrides add to its path."""

    def __init__(self, loader: Any, config_name: str, words: Sequence[str]) -> None:
        self.loader, self.config_name = loader, config_name
        self.places = [word for word in words if word.partition("=")[0] == SEARCHPATH]

    def get_group_options(self, group_name: str, *args: Any, **kwargs: Any) -> list[str]:
        """The choices of a group."""
        found: list[str] = (
            self.loader.get_group_options(group_name, ObjectType.CONFIG, self.config_name, self.places)
            if self.places
            # Hydra's own method copies everything that is stored.
            else self.loader.repository.get_group_options(group_name, ObjectType.CONFIG)
        )
        return found


def _parsed(parser: OverridesParser, word: str) -> Override:
    try:
        return parser.parse_overrides([word])[0]
    except HydraException as error:
        reason = " ".join(str(error).partition("See https")[0].split())
        raise ConfigError(f"{word}: cannot be read as key=value: {reason}{remedy(word)}") from None


def remedy(word: str) -> str:
    """How to give the value of an override as text, if it has one."""
    key, separator, value = word.partition("=")
    known = separator and re.fullmatch(r"[+~]{0,2}[\w.@:/-]+", key)
    return f"; if the value is text, quote it: {shlex.quote(f'{key}={quoted(value)}')}" if known else ""


def quoted(text: str) -> str:
    """A text as an override's value that Hydra reads as this text."""
    return '"' + re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), text) + '"'


def typed(words: Sequence[str]) -> Mapping[str, str]:
    """The values of overrides as they were typed, by key; not those that refer to another value."""
    pairs = (word.lstrip("+~").partition("=") for word in words)
    return {key: value.strip() for key, _, value in pairs if "${" not in value}


def texts(override: Override) -> list[str]:
    """The values of an override that is no interval, each as it was typed where that can be told.

    Hydra spells numbers anew, 1_000 as 1000, and a text that reads as a number would change.
    """
    own = [override.get_value_element_as_str()] if not override.is_sweep_override() else None
    spelled = own or list(override.sweep_string_iterator())
    text = (override.input_line or "").partition("=")[2].strip()
    if isinstance(value := override.value(), ChoiceSweep) and not value.shuffle:
        listed = re.fullmatch(r"choice\((.*)\)", text)
        plain = re.fullmatch(r"[^][(){}'\"\\]*", text := listed[1] if listed else text)
        parts = [part.strip() for part in text.split(",")]
        return parts if plain and len(parts) == len(spelled) else spelled
    return [text] if own and not override.is_delete() else spelled


def jobs(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep; one job without a sweep. Of an interval its two ends are taken."""
    ends = (
        ("start", "end") if any(isinstance(override.value(), IntervalSweep) for override in overrides) else ("start",)
    )
    for end in ends:
        options = []
        for override in overrides:
            key, value = override.get_key_element(), override.value()
            if isinstance(value, IntervalSweep):
                options.append([f"{key}={getattr(value, end)}"])
            elif override.is_discrete_sweep():
                options.append([f"{key}={text}" for text in texts(override)])
            else:
                options.append([override.input_line or ""])
        yield from (list(job) for job in itertools.product(*options))
