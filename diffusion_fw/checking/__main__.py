"""Conformance on the command line: one component, all built-in ones, or the published constants.

    python -m diffusion_fw.checking sampler=my_sampler [sampler.eta=0.5 ...]   one component, built in or plugin
    python -m diffusion_fw.checking all                                        every built-in; writes docs/checks.md
    python -m diffusion_fw.checking references                                 published constants beside ours
    python -m diffusion_fw.checking langevin                                   NCSN's toy: plain and annealed Langevin

Plugins are loaded from ./plugins and from the folders in DIFFUSION_FW_PLUGINS. A picture of the sampler is written to
outputs/checks/. The exit code is 1 if a check fails or the command line is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checking import convergence, document, langevin, published
from diffusion_fw.checking.built_ins import every
from diffusion_fw.checking.conformance import examine
from diffusion_fw.checking.findings import MARKS
from diffusion_fw.checking.sampler_laws import samples
from diffusion_fw.checking.subject import Subject
from diffusion_fw.checking.truth import MIXTURE
from diffusion_fw.pictures.order_curves import convergence as convergence_picture
from diffusion_fw.pictures.point_clouds import points_comparison
from diffusion_fw.pictures.sampler_gallery import gallery
from diffusion_fw.registry import ConfigError, RegistrationError, discovery

PICTURES = Path("outputs/checks")
DOCUMENT = Path("docs/checks.md")
CONVERGENCE, SAMPLERS = Path("images/convergence.png"), Path("images/samplers.png")
CURVE_STEPS = (4, 8, 16, 32, 64, 128, 256)
SHOWN_POINTS = 2500
SHOWN_CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("ddim", {}),
    "heun": ("heun", {}),
    "dpm_solver_pp 2M": ("dpm_solver_pp", {}),
    "dpm_solver_pp 3M": ("dpm_solver_pp", {"order": 3}),
    "deis": ("deis", {}),
    "unipc predictor_order=3": ("unipc", {"predictor_order": 3}),
    "lms": ("lms", {}),
}
"""The samplers of the picture in the documentation."""


def curve(subject: Subject) -> list[tuple[int, float]]:
    """(evaluations, error) of a deterministic sampler for the numbers of steps with which it runs."""
    schedule = registry.build("schedule", "vp")
    points = []
    for steps in CURVE_STEPS:
        try:
            point = convergence.measure(
                lambda steps, grid: subject.build(steps=steps, grid=grid), schedule, steps, convergence.FROM_NOISE
            )
        except ConfigError:
            continue
        points.append((point.evaluations, point.error))
    return points


def exact_points() -> Tensor:
    """Exact samples of the mixture."""
    return MIXTURE.sample(SHOWN_POINTS, torch.Generator().manual_seed(0))


def picture(subject: Subject, folder: Path) -> Path:
    """A deterministic sampler's convergence, or a stochastic one's samples beside exact ones."""
    sampler = subject.build()
    path = folder / f"{subject.name}.png"
    if sampler.stochastic:
        return points_comparison(path, exact_points(), samples(subject, SHOWN_POINTS), title=subject.name)
    orders = {} if sampler.reached_order is None else {subject.name: sampler.reached_order}
    title = f"{subject.name}: convergence to the exact probability flow of a mixture"
    return convergence_picture(path, {subject.name: curve(subject)}, orders, title)


def parse(arguments: Sequence[str]) -> tuple[str, str, dict[str, Any]]:
    """(group, name, parameters) of ``group=name group.parameter=value ...``; ConfigError for anything else."""
    pairs = [argument.partition("=")[::2] for argument in arguments]
    chosen = [(key, value) for key, value in pairs if "." not in key]
    if len(chosen) != 1 or not chosen[0][1]:
        raise ConfigError(
            f"{' '.join(arguments)}: give one component, such as sampler=ddim, or all, references or langevin"
        )
    group, name = chosen[0]
    parameters = {}
    for key, value in pairs:
        owner, _, parameter = key.partition(".")
        if not parameter:
            continue
        if owner != group:
            raise ConfigError(f"{key}={value}: only keys of {group}, such as {group}.{parameter}, can be set here")
        parameters[parameter] = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore
    return group, name, parameters


def check_one(arguments: Sequence[str], console: Console) -> bool:
    """Print the findings about one component and draw its picture; True if it passed."""
    group, name, parameters = parse(arguments)
    report = examine(group, name, **parameters)
    console.print(report)
    if group == "sampler":
        console.print(f"picture: {picture(Subject(group, name, parameters), PICTURES)}")
    for row in report.failures:
        console.print(f"[bold red]FAILED[/] {row}", highlight=False)
    return not report.failures


def check_all(console: Console) -> bool:
    """Check every built-in component and write the findings to docs/; True if all passed."""
    reports = [
        examine(group, name, **parameters)
        for group, name, parameters in track(every(), description="checking", console=console, transient=True)
    ]
    constants = list(published.comparisons())
    document.write(DOCUMENT, reports, constants, {"convergence": CONVERGENCE, "samplers": SAMPLERS})
    draw(DOCUMENT.parent)
    table = Table("component", "rows", "")
    for report in reports:
        table.add_row(report.title, str(len(report.rows)), MARKS[not report.failures])
    console.print(table)
    failures = [f"{report.title}: {row}" for report in reports for row in report.failures]
    failures += [f"{item.what}: found {item.ours}, published {item.published}" for item in constants if not item.passed]
    for failure in failures:
        console.print(f"[bold red]FAILED[/] {failure}", highlight=False)
    console.print(f"written: {DOCUMENT}, {DOCUMENT.parent / CONVERGENCE}, {DOCUMENT.parent / SAMPLERS}")
    return not failures


def draw(folder: Path) -> None:
    """The pictures of the documentation."""
    subjects = {label: Subject("sampler", name, parameters) for label, (name, parameters) in SHOWN_CURVES.items()}
    orders = {label: subject.build().reached_order for label, subject in subjects.items()}
    curves = {label: curve(subject) for label, subject in subjects.items()}
    title = "Convergence to the exact probability flow of a mixture"
    convergence_picture(folder / CONVERGENCE, curves, orders, title)
    first: dict[str, dict[str, Any]] = {}
    for group, name, parameters in every():
        if group == "sampler":
            first.setdefault(name, parameters)
    shown = {name: samples(Subject("sampler", name, given), SHOWN_POINTS) for name, given in first.items()}
    gallery(folder / SAMPLERS, exact_points(), shown, "A mixture of three Gaussians under every sampler")


def check_references(console: Console) -> bool:
    """Print every published constant beside ours; True if all agree."""
    table = Table("section", "constant", "published", "ours", "source", "")
    constants = list(published.comparisons())
    for item in constants:
        table.add_row(item.section, item.what, item.published, item.ours, item.source, MARKS[item.passed])
    console.print(table)
    console.print(f"{sum(item.passed for item in constants)} of {len(constants)} agree")
    return all(item.passed for item in constants)


def check_langevin(console: Console) -> bool:
    """Print the weights of the modes under plain and annealed Langevin dynamics, with a picture; True as published."""
    samples = langevin.dynamics()
    right = langevin.as_published(samples)
    table = Table("Langevin dynamics", "weight of the mode at (5, 5)", "exact", "as published")
    error = langevin.standard_error(langevin.COUNT)
    for name, found in samples.items():
        table.add_row(name, f"{langevin.weight(found):.3f} ± {error:.3f}", f"{langevin.WEIGHT:g}", MARKS[right[name]])
    console.print(table)
    shown = {f"{name}: {langevin.weight(found):.0%} at (5, 5)": found for name, found in samples.items()}
    exact = shown.pop(next(iter(shown)))
    PICTURES.mkdir(parents=True, exist_ok=True)
    title = "Langevin dynamics on a mixture with 80% of its weight at (5, 5)"
    console.print(f"picture: {gallery(PICTURES / 'langevin.png', exact, shown, title)}")
    return all(right.values())


def run(arguments: Sequence[str]) -> bool:
    """Run a command line; True if nothing failed."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if list(arguments) == ["references"]:
        return check_references(console)
    if list(arguments) == ["langevin"]:
        return check_langevin(console)
    if list(arguments) == ["all"]:
        return check_all(console)
    discovery.load_plugins(*_beside())
    return check_one(arguments, console)


def _beside() -> Iterable[Path]:
    """The folder of plugins in the working directory, if it exists."""
    folder = Path("plugins")
    return [folder] if folder.is_dir() else []


def main() -> None:
    """The entry point of ``python -m diffusion_fw.checking``."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.exit(print(__doc__))
    try:
        passed = run(arguments)
    except (ConfigError, RegistrationError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
