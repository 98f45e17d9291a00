"""features=dinov2 and clip on tiny models with random weights, which a test writes to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusion_fw as dfw
from diffusion_fw.metrics.features.resize import bicubic

transformers: Any = pytest.importorskip("transformers", reason="the extra transformers is not installed")

WIDTH, PROJECTION = 16, 12
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}


def model(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "dinov2":
            return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=28, patch_size=14)).eval()
        vision = transformers.CLIPVisionConfig(
            **SMALL, intermediate_size=32, image_size=32, patch_size=16, projection_dim=PROJECTION
        )
        return transformers.CLIPVisionModelWithProjection(vision).eval()


@pytest.fixture(params=["dinov2", "clip"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    model(name).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def pixels(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, channels, 20, 24), generator=generator, dtype=torch.uint8)


def test_features_are_those_of_the_model_on_normalised_images(name: str, folder: Path) -> None:
    features = dfw.build("features", name, shape=(3, 20, 24), path=str(folder))
    values = pixels()
    size, mean, std = (
        (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        if name == "dinov2"
        else (32, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    resized = (bicubic(values.float() / 127.5 - 1, (size, size)) + 1) / 2
    inputs = (resized - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        output = model(name)(inputs)
    expected = output.last_hidden_state[:, 0] if name == "dinov2" else output.image_embeds
    assert features.num_features == (WIDTH if name == "dinov2" else PROJECTION)
    assert features.name == f"{name}_{features.num_features}"
    torch.testing.assert_close(features(values), expected, rtol=1e-4, atol=1e-5)


def test_a_single_channel_is_repeated(name: str, folder: Path) -> None:
    features = dfw.build("features", name, shape=(1, 20, 24), path=str(folder))
    gray = pixels(1)
    torch.testing.assert_close(features(gray), features(gray.expand(-1, 3, -1, -1)))


def test_a_missing_folder_says_what_to_fetch(name: str, tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(dfw.ConfigError, match=r"model\.safetensors.*huggingface\.co.*features=efficientnet_lite0"):
            dfw.build("features", name, shape=(3, 8, 8), path=path)


def test_pickled_weights_are_not_read(name: str, folder: Path) -> None:
    torch.save(model(name).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(dfw.ConfigError, match=r"must be a folder with config.json and model.safetensors"):
        dfw.build("features", name, shape=(3, 8, 8), path=str(folder))


def test_code_in_the_folder_is_not_run(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "loud.Loud", "AutoModel": "loud.Loud"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "loud.py").write_text("print('run')\n")
    dfw.build("features", name, shape=(3, 8, 8), path=str(folder))
    assert "run" not in capsys.readouterr().out


def test_a_kernel_that_the_config_names_is_not_loaded(name: str, folder: Path) -> None:
    """Such a kernel is code of the hub."""
    config = json.loads((folder / "config.json").read_text())
    kernel = {"attn_implementation": "kernels-community/loud", "_attn_implementation": "kernels-community/loud"}
    (folder / "config.json").write_text(json.dumps({**config, **kernel}))
    features = dfw.build("features", name, shape=(3, 8, 8), path=str(folder))
    found: Any = features.get_submodule("model")
    assert found.config._attn_implementation == "sdpa"


def test_quantized_weights_are_refused(name: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(dfw.ConfigError, match="asks for quantized weights"):
        dfw.build("features", name, shape=(3, 8, 8), path=str(folder))


def test_the_image_part_of_a_whole_clip_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The published folders hold the network of the texts too."""
    part = {**SMALL, "intermediate_size": 32, "projection_dim": PROJECTION}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(
            text_config={**part, "vocab_size": 50, "max_position_embeddings": 8},
            vision_config={**part, "image_size": 32, "patch_size": 16},
            projection_dim=PROJECTION,
        )
        whole = transformers.CLIPModel(config).eval()
    whole.save_pretrained(tmp_path)
    capfd.readouterr()
    features: Any = dfw.build("features", "clip", shape=(3, 20, 24), path=str(tmp_path))
    assert capfd.readouterr().err == ""
    images = bicubic(pixels().float() / 127.5 - 1, (32, 32))
    with torch.no_grad():
        expected = whole.visual_projection(whole.vision_model(features.normalized(images)).pooler_output)
    torch.testing.assert_close(features(pixels()), expected, rtol=1e-4, atol=1e-5)


def test_incomplete_weights_are_refused(name: str, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop(sorted(state)[0])
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(dfw.ConfigError, match=f"features.path={folder} lacks 1 weights"):
        dfw.build("features", name, shape=(3, 8, 8), path=str(folder))


def test_damaged_files_are_refused_in_one_line(name: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(dfw.ConfigError, match="is not a ") as raised:
        dfw.build("features", name, shape=(3, 8, 8), path=str(folder))
    assert "\n" not in str(raised.value)
