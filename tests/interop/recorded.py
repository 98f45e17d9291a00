"""What tests of formats share: the recorded outputs, and a published model built from its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.interop.pairs import to_ours
from scripts.peer_outputs.seeded import gap, seeded, seeded_weights

FOLDER = Path(__file__).parent / "published"


def records(family: str) -> list[dict[str, Any]]:
    """The records of a code base."""
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{family}.json").read_text())["records"]
    return found


def case(record: dict[str, Any]) -> str:
    return str(record["case"])


def cases(family: str) -> dict[str, dict[str, Any]]:
    """The records of a code base, by case."""
    return {case(record): record for record in records(family)}


def built(section: dict[str, Any], group: str, **passed: Any) -> Any:
    """A component from its section, with what its signature asks for of the values that are passed."""
    given = {key: item for key, item in section.items() if key != "name"}
    asked = registry.entry(group, section["name"]).runtime
    wanted = {key: item for key, item in passed.items() if key in asked}
    return registry.build(group, section["name"], **given, **wanted)


def k_diffusion_weights(record: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a record of k-diffusion's U-Net, and its filters, which have one value."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0])
    found = seeded_weights(record["keys"])
    for key in found:
        if key.endswith("kernel"):
            found[key] = torch.outer(line, line) / (16 if "u_blocks" in key else 64)
    return found


def imported(form: Any, weights: dict[str, Tensor], given: dict[str, Any], settings: Any = None) -> Any:
    """(description, denoiser) of published weights, with the parameters of the network that are ``given``."""
    model = form.describe(weights, settings or {}, given)
    chosen = {key.removeprefix("network."): value for key, value in given.items() if key.startswith("network.")}
    facts = {"shape": model.shape, "num_classes": model.num_classes}
    outputs = built(model.variance, "variance").outputs
    network = built({**model.network, **chosen}, "network", **facts, outputs=outputs).eval()
    constants = form.constants(model, network)
    plain = {key: value for key, value in weights.items() if key not in constants}
    network.load_state_dict(to_ours(form.pairs(network), plain, network, "weights.pth"))
    parameterization = built(model.parameterization, "parameterization")
    return model, NetworkDenoiser(network, built(model.schedule, "schedule"), parameterization)


def imported_network(form: Any, weights: dict[str, Tensor], given: dict[str, Any]) -> torch.nn.Module:
    """The network of published weights."""
    network: torch.nn.Module = imported(form, weights, given)[1].network
    return network


def difference(form: Any, record: dict[str, Any], given: dict[str, Any]) -> float:
    """How far the output of the imported network is from the recorded one."""
    network = imported_network(form, seeded_weights(record["keys"]), given)
    x = seeded(record["input"]["name"], record["input"]["shape"])
    classes = None if record.get("classes") is None else torch.tensor(record["classes"])
    with torch.no_grad():
        return gap(network(x, torch.tensor(record["label"]), classes), record["output"])


__all__ = [
    "built",
    "case",
    "cases",
    "difference",
    "imported",
    "imported_network",
    "k_diffusion_weights",
    "records",
    "seeded",
    "seeded_weights",
]
