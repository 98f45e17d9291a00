"""The parameters with which built-in components are checked: the defaults, and choices that change the algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusion_fw import registry
from diffusion_fw.checking.conformance import CHECKS
from diffusion_fw.process.variance import Large

Parameters = dict[str, Any]

NARROW: Parameters = {"channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "dropout": 0.0}
"""Small networks of the kind of DDPM's."""
ATTENDED: Parameters = {**NARROW, "attention_resolutions": [8]}

# A component that is not listed is checked with its defaults.
SETTINGS: dict[tuple[str, str], list[Parameters]] = {
    # NCSNv2's step size is fast but leaves the variance some percent too large.
    ("sampler", "annealed_langevin"): [{"step_size": 2e-4}],
    ("sampler", "ddim"): [{}, {"eta": 1.0}],
    # The large variance is right in the limit of many steps.
    ("sampler", "ddpm"): [{}, {"variance": Large()}],
    ("sampler", "deis"): [
        *({"order": order} for order in (1, 2, 3, 4)),
        *({"order": order, "extrapolation": "log_rho"} for order in (2, 3, 4)),
    ],
    ("sampler", "dpm_solver_pp"): [
        {"order": order, "singlestep": singlestep} for singlestep in (False, True) for order in (1, 2, 3)
    ],
    ("sampler", "dpm_solver_pp_sde"): [{}, {"eta": 0.0}],
    ("sampler", "edm_stochastic"): [{}, {"s_churn": 0.0}],
    ("sampler", "lms"): [{"order": order} for order in (1, 2, 3, 4)],
    ("sampler", "path_time"): [{}, {"alpha": 0.5}, {"order": 1}],
    ("sampler", "plms"): [{}, {"warm_up": "improved_euler"}, {"warm_up": "lower_order"}],
    # Few dimensions and many steps need smaller corrections than images.
    ("sampler", "predictor_corrector"): [
        {"snr": 0.05, "predictor": predictor} for predictor in ("reverse_diffusion", "ancestral", "euler_maruyama")
    ],
    ("sampler", "unipc"): [
        *({"predictor_order": order, "variant": variant} for order in (1, 2, 3) for variant in ("bh1", "bh2")),
        *({"predictor_order": order, "corrector": False} for order in (1, 2, 3)),
        {"predictor_order": 3, "warm_up": "lower_order"},
        {"predictor_order": 3, "warm_up": "lower_order", "corrector": False},
    ],
    ("grid", "explicit"): [{"times": [0.9, 0.5, 0.1]}],
    ("grid", "karras"): [{}, {"rho": 3.0}],
    ("grid", "levels_of"): [{}, {"schedule": "cosine"}],
    ("grid", "linspace"): [{}, {"interpolate": True}],
    ("grid", "uniform"): [{}, {"start": 0.8}],
    ("grid", "respaced"): [{}, {"spec": "10,15,20"}, {"spec": "ddim50"}],
    ("condition", "low_resolution"): [{}, {"noise": 0.5}],
    ("guidance", "classifier_free"): [{}, {"interval": [0.2, 0.8]}, {"rescale": 0.7}],
    ("guidance", "classifier"): [{}, {"conditional": True}],
    ("guidance", "posterior"): [{}, {"noise_std": 0.1}],
    # Smaller than published, so that a check takes a second.
    ("network", "ddpmpp"): [{**ATTENDED, "augment_dim": 3}],
    ("network", "ncsnpp"): [
        ATTENDED,
        {**ATTENDED, "progressive_input": "input_skip", "progressive_output": "output_skip"},
        {**ATTENDED, "embedding": "positional", "fir": False, "progressive_output": "residual"},
    ],
    ("network", "ncsn"): [{"channels": 8, "num_levels": 1000}],
    ("network", "ncsnv2"): [{"channels": 8}, {"channels": 8, "channel_mult": [1, 2, 2, 4]}],
    ("metric", "class_agreement"): [{"steps": 5, "seeds": 1}],
    ("metric", "classification_accuracy"): [{"steps": 5, "seeds": 1}],
    ("metric", "kid"): [{"subsets": 5}, {"subsets": 5, "subset_size": 16, "interval_groups": 0}],
    # A thousand steps would only take longer.
    ("metric", "nll"): [{"steps": 20, "flow_images": 4}],
    # The paper's sizes would only take longer.
    ("network", "dit"): [
        {"width": 32, "depth": 2, "num_heads": 2},
        {
            **{"width": 32, "depth": 2, "num_heads": 2, "positions": "rope", "num_registers": 2},
            **{"norm": "rms", "mlp": "swiglu", "qk_norm": True},
        },
    ],
    ("network", "edm2_unet"): [
        {"channels": 16, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [8]},
    ],
    ("network", "hdit"): [
        {
            **{"widths": [16, 32], "depths": [1, 1], "attention": ["neighborhood", "global"], "kernel_size": 3},
            **{"num_head_channels": 8, "patch": 1, "mapping_width": 16, "mapping_depth": 1},
        },
        {
            **{"widths": [16, 16], "depths": [2, 1], "attention": ["shifted-window", "none"], "window_size": 2},
            **{"num_head_channels": 16, "mapping_width": 16, "mapping_depth": 1},
        },
    ],
    ("network", "k_diffusion_unet"): [
        {"channels": [8, 16], "depths": [1, 1], "self_attn_depths": [False, True], "mapping_out": 16, "augment_dim": 3},
        {
            **{"channels": [8, 8, 16], "depths": [1, 2, 1], "self_attn_depths": [False, False, True]},
            **{"mapping_out": 16, "patch": 2, "skip_stages": 1, "has_variance": True},
        },
    ],
    ("network", "kl_autoencoder"): [{"channels": 8, "channel_mult": [1, 2]}],
    ("network", "uvit"): [
        {"width": 32, "depth": 3, "num_heads": 2},
        {"width": 32, "depth": 1, "num_heads": 2, "null_class": False, "final_conv": False},
    ],
    # The defaults are too large to be checked, and their attention too fine.
    ("network", "adm_classifier"): [{**ATTENDED, "num_head_channels": 8}],
    ("network", "adm_unet"): [
        {**NARROW, "attention_resolutions": []},
        {**ATTENDED, "resblock_updown": True, "num_head_channels": 8},
    ],
    ("network", "ddpm_unet"): [{**NARROW, "attention_resolutions": attention} for attention in ([], [8])],
    ("parameterization", "edm"): [{}, {"sigma_data": 1.0}, {"sigma_data": "auto"}],
    ("parameterization", "flow"): [{}, {"sigma_min": 0.01}],
    ("parameterization", "score"): [{}, {"scale_by_sigma": True}, {"scale_input": True}],
    ("schedule", "cosine_continuous"): [{}, {"shift": 3.0}],
    ("schedule", "edm"): [{}, {"power": 0.5}],
    ("schedule", "flow"): [{}, {"shift": 3.0}, {"sigma_min": 0.01}],
    ("schedule", "warmup"): [{}, {"rising": 0.0}],
    **{
        ("schedule", table): [{}, {"num_steps": 10 if table == "cosine" else 200}, {"zero_terminal_snr": True}]
        for table in ("cosine", "linear", "scaled_linear", "sigmoid")
    },
}


def settings(group: str) -> Iterator[tuple[str, Parameters]]:
    """Every registered name of a group, with each of its sets of parameters."""
    for name in registry.names(group):
        for parameters in SETTINGS.get((group, name), [{}]):
            yield name, parameters


def every() -> list[tuple[str, str, Parameters]]:
    """(group, name, parameters) of everything that is checked."""
    return [(group, name, parameters) for group in CHECKS for name, parameters in settings(group)]
