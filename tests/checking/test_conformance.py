"""The public functions: what they return, print and refuse."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.objectives.weighting import Weighting

test_a_component_in_one_line = dfw.checking.test("weighting", "min_snr", gamma=3.0)


class Negative(Weighting):
    space = "eps"

    def __call__(self, level):
        return -torch.ones_like(level.t)


def test_the_report_prints_as_a_table_with_the_component_as_its_title():
    report = dfw.checking.check("weighting", "min_snr", gamma=3.0)
    text = str(report)
    assert text.startswith("weighting=min_snr weighting.gamma=3.0")
    assert "weights" in text
    assert "FAILED" not in text
    assert report.failures == []


def test_a_failure_is_an_assertion_that_carries_the_report(registered):
    name = registered("weighting", Negative)
    with pytest.raises(AssertionError) as failure:
        dfw.checking.check("weighting", name)
    assert isinstance(failure.value, dfw.checking.CheckFailed)
    assert failure.value.report.failures[0].found.startswith("-1")
    assert "FAILED" in str(failure.value.report)


def test_the_line_for_pytest_fails_as_the_check_does(registered):
    name = registered("weighting", Negative)
    with pytest.raises(dfw.checking.CheckFailed, match="weighting=broken fails its checks"):
        dfw.checking.test("weighting", name)()


def test_an_unknown_name_or_parameter_is_refused():
    with pytest.raises(dfw.ConfigError, match="did you mean 'min_snr'"):
        dfw.checking.check("weighting", "min_snrr")
    with pytest.raises(dfw.ConfigError, match="did you mean 'gamma'"):
        dfw.checking.check("weighting", "min_snr", gama=3.0)
    with pytest.raises(dfw.ConfigError, match=r"grid\.times is missing"):
        dfw.checking.check("grid", "explicit")


def test_a_group_without_checks_names_those_that_have_some():
    with pytest.raises(dfw.ConfigError, match=r"no checks for logger; there are for: schedule, .*sampler"):
        dfw.checking.check("logger", "csv")
