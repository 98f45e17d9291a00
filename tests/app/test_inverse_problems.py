"""python sample.py with a measurement: the picture, the errors, the classes, and whose file names are taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_fw import registry
from diffusion_fw.app.sample import sample
from diffusion_fw.app.trained_model import open_trained
from diffusion_fw.checkpoints.read import read
from diffusion_fw.composition.own import with_training
from diffusion_fw.config.application import check_command_line
from diffusion_fw.guidance.guidance import Guidance
from diffusion_fw.registry import ConfigError, may_name_a_file

SMALL = ["network.channels=4", "network.channel_mult=[1]", "sampler.steps=3"]


@pytest.fixture
def files(tmp_path):
    image = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(image).save(tmp_path / "x.png")
    Image.fromarray(np.where(np.arange(8)[:, None] < 4, np.uint8(255), np.uint8(0)) * np.ones(8, np.uint8)).save(
        tmp_path / "mask.png"
    )
    (tmp_path / "out").mkdir()
    return tmp_path


def config(checkpoint, *words):
    return check_command_line("sample", [f"checkpoint={checkpoint}", "device=cpu", "num_samples=3", *words])[0]


def measured(files, name, *words):
    return [f"guidance=[own,{name}]", f"guidance.{name}.image={files / 'x.png'}", *words]


@pytest.mark.parametrize("name", ["replacement", "imputation"])
def test_samples_agree_with_the_known_part_and_are_shown_beside_the_original(untrained, files, capsys, name):
    words = measured(files, name, f"guidance.{name}.mask={files / 'mask.png'}", "npz=true")
    outcome = sample(config(untrained(*SMALL), *words), files / "out")
    original = np.asarray(Image.open(files / "x.png"))
    found = np.load(files / "out" / "samples.npz")["samples"]
    assert np.array_equal(found[:, 0, :4], np.broadcast_to(original[:4], (3, 4, 8)))
    assert not np.array_equal(found[0, 0, 4:], original[4:])
    assert [path.name for path in outcome.pictures] == ["grid.png", "restoration.png"]
    errors = (found[:, 0] / 255.0 - original / 255.0) ** 2
    assert f"error {np.sqrt(errors.mean()):.3g} (" in outcome.rows["samples"]
    assert outcome.rows["samples"].endswith("of the measured part 0")
    mean = np.where(np.arange(8)[:, None] < 4, original, original[:4].mean())
    expected = np.sqrt(((mean / 255 - original / 255) ** 2).mean())
    assert outcome.rows["baseline: mean of the known"].startswith(f"error {expected:.3g} (")
    assert "baseline: mean" in capsys.readouterr().out


def test_a_measurement_alone_has_no_error_of_the_whole(untrained, files):
    Image.fromarray(np.arange(0, 256, 17, dtype=np.uint8).reshape(4, 4)).save(files / "small.png")
    words = ["guidance=[posterior,clip]", f"guidance.posterior.measured={files / 'small.png'}"]
    outcome = sample(config(untrained(*SMALL), *words, "guidance.posterior.average_pool=2"), files / "out")
    assert list(outcome.rows) == ["samples", "mean of the samples", "baseline: bicubic"]
    assert all(value.startswith("of the measured part") for value in outcome.rows.values())


def test_points_have_errors_and_no_picture(untrained, files):
    np.savez(files / "known.npz", measurement=np.array([0.25, 0.0]), mask=np.array([True, False]))
    points = untrained("data=moons", "network=mlp", "network.width=8", "schedule=vp", "sampler.steps=3", "guidance=[]")
    words = ["guidance=[replacement]", f"guidance.replacement.file={files / 'known.npz'}"]
    outcome = sample(config(points, *words), files / "out")
    assert [path.name for path in outcome.pictures] == ["grid.png"]
    assert set(outcome.rows) == {"samples", "mean of the samples", "baseline: mean of the known"}


def test_given_a_measurement_no_class_is_drawn_unless_it_is_chosen_or_must_be(untrained, files, caplog):
    blur = "guidance.replacement.blur=1"
    words = measured(files, "replacement", blur)
    free = untrained(*SMALL)
    assert open_trained(config(free)).num_classes == 10
    assert open_trained(config(free, *words)).class_of(range(3)) is None
    assert open_trained(config(free, *words, "class=4")).class_of(range(3)).tolist() == [4, 4, 4]
    guided = ["guidance=[classifier_free,replacement]", *words[1:]]
    assert caplog.text == ""
    for checkpoint, given in ((free, guided), (untrained(*SMALL, "label_dropout=0"), words)):
        assert open_trained(config(checkpoint, *given)).num_classes == 10
        assert "without regard to the measurement" in caplog.text
        caplog.clear()


def test_no_text_of_an_own_guidance_is_taken_but_names(untrained, scratch_registry):
    """Whatever key a guidance has now or gets: a checkpoint cannot choose a file by it."""

    @registry.register("guidance", "reader")
    @dataclasses.dataclass(frozen=True)
    class Reader(Guidance):
        paths: tuple[str, ...] = ()
        by_name: dict[str, str | int] = dataclasses.field(default_factory=dict)
        kind: str = "default"

        def __call__(self, x, level, cond=None):
            return self.denoiser(x, level, cond)

    texts = {"paths": ["a"], "by_name": {"x": "a"}, "kind": "b"}
    seen = set()
    for name, entry in registry.entries("guidance").items():
        for key, parameter in entry.parameters.items():
            if not may_name_a_file(parameter.annotation):
                continue
            seen.add(f"{name}.{key}")
            own = {"guidance": {name: {"name": name, key: texts.get(key, "/etc/hostname")}}}
            with pytest.raises(ConfigError, match=rf"guidance\.{name}\.{key}=.* is not taken from a checkpoint"):
                with_training({"guidance": {"own": {"name": "own"}}}, own, ["guidance"])
            given = {"guidance": {"own": {"name": "own"}, name: {key: texts.get(key, "mine.png")}}}
            result = with_training(given, own, ["guidance"])["guidance"][name][key]
            assert result in (texts.get(key), tuple(texts.get(key, ())), "mine.png")
    files = {f"{name}.{key}" for name in ("replacement", "posterior", "imputation") for key in ("image", "measured")}
    assert files | {"reader.paths", "reader.by_name", "reader.kind", "autoguidance.checkpoint"} <= seen
    assert {f"{name}.{key}" for name in ("replacement", "posterior") for key in ("mask", "file")} <= seen
    assert not {"rescheduled.schedule", "rescheduled.parameters"} & seen


def test_names_and_defaults_of_an_own_guidance_are_taken():
    own = {"guidance": {"rescheduled": {"name": "rescheduled", "schedule": "flow", "parameters": {}}}}
    result = with_training({"guidance": {"own": {"name": "own"}}}, own, ["guidance"])
    assert result["guidance"]["rescheduled"]["schedule"] == "flow"


def test_a_checkpoint_that_names_a_mask_is_refused(untrained, files):
    content = read(untrained(*SMALL))
    section = {"name": "replacement", "image": str(files / "x.png"), "mask": str(files / "mask.png")}
    content["diffusion_fw"]["config"]["guidance"] = {"replacement": section}
    torch.save(content, files / "edited.ckpt")
    with pytest.raises(ConfigError, match=r"guidance\.replacement\.\w+=.*is not taken from a checkpoint"):
        open_trained(config(files / "edited.ckpt"))
