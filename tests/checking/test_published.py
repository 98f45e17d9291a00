"""Published constants: all agree, and a figure that does not is seen."""

from __future__ import annotations

import pytest

from diffusion_fw.checking import published


@pytest.mark.parametrize("entry", published.entries(), ids=lambda entry: entry["what"])
def test_ours_is_the_published_figure(entry):
    item = published.compare(entry)
    assert item.passed, f"{item.ours}, published {item.published} ({item.source})"


def test_every_figure_names_its_source():
    for entry in published.entries():
        assert entry["source"]
        assert entry["published"]


@pytest.mark.parametrize(
    ("printed", "ours", "agree"),
    [
        ("4.03582976538e-05", 4.035829765383e-05, True),
        ("4.03582976538e-05", 4.03583e-05, False),
        (".9999", 0.99990004, True),
        (".9999", 0.9997, False),
        ("35746307", 35_746_307, True),
        ("35746307", 35_746_308, False),
        ("error", "error", True),
        ("error", "0", False),
    ],
)
def test_agreement_is_that_of_every_printed_digit(printed, ours, agree):
    assert published.agrees(printed, ours) == agree


def test_a_figure_off_in_its_last_digits_fails(monkeypatch):
    (entry,) = (entry for entry in published.entries() if entry["what"].startswith("alpha_bar of linear, T = 1000"))
    wrong = {**entry, "published": [*entry["published"][:2], "4.03582976638e-05"]}
    monkeypatch.setattr(published, "entries", lambda: [wrong])
    assert not next(published.comparisons()).passed
