"""NVlabs/edm: its SongUNet under each preconditioning, and its ADM, by the denoised images."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded, seeded_weights

FREQUENCY_SCALE = 10.0
"""Of the frequencies, whose seeded values have the deviation 0.1."""

SMALL = {
    "img_resolution": 32,
    "model_type": "SongUNet",
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [16],
    "dropout": 0.13,
}
TINY = {"img_resolution": 16, "attn_resolutions": [8]}
FOURIER = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
ADM = {
    "img_resolution": 8,
    "model_type": "DhariwalUNet",
    "model_channels": 128,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM++, EDM": ("EDMPrecond", {"augment_dim": 9}),
    "DDPM++ with classes, VP": ("VPPrecond", {**TINY, "label_dim": 4, "augment_dim": 9}),
    "NCSN++ with classes, EDM": ("EDMPrecond", {**FOURIER, "label_dim": 4, "augment_dim": 9}),
    "NCSN++, VE": ("VEPrecond", FOURIER),
    "NCSN++ with skips, EDM": ("EDMPrecond", {**FOURIER, "encoder_type": "skip", "decoder_type": "skip"}),
    "DDPM++ in two blocks, EDM": ("EDMPrecond", {"num_blocks": 2, "channel_mult": [2, 2]}),
    "ADM with classes, EDM": ("EDMPrecond", {**ADM, "label_dim": 4}),
    "ADM in two blocks, VP": ("VPPrecond", {**ADM, "num_blocks": 2, "channel_mult": [1, 1], "attn_resolutions": [8]}),
}


def records() -> Iterator[dict[str, Any]]:
    """D(x; sigma) at x = x_0 + sigma eps; with classes for class 1, and for no class too."""
    networks = importlib.import_module("training.networks")

    for case, (kind, changes) in CASES.items():
        settings = changes if "model_type" in changes else {**SMALL, **changes}
        model = getattr(networks, kind)(img_channels=3, **settings).eval()
        keys = fill(model)
        with contextlib.suppress(AttributeError), torch.no_grad():
            name = "model.map_noise.freqs"
            frequencies = model.model.map_noise.freqs
            frequencies.copy_(FREQUENCY_SCALE * seeded_weights({name: frequencies.shape})[name])
        if kind == "VPPrecond":
            # The exact label, rounded once: t is a difference of two almost equal numbers.
            inverse = model.sigma_inv
            model.sigma_inv = lambda sigma, inverse=inverse: inverse(sigma.double())
            model.model.register_forward_pre_hook(lambda _, given: (given[0], given[1].float()))
        # Large labels would amplify the rounding of frequencies, which are computed in other ways here and there.
        sigma = torch.tensor([0.05, 0.5] if kind == "VPPrecond" else [0.25, 4.0])
        x = (
            seeded(f"x of {case}", (2, 3, settings["img_resolution"], settings["img_resolution"]))
            * sigma[:, None, None, None]
        )
        classes = settings.get("label_dim", 0)
        labels = {"none": None, **({"1": torch.eye(classes)[[1, 1]]} if classes else {})}
        with torch.no_grad():
            outputs = {name: record(model(x, sigma, label)) for name, label in labels.items()}
        yield {
            "case": case,
            "settings": settings,
            "preconditioning": kind,
            "keys": keys,
            "input": f"x of {case}",
            "sigma": sigma.tolist(),
            "output": outputs,
        }
