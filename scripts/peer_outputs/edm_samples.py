"""NVlabs/edm: samples of its sampler, with a small network of seeded weights under EDMPrecond."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.peer_outputs.seeded import fill, record, seeded

SETTINGS: dict[str, Any] = {
    **{"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8], "augment_dim": 3},
    **{"dropout": 0.0, "embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard"},
}
STEPS = 8
CHURN = {"S_churn": 10.0, "S_min": 0.0, "S_max": 50.0, "S_noise": 1.003}


def sampler() -> Callable[..., torch.Tensor]:
    """edm_sampler of generate.py, without what that program imports besides."""
    found = importlib.util.find_spec("generate")
    assert found is not None
    assert found.origin is not None
    tree = ast.parse(Path(found.origin).read_text())
    tree.body = [item for item in tree.body if isinstance(item, ast.FunctionDef) and item.name == "edm_sampler"]
    names: dict[str, Any] = {"torch": torch, "np": np}
    exec(compile(tree, found.origin, "exec"), names)
    function: Callable[..., torch.Tensor] = names["edm_sampler"]
    return function


def records() -> Iterator[dict[str, Any]]:
    """Eight steps of Heun's method, and the same with churn, whose noise is of the global generator, seed 0."""
    from training.networks import EDMPrecond  # type: ignore[import-not-found]

    network = EDMPrecond(16, 3, label_dim=5, model_type="SongUNet", **SETTINGS).eval()
    keys = fill(network)
    shape, classes = (2, 3, 16, 16), [4, 0]
    for case, options in (("heun", {}), ("churn", CHURN)):
        torch.manual_seed(0)
        with torch.no_grad():
            samples = sampler()(
                network,
                seeded("x", shape),
                torch.nn.functional.one_hot(torch.tensor(classes), 5),
                num_steps=STEPS,
                **options,
            )
        yield {
            **{"case": case, "settings": SETTINGS, "keys": keys, "input": ["x", list(shape)], "classes": classes},
            **{"steps": STEPS, "options": options, "output": record(samples)},
        }
