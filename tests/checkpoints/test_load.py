"""A model from its checkpoint alone: the right weights, and one error for any wrong file."""

from __future__ import annotations

import pickle
import struct
import zipfile
from dataclasses import dataclass

import pytest
import torch
from examples import plain_state

import diffusion_fw as dfw
from diffusion_fw import registry
from diffusion_fw.checkpoints import size_limit
from diffusion_fw.checkpoints.read import read
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError, discovery
from diffusion_fw.training.archive import DTYPES, RECORD_KEY, read_archive
from diffusion_fw.training.durable import DurableIO


def fit(config, folder):
    experiment = build_experiment(config, folder)
    experiment.trainer.fit(experiment.module)
    return experiment, folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    return fit(tiny({"trainer.max_steps": 2, "schedule": "linear"}), tmp_path_factory.mktemp("trained"))


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


def test_a_model_may_have_all_the_values_of_its_file_and_few_more(trained, monkeypatch):
    # As one far larger than the allowance: it is built twice, and each time counts by itself.
    monkeypatch.setattr(size_limit, "SPARE_VALUES", 100)
    monkeypatch.setattr(size_limit, "SPARE_TENSORS", 0)
    assert isinstance(dfw.load(trained[1]), dfw.NetworkDenoiser)
    monkeypatch.setattr(size_limit, "SPARE_VALUES", -100)
    with pytest.raises(ConfigError, match="but the file holds"):
        dfw.load(trained[1])


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


def assert_refused_or_unchanged(path, whole):
    """A damaged copy either loads the same weights, where the damage is in unused bytes, or is refused by name."""
    try:
        found = dfw.load(path).state_dict()
    except ConfigError as error:
        assert path.name in str(error)  # noqa: PT017
        return
    assert all(torch.equal(found[key], value) for key, value in dfw.load(whole).state_dict().items())


@pytest.mark.parametrize("seed", range(20))
def test_a_file_with_64_other_bytes_is_an_error_or_loads_the_same_weights(trained, tmp_path, seed):
    content = bytearray(trained[1].read_bytes())
    random = torch.Generator().manual_seed(seed)
    start = int(torch.randint(len(content) - 64, (1,), generator=random))
    content[start : start + 64] = bytes(torch.randint(256, (64,), generator=random).tolist())
    path = tmp_path / "corrupt.ckpt"
    path.write_bytes(content)
    assert_refused_or_unchanged(path, trained[1])


@pytest.mark.parametrize("seed", range(20))
def test_a_file_with_one_flipped_bit_is_an_error_or_loads_the_same_weights(trained, tmp_path, seed):
    content = bytearray(trained[1].read_bytes())
    place = int(torch.randint(8 * len(content), (1,), generator=torch.Generator().manual_seed(seed)))
    content[place // 8] ^= 1 << place % 8
    path = tmp_path / "flipped.ckpt"
    path.write_bytes(content)
    assert_refused_or_unchanged(path, trained[1])


def test_a_flipped_bit_in_any_tensor_is_refused_in_every_program_and_by_resume(trained, tmp_path):
    """One bit of a float's exponent makes a weight of 1e38; the archive's own checksums tell."""
    whole, path = trained[1].read_bytes(), tmp_path / "flipped.ckpt"
    with zipfile.ZipFile(trained[1]) as archive:
        records = [record for record in archive.infolist() if "/data/" in record.filename and record.file_size]
    for record in records:
        name_length, extra_length = struct.unpack_from("<HH", whole, record.header_offset + 26)
        start = record.header_offset + 30 + name_length + extra_length
        content = bytearray(whole)
        content[start + record.file_size - 1] ^= 1 << 6
        path.write_bytes(content)
        for reader in (read, DurableIO().load_checkpoint):
            with pytest.raises(ConfigError, match=r"flipped\.ckpt is damaged.*CRC"):
                reader(path)
    assert len(records) > 10


def test_what_is_read_is_what_was_saved(tmp_path):
    """Every type of tensor, views of one storage, the versions of modules, numbers and containers."""
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    shared = torch.arange(12.0)
    saved = {
        "state_dict": network.state_dict(),
        "types": {str(dtype): torch.tensor([0, 1, 3]).to(dtype) for dtype in DTYPES.values()},
        "views": [shared, shared[2:], shared.view(3, 4).T, shared[::5], torch.empty(0, 3)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "numbers": (1, -1, 70_000, 2**40, -(2**70), 0.1, float("inf"), True, None, "größer"),
        "empty": ([], {}, ()),
        3: [{"a": (1,)}],
    }
    torch.save(saved, tmp_path / "saved.ckpt")
    found = read_archive(tmp_path / "saved.ckpt")
    expected = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert plain_state(found) == plain_state(expected)
    assert found["state_dict"]._metadata == network.state_dict()._metadata
    assert [value.dtype for value in found["types"].values()] == list(DTYPES.values())
    assert [view.stride() for view in found["views"]] == [view.stride() for view in saved["views"]]
    found["views"][0][2] = 99
    assert found["views"][1][0] == 99
    assert found["parameter"].requires_grad


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
        {"state_dict": {}, RECORD_KEY: 3},
        {"state_dict": {}, RECORD_KEY: {}},
        {"state_dict": {}, RECORD_KEY: {"config": {}, "facts": {}, "plugins": {}}},
        {"state_dict": 3, RECORD_KEY: {"config": {}, "facts": {}, "plugins": {}}},
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
    path = changed(trained, tmp_path, lambda content: content[RECORD_KEY]["config"]["network"].update(channels=8))
    with pytest.raises(ConfigError, match=r"changed\.ckpt holds the weights of another architecture.*size mismatch"):
        dfw.load(path)


def test_a_setting_out_of_range_is_an_error(trained, tmp_path):
    path = changed(trained, tmp_path, lambda content: content[RECORD_KEY]["config"]["network"].update(channels=-8))
    with pytest.raises(ConfigError, match=r"network\.channels=-8"):
        dfw.load(path)


@pytest.fixture
def with_plugin(tiny, tmp_path, monkeypatch, scratch_registry):
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
