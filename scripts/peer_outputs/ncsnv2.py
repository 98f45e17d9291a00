"""ermongroup/ncsnv2: its three networks, by the noise that their score at noisy images says."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

CASES: dict[str, dict[str, Any]] = {
    "NCSNv2": {"side": 32, "sigma_begin": 50, "num_classes": 232},
    "NCSNv2Deeper": {"side": 32, "sigma_begin": 190, "num_classes": 1086},
    "NCSNv2Deepest": {"side": 32, "sigma_begin": 348, "num_classes": 2311},
}


def records() -> Iterator[dict[str, Any]]:
    """-sigma score(x, index), which is eps; x in [0, 1] and the index counted from the largest sigma."""
    networks = importlib.import_module("models.ncsnv2")
    for case, given in CASES.items():
        data = types.SimpleNamespace(image_size=given["side"], channels=3, logit_transform=False, rescaled=False)
        settings = types.SimpleNamespace(
            sigma_begin=given["sigma_begin"],
            sigma_end=0.01,
            sigma_dist="geometric",
            num_classes=given["num_classes"],
            normalization="InstanceNorm++",
            nonlinearity="elu",
            ngf=8,
        )
        config = types.SimpleNamespace(data=data, model=settings, device="cpu")
        model = getattr(networks, case)(config).eval()
        keys = fill(model)
        x = seeded(f"x of {case}", (2, 3, given["side"], given["side"]))
        index = torch.tensor([0, given["num_classes"] - 20])
        with torch.no_grad():
            eps = -model.sigmas[index][:, None, None, None] * model(x, index)
        yield {
            "case": case,
            **given,
            "keys": keys,
            "input": f"x of {case}",
            "index": index.tolist(),
            "output": record(eps),
        }
