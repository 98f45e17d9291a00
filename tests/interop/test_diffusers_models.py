"""diffusers' UNet2DModel with random weights: imported, sampled, exported and loaded again by diffusers."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTTransformer2DModel,
    UNet2DModel,
)

import diffusion_fw as dfw
from diffusion_fw.checkpoints.load import load_chosen
from diffusion_fw.interop.diffusers_folder import write_pipeline
from diffusion_fw.interop.exporting import export
from diffusion_fw.interop.formats.diffusers_unet import UNet2D
from diffusion_fw.interop.published import fingerprint, import_published
from diffusion_fw.interop.source import read_source
from diffusion_fw.registry import ConfigError

DDPM = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
DEFAULT = {key: DDPM[key] for key in ("sample_size", "block_out_channels", "down_block_types", "up_block_types")} | {
    "layers_per_block": 2
}
ADM = {
    **DEFAULT,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 16,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "num_class_embeds": 5,
    "out_channels": 6,
}
LAYOUTS = {"ddpm": DDPM, "default": DEFAULT, "adm": ADM}


def unet(layout, seed=0):
    torch.manual_seed(seed)
    model = UNet2DModel(**LAYOUTS[layout]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        # Small outputs, so that sampling is not chaotic.
        model.conv_out.weight *= 0.1
    return model


def inputs(count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.tensor([0, 500, 999])[:count]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_imported_network_has_the_outputs_of_diffusers(layout, tmp_path):
    model = unet(layout)
    model.save_pretrained(tmp_path / "unet")
    imported = import_published(read_source(str(tmp_path / "unet")), {})
    x, label = inputs()
    cond = torch.tensor([0, 4, 2]) if layout == "adm" else None
    with torch.no_grad():
        theirs = model(x, label, cond).sample if layout == "adm" else model(x, label).sample
        ours = imported.denoiser.network(x, label.float(), cond)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert imported.published.guessed == ("schedule", "parameterization", "variance")


@pytest.mark.parametrize("layout", ["ddpm", "default"])
def test_a_pipeline_has_the_samples_of_diffusers_and_comes_back(layout, tmp_path):
    model, source, checkpoint = unet(layout), tmp_path / "source", tmp_path / "model.ckpt"
    DDPMPipeline(model, DDPMScheduler(variance_type="fixed_large")).save_pretrained(source)
    imported = import_published(read_source(str(source)), {})
    imported.save(checkpoint)
    assert imported.config["schedule"]["name"] == "linear"
    assert imported.config["variance"] == {"name": "large"}
    denoiser, record, _ = load_chosen(checkpoint)
    assert record["imported_from"] == str(source)

    pipeline = DDIMPipeline(model, DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(2)
    theirs = pipeline(batch_size=2, generator=generator, num_inference_steps=10, output_type="np").images
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    ours = dfw.build("sampler", "ddim", steps=10, grid=dfw.build("grid", "leading"))(denoiser, x)
    shown = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(shown, torch.from_numpy(theirs), rtol=0, atol=2e-5)

    export(str(checkpoint), "diffusers", tmp_path / "back")
    back = DDPMPipeline.from_pretrained(tmp_path / "back")
    assert back.scheduler.config.variance_type == "fixed_large"
    for key, value in model.state_dict().items():
        assert torch.equal(back.unet.state_dict()[key], value), key
    x, label = inputs()
    with torch.no_grad():
        torch.testing.assert_close(back.unet(x, label).sample, model(x, label).sample, rtol=0, atol=0)
    wanted = {key: value for key, value in model.config.items() if not key.startswith("_")}
    found = {key: value for key, value in back.unet.config.items() if key in wanted}
    same = {key for key in wanted if _plain(wanted[key]) == _plain(found[key])}
    assert wanted.keys() - same <= {"num_train_timesteps"}


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def test_ancestral_samples_are_those_of_diffusers(tmp_path):
    model = unet("ddpm")
    DDPMPipeline(model, DDPMScheduler()).save_pretrained(tmp_path)
    denoiser = import_published(read_source(str(tmp_path)), {}).denoiser
    pipeline = DDPMPipeline(model, DDPMScheduler(clip_sample=True))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(2)
    theirs = pipeline(batch_size=1, generator=generator, num_inference_steps=20, output_type="np").images
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 3, 16, 16, generator=generator)
    clipped = dfw.build("guidance", "clip", denoiser=denoiser, data_range=(-1.0, 1.0))
    sampler = dfw.build("sampler", "ddpm", steps=20, grid=dfw.build("grid", "leading"))
    ours = sampler(clipped, x, noise=lambda like: torch.randn(like.shape, generator=generator))
    torch.testing.assert_close(
        (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(theirs), rtol=0, atol=5e-5
    )


def test_the_fingerprint_is_that_of_the_peers_output(tmp_path):
    model = unet("ddpm")
    model.save_pretrained(tmp_path)
    denoiser = import_published(read_source(str(tmp_path)), {}).denoiser
    mark = fingerprint(denoiser, (3, 16, 16), 499.0)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(x, 499).sample.double()
    assert mark.total == pytest.approx(output.sum().item(), abs=1e-3)
    assert mark.size == pytest.approx(output.square().mean().sqrt().item(), rel=1e-5)


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn='gelu' is not supported"),
        ({"norm_eps": 1e-3}, "neither layout"),
        ({"norm_num_groups": 16}, "norm_num_groups=16"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D"]}, "SkipDownBlock2D is not supported"),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D"]}, "at the same levels"),
        ({"layers_per_block": 2}, r"missing: down_blocks\.0\.resnets\.1"),
        ({"block_out_channels": [32, 64, 128]}, "of another shape"),
        ({"sample_size": None}, r"state shape=\[C,H,W\]"),
    ],
)
def test_a_model_that_does_not_fit_is_one_message(changes, message, tmp_path):
    unet("ddpm").save_pretrained(tmp_path)
    config(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        import_published(read_source(str(tmp_path)), {})


def test_left_over_weights_are_listed(tmp_path):
    model = unet("ddpm")
    model.save_pretrained(tmp_path, safe_serialization=False)
    path = tmp_path / "diffusion_pytorch_model.bin"
    weights = torch.load(path)
    torch.save({**weights, "more.weight": torch.ones(1)}, path)
    with pytest.raises(ConfigError, match=r"left over: more\.weight"):
        import_published(read_source(str(tmp_path)), {})


def test_a_transformer_of_a_pipeline_is_read_with_its_schedule(tmp_path):
    torch.manual_seed(0)
    size = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 4, "patch_size": 2}
    model = DiTTransformer2DModel(**size, in_channels=4, out_channels=8, num_embeds_ada_norm=5, norm_eps=1e-6).eval()
    # There every block has its own embeddings; in DiT they are one.
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first.state_dict())
    model.save_pretrained(tmp_path / "transformer")
    (tmp_path / "scheduler").mkdir()
    DDIMScheduler(beta_end=0.015).save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    imported = import_published(read_source(str(tmp_path)), {})
    assert imported.config["network"] | {"width": 16, "depth": 2, "patch": 2} == imported.config["network"]
    assert imported.config["schedule"]["beta_end"] == pytest.approx(0.015)
    assert imported.config["variance"]["name"] == "learned_range"
    assert imported.config["label_dropout"] == 0.1
    assert imported.facts.num_classes == 5
    assert not imported.facts.pixels
    with pytest.raises(ConfigError, match="UNet2DModel"):
        write_pipeline(tmp_path / "out", imported.denoiser, imported.config, imported.facts.shape)


@pytest.mark.parametrize(("shape", "factorized"), [((1, 8), False), ((1, 2, 8, 8), False), ((1, 2, 8, 8), True)])
def test_data_other_than_images_are_not_written(shape, factorized):
    section = {"channels": 32, "channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": []}
    network = dfw.build("network", "adm_unet", shape=shape, factorized_attention=factorized, **section)
    with pytest.raises(ConfigError, match=r"UNet2DModel cannot hold.*data other than images"):
        UNet2D().pairs(network)
    with pytest.raises(ConfigError, match=r"UNet2DModel cannot hold.*data other than images"):
        UNet2D().settings(network, {"network": {"name": "adm_unet", **section}}, shape)
