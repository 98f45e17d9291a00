"""Every built-in component keeps what its group promises."""

from __future__ import annotations

import pytest

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.checking import convergence
from diffusion_fw.checking.built_ins import SETTINGS, every, settings
from diffusion_fw.checking.conformance import CHECKS
from diffusion_fw.checking.sampler_laws import ORDER_TOLERANCE

FIRST = [
    (group, name, next(knobs for other, knobs in settings(group) if other == name))
    for group in CHECKS
    for name in registry.names(group)
]
OTHERS = [item for item in every() if item not in FIRST]


def label(value):
    return str(value).replace(" ", "")


@pytest.mark.parametrize(("group", "name", "knobs"), FIRST, ids=label)
def test_conforms(group, name, knobs):
    report = dfw.checking.check(group, name, **knobs)
    assert any(row.passed for row in report.rows)


@pytest.mark.parametrize(("group", "name", "knobs"), [item for item in OTHERS if item[0] != "sampler"], ids=label)
def test_conforms_at_other_knobs(group, name, knobs):
    dfw.checking.check(group, name, **knobs)


@pytest.mark.parametrize(("name", "knobs"), [item[1:] for item in OTHERS if item[0] == "sampler"], ids=label)
def test_the_declared_order_is_measured_at_other_knobs(name, knobs):
    declared = dfw.build("sampler", name, steps=20, **knobs).order
    if declared is None:
        return
    found = convergence.order(
        lambda steps, grid: dfw.build("sampler", name, steps=steps, grid=grid, **knobs), dfw.build("schedule", "vp")
    )
    assert found == pytest.approx(declared, abs=ORDER_TOLERANCE)


def test_the_knobs_of_the_checks_name_registered_components():
    for group, name in SETTINGS:
        assert name in registry.names(group)
