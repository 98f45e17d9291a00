"""All conditions together: what training leaves out and how often, of what it is a function, what samples are told."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_fw as dfw
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.parts import build_conditions, build_data, left_out
from diffusion_fw.condition import CLASS, Condition, Told
from diffusion_fw.conditions.conditioner import Asking, Conditioner
from diffusion_fw.data.dataset import Data, InMemory, WithFlips, to_model
from diffusion_fw.registry import ConfigError

EMOJI = {"data": "emoji", "data.size": 8, "network.class_conditional": True, "callbacks": []}
TOLD = {**EMOJI, "condition": ["text", "low_resolution", "inpainting"], "condition.low_resolution.noise": 0.5}


class Seen(list):
    """An objective that keeps what it is given."""

    def __call__(self, denoiser, x0, level, eps, cond):
        self.append((x0, level.t, eps, cond))
        return x0.new_zeros(len(x0), requires_grad=True)


def seen(config, folder, *, steps=2, world=1, accumulate=1):
    """[(x_0, t, eps, cond)] of the whole batch of each step, put together from all processes and parts."""
    experiment = build_experiment(config, folder)
    module = experiment.module
    module.objective = objective = Seen()
    module.trainer = trainer = SimpleNamespace(overfit_batches=0, world_size=world, accumulate_grad_batches=accumulate)
    found = []
    for trainer.global_step in range(steps):
        step = trainer.global_step
        indices = torch.tensor(module.batch_of_step(step + 1)[0])
        count = len(indices) // accumulate
        places, parts = [], []
        for trainer.global_rank in range(world):
            rank = trainer.global_rank
            for part in range(accumulate):
                rows = torch.arange(part * count + rank, (part + 1) * count, world)
                objective.clear()
                module.training_step(module.examples.__getitems__(indices[rows].tolist()), step * accumulate + part)
                places.append(rows)
                parts.append(objective[0])
        order = torch.cat(places).argsort()
        x0, t, eps = (torch.cat(values)[order] for values in list(zip(*parts, strict=True))[:3])
        conds = [part[3] for part in parts]
        told = None if conds[0] is None else torch.cat(conds) if torch.is_tensor(conds[0]) else Condition.cat(conds)
        found.append((x0, t, eps, told if told is None else told[order]))
    return found


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        for value, again in zip(one[:3], other[:3], strict=True):
            assert torch.equal(value, again)
        assert one[3].parts.keys() == other[3].parts.keys()
        for name, part in one[3].parts.items():
            torch.testing.assert_close(part.value, other[3].parts[name].value, rtol=0, atol=1e-6)
            assert torch.equal(part.told, other[3].parts[name].told)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    return seen(tiny({**TOLD, "condition.text.dropout": 0.5}), tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_what_a_batch_is_told_does_not_depend_on_its_division(tiny, tmp_path, whole, world, accumulate):
    config = tiny({**TOLD, "condition.text.dropout": 0.5, "trainer.accumulate_grad_batches": accumulate})
    assert_same(whole, seen(config, tmp_path, world=world, accumulate=accumulate))


def test_each_step_draws_anew_and_each_condition_for_itself(whole):
    (_, _, _, first), (_, _, _, second) = whole
    masks = [cond.parts["inpainting"].value[:, -1] for cond in (first, second)]
    levels = [cond.parts["low_resolution"].value[:, -1, 0, 0] for cond in (first, second)]
    assert not torch.equal(*masks)
    assert len(torch.cat(levels).unique()) == 16


def test_conditions_change_nothing_else_of_the_training(tiny, tmp_path, whole):
    """Times, noise, and which examples are told their class are drawn before, so old runs stay what they were."""
    plain = seen(tiny(EMOJI), tmp_path)
    for (x0, t, eps, labels), (own_x0, own_t, own_eps, cond) in zip(plain, whole, strict=True):
        assert torch.equal(x0, own_x0)
        assert torch.equal(t, own_t)
        assert torch.equal(eps, own_eps)
        assert torch.equal(labels, cond.labels(10))


def test_an_unconditional_model_is_told_nothing(tiny, tmp_path):
    config = tiny({**EMOJI, "network.class_conditional": False})
    assert [cond for *_, cond in seen(config, tmp_path)] == [None, None]


def test_the_caption_is_that_of_the_example(tiny, tmp_path):
    config = tiny({**EMOJI, "condition": ["text"], "label_dropout": 0.0})
    experiment = build_experiment(config, tmp_path)
    data, (x0, _, _, cond) = experiment.data, seen(config, tmp_path, steps=1)[0]
    encoder = dfw.build("text_encoder", "hashing")
    every = to_model(data.train.values)
    for row in range(len(x0)):
        matches = [i for i, match in enumerate((every == x0[row]).flatten(1).all(1).tolist()) if match]
        wanted = encoder([data.captions("train")[i] for i in matches]).value
        assert any(torch.equal(cond.parts["text"].value[row], value) for value in wanted)


def fractions(dropouts, label_dropout, count=40_000):
    """How often each condition is told, and how often all of them, and none."""
    conditioner = Conditioner(
        {name: dfw.build("condition", "grayscale", dropout=value) for name, value in dropouts.items()}, num_classes=2
    )
    source = torch.Generator().manual_seed(0)
    keep = torch.rand(count, generator=source) >= label_dropout
    each = {name: torch.rand(count, generator=source) >= dropout for name, dropout in conditioner.dropouts().items()}
    x0 = torch.zeros(count, 3, 1, 1)
    labels = Condition({CLASS: Told.all(torch.zeros(count, dtype=torch.long))})
    cond = conditioner.cond(x0, labels, keep, each, torch.zeros_like)
    return {name: part.told for name, part in cond.parts.items()}


@pytest.mark.parametrize("label_dropout", [0.0, 0.2])
def test_conditions_are_left_out_together_and_one_by_one(label_dropout):
    """P(told c) = (1 - label_dropout) (1 - dropout_c), independently of each other where something is told."""
    told = fractions({"a": 0.5, "b": 0.25, "c": 0.0}, label_dropout)
    something = 1 - label_dropout
    close = {"rel": 0, "abs": 0.01}
    for name, kept in {"a": 0.5, "b": 0.75, "c": 1.0, CLASS: 1.0}.items():
        assert told[name].float().mean() == pytest.approx(something * kept, **close)
    assert (told["a"] & told["b"]).float().mean() == pytest.approx(something * 0.375, **close)
    # The class and a condition without a dropout of its own are left out together.
    assert torch.equal(told["c"], told[CLASS])
    assert not (told["a"] & ~told["c"]).any()


def test_training_draws_these_fractions(tiny, tmp_path):
    config = tiny({**EMOJI, "condition": ["text", "grayscale"], "condition.text.dropout": 0.4, "label_dropout": 0.1})
    module = build_experiment(config, tmp_path).module
    keep, each = module.kept(40_000, torch.Generator().manual_seed(0), slice(None))
    assert keep.float().mean() == pytest.approx(0.9, abs=0.01)
    assert each.keys() == {"text"}
    assert each["text"].float().mean() == pytest.approx(0.6, abs=0.01)
    assert (keep & each["text"]).float().mean() == pytest.approx(0.54, abs=0.01)
    assert left_out(module.conditioner, 0.1) == dict.fromkeys(["text", "grayscale", CLASS], True)
    assert left_out(module.conditioner, 0.0) == {"text": True, "grayscale": False, CLASS: False}


def test_held_out_examples_are_told_everything(tiny):
    config = tiny(TOLD)
    data, conditioner = build_data(config), build_conditions(config)
    values, told = conditioner.examples(data, "test").__getitems__(range(5))
    cond = conditioner.whole(to_model(values), told, conditioner.seeded(0, range(5)))
    for name in ("low_resolution", "inpainting"):
        assert cond.parts[name].told.all()
    words = [len(caption.split()) for caption in data.captions("test")[:5]]
    assert cond.parts["text"].told.sum(1).tolist() == words


class Captioned(Data):
    """Four images and their mirror images."""

    default_features = "pixels"
    shape = (1, 2, 2)

    def captions(self, split):
        return ["one", "two", "three", "four"]

    def load(self, split):
        return WithFlips(InMemory(torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2)))


def test_a_mirror_image_has_the_caption_of_its_original(tiny):
    conditioner = build_conditions(tiny({**EMOJI, "condition": ["text"]}))
    examples = conditioner.examples(Captioned(), "train")
    assert len(examples) == 8
    _, told = examples.__getitems__([1, 5, 2])
    assert torch.equal(told.parts["text"].value[0], told.parts["text"].value[1])
    assert not torch.equal(told.parts["text"].value[0], told.parts["text"].value[2])
    # The same on the device of the training, where the indices are a tensor.
    moved = examples.to(torch.device("cpu"))
    assert torch.equal(moved.__getitems__(torch.tensor([5]))[1].parts["text"].value, told.parts["text"].value[1:2])
    assert moved.nbytes > 16


def test_data_that_describe_other_examples_than_theirs_are_refused(tiny):
    class OneMore(Captioned):
        def captions(self, split):
            return [*super().captions(split), "five"]

    conditioner = build_conditions(tiny({**EMOJI, "condition": ["text"]}))
    with pytest.raises(
        ConfigError, match=r"^condition=text: data=\.\.\. has 4 examples in the split train, but describes 5"
    ):
        conditioner.examples(OneMore(), "train")


# What samples are told.


@pytest.fixture
def asked(tiny):
    """asked(conditions, **keys) -> what samples of emoji are told, as sample.py would have it."""

    def make(conditions, chosen=None, seed=0, num_classes=10, **keys):
        config = tiny({**EMOJI, "condition": conditions, **{key: keys.pop(key) for key in list(keys) if "." in key}})
        conditioner = Conditioner(build_conditions(config).sources, num_classes)
        data = build_data(config)
        return Asking(conditioner, data.shape, lambda: data, seed, keys, chosen), data

    return make


def test_samples_have_held_out_examples_as_models_in_turn(asked):
    asking, data = asked(["text", "grayscale"])
    count = len(data.test)
    cond = asking.cond_of([0, 3, count, count + 3])
    assert torch.equal(cond.parts["text"].value[:2], cond.parts["text"].value[2:])
    # All of them, in an order of the seed.
    assert sorted(asking.places(range(count)).tolist()) == list(range(count))
    assert not torch.equal(asking.places(range(count)), asked(["text"], seed=1)[0].places(range(count)))
    first, second = asking.places([0, 3]).tolist()
    assert torch.equal(cond.labels(10), data.test.labels[[first, second] * 2])
    gray = to_model(data.test.values[[first, second]]).mean(1, keepdim=True)
    torch.testing.assert_close(cond.parts["grayscale"].value[:2], gray)
    assert asking.called([0, count]) == [data.captions("test")[first]] * 2
    torch.testing.assert_close(asking.originals([3])[0], to_model(data.test.values[second]))
    assert asking.shown([0, 3])["grayscale"].shape == (2, 1, 8, 8)


def test_no_class_of_a_held_out_example_contradicts_what_is_asked(asked):
    asking, data = asked(["text"], prompt="a red heart")
    assert CLASS not in asking.cond_of(range(3)).parts
    assert asking.class_of(range(3)) is None
    both, _ = asked(["text", "grayscale"], prompt="a red heart")
    assert both.cond_of(range(3)).parts.keys() == {"text", "grayscale"}
    chosen, _ = asked(["text"], chosen=torch.tensor([4]), prompt="a red heart")
    assert chosen.cond_of(range(3)).labels(10).tolist() == [4] * 3
    always = dataclasses.replace(asking, always_class=True)
    assert torch.equal(always.cond_of(range(3)).labels(10), data.test.labels[always.places(range(3))])


def test_what_sample_i_is_told_does_not_depend_on_its_batch(asked):
    asking, _ = asked(["low_resolution", "inpainting"], **{"condition.low_resolution.noise": 0.5})
    whole = asking.cond_of(range(6))
    part = asking.cond_of([4, 2])
    for name, value in whole.parts.items():
        torch.testing.assert_close(part.parts[name].value, value.value[[4, 2]])


def test_prompts_take_turns_and_the_rest_is_that_of_held_out_examples(asked):
    asking, data = asked(["text", "grayscale"], prompt=["a red heart", "a dog"])
    cond = asking.cond_of(range(4))
    wanted = dfw.build("text_encoder", "hashing")(["a red heart", "a dog"]).value
    assert torch.equal(cond.parts["text"].value, torch.cat([wanted, wanted]))
    models = to_model(data.test.values[asking.places(range(4))])
    torch.testing.assert_close(cond.parts["grayscale"].value, models.mean(1, keepdim=True))
    assert asking.missing == ["image"]
    assert asking.called([1]) == ["a dog"]


def test_chosen_classes_take_turns_whatever_else_is_told(asked):
    asking, _ = asked(["text"], chosen=torch.tensor([3, 5]), prompt="a dog")
    assert asking.cond_of(range(3)).labels(10).tolist() == [3, 5, 3]
    assert asking.class_of([1]).tolist() == [5]
    assert asking.originals([0]) is None


def picture(path, *sides, value=None):
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8) if value is None else value
    Image.fromarray(pixels).save(path)
    return str(path)


def test_one_image_is_what_all_conditions_of_images_are_made_of(asked, tmp_path):
    asking, _ = asked(["low_resolution", "grayscale"], image=picture(tmp_path / "x.png", 8, 8))
    assert asking.missing == []
    x0 = to_model(torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).permute(2, 0, 1))[None]
    parts = asking.cond_of([0, 1]).parts
    torch.testing.assert_close(parts["grayscale"].value[1:], x0.mean(1, keepdim=True))
    low = dfw.build("condition", "low_resolution")
    torch.testing.assert_close(parts["low_resolution"].value[1:], low.of(x0, torch.zeros_like).value)


def test_a_small_image_is_what_the_large_one_would_have_been_made(asked, tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    large = small.repeat(2, 0).repeat(2, 1)
    told = []
    for name, pixels in {"small": small, "large": large}.items():
        asking, _ = asked(["low_resolution"], image=picture(tmp_path / f"{name}.png", value=pixels))
        told.append(asking.cond_of([0]).parts["low_resolution"].value)
    torch.testing.assert_close(*told)


def test_the_noise_of_a_given_image_is_a_function_of_the_seed(asked, tmp_path):
    noisy = {"condition.low_resolution.noise": 0.5, "condition.low_resolution.sampled_noise": 0.3}
    path = picture(tmp_path / "x.png", 8, 8)

    def told(seed):
        asking, _ = asked(["low_resolution"], seed=seed, image=[path, path], **noisy)
        return asking.cond_of([0, 1, 2]).parts["low_resolution"].value

    torch.manual_seed(1)
    first = told(0)
    assert torch.equal(first, told(0))
    assert not torch.equal(first, told(1))
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(first[:, -1], torch.full((3, 8, 8), 0.3))


def test_a_mask_says_what_is_known(asked, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 1:4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    asking, _ = asked(["inpainting"], image=picture(tmp_path / "x.png", 8, 8), mask=str(tmp_path / "mask.png"))
    value = asking.cond_of([0]).parts["inpainting"].value[0]
    x0 = to_model(torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).permute(2, 0, 1))
    known = torch.from_numpy(mask > 0)
    torch.testing.assert_close(value[3], known.float())
    torch.testing.assert_close(value[:3], x0 * known)


@pytest.mark.parametrize(
    ("conditions", "keys", "message"),
    [
        ([], {"prompt": "a dog"}, r"^prompt=a dog: this is nothing that the model is told, which takes none"),
        (["text"], {"image": "x.png"}, r"^image=x\.png: this is nothing that the model is told, which takes prompt$"),
        (["grayscale"], {"vector": [1.0]}, r"^vector=\[1\.0\]: this is nothing .* which takes image$"),
        (["inpainting"], {"mask": "mask.png"}, r"^mask=mask\.png: this belongs to image=\.\.\., which is missing"),
        (["grayscale"], {"image": "absent.png"}, r"^image=absent\.png: there is no such file"),
        (["text"], {"prompt": []}, r"^prompt=\[\]: must have at least one"),
        (["grayscale"], {"image": []}, r"^image=\[\]: must have at least one"),
    ],
)
def test_what_the_model_is_not_told_cannot_be_asked_for(asked, conditions, keys, message):
    with pytest.raises(ConfigError, match=message):
        asked(conditions, **keys)


@pytest.mark.parametrize(
    ("conditions", "sides", "message"),
    [
        (["grayscale"], (8, 9), r"image=.*x\.png is 9 x 8 pixels; the model takes 8 x 8"),
        (
            ["low_resolution"],
            (2, 2),
            r"image=.*x\.png is 2 x 2 pixels; the model takes 4 x 4, or 8 x 8, which it makes",
        ),
        (["inpainting"], (8, 8), r"image=.*x\.png: which part is known\? give mask=FILE"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(asked, tmp_path, conditions, sides, message):
    with pytest.raises(ConfigError, match=message):
        asked(conditions, image=picture(tmp_path / "x.png", *sides))


def test_a_mask_of_another_size_is_refused(asked, tmp_path):
    keys = {"image": picture(tmp_path / "x.png", 8, 8), "mask": picture(tmp_path / "mask.png", 4, 8)}
    with pytest.raises(ConfigError, match=r"mask=.*mask\.png is 8 x 4 pixels, but the model's images are 8 x 8"):
        asked(["inpainting"], **keys)
