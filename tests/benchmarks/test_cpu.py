"""The benchmarks on a CPU: fitted exponents, counts of evaluations, ratios, and the page that is made of them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from benchmarks import document, sampling_step
from benchmarks.evaluations import needed
from benchmarks.growth import exponent
from benchmarks.row import Missing, Row
from benchmarks.timing import compared


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = (2, 3, 10, 40)
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_a_count_is_enough_only_if_no_larger_one_is_worse():
    assert needed({3: 9.0, 4: 1.0, 5: 2.0, 6: 1.05, 8: 1.0}, reference=1.0) == 6
    assert needed({3: 9.0, 4: 2.0}, reference=1.0) > 4


def test_a_ratio_is_the_median_over_rounds_with_its_range():
    row = compared("step", "bare", [(2.0, 1.0), (9.0, 3.0), (4.0, 1.0)], at_most=3)
    assert (row.ratio, row.low, row.high) == (3.0, 2.0, 4.0)
    assert row.kept
    assert not dataclasses.replace(row, at_most=2.9).kept
    assert not dataclasses.replace(row, at_least=3.1).kept


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(sampling_step, "installed", lambda package: False)
    monkeypatch.setattr(sampling_step, "in_turns", lambda functions, **_: [[1.0] * len(functions)])
    rows = list(sampling_step.measure())
    assert {row.against for row in rows if isinstance(row, Missing)} == {"diffusers", "azula"}
    assert {row.against for row in rows if isinstance(row, Row)} == {"a bare loop"}


@pytest.mark.parametrize("peer", sampling_step.PEERS)
def test_the_loop_of_a_peer_evaluates_the_network_once_a_step(peer):
    pytest.importorskip(peer)
    calls = []

    class Counting(nn.Module):
        def forward(self, x, *_):
            calls.append(len(x))
            return x

    with torch.no_grad():
        sampling_step.PEERS[peer](Counting(), torch.randn(2, 3, 4, 4))()
    assert calls == [2] * sampling_step.STEPS


def test_the_page_is_written_from_the_results_and_keeps_the_rest(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    monkeypatch.setattr(document, "PAGE", page)
    monkeypatch.setattr(document, "RESULTS", tmp_path)
    row = Row("a step", "a bare loop", 0.003, 0.002, 1.5, at_most=1.4)
    facts = {"cpu": "C", "cores": 2, "threads": 1, "instructions": "I", "torch": "T", "packages": {}, "date": "D"}
    content = {**facts, "commit": "c", "rows": [{**dataclasses.asdict(row), "kept": row.kept}]}
    content["missing"] = [dataclasses.asdict(Missing("a step", "azula"))]
    (tmp_path / "sampling_step.json").write_text(json.dumps(content))
    document.write()
    document.write()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("| a step | a bare loop | 3 ms | 2 ms | 1.50 |  | at most 1.4, missed |") == 1
    assert "azula: not installed" in text
