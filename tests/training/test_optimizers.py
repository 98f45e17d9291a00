"""Optimizers by name: each takes the step of its library or of its formula, trains, and resumes to the bit."""

from __future__ import annotations

import importlib.util
import sys
import typing

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.app.memory import estimate
from diffusion_fw.app.train import train
from diffusion_fw.composition.checks import check_optimizer_choice
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import compose_parts
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.optimizer import by_name

BUILT_ON_PACKAGE = ("muon", "lion", "schedule_free")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("pytorch_optimizer") is None, reason="the extra optimizers is not installed"
)
SHAPES = ((6, 4), (5, 3, 2, 2), (7,), (3, 9))


def parameters(seed=0, shapes=SHAPES):
    source = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=source)) for shape in shapes]


def gradients(step, shapes=SHAPES):
    source = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=source) for shape in shapes]


def stepped(optimizer, trained, steps=4):
    """The parameters after some steps of given gradients, whose rate falls."""
    first = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate / (1 + step)
        for item, gradient in zip(trained, gradients(step), strict=True):
            item.grad = gradient.clone()
        optimizer.step()
    return trained


def classes():
    (annotation,) = (value for key, value in typing.get_type_hints(by_name).items() if key == "class_")
    return typing.get_args(annotation)


def test_all_optimizers_of_torch_can_be_named():
    known = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    assert known - set(classes()) == {"Optimizer", "LBFGS", "SparseAdam", "Muon"}


@pytest.mark.parametrize("name", classes())
def test_a_step_is_that_of_torch(name):
    ours, theirs = parameters(), parameters()
    options = {} if name == "Rprop" else {"weight_decay": 0.1}
    stepped(dfw.build("optimizer", "torch", params=ours, **{"class": name}, lr=0.01, options=options), ours)
    stepped(getattr(torch.optim, name)(theirs, lr=0.01, **options), theirs)
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class": "Radam"}, r"optimizer\.class=.*one of .*RAdam"),
        ({"class": "LBFGS"}, r"optimizer\.class="),
        ({"class": "Adam", "options": {"beta": [0.9, 0.99]}}, r"optimizer\.options\.beta: .* did you mean 'betas'"),
        ({"class": "Adam", "options": {"betas": [0.9, 2.0]}}, r"optimizer\.options=.*Adam refuses them.*2\.0"),
        ({"class": "Adam", "options": {"betas": "x"}}, r"Adam refuses them"),
        ({"class": "SGD", "options": {"params": 1}}, r"optimizer\.options\.params"),
    ],
)
def test_what_torch_does_not_take_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        dfw.build("optimizer", "torch", params=parameters(), **given)


@needs_package
def test_muon_steps_matrices_as_torch_does_and_the_rest_by_adamw():
    ours = parameters()
    options = {"lr": 0.05, "weight_decay": 0.1, "adamw_lr": 0.01, "adamw_weight_decay": 0.2}
    stepped(dfw.build("optimizer", "muon", params=ours, **options), ours)
    theirs = parameters()
    # A kernel is the matrix of its rows.
    flat = [torch.nn.Parameter(item.detach().flatten(1)) for item in theirs if item.ndim > 1]
    vectors = [item for item in theirs if item.ndim == 1]
    matrix = torch.optim.Muon(flat, lr=0.05, weight_decay=0.1, momentum=0.95)
    vector = torch.optim.AdamW(vectors, lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.2)
    for step in range(4):
        for optimizer, rate in ((matrix, 0.05), (vector, 0.01)):
            optimizer.param_groups[0]["lr"] = rate / (1 + step)
        given = gradients(step)
        for item, gradient in zip(flat, (each for each in given if each.ndim > 1), strict=True):
            item.grad = gradient.flatten(1).clone()
        for item, gradient in zip(vectors, (each for each in given if each.ndim == 1), strict=True):
            item.grad = gradient.clone()
        matrix.step()
        vector.step()
    expected = {item.numel(): item.flatten() for item in (*flat, *vectors)}
    for item in ours:
        # Both orthogonalize in bfloat16, one of them several matrices at once.
        assert torch.allclose(item.flatten(), expected[item.numel()], rtol=0.02, atol=2e-3)


@needs_package
def test_lion_follows_its_formula():
    """Algorithm 2 of the paper: the sign of beta_1 m + (1 - beta_1) g, and m decays by beta_2."""
    ours, rate, decay = parameters(), 0.01, 0.1
    stepped(dfw.build("optimizer", "lion", params=ours, lr=rate, weight_decay=decay), ours)
    theirs = [item.detach().double() for item in parameters()]
    momenta = [torch.zeros_like(item) for item in theirs]
    for step in range(4):
        lr = rate / (1 + step)
        for item, momentum, gradient in zip(theirs, momenta, gradients(step), strict=True):
            direction = (0.9 * momentum + 0.1 * gradient).sign()
            item -= lr * (direction + decay * item)
            momentum.lerp_(gradient.double(), 0.01)
    assert all(torch.allclose(one.double(), two, atol=1e-6) for one, two in zip(ours, theirs, strict=True))


@needs_package
def test_schedule_free_follows_its_formulas_and_keeps_their_average():
    """Algorithm 1 of the paper, in float64: y, z and the average x of z, weighted by the square of the largest rate."""
    trained = parameters()
    optimizer = dfw.build("optimizer", "schedule_free", params=trained, lr=0.01, weight_decay=0.1)
    keeper, average = dfw.build("ema", "schedule_free"), [item.detach().clone() for item in trained]
    z = [item.detach().double() for item in trained]
    x, square, total = [item.clone() for item in z], [torch.zeros_like(item) for item in z], 0.0
    for step in range(5):
        rate = 0.01 * min(1.0, (step + 1) / 3)
        optimizer.param_groups[0]["lr"] = rate
        for item, gradient in zip(trained, gradients(step), strict=True):
            item.grad = gradient.clone()
        optimizer.step()
        weights = type("Weights", (), {"parameters": trained, "buffers": []})
        kept = type("Weights", (), {"parameters": average, "buffers": []})
        keeper.update(kept, weights, step + 1, optimizer)
        total += rate**2
        for k, gradient in enumerate(gradients(step)):
            y = 0.1 * z[k] + 0.9 * x[k]
            square[k].lerp_(gradient.double().square(), 0.001)
            direction = gradient / ((square[k] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8) + 0.1 * y
            z[k] = z[k] - rate * direction
            x[k] = x[k].lerp(z[k], rate**2 / total)
            assert torch.allclose(average[k].double(), x[k], atol=1e-5)
            assert torch.allclose(trained[k].double(), 0.1 * z[k] + 0.9 * x[k], atol=1e-5)


CHOICES = {
    "torch": {"optimizer.class": "RAdam", "optimizer.options": {"betas": [0.9, 0.99]}},
    "muon": {},
    "lion": {},
    "schedule_free": {"ema": "schedule_free"},
}


@needs_package
@pytest.mark.parametrize("name", CHOICES)
def test_a_run_resumes_to_the_bit_and_its_memory_is_known(tiny, tmp_path, name):
    callbacks = {"callbacks": ["health", "evaluation", "checkpoints"], "callbacks.evaluation.every": 3}
    config = tiny({"optimizer": name, **CHOICES[name], **callbacks})
    for place, steps in (("whole", 6), ("part", 3)):
        part = {**config, "trainer": {**config["trainer"], "max_steps": steps}}
        experiment = build_experiment(part, tmp_path / place)
        experiment.trainer.fit(experiment.module)
    train({**config, "resume": str(tmp_path / "part")}, tmp_path / "part")
    one, two = (
        torch.load(tmp_path / place / "checkpoints" / "last.ckpt", weights_only=True) for place in ("whole", "part")
    )
    assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    assert one["callbacks"]["History"]["distances"] == two["callbacks"]["History"]["distances"]
    assert estimate(config, Facts.of(compose_parts(config).data, config), 8).optimizer > 0


@needs_package
def test_samples_of_schedule_free_are_those_of_its_average(tiny, tmp_path):
    config = tiny({"optimizer": "schedule_free", "ema": "schedule_free", "callbacks": ["checkpoints"]})
    experiment = build_experiment(config, tmp_path)
    experiment.trainer.fit(experiment.module)
    module, (optimizer,) = experiment.module, experiment.trainer.optimizers
    trained = {key: value.clone() for key, value in module.denoiser.state_dict().items()}
    optimizer.eval()
    for key, value in module.denoiser.state_dict().items():
        assert torch.equal(value, module.averaged.state_dict()[key])
    assert any(not torch.equal(value, trained[key]) for key, value in module.denoiser.state_dict().items())


@pytest.mark.parametrize(
    "choice", [{"optimizer": "schedule_free"}, {"ema": "schedule_free"}, {"optimizer": "schedule_free", "ema": "none"}]
)
def test_schedule_free_is_chosen_as_a_whole(tiny, choice):
    with pytest.raises(ConfigError, match=r"optimizer=\w+ with ema=\w+: .*choose both or neither"):
        compose_parts(tiny(choice))


def test_muon_sees_whole_matrices(tiny):
    config = tiny({"optimizer": "muon", "ema": "none", "trainer.strategy": "fsdp"})
    with pytest.raises(ConfigError, match=r"optimizer=muon .* trainer\.strategy=fsdp"):
        check_optimizer_choice(config)


def test_a_schedule_of_schedule_free_is_doubted(tiny, caplog):
    check_optimizer_choice(tiny({"optimizer": "schedule_free", "ema": "schedule_free", "lr_schedule": "cosine"}))
    assert "lr_schedule=cosine changes its rate" in caplog.text


@pytest.mark.parametrize("name", BUILT_ON_PACKAGE)
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ConfigError, match=rf"optimizer={name} needs pytorch_optimizer: pip install .*\[optimizers\]"):
        dfw.build("optimizer", name, params=parameters())
