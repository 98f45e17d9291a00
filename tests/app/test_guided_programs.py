"""Guidance by a second model or along another path, from the command line."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_fw.app.explain import explain
from diffusion_fw.app.sample import sample
from diffusion_fw.app.train import train
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.registry import ConfigError

POINTS = {
    "data": "moons",
    "network": "mlp",
    "network.width": 16,
    "features": "identity",
    "guidance": [],
    "callbacks": ["checkpoints"],
    "schedule": "linear",
    "optimizer.lr": 0.01,
    "trainer.max_steps": 30,
}
RUNS = {
    "main": POINTS,
    "weak": {**POINTS, "network.width": 8, "network.depth": 1, "seed": 1},
    "flow": {**POINTS, "schedule": "flow", "parameterization": "flow"},
    "images": {"network.class_conditional": True, "callbacks": ["checkpoints"], "trainer.max_steps": 1},
    "unlabelled": {"network.class_conditional": False, "callbacks": ["checkpoints"], "trainer.max_steps": 1},
}


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """checkpoint(name) -> the checkpoint of a run, which is trained at its first use."""
    folder = tmp_path_factory.mktemp("runs")

    def path(name):
        if not (folder / name).exists():
            train(tiny(RUNS[name]), folder / name)
        return folder / name / "checkpoints" / "last.ckpt"

    return path


@pytest.fixture
def drawn(checkpoint, tmp_path):
    """drawn(run, arguments) -> its samples."""

    def draw(name, *arguments):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        fixed = ["device=cpu", "num_samples=8", "npz=true", "sampler.steps=5"]
        sample(check_command_line("sample", [f"checkpoint={checkpoint(name)}", *fixed, *arguments])[0], folder)
        return np.load(folder / "samples.npz")["samples"]

    return draw


def test_autoguidance_goes_from_the_weaker_model_through_the_main_one(drawn, checkpoint):
    """At scale 0 it is the weaker model, at 1 the main one, and beyond neither."""
    main, weak = drawn("main", "guidance=none"), drawn("weak", "guidance=none")
    arguments = ["guidance=[autoguidance]", f"guidance.autoguidance.checkpoint={checkpoint('weak')}"]
    at = {scale: drawn("main", *arguments, f"guidance.autoguidance.scale={scale}") for scale in (0, 1, 2)}
    assert np.abs(main - weak).max() > 0.1
    np.testing.assert_allclose(at[0], weak, atol=1e-4)
    np.testing.assert_array_equal(at[1], main)
    assert min(np.abs(at[2] - main).max(), np.abs(at[2] - weak).max()) > 0.1


@pytest.mark.parametrize("weights", ["raw_weights=true", "ema_rate=0.9999"])
def test_the_weaker_model_may_be_other_weights_of_the_same_run(drawn, checkpoint, weights):
    arguments = ["guidance=[autoguidance]", f"guidance.autoguidance.checkpoint={checkpoint('main')}"]
    found = drawn("main", *arguments, "guidance.autoguidance.scale=0", f"guidance.autoguidance.{weights}")
    wanted = drawn("main", "guidance=none", weights.replace("ema_rate", "ema.rate"))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_labels_reach_both_models_and_one_of_no_labels_guides_one_of_labels(drawn, checkpoint):
    arguments = ["guidance=[autoguidance]", f"guidance.autoguidance.checkpoint={checkpoint('unlabelled')}"]
    assert drawn("images", *arguments).shape == (8, 1, 8, 8)


@pytest.mark.parametrize(
    ("run", "second", "message"),
    [
        ("main", None, r"^guidance=autoguidance: it needs the model.*give guidance\.autoguidance\.checkpoint="),
        ("main", "images", r"the weaker model: checkpoint=.* of data of shape \(1, 8, 8\), the guided model of \(2,\)"),
        ("main", "flow", r"the weak model is on Flow.*the guided one on Linear.*train both on one schedule"),
        ("unlabelled", "images", r"takes labels of 10 classes, the guided model of 0"),
    ],
)
def test_a_second_model_that_does_not_fit_is_refused(drawn, checkpoint, run, second, message):
    given = [f"guidance.autoguidance.checkpoint={checkpoint(second)}"] if second else []
    with pytest.raises(ConfigError, match=message):
        drawn(run, "guidance=[autoguidance]", *given)


def test_a_second_model_that_is_not_there_is_named(drawn, tmp_path):
    with pytest.raises(ConfigError, match=r"the weaker model: checkpoint=.*none\.ckpt: no such file"):
        drawn("main", "guidance=[autoguidance]", f"guidance.autoguidance.checkpoint={tmp_path / 'none.ckpt'}")


def test_training_has_no_second_model(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"which sample\.py and evaluate\.py load"):
        train(tiny({"guidance": ["autoguidance"]}), tmp_path)


def test_ddim_draws_along_another_path_what_it_draws_along_the_models_own(drawn):
    """DDIM follows a path through its log-SNR alone, and the same log-SNRs are stops of both: Song et al. 2021."""
    times = [1.0, 0.8, 0.5, 0.2, 0.05]
    own = drawn("flow", "guidance=none", "grid=explicit", f"grid.times={times}")
    # shift moves flow's log-SNR by -2 log(shift): t / (3 - 2 t) has then that of t.
    moved = [t / (3 - 2 * t) for t in times]
    arguments = [
        "guidance=[rescheduled]",
        "guidance.rescheduled.schedule=flow",
        "+guidance.rescheduled.parameters.shift=3",
    ]
    along = drawn("flow", *arguments, "grid=explicit", f"grid.times={moved}")
    np.testing.assert_allclose(along, own, atol=1e-5)
    assert np.abs(drawn("flow", *arguments, "grid=explicit", f"grid.times={times}") - own).max() > 1e-3


def test_rescheduled_models_guide_each_other(drawn, checkpoint):
    arguments = ["guidance=[rescheduled,autoguidance]", "guidance.rescheduled.schedule=flow"]
    given = f"guidance.autoguidance.checkpoint={checkpoint('flow')}"
    found = drawn("main", *arguments, given, "guidance.autoguidance.scale=0")
    np.testing.assert_allclose(found, drawn("flow", "guidance=none"), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"^guidance=rescheduled: it needs the path.*guidance\.rescheduled\.schedule=flow"),
        (["guidance.rescheduled.schedule=flwo"], r"schedule=flwo: no such schedule - did you mean 'flow'"),
        # Along the model's own path Langevin steps would do, at the other's end there is no signal.
        (["guidance.rescheduled.schedule=flow", "sampler=annealed_langevin"], r"alpha=0 at the grid's first time"),
    ],
)
def test_a_path_that_cannot_be_followed_is_refused(drawn, arguments, message):
    with pytest.raises(ConfigError, match=message):
        drawn("main", "guidance=[rescheduled]", *arguments)


def test_explain_checks_the_guided_path(tiny):
    with pytest.raises(ConfigError, match="it needs the path to follow"):
        explain(tiny({**POINTS, "guidance": ["rescheduled"]}), ask("train", []))


@pytest.fixture
def inpainting(tmp_path_factory):
    path = tmp_path_factory.mktemp("measurement") / "known.npz"
    np.savez(path, measurement=np.array([0.25, 0.0]), mask=np.array([True, False]))
    return path


def test_replacement_reads_its_measurement_from_a_file(drawn, inpainting):
    samples = drawn("main", "guidance=[replacement]", f"guidance.replacement.file={inpainting}")
    np.testing.assert_allclose(samples[:, 0], 0.25, atol=1e-6)
    assert samples[:, 1].std() > 0.01


def test_posterior_reads_its_measurement_from_a_file(drawn, inpainting):
    words = ["guidance=[posterior]", f"guidance.posterior.file={inpainting}", "guidance.posterior.noise_std=1"]
    unguided = drawn("main", "guidance=none")
    np.testing.assert_allclose(drawn("main", *words, "guidance.posterior.scale=0"), unguided, atol=1e-6)
    assert np.abs(drawn("main", *words) - unguided).max() > 1e-3


def test_a_measurement_of_another_shape_is_refused(drawn, tmp_path_factory):
    path = tmp_path_factory.mktemp("measurement") / "known.npz"
    np.savez(path, measurement=np.zeros(3), mask=np.ones(3))
    with pytest.raises(ConfigError, match=r"guidance=posterior: guidance\.posterior\.file: .*shape \(2,\)"):
        drawn("main", "guidance=[posterior]", f"guidance.posterior.file={path}")
