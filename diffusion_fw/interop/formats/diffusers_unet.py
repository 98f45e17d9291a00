"""diffusers' UNet2DModel, in the two layouts that are DDPM's U-Net and the U-Net of improved DDPM and ADM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from diffusion_fw.interop.diffusion_settings import read_keys, read_sampler, read_settings
from diffusion_fw.interop.formats.format import Format, Published, Section
from diffusion_fw.interop.pairs import Pair, check_expressible, same, stacked
from diffusion_fw.registry import ConfigError, OpenFraction, PositiveInt

DEFAULTS: dict[str, Any] = {
    "act_fn": "silu",
    "add_attention": True,
    "attention_head_dim": 8,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "out_channels": 3,
    "resnet_time_scale_shift": "default",
    "sample_size": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
"""Of UNet2DModel, for what a config.json leaves out."""

TYPES: dict[str, Any] = {
    "attention_head_dim": PositiveInt | None,
    "block_out_channels": list[PositiveInt],
    "down_block_types": list[str],
    "dropout": OpenFraction,
    "in_channels": PositiveInt,
    "layers_per_block": PositiveInt,
    "num_class_embeds": PositiveInt | None,
    "out_channels": PositiveInt,
    "sample_size": PositiveInt | tuple[PositiveInt, PositiveInt] | None,
    "up_block_types": list[str],
}
"""Of what becomes a parameter."""

FIXED = {
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
}
"""What both layouts need."""

PLAIN = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "resnet_time_scale_shift": "default",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "num_class_embeds": None,
}
"""The layout of google/ddpm-cifar10-32: network=ddpm_unet."""
IMPROVED = {"downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5}
"""That of the defaults of UNet2DModel, and of guided-diffusion's models: network=adm_unet."""


PLAIN_BLOCKS = ("DownBlock2D", "UpBlock2D")
RESNET = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
ATTENDED = ("AttnDownBlock2D", "AttnUpBlock2D")
LEARNED = ("learned_range", "learned")
"""Variances that need outputs of the network, the usual one first."""


class UNet2D(Format):
    """UNet2DModel of diffusers: DDPM's layout (google/ddpm-*), and its default one, which is ADM's."""

    name: ClassVar[str] = "diffusers-unet"
    networks: ClassVar[tuple[str, ...]] = ("ddpm_unet", "adm_unet")
    classes: ClassVar[tuple[str, ...]] = ("UNet2DModel",)

    def recognises(self, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> bool:
        return settings.get("_class_name") in self.classes

    def describe(
        self, weights: Mapping[str, Tensor], settings: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Published:
        own = {**DEFAULTS, **settings, **read_keys(settings, TYPES, DEFAULTS)}
        if not own["block_out_channels"]:
            raise ConfigError("config.json: block_out_channels=[] must have a number for each level")
        for key, allowed in FIXED.items():
            if own[key] not in allowed:
                raise ConfigError(f"config.json: {key}={own[key]!r} is not supported; it must be {allowed[0]!r}")
        plain = all(own[key] == value for key, value in PLAIN.items())
        if not plain and (other := {key: own[key] for key, value in IMPROVED.items() if own[key] != value}):
            raise ConfigError(
                f"config.json: {other} is of neither layout that is supported: {PLAIN} of DDPM, or {IMPROVED} of ADM"
            )
        size = own["sample_size"]
        if "shape" not in given and size is None:
            raise ConfigError("config.json has no sample_size; state shape=[C,H,W]")
        sides = size if isinstance(size, tuple) else (size, size)
        shape = tuple(given["shape"]) if "shape" in given else (own["in_channels"], *sides)
        widths = own["block_out_channels"]
        network: dict[str, Any] = {
            "name": "ddpm_unet" if plain else "adm_unet",
            "channels": widths[0],
            "channel_mult": [_ratio(width, widths[0], whole=plain) for width in widths],
            "num_res_blocks": own["layers_per_block"],
            "attention_resolutions": _attended(own, max(shape[1:])),
            "dropout": own["dropout"],
        }
        _check_groups(own["norm_num_groups"], widths)
        if not plain:
            network |= _improved(own)
        classes = own["num_class_embeds"] or 0
        schedule, parameterization, variance = read_settings(settings.get("scheduler", {}))
        if own["out_channels"] == 2 * own["in_channels"] and variance["name"] not in LEARNED:
            variance = {"name": LEARNED[0]}
        elif own["out_channels"] == own["in_channels"] and variance["name"] in LEARNED:
            raise ConfigError(
                f"config.json: no outputs for a learned variance, but scheduler_config.json has {variance}"
            )
        guessed = () if "scheduler" in settings else ("schedule", "parameterization", "variance")
        return Published(network, shape, classes, schedule, parameterization, variance, guessed=guessed)

    def sampler_of(self, model: Published, settings: Mapping[str, Any]) -> Section:
        """That of the pipeline's scheduler, if it is one of ours."""
        return read_sampler(settings.get("scheduler", {})) or self.sampler

    def pairs(self, network: nn.Module) -> Iterable[Pair]:
        _check_images(network)
        return _pairs(network)

    def settings(self, network: nn.Module, config: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        """The config.json of a network of ours."""
        section = config["network"]
        if section["name"] not in self.networks:
            raise ConfigError(f"network={section['name']} is no UNet2DModel; those are {' and '.join(self.networks)}")
        _check_images(network)
        plain = section["name"] == "ddpm_unet"
        widths = [int(section["channels"] * mult) for mult in section["channel_mult"]]
        attended = [max(shape[1:]) >> level in section["attention_resolutions"] for level in range(len(widths))]
        without = RESNET if section.get("resblock_updown") else PLAIN_BLOCKS
        written = {**DEFAULTS, **(PLAIN if plain else IMPROVED)}
        written |= {
            "_class_name": "UNet2DModel",
            "block_out_channels": widths,
            "layers_per_block": section["num_res_blocks"],
            "down_block_types": [(ATTENDED if has else without)[0] for has in attended],
            "up_block_types": [(ATTENDED if has else without)[1] for has in reversed(attended)],
            "in_channels": shape[0],
            "out_channels": network.get_submodule("leave").weight.shape[0],  # type: ignore[union-attr, index]
            "sample_size": shape[1] if shape[1] == shape[2] else list(shape[1:]),
            "dropout": section["dropout"],
            "norm_num_groups": _groups(network),
        }
        if not plain:
            written |= _written(section, network, attended)
        return written


def _ratio(width: int, channels: int, *, whole: bool) -> float | int:
    ratio = width / channels
    if ratio.is_integer():
        return int(ratio)
    if whole or int(channels * ratio) != width:
        raise ConfigError(f"config.json: block_out_channels: {width} is no multiple of the first, {channels}")
    return ratio


def _attended(own: Mapping[str, Any], side: int) -> list[int]:
    """The sides of the levels with attention."""
    down, up = list(own["down_block_types"]), list(own["up_block_types"])
    kinds = {*PLAIN_BLOCKS, *RESNET, *ATTENDED}
    for kind in (*down, *up):
        if kind not in kinds:
            raise ConfigError(f"config.json: {kind} is not supported; {', '.join(sorted(kinds))} are")
    attended = [kind in ATTENDED for kind in down]
    mirrored = [kind in ATTENDED for kind in reversed(up)]
    if attended != mirrored:
        raise ConfigError("config.json: up_block_types must have attention at the same levels as down_block_types")
    # The sides of two levels can be equal only where they are 1.
    return [side >> level for level, has in enumerate(attended) if has]


def _check_groups(groups: int, widths: list[int]) -> None:
    for width in widths:
        if groups != 32 or width % 32:
            raise ConfigError(
                f"config.json: norm_num_groups={groups} with {width} channels; these networks have 32 groups, which "
                "must divide the channels"
            )


def _check_images(network: nn.Module) -> None:
    other = not isinstance(network.get_submodule("enter"), nn.Conv2d)
    check_expressible("UNet2DModel", {"data other than images": other})


def _groups(network: nn.Module) -> int:
    groups = {layer.num_groups for layer in network.modules() if isinstance(layer, nn.GroupNorm)}
    if len(groups) != 1:
        raise ConfigError(
            f"UNet2DModel has one number of groups in all of its norms, this network has {sorted(groups)}; "
            "its channels must be multiples of 32"
        )
    return groups.pop()


def _improved(own: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that adm_unet has beside those of ddpm_unet."""
    # The last level of each half has no layer after it.
    resampling = {
        "resnet" if kind in RESNET else "conv" if kind in PLAIN_BLOCKS else own[option]
        for option, kinds in (("downsample_type", own["down_block_types"]), ("upsample_type", own["up_block_types"]))
        for kind in list(kinds)[:-1]
    } or {"conv"}
    if len(resampling) > 1 or not resampling <= {"conv", "resnet"}:
        raise ConfigError(
            "config.json: all levels must change the size in one way: by convolutions (DownBlock2D, downsample_type "
            "and upsample_type 'conv') or by residual blocks (ResnetDownsampleBlock2D, 'resnet')"
        )
    shift = own["resnet_time_scale_shift"]
    if shift not in ("default", "scale_shift"):
        raise ConfigError(f"config.json: resnet_time_scale_shift={shift!r} must be 'default' or 'scale_shift'")
    if shift == "scale_shift" and own["attn_norm_num_groups"] != own["norm_num_groups"]:
        raise ConfigError("config.json: attn_norm_num_groups must be norm_num_groups where scale_shift is used")
    width = own["attention_head_dim"]
    return {
        "num_head_channels": width,
        **({} if width else {"num_heads": 1}),
        "scale_shift_norm": shift == "scale_shift",
        "resblock_updown": resampling == {"resnet"},
        "use_new_attention_order": True,
    }


def _written(section: Mapping[str, Any], network: nn.Module, attended: list[bool]) -> dict[str, Any]:
    head = section["num_head_channels"]
    if head is None:
        widths = [int(section["channels"] * mult) for mult in section["channel_mult"]]
        used = {width for width, has in zip(widths, attended, strict=True) if has} | {widths[-1]}
        heads = {width // section["num_heads"] for width in used}
        if len(heads) > 1 and section["num_heads"] > 1:
            raise ConfigError(
                f"UNet2DModel has heads of one width, but network.num_heads={section['num_heads']} makes heads of "
                f"{sorted(heads)} channels"
            )
        head = None if section["num_heads"] == 1 else heads.pop()
    kind = "resnet" if section["resblock_updown"] else "conv"
    classes = getattr(network.get_submodule("classes"), "num_classes", None)
    return {
        "attention_head_dim": head,
        "downsample_type": kind,
        "upsample_type": kind,
        "resnet_time_scale_shift": "scale_shift" if section["scale_shift_norm"] else "default",
        "attn_norm_num_groups": 32 if section["scale_shift_norm"] else None,
        "num_class_embeds": classes,
    }


def _both(ours: str, theirs: str) -> Iterator[Pair]:
    """The weight and the bias of a layer."""
    for key in ("weight", "bias"):
        yield same(f"{ours}.{key}", f"{theirs}.{key}")


def _block(ours: str, theirs: str, block: nn.Module) -> Iterator[Pair]:
    for own, other in (
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("embedding", "time_emb_proj"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
    ):
        yield from _both(f"{ours}.{own}", f"{theirs}.{other}")
    if any(True for _ in block.get_submodule("skip").parameters()):
        yield from _both(f"{ours}.skip", f"{theirs}.conv_shortcut")


def _attention(ours: str, theirs: str) -> Iterator[Pair]:
    yield from _both(f"{ours}.norm", f"{theirs}.group_norm")
    for key in ("weight", "bias"):
        yield stacked(f"{ours}.qkv.{key}", [f"{theirs}.to_{part}.{key}" for part in "qkv"])
    yield from _both(f"{ours}.out", f"{theirs}.to_out.0")


def _level(ours: str, theirs: str, level: nn.Module) -> Iterator[Pair]:
    for place, stage in enumerate(level.children()):
        yield from _block(f"{ours}.{place}.block", f"{theirs}.resnets.{place}", stage.get_submodule("block"))
        if any(True for _ in stage.get_submodule("attention").parameters()):
            yield from _attention(f"{ours}.{place}.attention", f"{theirs}.attentions.{place}")


def _between(ours: str, theirs: str, layer: nn.Module) -> Iterator[Pair]:
    """A convolution, or a residual block that changes the size."""
    if "conv.weight" in layer.state_dict():
        yield from _both(f"{ours}.conv", f"{theirs}.conv")
    else:
        yield from _block(f"{ours}.block", theirs, layer.get_submodule("block"))


def _pairs(network: nn.Module) -> Iterator[Pair]:
    yield from _both("time.first", "time_embedding.linear_1")
    yield from _both("time.second", "time_embedding.linear_2")
    if "classes.table.weight" in network.state_dict():
        yield same("classes.table.weight", "class_embedding.weight")
    yield from _both("enter", "conv_in")
    for side, kind, name in (("down", "downsample", "downsamplers"), ("up", "upsample", "upsamplers")):
        half = network.get_submodule(side)
        for place, level in enumerate(half.get_submodule("levels").children()):
            yield from _level(f"{side}.levels.{place}", f"{side}_blocks.{place}", level)
        for place, layer in enumerate(half.get_submodule(kind).children()):
            yield from _between(f"{side}.{kind}.{place}", f"{side}_blocks.{place}.{name}.0", layer)
    for place, stage in enumerate(network.get_submodule("middle").children()):
        yield from _block(f"middle.{place}.block", f"mid_block.resnets.{place}", stage.get_submodule("block"))
        if any(True for _ in stage.get_submodule("attention").parameters()):
            yield from _attention(f"middle.{place}.attention", f"mid_block.attentions.{place}")
    yield from _both("norm", "conv_norm_out")
    yield from _both("leave", "conv_out")
