"""The diffusion transformer, DiT, with the options of its successors."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_fw.networks.blocks.embeddings import Sinusoids, TimeEmbedding, class_embedding
from diffusion_fw.networks.blocks.patches import from_patches, patch_grid, to_patches
from diffusion_fw.networks.blocks.positions import AddedPositions, RotaryPositions
from diffusion_fw.networks.blocks.transformer import FeedForward, SelfAttention, SwiGLU, check_heads
from diffusion_fw.networks.blocks.zeroed import zeroed
from diffusion_fw.registry import ConfigError, OpenFraction, Range, Runtime, Size, register

WAVES = 256
NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


class Modulated(nn.Module):
    """norm(h) (1 + scale) + shift, for h (B, N, width), shift and scale (B, width); the norm learns nothing."""

    def __init__(self, width: int, norm: Literal["layer", "rms"]) -> None:
        super().__init__()
        self.norm = NORMS[norm](width, eps=1e-6, elementwise_affine=False)

    def forward(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift[:, None], self.norm(h), 1 + scale[:, None])


class DiTBlock(nn.Module):
    """h + gate branch(modulated h), for attention and then the perceptron: adaLN-Zero.

    (shift, scale, gate) of both are W silu(c), and DiT starts W at 0, so that the block starts as the identity. Peebles
    & Xie 2023, section 3.2. h (B, N, width), condition silu(c) (B, width).
    """

    def __init__(self, attention: SelfAttention, mlp: nn.Module, width: int, norm: Literal["layer", "rms"]) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1 = Modulated(width, norm)
        self.attention = attention
        self.norm2 = Modulated(width, norm)
        self.mlp = mlp

    def forward(self, h: Tensor, condition: Tensor, dropout: nn.Module, rotate: nn.Module) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        h = h + gate1[:, None] * dropout(self.attention(self.norm1(h, shift1, scale1), rotate))
        result: Tensor = h + gate2[:, None] * dropout(self.mlp(self.norm2(h, shift2, scale2)))
        return result


@register("network", "dit")
class DiT(nn.Module):
    """A transformer on patches whose blocks are modulated by time and class: DiT (Peebles & Xie 2023) and SiT.

    Patches of side ``patch`` are tokens of ``width`` features; ``depth`` blocks of attention in num_heads heads and of
    a perceptron of mlp_ratio width features follow. The paper's sizes, as depth, width, num_heads, are S = 12, 384, 6,
    B = 12, 768, 12, L = 24, 1024, 16 and XL = 28, 1152, 16, each with patch 2, 4 or 8.

    positions=sincos adds fixed positions to the tokens, positions=rope rotates queries and keys instead (Su et al.
    2024). norm=rms (Zhang & Sennrich 2019), mlp=swiglu (Shazeer 2020) and qk_norm=true (Henry et al. 2020) are the
    choices of LightningDiT (Yao et al. 2025). num_registers tokens that belong to no patch are learned (Darcet et al.
    2024).

    network(x, label, cond): x (B, C, L), (B, C, H, W) or (B, C, T, H, W), label (B,), cond (B,) classes or None ->
    (B, outputs C, ...), which is 0 before training. class_conditional "auto" is true for data with classes.

    Raises ConfigError for data of other shapes, a side that ``patch`` does not divide, heads that do not divide the
    width, too few features for the positions, and class_conditional on data without classes.
    """

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        width: Size = 384,
        depth: Size = 12,
        num_heads: Size = 6,
        patch: Size = 2,
        mlp_ratio: Size = 4,
        positions: Literal["sincos", "rope"] = "sincos",
        num_registers: Annotated[int, Range(0, 1_000_000)] = 0,
        norm: Literal["layer", "rms"] = "layer",
        mlp: Literal["gelu", "swiglu"] = "gelu",
        qk_norm: bool = False,
        dropout: OpenFraction = 0.0,
        class_conditional: bool | Literal["auto"] = "auto",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_heads(width, num_heads)
        _check_axes(shape, width if positions == "sincos" else width // num_heads, positions)
        self.patch, self.grid = patch, patch_grid(shape, patch)
        self.checkpointing = checkpointing
        self.class_conditional = num_classes > 0 if class_conditional == "auto" else class_conditional
        self.time = TimeEmbedding(WAVES, width, Sinusoids(WAVES, endpoint=False, cosine_first=True))
        self.classes = class_embedding(self.class_conditional, num_classes, width)
        self.enter = nn.Linear(shape[0] * patch ** len(self.grid), width)
        self.place: nn.Module = nn.Identity()
        self.rotate: nn.Module = nn.Identity()
        if positions == "sincos":
            self.place = AddedPositions(self.grid, width)
        else:
            self.rotate = RotaryPositions(self.grid, width // num_heads, extra=num_registers)
        self.num_registers = num_registers
        if num_registers:
            self.registers = nn.Parameter(0.02 * torch.randn(num_registers, width))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

        def block() -> DiTBlock:
            hidden = mlp_ratio * width
            perceptron = FeedForward(width, hidden, "tanh") if mlp == "gelu" else SwiGLU(width, hidden)
            return DiTBlock(SelfAttention(width, num_heads, qk_norm=qk_norm), perceptron, width, norm)

        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.norm = Modulated(width, norm)
        self.leave = nn.Linear(width, outputs * self.enter.in_features)
        self._initialize()

    def _initialize(self) -> None:
        """Xavier's initialization, but for the embeddings of time and class; the modulations and the output are 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for layer in (self.time.first, self.time.second):
            nn.init.normal_(layer.weight, std=0.02)
        for block in self.blocks:
            zeroed(cast(DiTBlock, block).modulation)
        zeroed(self.modulation)
        zeroed(self.leave)

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        condition = nn.functional.silu(self.classes(self.time(label), cond))
        h = self.place(self.enter(to_patches(x, self.patch)))
        if self.num_registers:
            h = torch.cat([self.registers.expand(x.shape[0], -1, -1), h], dim=1)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, condition, self.dropout, self.rotate, use_reentrant=False)
            else:
                h = block(h, condition, self.dropout, self.rotate)
        h = self.norm(h[:, self.num_registers :], *self.modulation(condition).chunk(2, dim=1))
        return from_patches(self.leave(h), self.patch, self.grid)


def _check_axes(shape: tuple[int, ...], features: int, positions: str) -> None:
    axes = len(shape) - 1
    if axes not in (1, 2, 3):
        raise ConfigError(
            "network=dit needs sequences (C, L), images (C, H, W) or video (C, T, H, W), but an example of data=... "
            f"has the shape {tuple(shape)}; choose network=mlp or other data"
        )
    if features < 2 * axes:
        raise ConfigError(
            f"network.positions={positions}: needs at least {2 * axes} features "
            f"{'in all' if positions == 'sincos' else 'a head'} for {axes} axes, but network.width gives {features}; "
            "raise network.width or change network.num_heads"
        )
