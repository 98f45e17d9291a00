"""crowsonkb/k-diffusion: its ``image_v1`` under its Karras preconditioning, by the denoised images."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded, seeded_weights

SIGMA_DATA = 0.5
SIDE = 16
AUGMENTATIONS = 9
CLASSES = 4
SMALL = {"feats_in": 32, "depths": [1, 2], "channels": [32, 128], "self_attn_depths": [False, True]}
CASES: dict[str, dict[str, Any]] = {
    "augmentation labels": {**SMALL, "mapping_cond_dim": AUGMENTATIONS},
    "patches, variance": {**SMALL, "patch_size": 2, "has_variance": True},
    "classes": {**SMALL, "mapping_cond_dim": CLASSES},
    "a level left out": {
        **{"feats_in": 32, "depths": [1, 1, 2], "channels": [16, 24, 32], "skip_stages": 1},
        "self_attn_depths": [False, True, True],
    },
}


class Absent(types.ModuleType):
    """A package that only the rest of k-diffusion uses."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def imported() -> Any:
    """The package k_diffusion of the clone, without the packages that are absent."""
    for name in ("clip", "cleanfid", "cleanfid.inception_torchscript", "dctorch", "jsonmerge", "skimage"):
        sys.modules[name] = Absent(name)
    for name in ("torchdiffeq", "torchsde"):
        sys.modules[name] = Absent(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    return importlib.import_module("k_diffusion")


def built(package: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, list[int]]]:
    """The denoiser of a network with seeded weights, and the shapes of the network's state."""
    network: Any = package.models.ImageDenoiserModelV1(c_in=3, **settings).eval()
    if settings.get("mapping_cond_dim") == AUGMENTATIONS:
        network = package.augmentation.KarrasAugmentWrapper(network)
    keys = fill(network)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("timestep_embed.weight"):
                buffer.copy_(seeded_weights({name: buffer.shape})[name])
    return package.layers.Denoiser(network, sigma_data=SIGMA_DATA), keys


def records() -> Iterator[dict[str, Any]]:
    """D(x; sigma) at x = sigma eps for three levels; for classes 3, 0 and 2."""
    package = imported()
    sigma, shape = torch.tensor([0.05, 1.0, 30.0]), (3, 3, SIDE, SIDE)
    x = seeded("x", shape) * sigma[:, None, None, None]
    for case, settings in CASES.items():
        model, keys = built(package, settings)
        cond = [3, 0, 2] if settings.get("mapping_cond_dim") == CLASSES else None
        extra = {} if cond is None else {"mapping_cond": torch.eye(CLASSES)[cond]}
        with torch.no_grad():
            output = {"x0": record(model(x, sigma, **extra))}
            if settings.get("has_variance"):
                scaled = x * model.get_scalings(sigma)[2][:, None, None, None]
                output["log variance"] = record(model.inner_model(scaled, sigma, return_variance=True)[1])
        yield {
            **{"case": case, "settings": settings, "keys": keys, "input": ["x", list(shape)], "sigma": sigma.tolist()},
            **{"cond": cond, "output": output},
        }
