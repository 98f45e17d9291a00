"""Models that were put together in Python, saved for all programs, and what is said about those that cannot be."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.checkpoints.load import load_chosen
from diffusion_fw.checkpoints.read import read
from diffusion_fw.config.application import check_command_line
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.archive import RECORD_KEY

SHAPE = (1, 8, 8)


def put_together(network="mlp", shape=SHAPE, schedule="cosine", parameterization="v", **settings):
    torch.manual_seed(0)
    built = dfw.build("network", network, shape=shape, width=8, depth=1, **settings)
    return dfw.NetworkDenoiser(built, dfw.build("schedule", schedule), dfw.build("parameterization", parameterization))


def same(one, other, shape=SHAPE, cond=None):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    level = one.schedule(torch.tensor([0.1, 0.5, 0.9]))
    with torch.no_grad():
        return torch.allclose(one(x, level, cond).x0, other(x, level, cond).x0, atol=1e-6)


@pytest.mark.parametrize("place", ["model.ckpt", "folder", "new/model.pt"])
def test_a_model_of_ones_own_loop_is_loaded_as_it_was(tmp_path, place):
    denoiser = put_together()
    # As an average of the weights would be kept.
    denoiser = copy.deepcopy(denoiser)
    path = dfw.save(denoiser, tmp_path / place, shape=SHAPE, bounds=(-1, 1))
    loaded = dfw.load(path)
    assert path == tmp_path / place
    assert same(denoiser, loaded)
    assert (loaded.bounds, loaded.schedule) == ((-1.0, 1.0), denoiser.schedule)


def test_sample_and_evaluate_take_a_saved_model(tmp_path):
    from diffusion_fw.app.evaluate import evaluate
    from diffusion_fw.app.sample import sample

    data = dfw.build("data", "digits")
    sampler = dfw.build("sampler", "ddim", steps=3, grid="leading")
    path = dfw.save(put_together(), tmp_path / "model.ckpt", data=data, sampler=sampler)
    arguments = [f"checkpoint={path}", "device=cpu", "num_samples=4"]
    (config,) = check_command_line("sample", arguments)
    sample(config, tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) >= 4
    recorded = read(path)[RECORD_KEY]["config"]
    assert (recorded["sampler"]["steps"], recorded["grid"]["name"]) == (3, "leading")
    measured = ["features=pixels", "metric.fid.num_samples=8", f"metric.fid.cache_dir={tmp_path}"]
    (config,) = check_command_line("evaluate", [f"checkpoint={path}", "device=cpu", *measured])
    evaluate(config, tmp_path)
    (line,) = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert line["data"]["name"] == "digits"


def test_a_run_is_saved_slim_and_as_it_was_loaded(trained_content, tmp_path):
    run = tmp_path / "run.ckpt"
    torch.save(trained_content, run)
    denoiser = dfw.load(run)
    slim = dfw.save(denoiser, tmp_path / "slim.ckpt")
    assert slim.stat().st_size < run.stat().st_size / 2.5
    assert set(read(slim)["state_dict"]) == {f"denoiser.{key}" for key in denoiser.state_dict()}
    assert same(denoiser, dfw.load(slim))
    # The numbers of an average keep its name.
    assert load_chosen(slim)[2].name == "ema"
    with pytest.raises(ConfigError, match="holds the weights ema alone"):
        dfw.load(slim, raw_weights=True)
    before, after = read(run)[RECORD_KEY], read(slim)[RECORD_KEY]
    assert after["config"] == before["config"]
    assert after["facts"] == before["facts"]


def test_classes_dropout_and_learned_variances_are_described(tmp_path):
    denoiser = put_together(num_classes=3, class_conditional=True, outputs=2)
    names = ("a", "b", "c")
    known = {"shape": SHAPE, "bounds": (-1, 1), "class_names": names, "label_dropout": 0.2}
    path = dfw.save(denoiser, tmp_path / "model.ckpt", **known, variance="learned_range")
    record = read(path)[RECORD_KEY]
    assert (record["facts"]["class_names"], record["config"]["label_dropout"]) == (list(names), 0.2)
    assert same(denoiser, dfw.load(path), cond=torch.tensor([0, 1, 3]))


def test_a_network_that_build_has_not_made_is_described_by_its_section(tmp_path, scratch_registry):
    @dfw.register("network", "mine")
    class Mine(nn.Module):
        """A network of a plugin."""

        def __init__(self, shape: dfw.Runtime[tuple[int, ...]], width: int = 4) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(shape[0], width, 1), nn.Conv2d(width, shape[0], 1))

        def forward(self, x, label, cond=None):
            return self.layers(x)

    denoiser = dfw.NetworkDenoiser(Mine(SHAPE, width=6), "cosine", "v")
    known = {"shape": SHAPE, "bounds": (-1, 1)}
    with pytest.raises(ConfigError, match=r'a Mine that dfw\.build has not made.*build\("network", "mine"'):
        dfw.save(denoiser, tmp_path / "model.ckpt", **known)
    with pytest.raises(ConfigError, match=r"other weights than this model has, such as network\.layers\.0\.bias"):
        dfw.save(denoiser, tmp_path / "model.ckpt", **known, network="mine")
    path = dfw.save(denoiser, tmp_path / "model.ckpt", **known, network={"name": "mine", "width": 6})
    assert same(denoiser, dfw.load(path))


@dataclass(frozen=True)
class Other(dfw.DiscreteSchedule):
    """A schedule that is not registered."""

    def log_snrs(self):
        return torch.linspace(9, -9, self.num_steps, dtype=torch.float64)


KNOWN = {"shape": SHAPE, "bounds": (-1, 1)}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda item: item, {}, "shape and bounds: the denoiser does not say what its examples are"),
        (lambda item: item, {"shape": SHAPE}, "^bounds: the denoiser does not say"),
        (lambda item: item, {**KNOWN, "shape": (1, 4, 4)}, "it would be built with other weights"),
        (lambda item: item, {**KNOWN, "data": "digits"}, "shape, bounds and data are both given"),
        (lambda item: item, {**KNOWN, "smapler": "ddim"}, "smapler=...: .* did you mean 'sampler'"),
        (lambda item: item, {**KNOWN, "sampler": "ddmi"}, "sampler=ddmi: no such sampler"),
        (lambda item: setattr(item, "schedule", Other()), KNOWN, r"schedule: a Other that dfw\.build has not made"),
        (lambda item: item, {**KNOWN, "schedule": "linear"}, r"schedule=.*linear.* is not that of this model"),
        (lambda item: item, {**KNOWN, "parameterization": "x0"}, "parameterization=.* is not that of this model"),
    ],
)
def test_a_model_that_could_not_be_built_again_is_refused(tmp_path, change, options, message):
    denoiser = put_together()
    change(denoiser)
    with pytest.raises(ConfigError, match=message):
        dfw.save(denoiser, tmp_path / "model.ckpt", **options)
    assert not (tmp_path / "model.ckpt").exists()


def test_only_networks_are_saved(tmp_path):
    wrong = dfw.oracles.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).denoiser("vp")
    with pytest.raises(TypeError, match="only a NetworkDenoiser can be saved, not a MixtureDenoiser"):
        dfw.save(wrong, tmp_path / "model.ckpt")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub in a folder."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repository, *, private, exist_ok):
            asked.append((repository, private, self.token))
            (tmp_path / "hub" / repository).mkdir(parents=True)
            return f"hub/{repository}"

        def upload_folder(self, *, repo_id, folder_path):
            for file in folder_path.iterdir():
                (tmp_path / "hub" / repo_id / file.name).write_bytes(file.read_bytes())

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, tuple(allow_patterns)))
        if not (tmp_path / "hub" / repository).exists():
            raise OSError("not there")
        return tmp_path / "hub" / repository

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_model_goes_to_the_hub_and_comes_back(hub, tmp_path):
    denoiser = put_together()
    address = dfw.push_to_hub(denoiser, "me/digits", private=True, token="secret", **KNOWN)
    assert address == "hub/me/digits"
    assert same(denoiser, dfw.from_pretrained("me/digits", revision="v1"))
    assert hub == [("me/digits", True, "secret"), ("me/digits", "v1", ("*.json", "*.safetensors"))]
    stored = tmp_path / "hub" / "me" / "digits"
    assert {path.name for path in stored.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert 'dfw.load("hub:me/digits")' in (stored / "README.md").read_text()
    assert "secret" not in "".join(path.read_text() for path in stored.glob("*.[jm]*"))


def test_the_card_s_python_runs(tmp_path, monkeypatch):
    dfw.save_pretrained(put_together(), tmp_path / "folder", **KNOWN)
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "folder" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(code, names)
    assert names["x"].shape == (4, *SHAPE)
    assert names["x"].abs().max() <= 1.1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such folder, and not the name OWNER/NAME"),
        ("me/nothing", "hub:me/nothing cannot be read: OSError: not there"),
        ("../me/x", "no such folder"),
    ],
)
def test_what_the_hub_does_not_have_is_said(hub, name, message):
    with pytest.raises(ConfigError, match=message):
        dfw.from_pretrained(name)


def test_a_repository_of_other_code_says_how_it_is_imported(hub, tmp_path):
    (tmp_path / "hub" / "google" / "ddpm").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"interop import hub:google/ddpm --out model\.ckpt"):
        dfw.from_pretrained("google/ddpm")


def test_without_the_hub_s_package_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (lambda: dfw.from_pretrained("me/x"), lambda: dfw.push_to_hub(put_together(), "me/x", **KNOWN)):
        with pytest.raises(ConfigError, match="pip install huggingface_hub"):
            call()


def test_a_checkpoint_s_choice_of_weights_is_not_one_of_a_denoiser(tmp_path):
    with pytest.raises(ConfigError, match="choose among a checkpoint's weights"):
        dfw.save_pretrained(put_together(), tmp_path / "folder", raw_weights=True, **KNOWN)
