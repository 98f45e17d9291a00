"""`python -m diffusion_fw.app.wandb_view ENTITY/PROJECT`: save a view of a project's page on W&B.

It needs a key and the extra `wandb-view`. `--print` prints what would be saved, and asks no server.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

NUMBERS = {
    "Distance": ["best_distance", "heldout/loss"],
    "Training": ["train/loss", "train/gradient_norm", "train/lr", "train/images_per_second"],
}
"""The line charts over the steps, by section. The best distance is there whichever metric the runs are measured by."""
PICTURES = {
    "Samples": ["samples", "report/real_and_generated", "report/progress", "trajectory", "trajectory/animation"],
    "Curves": ["report/distance", "report/loss", "report/loss_by_log_snr", "report/schedule", "jobs", "trials"],
}
"""The pictures, by section."""
STEP = "trainer/global_step"


def view(entity: str, project: str, name: str = "diffusion_fw") -> Any:
    """The view: distances and losses over the steps, samples with a slider over training, the curves at the end."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports.v2 import interface as reports

    panels: dict[str, list[Any]] = {
        section: [reports.LinePlot(title=key, x=STEP, y=[key]) for key in keys] for section, keys in NUMBERS.items()
    }
    for section, keys in PICTURES.items():
        panels[section] = [reports.MediaBrowser(title=key, media_keys=[key], num_columns=1) for key in keys]
    sections = [workspaces.Section(name=name, panels=shown, is_open=True) for name, shown in panels.items()]
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections)


def main(arguments: list[str] | None = None) -> None:
    """Save the view, or print it."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_fw.app.wandb_view", description=__doc__)
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument("--name", default="diffusion_fw", help="of the view")
    parser.add_argument("--print", action="store_true", help="print what would be saved, and save nothing")
    options = parser.parse_args(arguments)
    entity, _, project = options.project.partition("/")
    if not entity or not project:
        parser.error(f"{options.project} is not ENTITY/PROJECT")
    try:
        made = view(entity, project, options.name)
    except ModuleNotFoundError as error:
        sys.exit(f"ConfigError: {error.name} is missing: pip install 'diffusion-fw[wandb-view]'")
    if options.print:
        print(json.dumps(made._to_model().model_dump(mode="json", by_alias=True), indent=2))
        return
    print(f"W&B: {made.save().url}")


if __name__ == "__main__":
    main()
