"""Conditions on the command line: what does not fit is one message when it is composed, and a model keeps its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_fw.app.evaluate import measurements
from diffusion_fw.app.explain import explain_trained
from diffusion_fw.app.sample import sample
from diffusion_fw.app.train import train
from diffusion_fw.app.trained_model import open_trained
from diffusion_fw.composition.parts import compose_parts
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.config.compose import store_components
from diffusion_fw.data.emoji import Emoji
from diffusion_fw.registry import ConfigError
from diffusion_fw.text_encoders.hashing import Hashing
from diffusion_fw.training.archive import RECORD_KEY

SMALL = ["data=emoji", "data.size=8", "network.channels=4", "network.channel_mult=[1]", "network.num_res_blocks=1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["condition=[text]"],
            r"^condition=text needs captions, which the data \(Digits\) have not; choose data=emoji",
        ),
        (["condition=[attributes]"], r"^condition=attributes needs numbers that describe the examples.*\(Digits\)"),
        (["condition=[grayscale]"], r"^condition=grayscale needs images in colour.*one channel"),
        (
            ["condition=[grayscale]", "data=moons", "network=mlp"],
            r"^condition=grayscale is made of images \(C, H, W\), but an example of data=\.\.\. has the shape \(2,\)",
        ),
        (
            [*SMALL[:2], "condition=[text]", "network=mlp"],
            r"^condition=text is one of the sequences that a model is told, and network=mlp takes none.*network=unet",
        ),
        (
            ["data=emoji", "condition=[inpainting]", "network=ddpm_unet"],
            r"^condition=inpainting is one of the images .* network=ddpm_unet takes none.*choose network=unet",
        ),
        (
            ["data=emoji", "condition=[text]", "network=ddpm_unet"],
            r"^condition=text is one of the sequences .* network=ddpm_unet takes none",
        ),
        (
            [*SMALL, "condition=[low_resolution]", "condition.low_resolution.factor=3"],
            r"^condition\.low_resolution\.factor=3 does not divide the sides of images \(3, 8, 8\)",
        ),
        (
            [*SMALL, "condition=[text]", "label_dropout=0", "guidance=[classifier_free]"],
            r"^guidance=classifier_free evaluates the model without a label, but training always had one",
        ),
        (
            [
                *SMALL,
                *("condition=[text,grayscale]", "condition.text.dropout=0.1", "label_dropout=0"),
                *("guidance=[classifier_free]", "guidance.classifier_free.drop=[grayscale]"),
            ],
            r"drop=\['grayscale'\]: the model is always told grayscale; choose from text$",
        ),
        (
            [*SMALL, "condition=[text]", "guidance=[classifier_free]", "guidance.classifier_free.drop=[grayscale]"],
            r"drop=\['grayscale'\]: the model is never told grayscale; choose from text, class$",
        ),
        (["condition=[grayscle]"], r"condition=grayscle: no such"),
        (["condition=[text]", "condition.text.drop=1"], r"condition\.text\.drop: .*no such key"),
        (["condition=[inpainting]", "condition.inpainting.largest=2"], r"condition\.inpainting\.largest=2: must be"),
        (["text_encoder.size=2"], r"text_encoder\.size=2: must be int in \[8, 4096\]"),
        (
            [*SMALL, "condition=[text]", "text_encoder=transformers", "text_encoder.folder=nowhere"],
            r"^text_encoder\.folder=nowhere has no config\.json",
        ),
    ],
)
def test_a_training_that_does_not_fit_its_conditions_is_one_message(words, message):
    with pytest.raises(ConfigError, match=message):
        compose_parts(check_command_line("train", words)[0])


TOLD = ["condition=[text,low_resolution]", "network.class_conditional=true"]


@pytest.fixture
def opened(untrained):
    """opened(training, words) -> the untrained model with the choices of sample.py's command line."""

    def open_(training, *words, program="sample"):
        path = untrained(*SMALL, *training)
        return open_trained(check_command_line(program, [f"checkpoint={path}", "device=cpu", *words])[0])

    return open_


def picture(path, *sides):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("training", "words", "message"),
    [
        ([], ["prompt=a dog"], r"^prompt=a dog: this is nothing that the model is told, which takes none"),
        ([], ["image=x.png"], r"^image=x\.png: this is nothing that the model is told"),
        (TOLD, ["vector=[1]"], r"^vector=.*nothing that the model is told, which takes prompt, image"),
        (TOLD, ["class=10"], r"^class=10: the model has the classes 0 to 9"),
        (["network.class_conditional=false", TOLD[0]], ["class=0"], r"^class=0: the model takes no classes"),
        (TOLD, ["image={wide}"], r"^image=.*wide\.png is 9 x 8 pixels; the model takes 4 x 4, or 8 x 8"),
        (["condition=[inpainting]"], ["mask={mask}"], r"^mask=.*mask\.png: this belongs to image=\.\.\."),
        (["condition=[inpainting]"], ["image={mask}"], r"^image=.*mask\.png: which part is known\? give mask=FILE"),
        (["condition=[inpainting]"], ["image={mask}", "mask={wide}"], r"^mask=.*wide\.png is 9 x 8 pixels"),
        (TOLD, ["condition=[text]"], r"^condition=\['text'\]: the model was trained with \['text', 'low_resolution'\]"),
        (TOLD, ["condition=[none]"], r"^condition=\[\]: the model was trained with"),
        ([], ["condition=[text]"], r"^condition=\['text'\]: the model was trained with none"),
        (TOLD, ["text_encoder.size=32"], r"^text_encoder=\.\.\. gives 12 embeddings of 32 numbers.* with 12 of 64"),
        (TOLD, ["text_encoder=hashing", "text_encoder.length=5"], r"^text_encoder=\.\.\. gives 5 embeddings of 64"),
        (
            [*TOLD, "label_dropout=0", "guidance=none"],
            ["guidance=[classifier_free]"],
            r"^guidance=classifier_free evaluates the model without a label",
        ),
        (
            [*TOLD, "label_dropout=0", "condition.text.dropout=0.2", "guidance=none"],
            ["guidance=[classifier_free]", "guidance.classifier_free.drop=[class]"],
            r"drop=\['class'\]: the model is always told class; choose from text",
        ),
    ],
)
def test_what_a_model_is_not_told_cannot_be_asked_for_on_the_command_line(opened, tmp_path, training, words, message):
    paths = {"wide": picture(tmp_path / "wide.png", 8, 9), "mask": picture(tmp_path / "mask.png", 8, 8)}
    with pytest.raises(ConfigError, match=message) as error:
        opened(training, *(word.format(**paths) if "{" in word else word for word in words))
    assert "\n" not in str(error.value)


def test_evaluation_refuses_another_encoder_too(opened):
    with pytest.raises(ConfigError, match=r"^text_encoder=\.\.\. gives 12 embeddings of 32 numbers"):
        opened(TOLD, "text_encoder.size=32", program="evaluate")


def test_a_vector_of_another_length_is_refused(untrained, scratch_registry, tmp_path):
    import diffusion_fw as dfw
    from diffusion_fw.data.points import Moons

    @dfw.register("data", "numbered_moons")
    class Numbered(Moons):
        """Moons with two numbers."""

        def attributes(self, split):
            return self.load(split).values.clone()

    store_components()
    path = untrained("data=numbered_moons", "condition=[attributes]", "network=mlp", "features=identity")
    words = [f"checkpoint={path}", "device=cpu"]
    assert open_trained(check_command_line("sample", [*words, "vector=[0.5,1]"])[0]).cond_of([0]).parts
    with pytest.raises(ConfigError, match=r"^condition=attributes: 3 numbers are given, but the model is told 2"):
        open_trained(check_command_line("sample", [*words, "vector=[1,2,3]"])[0])


def test_keys_of_the_own_conditions_can_be_changed(opened):
    training = [*TOLD, "condition.low_resolution.noise=0.5"]
    changed = opened(training, "condition.low_resolution.sampled_noise=0.2").config["condition"]
    assert list(changed) == ["text", "low_resolution"]
    assert (changed["low_resolution"]["sampled_noise"], changed["low_resolution"]["noise"]) == (0.2, 0.5)


def test_the_folder_of_an_encoder_is_that_of_the_command_line(untrained, tmp_path):
    """Moved is allowed, and others' weights of the same sizes are not: the model would be told something else."""
    path = untrained(*SMALL, *TOLD)
    content = torch.load(path, weights_only=True)
    content[RECORD_KEY]["config"]["text_encoder"] = {"name": "transformers", "folder": "from/a/stranger"}
    torch.save(content, tmp_path / "stranger.ckpt")
    words = [f"checkpoint={tmp_path / 'stranger.ckpt'}", "device=cpu"]
    with pytest.raises(
        ConfigError, match=r"text_encoder\.folder=from/a/stranger is not taken from a checkpoint; give "
    ):
        open_trained(check_command_line("sample", words)[0])
    with pytest.raises(ConfigError, match=r"^text_encoder\.folder=here has no config\.json"):
        open_trained(check_command_line("sample", [*words, "text_encoder.folder=here"])[0])
    assert open_trained(check_command_line("sample", [*words, "text_encoder=hashing"])[0]).conditioner.tells


def test_an_encoder_of_other_weights_is_refused(untrained, tmp_path, monkeypatch):
    content = torch.load(untrained(*SMALL, *TOLD), weights_only=True)
    content[RECORD_KEY]["text_encoder"] = "that of the training"
    torch.save(content, tmp_path / "other.ckpt")
    config = check_command_line("sample", [f"checkpoint={tmp_path / 'other.ckpt'}", "device=cpu"])[0]
    with pytest.raises(ConfigError, match=r"^text_encoder=\.\.\.: this is not the encoder of the training"):
        open_trained(config)
    monkeypatch.setattr(Hashing, "fingerprint", lambda self: "that of the training")
    open_trained(config)


# A run with a class, a caption and an image.


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    train(
        tiny(
            {
                **{"data": "emoji", "data.size": 8, "condition": ["text", "low_resolution"]},
                **{"network.class_conditional": True, "network.attention_resolutions": [8]},
                **{"condition.text.dropout": 0.2, "guidance": ["clip"], "trainer.max_steps": 4},
                **{"callbacks.evaluation.every": 4, "callbacks.checkpoints.every": 4, "optimizer.lr": 0.05},
            }
        ),
        folder,
    )
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def drawn(checkpoint, tmp_path):
    """drawn(words) -> the samples of the trained model."""

    def draw(*words):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        fixed = [f"checkpoint={checkpoint}", "device=cpu", "num_samples=6", "npz=true", "sampler.steps=2"]
        sample(check_command_line("sample", [*fixed, *words])[0], folder)
        return np.load(folder / "samples.npz")["samples"]

    return draw


def test_the_evaluation_of_a_training_writes_its_pictures(checkpoint):
    folder = checkpoint.parents[1]
    assert list((folder / "samples").glob("step_*.png"))


def test_a_model_draws_what_it_is_asked_for(drawn, tmp_path):
    own = drawn()
    assert own.shape == (6, 3, 8, 8)
    np.testing.assert_array_equal(drawn(), own)
    prompted = drawn("prompt=a red heart", "class=3", f"image={picture(tmp_path / 'small.png', 4, 4)}")
    assert (prompted != own).any()
    assert (drawn("prompt=a blue whale", "class=3", f"image={tmp_path / 'small.png'}") != prompted).any()
    np.testing.assert_array_equal(drawn("batch_size=2"), own)


def test_a_prompt_of_several_takes_turns(drawn, checkpoint):
    words = [f"checkpoint={checkpoint}", "device=cpu", "prompt=[a dog,a red heart]"]
    model = open_trained(check_command_line("sample", words)[0])
    told = model.cond_of(range(4)).parts["text"]
    assert torch.equal(told.value[:2], told.value[2:])
    assert told.told.sum(1).tolist() == [2, 3, 2, 3]


def test_a_checkpoint_says_which_encoder_it_was_trained_with(checkpoint):
    assert torch.load(checkpoint, weights_only=True)[RECORD_KEY]["text_encoder"] == Hashing().fingerprint()


def test_explain_names_the_conditions(checkpoint, capsys):
    words = [f"checkpoint={checkpoint}", "device=cpu", "explain=true", "prompt=a dog"]
    asked = ask("sample", words)
    explain_trained(asked.configs[0], asked)
    shown = capsys.readouterr().out
    assert "low_resolution" in shown
    assert "text" in shown


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("fid", ["metric.num_samples=8", "features=pixels"]),
        ("heldout_loss", ["metric.heldout_loss.num_images=8"]),
        (
            "classification_accuracy",
            [f"metric.classification_accuracy.{key}" for key in ("num_samples=16", "seeds=1", "steps=2")],
        ),
    ],
)
def test_a_model_is_measured_with_what_held_out_examples_are_told(checkpoint, tmp_path, metric, words):
    fixed = [f"checkpoint={checkpoint}", "device=cpu", f"metric=[{metric}]", "sampler.steps=2", "batch_size=8"]
    config = check_command_line("evaluate", [*fixed, *words, f"results={tmp_path / 'results'}"])[0]
    (found,) = measurements(config, tmp_path)
    assert np.isfinite(found.value)
    assert json.loads((tmp_path / "evaluation.json").read_text())["results"]


def test_the_held_out_loss_is_that_of_what_the_examples_are_told(checkpoint, tmp_path):
    """Nothing else than the captions: with the words of all of them in another order it is another."""
    words = [f"checkpoint={checkpoint}", "device=cpu", "metric=[heldout_loss]", "metric.heldout_loss.num_images=8"]
    config = check_command_line("evaluate", [*words, "results=null"])[0]
    own, again = (measurements(config, tmp_path)[0].value for _ in range(2))
    assert own == again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Emoji, "captions", lambda self, split: ["a red circle"] * (382 if split == "test" else 1529))
        assert measurements(config, tmp_path)[0].value != own
