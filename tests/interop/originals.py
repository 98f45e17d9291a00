"""What scripts/peer_outputs recorded of the original authors' networks, and how ours are compared with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_fw import registry
from diffusion_fw.interop.formats.format import Format, Published
from diffusion_fw.interop.pairs import to_ours
from scripts.peer_outputs.seeded import gap, seeded, seeded_weights


def cases(family: str) -> dict[str, dict[str, Any]]:
    """The records of a family, by case."""
    content = json.loads((Path(__file__).parent / "published" / f"{family}.json").read_text())
    return {record["case"]: record for record in content["records"]}


def build(published: Published) -> nn.Module:
    """The untrained network of a published model."""
    name, parameters = published.network["name"], {k: v for k, v in published.network.items() if k != "name"}
    outputs = 2 if published.variance["name"] == "learned_range" else 1
    known = {"shape": published.shape, "num_classes": published.num_classes, "outputs": outputs}
    wanted = registry.entry("network", name).runtime
    passed = {key: value for key, value in known.items() if key in wanted}
    network: nn.Module = registry.build("network", name, **passed, **parameters)  # type: ignore[call-overload]
    return network.eval()


def imported(form: Format, weights: dict[str, Tensor], given: dict[str, Any]) -> nn.Module:
    """Our network with the published weights."""
    published = form.describe(weights, {}, given)
    chosen = {key.removeprefix("network."): value for key, value in given.items() if key.startswith("network.")}
    network = build(Published(**{**vars(published), "network": {**published.network, **chosen}}))
    network.load_state_dict(to_ours(form.pairs(network), weights, network, "weights.pt"))
    return network


def difference(form: Format, record: dict[str, Any], given: dict[str, Any]) -> float:
    """How far the output of the imported network is from the recorded one."""
    network = imported(form, seeded_weights(record["keys"]), given)
    x = seeded(record["input"]["name"], record["input"]["shape"])
    classes = None if record.get("classes") is None else torch.tensor(record["classes"])
    with torch.no_grad():
        return gap(network(x, torch.tensor(record["label"]), classes), record["output"])
