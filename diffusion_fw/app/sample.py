"""Sample: draw from a checkpoint with any sampler, or show what else a mode shows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_fw.app.program import run, unless_explained

if TYPE_CHECKING:
    from diffusion_fw.modes.mode import Outcome

logger = logging.getLogger(__name__)


def sample(config: dict[str, Any], folder: Path) -> Outcome:
    """Run config["mode"] on a checkpoint: pictures, a table, and an npz of its name with the arrays go to ``folder``.

    mode=samples writes a PNG for each image too, and samples.npz for points or with npz=true only. Of several processes
    that share the drawing, the first writes. Returns what the mode has found.
    """
    from diffusion_fw.app.processes import folder_of_process, together
    from diffusion_fw.sampling.share import rank

    with together(), folder_of_process(folder) as own:
        return draw(config, own, first=rank() == 0)


def draw(config: dict[str, Any], folder: Path, *, first: bool) -> Outcome:
    """``sample`` in one of the processes; the ``first`` prints and writes what was found."""
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from diffusion_fw.app.trained_model import open_trained
    from diffusion_fw.composition.parts import assemble
    from diffusion_fw.files import atomic_write
    from diffusion_fw.provenance import ARRAY, text
    from diffusion_fw.registry import OWN

    model = open_trained(config)
    model.check_sampler()
    if model.num_classes and not model.facts.class_counts and not model.chosen:
        logger.warning(
            "checkpoint=%s does not say how often each class occurs in its data; they take turns",
            config["checkpoint"],
        )
    # Two copies: the chunks, and all samples together.
    if first:
        print(f"memory, estimated: {model.memory(config['num_samples'], copies=2)}")
    mode = config["mode"]["name"]
    work = model.at_work(folder)
    outcome: Outcome = assemble("mode", config["mode"])(work)
    for group in ("data", "features"):
        if config[group] != {"name": OWN} and group not in vars(work):
            logger.warning("%s=... is ignored: mode=%s with these keys takes no %s", group, mode, group)
    if not first:
        return outcome
    if config["npz"] or mode != "samples" or not model.facts.pixels:
        with atomic_write(folder / f"{mode}.npz") as file:
            arrays: dict[str, Any] = {key: value.numpy() for key, value in outcome.arrays.items()}
            if work.record is not None:
                arrays[ARRAY] = np.array(text({**work.record, "index": f"0..{config['num_samples'] - 1}"}))
            np.savez(file, **arrays)
    if outcome.rows:
        table = Table("", escape(config["checkpoint"]))
        for key, value in outcome.rows.items():
            table.add_row(key, value)
        Console().print(table)
    how = f"sampler={model.config['sampler']['name']}, weights {model.choice.name}"
    count = f"{config['num_samples']} samples" if mode == "samples" else f"mode={mode}"
    print(f"{count} by {how}, in {folder}; picture: {', '.join(map(str, outcome.pictures))}")
    return outcome


def main(plugins: Path | None = None) -> None:
    """The program `python sample.py`."""

    def task(config: dict[str, Any], folder: Path) -> None:
        sample(config, folder)

    run("sample", task, plugins=[plugins], prepare=unless_explained)
