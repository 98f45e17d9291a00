"""DDPM++: the U-Net of variance-preserving score-based models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from diffusion_fw.networks.ncsnpp import NCSNpp
from diffusion_fw.registry import OpenFraction, PositiveInt, Range, Runtime, Size, register


@register("network", "ddpmpp")
class DDPMpp(NCSNpp):
    """DDPM++ of Song et al. 2021, appendix H; also in the form of Karras et al. 2022, appendix F.2.

    NCSN++ with DDPM's sinusoids of the label, resampling by the mean of 2 x 2 pixels, and neither a progressive input
    nor a progressive output: network=ncsnpp embedding=positional fir=false progressive_input=none. Shapes and errors
    are those of network=ncsnpp.
    """

    registered_name: ClassVar[str] = "ddpmpp"

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        channels: Annotated[int, Range(4, 1_000_000)] = 128,
        channel_mult: tuple[Size, ...] = (1, 2, 2, 2),
        num_res_blocks: Size = 4,
        attention_resolutions: tuple[PositiveInt, ...] = (16,),
        dropout: OpenFraction = 0.1,
        augment_dim: Annotated[int, Range(0, 1_000_000)] = 0,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            shape,
            num_classes,
            outputs,
            channels=channels,
            channel_mult=channel_mult,
            num_res_blocks=num_res_blocks,
            attention_resolutions=attention_resolutions,
            dropout=dropout,
            embedding="positional",
            fir=False,
            progressive_input="none",
            augment_dim=augment_dim,
            class_conditional=class_conditional,
            checkpointing=checkpointing,
        )
