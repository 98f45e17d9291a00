"""The page of findings: numbers come from the rows' values, in the page's own formats."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from diffusion_fw.checking import document, sampler_laws
from diffusion_fw.checking.findings import Report, Row, at_most, reported


def lines(folder, *rows):
    """The page's lines about one sampler with these findings."""
    report = Report("sampler", "mine", {"eta": 0.5}, rows)
    pictures = {"convergence": Path("c.png"), "samplers": Path("s.png")}
    document.write(folder / "page.md", [report], [], pictures)
    return [line for line in (folder / "page.md").read_text().splitlines() if line.startswith("| `mine` `eta=0.5` |")]


def test_orders_stand_with_the_declared_one_bold_where_they_fail_and_in_words_where_there_is_no_number(tmp_path):
    found = lines(
        tmp_path,
        reported(sampler_laws.DECLARED, "", 2, digits="d"),
        Row(sampler_laws.ORDER, "vp", "about two", passed=True, value=1.996),
        Row(sampler_laws.ORDER, "cosine_continuous", "about one", passed=False, value=1.004),
        Row(sampler_laws.ORDER, "edm", "refused: no reason"),
        reported(sampler_laws.ALTERNATING, "vp", 1.25, "on something", digits=".2f"),
    )
    assert found[0] == "| `mine` `eta=0.5` | 2 | 2.00 | **1.00** | refused: no reason | 1.25 |"


def test_errors_stand_with_the_steps_that_they_took(tmp_path):
    found = lines(
        tmp_path,
        Row(sampler_laws.error_within(5), "vp", "takes more evaluations"),
        reported(sampler_laws.error_within(10), "vp", 0.01234, steps=9),
    )
    assert found[0] == "| `mine` `eta=0.5` | – | 1.23e-02 (9 steps) | – | – |"


def test_moments_stand_with_the_verdict_of_all_checks(tmp_path):
    found = lines(
        tmp_path,
        Row(sampler_laws.MEAN, "vp", "", passed=True, value=0.00123),
        Row(sampler_laws.COVARIANCE, "vp", "", passed=False, value=0.5),
        Row(sampler_laws.VARIANCE, "vp", "", passed=True, value=-0.0041),
        Row(sampler_laws.TWO_SAMPLE, "vp", "", passed=True, value=0.25),
    )
    assert found == ["| `mine` `eta=0.5` | 0.0012 | **0.5000** | -0.41% | 0.250 | **FAIL** |"]


@pytest.mark.parametrize(("value", "passed"), [(0.9, True), (1.0, True), (1.1, False), (math.nan, False)])
def test_a_number_passes_up_to_its_bound_and_nan_never_does(value, passed):
    row = at_most("error", "vp", value, 1.0, "of x", steps=3)
    assert row.passed is passed
    assert str(row) == f"error, vp, 3 steps: found {value:.0e} of x, wanted at most 1 of x"
