"""The U-ViT: a transformer with the skip connections of a U-Net."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.embeddings import ClassEmbedding, ClassVectors, Sinusoids, class_embedding
from diffusion_fw.networks.blocks.patches import from_patches, patch_grid, to_patches
from diffusion_fw.networks.blocks.transformer import FeedForward, SelfAttention, check_heads
from diffusion_fw.registry import ConfigError, OpenFraction, Range, Runtime, Size, register

STD = 0.02


class UViTBlock(nn.Module):
    """h + attention(norm(h)), then h + perceptron(norm(h)). h (B, N, width)."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.place = nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.dropout(self.attention(self.norm1(h), self.place))
        result: Tensor = h + self.dropout(self.mlp(self.norm2(h)))
        return result


class DeepBlock(nn.Module):
    """block(W [h, skip]), with the output ``skip`` of a shallow block; both (B, N, width)."""

    def __init__(self, block: UViTBlock, width: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * width, width)
        self.block = block

    def forward(self, h: Tensor, skip: Tensor) -> Tensor:
        result: Tensor = self.block(self.join(torch.cat([h, skip], dim=2)))
        return result


@register("network", "uvit")
class UViT(nn.Module):
    """A transformer to which time, class and patches are all tokens, with long skip connections (Bao et al. 2023).

    Patches of side ``patch``, the sinusoids of the time label and a learned vector of the class are tokens of ``width``
    features, to which learned positions are added. Of ``depth`` blocks, an odd number, each of the last (depth - 1) / 2
    starts with a linear layer of its input and the output of its counterpart in the first (depth - 1) / 2. With
    final_conv the image is at last convolved by 3x3. The defaults are the paper's for CIFAR-10, U-ViT-S/2. The others,
    as depth, width, num_heads, are M = 17, 768, 12, L = 21, 1024, 16 and H = 29, 1152, 16.

    With null_class=false "no class" is the zero vector, not a learned one.

    network(x, label, cond): x (B, C, H, W), label (B,), cond (B,) classes or None -> (B, outputs C, H, W).
    class_conditional "auto" is true for data with classes.

    Raises ConfigError for data other than images, an even depth, a side that ``patch`` does not divide, heads that do
    not divide the width, an odd width, and class_conditional on data without classes.
    """

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        width: Annotated[int, Range(2, 1_000_000)] = 512,
        depth: Size = 13,
        num_heads: Size = 8,
        patch: Size = 2,
        mlp_ratio: Size = 4,
        final_conv: bool = True,
        null_class: bool = True,
        dropout: OpenFraction = 0.0,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ConfigError(
                f"network=uvit needs images (C, H, W), but an example of data=... has the shape {tuple(shape)}; "
                "choose network=mlp or other data"
            )
        if depth % 2 == 0:
            raise ConfigError(
                f"network.depth={depth}: must be odd, as one block is in the middle of pairs; "
                f"choose network.depth={depth - 1} or {depth + 1}"
            )
        if width % 2:
            raise ConfigError(f"network.width={width}: must be even, for a sine and a cosine of each frequency")
        check_heads(width, num_heads)
        self.patch, self.grid = patch, patch_grid(shape, patch)
        self.checkpointing = checkpointing
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        self.waves = Sinusoids(width, endpoint=False, cosine_first=True)
        kind = ClassEmbedding if null_class else ClassVectors
        self.classes = class_embedding(self.class_conditional, num_classes, width, kind)
        self.extra = 1 + self.class_conditional
        self.enter = nn.Linear(shape[0] * patch**2, width)
        self.positions = nn.Parameter(torch.empty(self.extra + self.grid[0] * self.grid[1], width))

        def block() -> UViTBlock:
            return UViTBlock(width, num_heads, mlp_ratio * width, dropout)

        self.shallow = nn.ModuleList(block() for _ in range(depth // 2))
        self.middle = block()
        self.deep = nn.ModuleList(DeepBlock(block(), width) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        channels = outputs * shape[0]
        self.leave = nn.Linear(width, channels * patch**2)
        self.final = nn.Conv2d(channels, channels, 3, padding=1) if final_conv else nn.Identity()
        nn.init.trunc_normal_(self.positions, std=STD)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.enter:
                nn.init.trunc_normal_(module.weight, std=STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        extra = [self.waves(label)]
        if self.class_conditional:
            extra.insert(0, self.classes(torch.zeros_like(extra[0]), cond))
        h = torch.cat([torch.stack(extra, dim=1), self.enter(to_patches(x, self.patch))], dim=1) + self.positions
        skips = []
        for block in self.shallow:
            h = self._run(block, h)
            skips.append(h)
        h = self._run(self.middle, h)
        for block in self.deep:
            h = self._run(block, h, skips.pop())
        image = from_patches(self.leave(self.norm(h[:, self.extra :])), self.patch, self.grid)
        result: Tensor = self.final(image).contiguous()
        return result

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
        return cast(Tensor, block(*inputs))
