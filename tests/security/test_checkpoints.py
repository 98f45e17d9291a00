"""A stranger's checkpoint: it runs no code, takes no more memory than its size, and is refused in one message."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.app.trained_model import open_trained
from diffusion_fw.checkpoints import size_limit
from diffusion_fw.checkpoints.load import load_chosen
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.parts import build_data
from diffusion_fw.config.application import check_command_line
from diffusion_fw.registry import ConfigError, Runtime
from diffusion_fw.training import archive
from diffusion_fw.training.archive import RECORD_KEY

ROOT = Path(__file__).parents[2]
CALLS = ["os.system", "os.mkdir", "builtins.exec", "builtins.eval"]


def network(**changes):
    return lambda content: content[RECORD_KEY]["config"]["network"].update(changes)


def config(**changes):
    return lambda content: content[RECORD_KEY]["config"].update(changes)


def facts(**changes):
    return lambda content: content[RECORD_KEY]["facts"].update(changes)


def conditional(**changes):
    def change(content):
        network(class_conditional=True)(content)
        facts(**changes)(content)

    return change


def test_what_is_forged_loads_before_it_is_changed(forged):
    assert dfw.load(forged()).schedule == dfw.build("schedule", "cosine")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", ["state_dict", RECORD_KEY, "optimizer_states", "extra"])
def test_a_pickled_call_is_not_made(forged, trap, call, place):
    path, calls = trap
    with pytest.raises(ConfigError, match=r"forged\.ckpt .*was not loaded"):
        dfw.load(forged(lambda content: content.update({place: {"x": calls[call]}})))
    assert not path.exists()
    pickle.loads(pickle.dumps(calls[call]))
    assert path.exists()  # read without care, the same call is made


@pytest.mark.parametrize("call", CALLS)
def test_a_bare_pickle_in_place_of_a_checkpoint_is_not_run(tmp_path, trap, call):
    path, calls = trap
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(calls[call], protocol=2))
    with pytest.raises(ConfigError, match=r"bare\.ckpt"):
        dfw.load(tmp_path / "bare.ckpt")
    assert not path.exists()


def test_a_resumed_training_does_not_run_a_checkpoint_either(tiny, forged, trap, tmp_path):
    """Lightning reads it by itself."""
    path, calls = trap
    checkpoint = forged(lambda content: content.update(extra=calls["os.mkdir"]))
    experiment = build_experiment(tiny(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"forged\.ckpt .*was not loaded"):
        experiment.trainer.fit(experiment.module, ckpt_path=checkpoint)
    assert not path.exists()


def test_a_model_that_only_guides_another_is_not_run_either(forged, trap, tmp_path):
    path, calls = trap
    own = forged().rename(tmp_path / "own.ckpt")
    weaker = forged(lambda content: content.update(extra=calls["os.mkdir"]))
    arguments = [f"checkpoint={own}", "guidance=[autoguidance]", f"guidance.autoguidance.checkpoint={weaker}"]
    with pytest.raises(ConfigError, match=r"the weaker model: checkpoint=.*forged\.ckpt .*was not loaded"):
        open_trained(check_command_line("sample", arguments)[0])
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (network(_target_="os.system"), r"network\._target_: .*no such key"),
        (network(**{"_target_": "builtins.exec", "_args_": ["raise SystemExit"]}), "no such key"),
        (network(_partial_=True), "no such key"),
        (config(network={"_target_": "os.system"}), "was not written by diffusion_fw"),
        (config(network={"name": "os.system"}), r"uses network=os\.system, which is not registered"),
        (config(network={"name": "builtins.exec", "channels": 4}), "not registered"),
        (config(network={"name": {"_target_": "os.system"}}), "was not written by diffusion_fw"),
        (config(network="name"), "was not written by diffusion_fw"),
        (config(network=["name"]), "was not written by diffusion_fw"),
        (config(schedule={"name": "cosine", "_target_": "os.system"}), "no such key"),
        (config(variance={"_target_": "os.system"}), "variance is not a component"),
        (config(variance={"name": "os.system"}), r"variance=os\.system: no such variance"),
        (config(variance="learned"), "variance is not a component"),
        (network(channels="${oc.env:HOME}"), r"network\.channels='\$\{oc\.env:HOME\}': must be int"),
        (network(channels="${oc.decode:8}"), "must be int"),
        (network(channels="4"), "must be int"),
        (network(channels=4.0), "must be int"),
        (network(channels=True), "must be int"),
        (network(channels=-1), "must be int"),
        (network(dropout=float("nan")), r"network\.dropout=nan: must be float"),
        (network(channel_mult={"0": 1}), "must be a list"),
        (network(channel_mult=[[1]]), "must be a list"),
        (network(**{"\x1b[2J": 1}), "was not written by diffusion_fw"),
        (config(network={"name": "\x1b]0;title\x07"}), "was not written by diffusion_fw"),
        (config(network={"name": "x" * 10**7}), "was not written by diffusion_fw"),
        (lambda content: content[RECORD_KEY]["plugins"].update({"\x1b[2J": "0"}), "was not written"),
        (facts(shape="${oc.env:HOME}"), "facts of its data"),
        (facts(shape=[1, -8, 8]), "facts of its data"),
        (facts(num_classes="10"), "facts of its data"),
        (facts(_target_="os.system"), "facts of its data"),
        (facts(class_counts=[-1] * 10), "facts of its data"),
        (facts(class_counts=[10**400] * 10), "facts of its data"),
        (facts(class_counts=[1] * 9), "9 class_counts are not those of 10 classes"),
        (facts(class_counts=[0] * 10), "10 class_counts are not those of 10 classes"),
        (facts(vectors=[3]), "facts of its data"),
        (facts(vectors={"x": -1}), "facts of its data"),
        (facts(vectors={"x": 0}), "facts of its data"),
        (facts(vectors={"x": 2**24 + 1}), "facts of its data"),
        (facts(vectors={"x": 10**400}), "facts of its data"),
        (facts(vectors={"x": "3"}), "facts of its data"),
        (facts(vectors={3: 3}), "facts of its data"),
        (facts(vectors=None), "facts of its data"),
        (facts(sequences={"x": 3}), "facts of its data"),
        (facts(sequences={"x": [3]}), "facts of its data"),
        (facts(sequences={"x": [3, -1]}), "facts of its data"),
        (facts(sequences={"x": [3, 4, 5]}), "facts of its data"),
        (facts(sequences="text"), "facts of its data"),
        (facts(images={"x": True}), "facts of its data"),
        (facts(images={"x": [1, 1]}), "facts of its data"),
        (facts(images=[["x", 1]]), "facts of its data"),
        (facts(vectors={"a.b": 1}), "cannot be built"),
        (facts(vectors={"": 1}), "cannot be built"),
        (facts(vectors={"items": 1}), "cannot be built"),
        (facts(vectors={"\x1b[2J": 1}), "another architecture|not written"),
        (facts(vectors={"x": 1}), "another architecture"),
        (facts(images={"x": 1}), "another architecture"),
        (lambda content: content[RECORD_KEY].update(facts={}), "facts of its data"),
    ],
)
def test_a_config_that_asks_for_more_than_values_is_refused(forged, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        dfw.load(forged(change))
    assert "forged.ckpt" in str(error.value)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_value_of_nested_lists_does_not_unfold_in_the_message(forged):
    """40 lists, each twice in the next: 2^40 values when written out."""
    value = [1]
    for _ in range(40):
        value = [value, value]
    with pytest.raises(ConfigError, match="must be a list") as error:
        dfw.load(forged(network(channel_mult=value)))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (network(channels=10**5), "has more than"),
        (network(channels=10**9), "must be int in"),
        (network(channels=10**18), "must be int in"),
        (network(channels=10**30), "must be int in"),
        (network(num_res_blocks=10**6), "has more than"),
        (network(num_res_blocks=10**9), "must be int in"),
        (network(channel_mult=[10**4] * 3), "has more than"),
        (config(network={"name": "mlp", "width": 10**6}), "has more than"),
        (config(network={"name": "mlp", "depth": 10**6}), "has more than"),
        (config(schedule={"name": "cosine", "num_steps": 10**12}), r"must be int in \[1, 1e\+06\]"),
        (config(schedule={"name": "ncsn", "num_steps": 10**9}), "must be int in"),
        (facts(shape=[10**6, 10**6]), "more than 268,435,456 values"),
        (facts(shape=[3, 10**4, 10**4]), "more than 268,435,456 values"),
        (facts(shape=[10**8, 1, 1]), "has more than"),
        (facts(sequences={"x": [2**24, 2**24]}), "is told of an example has more than 268,435,456 values"),
        (facts(images={"x": 2**24}), "is told of an example has more than 268,435,456 values"),
        (facts(vectors={"x": 2**24}), "has more than"),
        (facts(sequences={"x": [2**24, 1]}), "has more than"),
        (facts(vectors={f"x{i}": 1 for i in range(100_000)}), "has more than"),
        (facts(shape=[2**60] * 5000), "have 5,000 axes, more than 8"),
        (facts(shape=[1] * 100_000), "have 100,000 axes, more than 8"),
        (conditional(num_classes=10**12, class_counts=[]), "has more than"),
    ],
)
def test_a_model_larger_than_its_file_is_refused_before_it_takes_memory(forged, change, message, limited):
    with limited(1 << 30), pytest.raises(ConfigError, match=message) as error:
        dfw.load(forged(change))
    assert "forged.ckpt" in str(error.value)


def test_a_plugin_s_network_that_cannot_be_built_without_memory_still_loads(tiny, tmp_path, scratch_registry):
    @dfw.register("network", "reads_its_weights")
    class ReadsItsWeights(torch.nn.Module):
        """Looks at its first weight when it is built."""

        def __init__(self, shape: Runtime[tuple[int, ...]], width: int = 3):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(width))
            self.first = float(self.scale.detach()[0])

        def forward(self, x, label, cond=None):
            return x * self.scale.mean()

    config = tiny({"trainer.max_steps": 1, "data": "moons", "features": "identity", "network": "reads_its_weights"})
    experiment = build_experiment(config, tmp_path)
    experiment.trainer.fit(experiment.module)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert dfw.load(path).network.first == 1
    content = torch.load(path, weights_only=True)
    content[RECORD_KEY]["config"]["network"]["width"] = 1 << 25
    torch.save(content, path)
    with pytest.raises(ConfigError, match="has more than"):
        dfw.load(path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind):
    """Opening a pipe waits for a writer, and /dev/zero never ends."""
    path = tmp_path / "last.ckpt"
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](path)
    with pytest.raises(ConfigError, match=rf"last\.ckpt.*(it is a {kind}, not a regular file|no checkpoints/last)"):
        dfw.load(path)


@pytest.mark.parametrize("name", ["averaged.\x1b[2J", "averaged." + "x" * 10**6, "averaged.\u202e", 7])
def test_a_weight_has_a_name_that_can_be_shown(forged, name):
    with pytest.raises(ConfigError, match=r"forged\.ckpt was not loaded: the name of a weight") as error:
        dfw.load(forged(lambda content: content["state_dict"].update({name: torch.zeros(1)})))
    assert len(str(error.value)) < 1000


def test_many_names_are_refused_in_a_short_message(forged, monkeypatch):
    more = {f"averaged.x{i}": torch.zeros(1) for i in range(2000)}
    path = forged(lambda content: content["state_dict"].update(more))
    with pytest.raises(ConfigError, match=r"another architecture.* characters left out") as error:
        dfw.load(path)
    assert len(str(error.value)) < 5000
    monkeypatch.setattr(archive, "MAX_TENSORS", 1000)
    with pytest.raises(ConfigError, match="holds more than 1,000 tensors"):
        dfw.load(path)


@pytest.mark.parametrize("kind", ["expanded", "meta", "sparse", "text"])
def test_a_tensor_that_claims_more_than_it_holds_is_refused(forged, kind):
    make = {
        "expanded": lambda: torch.zeros(1).expand(10**12),
        "meta": lambda: torch.empty(10**12, device="meta"),
        "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**12,)),
        "text": lambda: "weights",
    }
    with pytest.raises(ConfigError, match=r"forged\.ckpt"):
        dfw.load(forged(lambda content: content["state_dict"].update({"averaged.network.enter.bias": make[kind]()})))


def test_a_compressed_checkpoint_is_refused_before_it_unpacks(forged, tmp_path, limited):
    """512 MB of zeros are 2 MB."""
    path = forged()
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
        with target.open(path.stem + "/data/bomb", "w", force_zip64=True) as file:
            for _ in range(512):
                file.write(bytes(1 << 20))
    with (
        limited(1 << 28),
        pytest.raises(ConfigError, match=r"bomb\.ckpt was not loaded: its [\d,]+ bytes would unpack to 53"),
    ):
        dfw.load(bomb)


def test_records_that_overlap_are_refused(forged, tmp_path):
    """One stored record, listed a thousand times in the directory of the archive."""
    path = forged()
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        start = archive.start_dir
        archive.NameToInfo.clear()
    with zipfile.ZipFile(tmp_path / "overlap.ckpt", "w") as archive:
        archive.fp.write(content[:start])
        archive.start_dir = start
        archive.filelist = [largest] * 1000
        archive._didModify = True
    with pytest.raises(ConfigError, match=r"overlap\.ckpt was not loaded: its [\d,]+ bytes would unpack"):
        dfw.load(tmp_path / "overlap.ckpt")


def call(function, *arguments):
    """A pickle of protocol 2 that calls ``module.name``."""
    module, _, name = function.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R."


def nested_calls(function, depth):
    """A pickle that calls a function of one argument on its own result, ``depth`` times."""
    module, _, name = function.rpartition(".")
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() * depth + b"]" + b"\x85R" * depth + b"."


PICKLES = {
    "a byte array by call": (call("__builtin__.bytearray", 2 << 30), r"asks for '__builtin__\.bytearray'"),
    "a byte array by opcode": (b"\x80\x02\x96" + (2 << 30).to_bytes(8, "little") + b"x.", "opcode 0x96"),
    "an encoding": (call("_codecs.encode", "x" * 1000, "hex"), r"asks for '_codecs\.encode'"),
    "a set": (call("__builtin__.set", [1]), r"asks for '__builtin__\.set'"),
    "a copy in a copy": (nested_calls("collections.Counter", 100), r"asks for 'collections\.Counter'"),
    "a copy of a dictionary": (call("collections.OrderedDict", [(1, 2)]), "takes 0 positional arguments"),
    "a size": (call("torch.Size", [1 << 60]), r"asks for 'torch\.Size'"),
    "escape codes": (call("os.\x1b[2J"), r"asks for 'os\.\\x1b\[2J'"),
    "an import from the stack": (b"\x80\x02X\x05\0\0\0torchX\x05\0\0\0zeros\x93.", "opcode 0x93"),
    "an extension": (b"\x80\x02\x82\x01.", "opcode 0x82"),
    "an instance": (b"(i__builtin__\nbytearray\n.", "opcode 0x69"),
    "a class by NEWOBJ": (b"\x80\x02c__builtin__\nbytearray\n)\x81.", r"asks for '__builtin__\.bytearray'"),
    "the attributes of a dict": (b"\x80\x02}}b.", "sets the attributes of an object"),
    "the attributes of an OrderedDict": (
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb.",
        "sets the attributes of an object",
    ),
    "a string of gigabytes": (b"\x80\x02X\xff\xff\xff\xffx.", "damaged"),
    "a memo of gigabytes": (b"\x80\x02]r\xff\xff\xff\x7f.", "was not written by diffusion_fw"),
    "nothing": (b"", "damaged"),
    "an empty stack": (b"\x80\x02.", "damaged"),
}
"""Each with the reason for which it is refused."""


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_asks_for_more_than_values_is_refused_before_it_takes_memory(tmp_path, kind, limited):
    path = tmp_path / "forged.ckpt"
    content, reason = PICKLES[kind]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    with limited(1 << 28), pytest.raises(ConfigError, match=rf"forged\.ckpt .*{reason}") as error:
        dfw.load(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_an_assignment_to_a_tensor_is_refused(forged, tmp_path):
    """SETITEM with a tensor on the stack would be tensor[key] = value."""
    torch.save(torch.zeros(4), tmp_path / "tensor.ckpt")
    with zipfile.ZipFile(tmp_path / "tensor.ckpt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in records if name.endswith("data.pkl")]
    for ending in (b"K\x01K\x01s.", b"(K\x01K\x01u."):
        with zipfile.ZipFile(tmp_path / "forged.ckpt", "w") as archive:
            for key, content in {**records, name: records[name][:-1] + ending}.items():
                archive.writestr(key, content)
        with pytest.raises(ConfigError, match="assigns to the values of a tensor"):
            dfw.load(tmp_path / "forged.ckpt")


@pytest.mark.parametrize("change", [-1, 1, 1 << 40])
def test_a_storage_that_claims_another_size_than_its_record_is_refused(forged, tmp_path, change):
    path = forged(lambda content: content.update(extra=torch.zeros(321)))
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in records if name.endswith("data.pkl")]
    count = b"M" + (321).to_bytes(2, "little") + b"t"  # the last entry of the reference to a storage
    assert records[name].count(count) == 1
    claimed = pickle.dumps(321 + change, 2)[2:-1] + b"t"
    with zipfile.ZipFile(tmp_path / "claims.ckpt", "w") as archive:
        for key, content in {**records, name: records[name].replace(count, claimed)}.items():
            archive.writestr(key, content)
    with pytest.raises(ConfigError, match=r"claims\.ckpt was not loaded: a storage claims another size"):
        dfw.load(tmp_path / "claims.ckpt")


def test_values_of_a_storage_that_many_tensors_share_count_once(forged, limited):
    """A thousand tensors of four million values each, in a file of 16 MB."""
    values = torch.zeros(1 << 22)

    def change(content):
        content["state_dict"].update({f"averaged.network.{number}": values for number in range(1000)})
        network(channels=1000)(content)

    path = forged(change)
    with limited(1 << 30), pytest.raises(ConfigError, match="has more than"):
        dfw.load(path)


def test_a_network_that_uses_a_weight_twice_is_as_large_as_its_file(monkeypatch):
    monkeypatch.setattr(size_limit, "SPARE_VALUES", 0)
    with size_limit.limit_model_size([torch.zeros(100, 100)]):
        first, second = torch.nn.Linear(100, 100, bias=False), torch.nn.Linear(0, 0, bias=False)
        second.weight = first.weight
    with pytest.raises(ConfigError, match="has more than"), size_limit.limit_model_size([torch.zeros(100, 100)]):
        _ = torch.nn.Linear(100, 100, bias=False), torch.nn.Linear(100, 100, bias=False)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped"])
def test_a_record_named_like_a_path_writes_no_file(forged, tmp_path, name):
    path = forged()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    before = set(tmp_path.parent.rglob("escaped*"))
    try:
        dfw.load(path)
    except ConfigError as error:
        assert "forged.ckpt" in str(error)  # noqa: PT017
    assert before == set(tmp_path.parent.rglob("escaped*"))


def test_plugins_that_a_checkpoint_names_are_not_loaded(forged, trap, tmp_path, monkeypatch):
    """Neither from beside the checkpoint, nor from the working directory, nor from the path it gives."""
    path, _ = trap
    code = f"import os\nos.mkdir({str(path)!r})\n"
    for folder in (tmp_path, tmp_path / "plugins"):
        folder.mkdir(exist_ok=True)
        (folder / "lender.py").write_text(code)
    monkeypatch.chdir(tmp_path)

    def change(content):
        content[RECORD_KEY]["plugins"] = {"lender": "0" * 64, str(tmp_path / "lender.py"): "0" * 64}
        content[RECORD_KEY]["config"]["network"] = {"name": "lender"}

    with pytest.raises(ConfigError, match="network=lender, which is not registered here"):
        dfw.load(forged(change))
    assert not path.exists()


@pytest.mark.parametrize("data", [{"_target_": "os.system"}, {"name": "os.system"}, "digits", None])
def test_evaluation_builds_only_registered_data(forged, data):
    _, record, _ = load_chosen(forged(config(data=data)))
    with pytest.raises(ConfigError, match=r"^data"):
        build_data(record["config"])


def test_a_program_ends_with_one_message(forged, tmp_path):
    path = forged(network(_target_="os.system"))
    command = [sys.executable, str(ROOT / "sample.py"), f"checkpoint={path}", f"hydra.run.dir={tmp_path / 'out'}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "ConfigError: checkpoint=" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_record_that_programs_read_is_the_checked_one(forged):
    _, record, _ = load_chosen(forged())
    assert record["config"]["network"]["name"] == "unet"
