"""Weights of which an entry is missing, left over or misshapen are refused by one message that names it."""

from __future__ import annotations

import random

import pytest
import torch
from recorded import imported, records, seeded_weights

from diffusion_fw.interop.formats.edm import EDM
from diffusion_fw.interop.formats.edm_adm import EDMADM
from diffusion_fw.interop.formats.ncsn import NCSN
from diffusion_fw.interop.formats.score_sde import ScoreSDE
from diffusion_fw.registry import ConfigError

FORMS = {"score_sde": ScoreSDE(), "edm": EDM(), "edm-adm": EDMADM(), "ncsn": NCSN(), "ncsnv2": NCSN()}
DAMAGES = {
    "missing": lambda value: None,
    "one axis": lambda value: value.reshape(-1),
    "an axis more": lambda value: value[None],
    "empty": lambda value: value[:0],
}


RECORDS = {family: records(family)[0] for family in FORMS if family != "edm-adm"}
RECORDS["edm-adm"] = next(record for record in records("edm") if record["case"].startswith("ADM"))


def weights_of(family):
    whole = seeded_weights(RECORDS[family]["keys"])
    if "sigmas" in whole:
        whole["sigmas"] = torch.linspace(5.0, 0.01, len(whole["sigmas"]))
    return whole


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("family", FORMS)
def test_a_damaged_entry_is_named(family, damage):
    form = FORMS[family]
    whole = weights_of(family)
    # Without it, or with it as a row more, these are the weights of another network.
    left = ("sigmas", "model.map_augment.weight", "model.map_label.weight")
    keys = [key for key in whole if key not in left and not key.endswith("resample_filter")]
    for key in random.Random(0).sample(keys, 12) + keys[:6]:
        value = DAMAGES[damage](whole[key])
        changed = {name: item for name, item in whole.items() if name != key}
        if value is not None:
            if value.shape == whole[key].shape:
                continue
            changed[key] = value
        if not form.recognises(changed, {}):
            continue
        with pytest.raises(ConfigError) as error:
            imported(form, changed, {})
        assert "\n" not in str(error.value)
        # A size that changes everything is seen at other entries too.
        assert "missing" in str(error.value) or "shape" in str(error.value) or key in str(error.value)


@pytest.mark.parametrize("family", FORMS)
def test_any_part_of_the_weights_is_refused_or_not_recognised(family):
    form = FORMS[family]
    whole = weights_of(family)
    names = list(whole)
    for seed in range(8):
        kept = random.Random(seed).sample(names, len(names) * (seed + 1) // 9)
        part = {name: whole[name] for name in names if name in kept}
        if form.recognises(part, {}):
            with pytest.raises(ConfigError):
                imported(form, part, {})


@pytest.mark.parametrize("family", FORMS)
def test_other_weights_are_not_recognised(family):
    assert not FORMS[family].recognises({"weight": torch.zeros(3, 3)}, {})
    for other, form in FORMS.items():
        if FORMS[family].name != form.name:
            assert not FORMS[family].recognises(seeded_weights(RECORDS[other]["keys"]), {})


@pytest.mark.parametrize("family", ["score_sde", "ncsnv2"])
@pytest.mark.parametrize("table", [[-1.0, 0.1], [0.1, 1.0], [float("nan"), 0.1], [1.0, 0.0], [[1.0], [0.1]], []])
def test_a_table_of_noise_levels_that_does_not_fall_is_refused(family, table):
    weights = {**weights_of(family), "sigmas": torch.tensor(table)}
    with pytest.raises(ConfigError, match="sigmas"):
        FORMS[family].describe(weights, {}, {})
