"""What tests of formats share: the recorded outputs, and a published model built from its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from diffusion_fw import registry
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.interop.pairs import to_ours
from scripts.peer_outputs.seeded import seeded, seeded_weights

FOLDER = Path(__file__).parent / "published"


def records(family: str) -> list[dict[str, Any]]:
    """The records of a code base."""
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{family}.json").read_text())["records"]
    return found


def case(record: dict[str, Any]) -> str:
    return str(record["case"])


def built(section: dict[str, Any], group: str, **passed: Any) -> Any:
    """A component from its section, with what its signature asks for of the values that are passed."""
    given = {key: item for key, item in section.items() if key != "name"}
    asked = registry.entry(group, section["name"]).runtime
    wanted = {key: item for key, item in passed.items() if key in asked}
    return registry.build(group, section["name"], **given, **wanted)


def imported(form: Any, weights: dict[str, torch.Tensor], given: dict[str, Any], settings: Any = None) -> Any:
    """(description, denoiser) of published weights."""
    model = form.describe(weights, settings or {}, given)
    network = built(model.network, "network", shape=model.shape, num_classes=model.num_classes).eval()
    constants = form.constants(model, network)
    plain = {key: value for key, value in weights.items() if key not in constants}
    network.load_state_dict(to_ours(form.pairs(network), plain, network, "weights.pth"))
    parameterization = built(model.parameterization, "parameterization")
    return model, NetworkDenoiser(network, built(model.schedule, "schedule"), parameterization)


__all__ = ["built", "case", "imported", "records", "seeded", "seeded_weights"]
