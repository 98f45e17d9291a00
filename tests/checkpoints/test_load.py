"""A model from its checkpoint alone: the right weights, and no harm from a wrong file."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError, discovery


def fit(config, folder):
    experiment = build_experiment(config, folder)
    experiment.trainer.fit(experiment.module)
    return experiment, folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    return fit(tiny({"trainer.max_steps": 2, "schedule": "linear"}), tmp_path_factory.mktemp("trained"))


@pytest.fixture
def scratch(monkeypatch):
    """A registry whose changes are undone."""
    monkeypatch.setattr(
        registry.components, "_entries", {group: dict(known) for group, known in registry.components._entries.items()}
    )


def test_the_averaged_weights_come_back_unless_the_raw_ones_are_asked_for(trained):
    experiment, path = trained
    averaged, raw = dfw.load(path), dfw.load(path, raw_weights=True)
    for key, value in experiment.module.averaged.state_dict().items():
        assert torch.equal(averaged.state_dict()[key], value)
    for key, value in experiment.module.denoiser.state_dict().items():
        assert torch.equal(raw.state_dict()[key], value)
    assert any(not torch.equal(value, raw.state_dict()[key]) for key, value in averaged.state_dict().items())


def test_the_loaded_model_is_the_trained_one(trained):
    experiment, path = trained
    denoiser = dfw.load(path)
    x, level = torch.randn(2, 1, 8, 8), denoiser.schedule(torch.tensor([0.3, 0.9], dtype=torch.float64))
    assert torch.equal(denoiser(x, level).x0, experiment.module.averaged(x, level).x0)
    assert not denoiser.training
    assert not any(item.requires_grad for item in denoiser.parameters())


def test_loading_leaves_the_public_names_as_they_are(trained):
    """A submodule of the name of a public function would take its place when it is first imported."""
    dfw.load(trained[1])
    assert dfw.build("schedule", "linear") == Linear()


def test_a_missing_file_is_named_with_those_that_are_there(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.ckpt: no such file"):
        dfw.load(tmp_path / "nowhere.ckpt")
    _, path = trained
    with pytest.raises(ConfigError, match=r"lost\.ckpt: no such file.*last\.ckpt"):
        dfw.load(path.with_name("lost.ckpt"))


@pytest.mark.parametrize("part", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_names_it(trained, tmp_path, part):
    content = trained[1].read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(part * len(content)) if isinstance(part, float) else part])
    with pytest.raises(ConfigError, match=r"cut\.ckpt"):
        dfw.load(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_corrupt_file_is_an_error_or_loads(trained, tmp_path, seed):
    """64 bytes at a random place, in the pickled structure or in a tensor, are others."""
    content = bytearray(trained[1].read_bytes())
    random = torch.Generator().manual_seed(seed)
    start = int(torch.randint(len(content) - 64, (1,), generator=random))
    content[start : start + 64] = bytes(torch.randint(256, (64,), generator=random).tolist())
    path = tmp_path / "corrupt.ckpt"
    path.write_bytes(content)
    try:
        dfw.load(path)
    except ConfigError as error:
        assert "corrupt.ckpt" in str(error)  # noqa: PT017


FOREIGN = {
    "text": b"a text\n",
    "noise": bytes(range(256)) * 4,
    "old_pickle": pickle.dumps({"a": 1}, protocol=0),
    "new_pickle": pickle.dumps({"a": 1}, protocol=5),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_an_error_that_names_it(tmp_path, kind):
    path = tmp_path / "foreign.ckpt"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(ConfigError, match=r"foreign\.ckpt"):
        dfw.load(path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"state_dict": {}},
        {"state_dict": {}, "diffusion_fw": 3},
        {"state_dict": {}, "diffusion_fw": {}},
        {"state_dict": {}, "diffusion_fw": {"config": {}, "facts": {}, "plugins": {}}},
        {"state_dict": 3, "diffusion_fw": {"config": {}, "facts": {}, "plugins": {}}},
    ],
)
def test_another_program_s_checkpoint_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=r"other\.ckpt"):
        dfw.load(path)


class Harm:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_would_run_code_runs_none(trained, tmp_path):
    content = torch.load(trained[1], weights_only=True)
    path = tmp_path / "harm.ckpt"
    torch.save({**content, "extra": Harm(tmp_path / "harm")}, path)
    with pytest.raises(ConfigError, match=r"harm\.ckpt .*was not loaded"):
        dfw.load(path)
    assert not (tmp_path / "harm").exists()


def changed(trained, tmp_path, change):
    content = torch.load(trained[1], weights_only=True)
    change(content)
    path = tmp_path / "changed.ckpt"
    torch.save(content, path)
    return path


def test_weights_of_another_architecture_are_an_error_that_names_them(trained, tmp_path):
    path = changed(trained, tmp_path, lambda content: content["diffusion_fw"]["config"]["network"].update(channels=8))
    with pytest.raises(ConfigError, match=r"changed\.ckpt holds the weights of another architecture.*size mismatch"):
        dfw.load(path)


def test_a_setting_out_of_range_is_an_error(trained, tmp_path):
    path = changed(trained, tmp_path, lambda content: content["diffusion_fw"]["config"]["network"].update(channels=-8))
    with pytest.raises(ConfigError, match=r"network\.channels=-8"):
        dfw.load(path)


@pytest.fixture
def with_plugin(tiny, tmp_path, monkeypatch, scratch):
    """The checkpoint of a run whose schedule and sampler were a plugin's, which is then gone."""

    @dfw.register("schedule", "borrowed")
    @dataclass(frozen=True)
    class Borrowed(Linear):
        """A schedule of a plugin."""

    @dfw.register("sampler", "borrowed")
    @dataclass(frozen=True)
    class BorrowedSampler(registry.entry("sampler", "ddim").factory):
        """A sampler of a plugin."""

    monkeypatch.setattr(discovery, "plugin_hashes", lambda: {"lender": "0" * 64})

    def make(group):
        _, path = fit(tiny({"trainer.max_steps": 1, group: "borrowed"}), tmp_path)
        del registry.components._entries[group]["borrowed"]
        return path

    return make


def test_a_component_that_is_not_registered_is_named_with_its_plugin(with_plugin):
    with pytest.raises(ConfigError, match=r"uses schedule=borrowed, which is not registered here; .*lender"):
        dfw.load(with_plugin("schedule"))


def test_a_model_needs_no_plugin_that_only_drew_its_previews(with_plugin):
    assert dfw.load(with_plugin("sampler")).schedule == dfw.build("schedule", "cosine")
