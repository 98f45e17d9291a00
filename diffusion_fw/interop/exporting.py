"""Models of this framework in the formats of others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_fw.checkpoints.folder import write_model
from diffusion_fw.checkpoints.load import load_model
from diffusion_fw.checkpoints.pretrained import FILES, save
from diffusion_fw.composition.facts import Facts
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.files import atomic_write
from diffusion_fw.interop.diffusers_folder import write_pipeline
from diffusion_fw.interop.formats import formats
from diffusion_fw.interop.formats.format import Format, Published
from diffusion_fw.interop.pairs import to_theirs
from diffusion_fw.interop.published import published_of
from diffusion_fw.interop.source import STORED
from diffusion_fw.networks.network import is_class_conditional
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import ConfigError


class Levelled(nn.Module):
    """A denoiser as a function of tensors alone: (x_t, t, alpha, sigma) -> (x_0, eps), all but x_t of shape (B,).

    The noise level is the caller's, so that the program needs no schedule.
    """

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Any:
        level = NoiseLevel(t, alpha, sigma, 2 * torch.log(alpha / sigma))
        prediction = self.denoiser(x, level, cond)
        both = prediction.x0, prediction.eps
        return both if prediction.variance_logit is None else (*both, prediction.variance_logit)


def export_program(denoiser: NetworkDenoiser, shape: tuple[int, ...], path: Path) -> None:
    """Write the denoiser as a program of torch.export, which runs without this framework: ``torch.export.load(path)``.

    Its call is (x, t, alpha, sigma) -> (x_0, eps), float64 but for x, with cond (B,) int64 last for a model of classes;
    the batch size is free. Raises ConfigError for a network that cannot be exported.
    """
    level = denoiser.schedule(torch.full((2,), 0.5, dtype=torch.float64))
    arguments: tuple[Tensor, ...] = (torch.zeros(2, *shape), level.t, level.alpha, level.sigma)
    if is_class_conditional(denoiser.network):
        arguments = (*arguments, torch.zeros(2, dtype=torch.int64))
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            program = torch.export.export(
                Levelled(denoiser).eval(), arguments, dynamic_shapes=tuple({0: batch} for _ in arguments)
            )
    except Exception as error:  # torch.export raises many kinds
        raise ConfigError(f"the network cannot be exported: {str(error).splitlines()[0]:.300}") from error
    with atomic_write(path) as file:
        torch.export.save(program, file)


def export_state_dict(network: nn.Module, format: Format, model: Published, path: Path) -> dict[str, Tensor]:
    """Write the state dict of another code base, by torch.save or as safetensors by the path's ending.

    A file of safetensors holds the settings of its model too, if the code base reads them from there.
    """
    config = format.config(model, network)
    weights = to_theirs(format.pairs(network), network.state_dict())
    weights |= format.constants(model, network)
    # Two names may have one tensor here, which safetensors refuses.
    weights = {key: value.clone() for key, value in weights.items()}
    with atomic_write(path) as file:
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            file.write(save(weights, metadata={STORED: json.dumps(config)} if config else None))
        else:
            torch.save(weights, file)
    return weights


FOLDERS = ("diffusers", "safetensors")
"""What is written as a folder rather than as a file."""
OWN = ("checkpoint", "program")
"""Files of no other code base."""


def export(checkpoint: str, to: str, out: Path, *, raw_weights: bool = False) -> str:
    """Write the model of a checkpoint as ``to``; what was written, for a person.

    Raises ConfigError for an unknown format, a model that has no place in it, and an existing ``out``.
    """
    known = formats()
    if to not in (*FOLDERS, *OWN, *known):
        raise ConfigError(f"--to {to}: allowed are {', '.join((*FOLDERS, *OWN, *known))}")
    if out.exists() and not (to in FOLDERS and out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out {out} exists; give another place")
    denoiser, record, choice = load_model(checkpoint, raw_weights=raw_weights)
    shape = tuple(record["facts"]["shape"])
    text = f"{choice.name} weights of {checkpoint}, written to {out}"
    if to == "safetensors":
        write_model(out, denoiser.state_dict(), record)
        call = "load" if isinstance(denoiser, NetworkDenoiser) else "load_classifier"
        return f"{text}: diffusion_fw.{call}({str(out)!r})"
    name = record["config"]["network"]["name"]
    fitting = [key for key, item in known.items() if name in item.networks]
    if to not in known:
        if not isinstance(denoiser, NetworkDenoiser):
            raise ConfigError(
                f"--to {to} holds a denoiser, but {checkpoint} is a classifier; allowed are "
                f"{', '.join(('safetensors', *fitting))}"
            )
        if to == "diffusers":
            write_pipeline(out, denoiser, record["config"], shape)
            return f"{text}: diffusers.DDPMPipeline.from_pretrained({str(out)!r})"
        if to == "checkpoint":
            if out.suffix not in FILES:
                raise ConfigError(f"--out {out}: the name of a checkpoint ends in {', '.join(FILES)}")
            return f"{text}: these weights alone, for every program; {save(denoiser, out).stat().st_size:,} bytes"
        export_program(denoiser, shape, out)
        return f"{text}: torch.export.load({str(out)!r}).module()(x, t, alpha, sigma)"
    if to not in fitting:
        raise ConfigError(
            f"--to {to} holds network={'|'.join(known[to].networks)}, not network={name}; "
            f"allowed are {', '.join(('safetensors', *OWN, *fitting))}"
        )
    model = published_of(record["config"], Facts.from_record(record["facts"]))
    # A built schedule holds numbers where the config says auto.
    schedule = {key: getattr(denoiser.schedule, key, value) for key, value in model.schedule.items()}
    model = dataclasses.replace(model, schedule=schedule)
    weights = export_state_dict(denoiser.network, known[to], model, out)
    return f"{text}: {len(weights)} tensors as {to} names them"
