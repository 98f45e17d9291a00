"""The knobs at which every built-in component is checked: the defaults, and where choices change what is promised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusion_fw import registry
from diffusion_fw.checking.conformance import CHECKS
from diffusion_fw.process.variance import Large

Knobs = dict[str, Any]

# A component that is not listed is checked at its defaults.
SETTINGS: dict[tuple[str, str], list[Knobs]] = {
    # NCSNv2's own choice is quick, not exact: it keeps a variance some percent too large.
    ("sampler", "annealed_langevin"): [{"step_size": 2e-4}],
    ("sampler", "ddim"): [{}, {"eta": 1.0}],
    # A larger variance than the posterior's is right in the limit of many steps.
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
    ("sampler", "plms"): [{}, {"warm_up": "improved_euler"}],
    # Of so few dimensions, and of so many steps, smaller corrections than those of images.
    ("sampler", "predictor_corrector"): [
        {"snr": 0.05, "predictor": predictor} for predictor in ("reverse_diffusion", "ancestral", "euler_maruyama")
    ],
    ("sampler", "unipc"): [
        *({"solver_order": order, "variant": variant} for order in (1, 2, 3) for variant in ("bh1", "bh2")),
        *({"solver_order": order, "corrector": False} for order in (1, 2, 3)),
        {"solver_order": 3, "warm_up": "lower_order"},
        {"solver_order": 3, "warm_up": "lower_order", "corrector": False},
    ],
    ("grid", "explicit"): [{"times": [0.9, 0.5, 0.1]}],
    ("grid", "karras"): [{}, {"rho": 3.0}],
    ("grid", "respaced"): [{}, {"spec": "10,15,20"}, {"spec": "ddim50"}],
    ("guidance", "classifier_free"): [{}, {"interval": [0.2, 0.8]}, {"rescale": 0.7}],
    ("guidance", "classifier"): [{}, {"conditional": True}],
    ("guidance", "posterior"): [{}, {"noise_std": 0.1}],
    # A thousand steps would only take longer.
    ("metric", "nll"): [{"steps": 20, "flow_images": 4}],
    ("parameterization", "edm"): [{}, {"sigma_data": 1.0}, {"sigma_data": "auto"}],
    ("parameterization", "score"): [{}, {"scale_by_sigma": True}, {"scale_input": True}],
    ("schedule", "cosine_continuous"): [{}, {"shift": 3.0}],
    ("schedule", "flow"): [{}, {"shift": 3.0}],
    **{
        ("schedule", table): [{}, {"num_steps": 10 if table == "cosine" else 200}, {"zero_terminal_snr": True}]
        for table in ("cosine", "linear", "scaled_linear", "sigmoid")
    },
}


def settings(group: str) -> Iterator[tuple[str, Knobs]]:
    """Every registered name of a group, with each of its knobs."""
    for name in registry.names(group):
        for knobs in SETTINGS.get((group, name), [{}]):
            yield name, knobs


def every() -> list[tuple[str, str, Knobs]]:
    """(group, name, knobs) of everything that is checked."""
    return [(group, name, knobs) for group in CHECKS for name, knobs in settings(group)]
