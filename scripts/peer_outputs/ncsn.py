"""ermongroup/ncsn: its CondRefineNetDilated, by the noise that its score at noisy images says."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

CASES = {"colour": {"side": 32, "colors": 3, "levels": 10}, "28 pixels": {"side": 28, "colors": 1, "levels": 4}}


def records() -> Iterator[dict[str, Any]]:
    """-sigma score(x, index), which is eps; x in [0, 1] and the index counted from the largest sigma."""
    networks = importlib.import_module("models.cond_refinenet_dilated")
    for case, given in CASES.items():
        data = types.SimpleNamespace(image_size=given["side"], channels=given["colors"], logit_transform=False)
        model_config = types.SimpleNamespace(ngf=8, num_classes=given["levels"])
        model = networks.CondRefineNetDilated(types.SimpleNamespace(data=data, model=model_config)).eval()
        keys = fill(model)
        x = seeded(f"x of {case}", (2, given["colors"], given["side"], given["side"]))
        index = torch.tensor([0, given["levels"] - 2])
        sigma = 0.01 ** (index / (given["levels"] - 1))
        with torch.no_grad():
            eps = -sigma[:, None, None, None] * model(x, index)
        yield {
            "case": case,
            **given,
            "keys": keys,
            "input": f"x of {case}",
            "index": index.tolist(),
            "output": record(eps),
        }
