"""--help: the groups with their options; a group or a component with its keys and what it is passed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion_fw import registry
from diffusion_fw.config.groups import defaults, groups, has_own, stacked, unregistered
from diffusion_fw.registry import OWN


def print_help(program: str, arguments: Sequence[str]) -> None:
    """Print what the arguments name: a component for `group=name`, a group for `group`, else all groups."""
    console = Console()
    described = False
    asked = [argument.partition("=") for argument in arguments]
    asked = [item for item in asked if item[0] in registry.GROUPS]
    for group, _, name in asked:
        if not name:
            print_group(console, program, group)
        elif name == OWN and has_own(program, group):
            print_own(console, program, group)
        elif name in registry.names(group):
            print_component(console, program, registry.entry(group, name))
        else:
            continue
        described = True
    if not described:
        print_groups(console, program)


def print_groups(console: Console, program: str) -> None:
    """Print the groups of a program and their options."""
    chosen = defaults(program)
    table = Table("group", "options (the default in bold)", title=f"{command(program)} group=option group.key=value")
    for group in groups(program):
        own = chosen[group] if isinstance(chosen[group], list) else [chosen[group]]
        known = registry.entries(group).values() if group in registry.GROUPS else ()
        options = {entry.name: label(entry.name, entry.python_only) for entry in known}
        options |= {name: name for name in (*unregistered(group), *([OWN] if has_own(program, group) else []))}
        styled = [Text(shown, style="bold green" if name in own else "") for name, shown in sorted(options.items())]
        table.add_row(group, Text(", ").join(styled))
    settings = ", ".join(registry.entry("settings", program).parameters)
    table.add_section()
    table.add_row("(keys)", settings)
    console.print(table)
    several = ", ".join(stacked(program))
    example = "guidance=[own,clip]" if has_own(program, "guidance") else "logger=[csv,wandb]"
    console.print(
        f"An option and its keys:            {command(program)} --help sampler=ddim\n"
        f"A group, for plugins:              {command(program)} --help sampler\n"
        f"Several runs:                      {command(program)} -m sampler=ddim,ddpm sampler.steps=10,50\n"
        f"Several at once, of {several}:   '{example}'\n"
        f"Hydra's own options:               {command(program)} --hydra-help",
        highlight=False,
        markup=False,
    )


def command(program: str) -> str:
    """How the program was called: by its script, or as dfw-train by its installed name."""
    called = Path(sys.argv[0]).name
    return called if called.startswith("dfw-") else f"python {program}.py"


OF_MODEL = "what the model was trained with, which its checkpoint states"


def label(name: str, python_only: bool) -> str:
    """An option, marked if no command line can choose it."""
    return f"{name} (Python only)" if python_only else name


def print_own(console: Console, program: str, group: str) -> None:
    """Print what group=own stands for."""
    place = f"{group}.NAME.KEY" if group in stacked(program) else f"{group}.KEY"
    console.print(
        f"{group}={OWN}: {OF_MODEL}. {place}=... changes a key of it; explain=true prints what it is.",
        highlight=False,
        markup=False,
    )


def print_group(console: Console, program: str, group: str) -> None:
    """Print the components of a group, and what a component can ask for."""
    table = Table("option", "what it is", title=group)
    if has_own(program, group):
        table.add_row(OWN, OF_MODEL)
    for name, entry in registry.entries(group).items():
        table.add_row(label(name, entry.python_only), Text(entry.summary))
    console.print(table)
    passed = {**registry.GROUPS[group].runtime, **registry.GROUPS[group].python}
    if passed:
        print_runtime(console, f"a {group} can ask for these by name: Runtime[...]", group, passed)


def print_component(console: Console, program: str, entry: registry.Entry) -> None:
    """Print a component's docstring, its keys with what they allow and their defaults, and what it is passed."""
    note = " (Python only)" if entry.python_only else ""
    console.print(f"[bold]{entry.group}={entry.name}[/bold]{note}  ({entry.source})\n", highlight=False)
    console.print(entry.documentation, "", highlight=False, markup=False)
    if entry.parameters:
        place = f"{entry.group}.{entry.name}" if entry.group in stacked(program) else entry.group
        table = Table("key", "default", "allowed")
        for key, parameter in entry.parameters.items():
            table.add_row(
                f"{place}.{key}",
                "(required)" if parameter.required else str(parameter.default),
                registry.describe(parameter.annotation),
            )
        console.print(table)
    if entry.runtime:
        print_runtime(console, "passed to it", entry.group, entry.runtime)


def print_runtime(console: Console, title: str, group: str, names: Iterable[str]) -> None:
    """Print Runtime parameters of a group and what each one is."""
    passed = registry.GROUPS[group]
    table = Table("Runtime", "what it is", title=title)
    for name in names:
        if name in passed.runtime:
            table.add_row(name, passed.runtime[name])
        else:
            table.add_row(name, f"{passed.python[name]} (from Python only)")
    console.print(table)
