"""--help: every group with its options, and any component's own words and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion_fw import registry
from diffusion_fw.config.compose import choices, conf_dir, groups


def defaults(program: str) -> dict[str, Any]:
    """The choice of each group that a program makes by itself."""
    stated = yaml.safe_load((conf_dir() / f"{program}.yaml").read_text())["defaults"]
    return {group: choice for item in stated if isinstance(item, dict) for group, choice in item.items()}


def print_help(program: str, arguments: Sequence[str]) -> None:
    """Print the groups of a program; for each `group=name` among the arguments, what that component is."""
    console = Console()
    asked = [argument.split("=", 1) for argument in arguments if "=" in argument]
    described = [
        registry.entry(group, name)
        for group, name in asked
        if group in registry.GROUPS and name in registry.names(group)
    ]
    for entry in described:
        print_component(console, entry)
    if described:
        return
    chosen = defaults(program)
    table = Table("group", "options (the default in bold)", title=f"python {program}.py group=option group.key=value")
    for group in groups():
        if group not in chosen:
            continue
        own = chosen[group] if isinstance(chosen[group], list) else [chosen[group]]
        options = [Text(name, style="bold green" if name in own else "") for name in choices(group)]
        table.add_row(group, Text(", ").join(options))
    settings = ", ".join(registry.entry("settings", program).parameters)
    table.add_section()
    table.add_row("(keys)", settings)
    console.print(table)
    console.print(
        f"What an option is, and its keys:   python {program}.py --help sampler=ddim\n"
        f"Several runs:                      python {program}.py -m sampler=ddim,ddpm sampler.steps=10,50\n"
        "Several of guidance, logger, callbacks hold at once:   'logger=[csv,wandb]'\n"
        f"Hydra's own options:               python {program}.py --hydra-help",
        highlight=False,
        markup=False,
    )


def print_component(console: Console, entry: registry.Entry) -> None:
    """Print a component's docstring, and its keys with what they allow and their defaults."""
    console.print(f"[bold]{entry.group}={entry.name}[/bold]  ({entry.source})\n", highlight=False)
    console.print(entry.documentation, "", highlight=False, markup=False)
    if not entry.parameters:
        return
    table = Table("key", "default", "allowed")
    for key, parameter in entry.parameters.items():
        table.add_row(
            f"{entry.group}.{key}",
            "(required)" if parameter.required else str(parameter.default),
            registry.describe(parameter.annotation),
        )
    console.print(table)
