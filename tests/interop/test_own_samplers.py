"""An imported checkpoint states how its authors draw samples."""

from __future__ import annotations

import pytest

from diffusion_fw import registry
from diffusion_fw.interop.diffusion_settings import SAMPLERS, read_sampler
from diffusion_fw.interop.formats import formats
from diffusion_fw.interop.formats.format import Published

SCHEDULES = {
    "ncsn": {"num_steps": 232, "sigma_max": 100.0, "sigma_min": 0.02},
    "ve": {},
    "vp": {},
    "edm": {},
    "flow": {},
    "linear": {"num_steps": 1000},
}
PATHS = {
    "ncsn": ["ncsn"],
    "score_sde": ["ncsn", "ve", "vp", "linear"],
    "edm": ["edm", "vp"],
    "edm-adm": ["edm", "vp"],
    "EDM2": ["edm"],
    "SiT": ["flow"],
    "U-ViT": ["vp", "linear"],
}
CASES = [(name, path) for name in formats() for path in PATHS.get(name, ["linear"])]


@pytest.mark.parametrize(("name", "path"), CASES)
def test_the_sampler_of_every_format_runs_on_its_schedules(name, path):
    form = formats()[name]
    schedule = {"name": path, **SCHEDULES[path]}
    section = form.sampler_of(Published({"name": form.networks[0]}, (3, 32, 32), schedule=schedule), {})
    given = {key: value for key, value in section.items() if key != "name"}
    given["steps"] = min(given.get("steps", 50), SCHEDULES[path].get("num_steps", 1000))
    grid = registry.build("grid", form.grid["name"])
    sampler = registry.build("sampler", section["name"], grid=grid, **given)
    sampler.check(registry.build("schedule", path, **SCHEDULES[path]))
    assert set(form.guidance) <= set(registry.names("guidance"))


def test_langevin_dynamics_visit_all_levels_of_an_imported_model():
    schedule = {"name": "ncsn", **SCHEDULES["ncsn"]}
    model = Published({"name": "ncsnv2"}, (3, 32, 32), schedule=schedule)
    assert formats()["ncsn"].sampler_of(model, {})["steps"] == 232


def test_the_scheduler_of_a_pipeline_becomes_the_sampler_of_the_same_method():
    assert set(SAMPLERS.values()) <= set(registry.names("sampler"))
    assert read_sampler({"_class_name": "DDIMScheduler"}) == {"name": "ddim", "steps": 50}
    form = formats()["diffusers-unet"]
    model = Published({"name": "ddpm_unet"}, (3, 32, 32))
    assert form.sampler_of(model, {"scheduler": {"_class_name": "UniPCMultistepScheduler"}})["name"] == "unipc"
    for settings in ({}, {"scheduler": {"_class_name": "DDPMScheduler"}}):
        assert form.sampler_of(model, settings) == {"name": "ddpm", "steps": 250}
