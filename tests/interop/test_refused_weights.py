"""Sources, statements and outputs that the command line of interop refuses: one line, exit code 1, nothing written."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from typing import Any

import pytest
import torch
from recorded import records, seeded_weights
from safetensors.torch import save_file

from diffusion_fw.interop.__main__ import main

WEIGHTS = seeded_weights(records("uvit")[0]["keys"])
GIVEN = "network.num_heads=4"
KEY = "in_blocks.0.attn.qkv.weight"


def refusal(monkeypatch, capsys, *words):
    """The one line with which the program ends."""
    monkeypatch.setattr(sys, "argv", ["interop", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    message = str(ended.value.code)
    assert message.startswith("ConfigError: ")
    assert "\n" not in message
    assert len(message) < 700
    assert capsys.readouterr().out == ""
    return message


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """refuse(content of a file, *words) -> the message."""

    def refused(content, *words, name="weights.pt"):
        path = tmp_path / name
        if content is not None:
            torch.save(content, path)
        before = sorted(tmp_path.rglob("*"))
        message = refusal(monkeypatch, capsys, "import", path, "--out", tmp_path / "model.ckpt", *words)
        assert sorted(tmp_path.rglob("*")) == before
        return message

    return refused


VALUE = WEIGHTS[KEY]
ENTRIES = {
    "missing": (None, f"missing: {KEY}"),
    "one axis": (VALUE.reshape(-1), "of another shape"),
    "transposed": (VALUE.T.contiguous(), "of another shape"),
    "five axes": (VALUE[None, None, None], "of another shape"),
    "empty": (VALUE[:0], "of another shape"),
    "int8": (VALUE.to(torch.int8), "is of type int8; weights are floating-point"),
    "int64": (VALUE.to(torch.int64), "is of type int64"),
    "bool": (VALUE.to(torch.bool), "is of type bool"),
    "complex": (VALUE.to(torch.complex64), "is of type complex64"),
    "NaN": (VALUE * float("nan"), "not finite"),
    "too large for float32": (VALUE.double() * 1e300, "not finite in float32"),
    "sparse": (VALUE.to_sparse(), "dense tensors"),
    "without values": (VALUE.to("meta"), "dense tensors"),
    "one value, repeated": (torch.zeros(1).expand(10**6, 10**5), "claims more values"),
}


@pytest.mark.parametrize("damage", ENTRIES)
def test_an_entry(refuse, damage):
    value, said = ENTRIES[damage]
    changed = {key: item for key, item in WEIGHTS.items() if key != KEY}
    if value is not None:
        changed[KEY] = value
    message = refuse(changed, GIVEN)
    assert said in message
    assert KEY in message


@pytest.mark.parametrize("name", ["extra", "a\nb", "x" * 1000])
def test_an_entry_more(refuse, name):
    message = refuse({**WEIGHTS, name: torch.ones(3)}, GIVEN)
    assert "left over: extra" in message or "not printable" in message


@pytest.mark.parametrize(
    "word",
    [
        *("shape=[3,64]", "shape=abc", "shape=[3,1000000,1000000]", "shape=[3,-8,8]", "shape=[]", "shape=null"),
        *("shape=8", "shape=[3,0,0]", "shape=[3,8.5,8]", "shape=[4,8,8]", "shape={a:1}", "shape=[3,true,8]"),
        *("num_classes=-1", "num_classes=abc", "num_classes=2.5", "num_classes=1e9", "num_classes=1000000000"),
        *("data_range=[1,0]", "data_range=[.nan,1]", "data_range=5", "data_range=[-1,0,1]", "data_range=[a,b]"),
        *("label_dropout=7", "label_dropout=-.1", "label_dropout=null", "pixels=maybe", "pixels=null"),
        *("network.num_heads=5", "network.num_heads=0", "network.depth=100001", "network.class_conditional=false"),
        *("network.null_class=maybe", "data.root=/x", "variance=learned", "network=unet", "parameterization=zzz"),
    ],
)
def test_a_statement(refuse, word):
    message = refuse(WEIGHTS, GIVEN, word)
    assert any(said in message for said in (word.partition("=")[0], "shape", "missing", "left over", "network=uvit"))


def test_a_file(refuse, tmp_path):
    def written(name, content):
        (tmp_path / name).write_bytes(content)
        return refuse(None, name=name)

    assert "it is empty" in written("empty.pt", b"")
    assert "is damaged" in written("text.pt", b"no weights")
    assert "damaged" in written("empty.safetensors", b"")
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}).encode()
    assert "damaged" in written("lies.safetensors", len(header).to_bytes(8, "little") + header + b"1234")
    assert "damaged" in written("long.safetensors", (1 << 62).to_bytes(8, "little"))
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "stored.pt")
    packed = zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "stored.pt") as stored, packed as bomb:
        for record in stored.infolist():
            bomb.writestr(record.filename, stored.read(record))
    assert "without compression" in refuse(None, name="bomb.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "a pipe" in refuse(None, name="pipe.pt")
    (tmp_path / "device.pt").symlink_to("/dev/zero")
    assert "a device" in refuse(None, name="device.pt")
    (tmp_path / "nowhere.pt").symlink_to("nothing")
    assert "no such file" in refuse(None, name="nowhere.pt")


def test_containers_without_end(refuse):
    endless = {}
    endless["model"] = endless
    assert "holds no state dict" in refuse(endless)


def test_our_own_checkpoint(refuse, trained_content):
    assert "is a model of diffusion_fw already" in refuse(trained_content)


CONFIG = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "block_out_channels": [32, 32],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}


SETTINGS: dict[str, list[Any]] = {
    "block_out_channels": [[], 32, "32", [32, "32"], [32, 48], [0, 0]],
    "sample_size": ["8", [8], 10**9, -8, 8.5, None, {}],
    "layers_per_block": [[1], 0, "2", None, 10**9],
    "in_channels": [[], "3", 0],
    "num_class_embeds": ["10", [], -1],
    "dropout": ["0", [], 2],
    "down_block_types": [None, "DownBlock2D", [3, 4], ["CrossAttnDownBlock2D"] * 2],
    "attention_head_dim": [[8, 8], "8", 0],
    "norm_num_groups": [[], "32", 7],
    "_class_name": ["UNet2DConditionModel", 3, []],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in SETTINGS.items() for value in values])
def test_a_setting_of_diffusers(refuse, tmp_path, key, value):
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file({"conv_in.weight": torch.ones(32, 3, 3, 3)}, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, key: value}))
    message = refuse(None, name="unet")
    assert "Error:" not in message.removeprefix("ConfigError:")


OF_SCHEDULER: dict[str, list[Any]] = {
    "num_train_timesteps": ["1000", 0, [], 10**9],
    "beta_start": ["0.1", -1, []],
    "beta_schedule": [[], "sigmoid", 3],
    "prediction_type": [{}, "flow_prediction"],
    "rescale_betas_zero_snr": ["yes"],
    "trained_betas": [[0.1]],
}


@pytest.mark.parametrize("settings", [{key: value} for key, values in OF_SCHEDULER.items() for value in values])
def test_a_setting_of_a_scheduler(refuse, tmp_path, settings):
    for part, content in (("unet", CONFIG), ("scheduler", settings)):
        (tmp_path / "pipeline" / part).mkdir(parents=True)
        name = "config.json" if part == "unet" else "scheduler_config.json"
        (tmp_path / "pipeline" / part / name).write_text(json.dumps(content))
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DModel"]}))
    weights = tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({"conv_in.weight": torch.ones(32, 3, 3, 3)}, weights)
    message = refuse(None, name="pipeline")
    assert next(iter(settings)) in message or "schedule.num_steps" in message


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({"weight_map": []}),
        json.dumps({"weight_map": {"a": 3}}),
        *(
            json.dumps({"weight_map": {"a": name}})
            for name in ("../w.safetensors", "..", "/etc/passwd", "w.pt", "absent.safetensors", "")
        ),
    ],
)
def test_an_index_of_parts(refuse, tmp_path, index):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    refuse(None, name="unet")


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    (tmp_path / "file").write_text("kept")
    place = tmp_path / "file" / "model.ckpt"
    monkeypatch.setattr(
        sys, "argv", ["interop", "import", str(tmp_path / "weights.safetensors"), GIVEN, "--out", str(place)]
    )
    with pytest.raises(SystemExit, match=f"^ConfigError: --out {place} cannot be written: .*: File exists$"):
        main()
    assert (tmp_path / "file").read_text() == "kept"
