"""Every built-in component keeps the laws of its group."""

from __future__ import annotations

import pytest

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.checking import convergence
from diffusion_fw.checking.built_ins import SETTINGS, every, settings
from diffusion_fw.checking.conformance import CHECKS
from diffusion_fw.checking.sampler_laws import ORDER_TOLERANCE

FIRST = [
    (group, name, next(parameters for other, parameters in settings(group) if other == name))
    for group in CHECKS
    for name in registry.names(group)
]
OTHERS = [item for item in every() if item not in FIRST]


def label(value):
    return str(value).replace(" ", "")


@pytest.mark.parametrize(("group", "name", "parameters"), FIRST, ids=label)
def test_conforms(group, name, parameters):
    report = dfw.checking.check(group, name, **parameters)
    assert any(row.passed for row in report.rows)


@pytest.mark.parametrize(("group", "name", "parameters"), [item for item in OTHERS if item[0] != "sampler"], ids=label)
def test_conforms_with_other_parameters(group, name, parameters):
    dfw.checking.check(group, name, **parameters)


LIMITED = [
    *((name, {"order": order, "warm_up": "lower_order"}) for name in ("deis", "lms") for order in (1, 2, 3, 4)),
    *(("dpm_solver_pp", {"order": order, "third_order": "halved"}) for order in (1, 2, 3)),
    ("dpm_solver_pp", {"order": 3, "third_order": "halved", "singlestep": True}),
]
"""Parameters that limit the order, some below the chosen one."""


@pytest.mark.parametrize(
    ("name", "parameters"), [*(item[1:] for item in OTHERS if item[0] == "sampler"), *LIMITED], ids=label
)
def test_the_declared_order_is_measured_with_other_parameters(name, parameters):
    declared = dfw.build("sampler", name, steps=20, **parameters).reached_order
    if declared is None:
        return
    found = convergence.order(
        lambda steps, grid: dfw.build("sampler", name, steps=steps, grid=grid, **parameters),
        dfw.build("schedule", "vp"),
    )
    assert found == pytest.approx(declared, abs=ORDER_TOLERANCE)


def test_the_parameters_of_the_checks_name_registered_components():
    for group, name in SETTINGS:
        assert name in registry.names(group)
