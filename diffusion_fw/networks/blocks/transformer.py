"""The two branches of a transformer block, and the check of its heads."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from diffusion_fw.registry import ConfigError


def check_heads(width: int, num_heads: int) -> None:
    """ConfigError where the heads do not divide the width."""
    if width % num_heads:
        raise ConfigError(
            f"network.num_heads={num_heads}: does not divide network.width={width}; "
            "change network.num_heads or network.width"
        )


class HeadNorm(nn.RMSNorm):
    """RMSNorm of each head (Zhang & Sennrich 2019), in float32 under autocast too."""

    def forward(self, heads: Tensor) -> Tensor:
        return super().forward(heads.float())


class SelfAttention(nn.Module):
    """W_o softmax(Q K^T / sqrt(d)) V over the tokens, in num_heads heads. Vaswani et al. 2017, section 3.2.

    With ``qk_norm`` Q and K are normalized, each head by itself (Henry et al. 2020). ``place`` is applied to both.
    tokens (B, N, width) keep their shape.
    """

    def __init__(self, width: int, num_heads: int, *, bias: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.query_norm = HeadNorm(width // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = HeadNorm(width // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, place: nn.Module) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        # Norms and rotations are in float32 under autocast.
        query = place(self.query_norm(query)).to(value.dtype)
        key = place(self.key_norm(key)).to(value.dtype)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """W_2 gelu(W_1 h), with ``approximate`` as of torch's GELU. Vaswani et al. 2017, section 3.3. h (..., width)."""

    def __init__(self, width: int, hidden: int, approximate: Literal["none", "tanh"] = "none") -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.activation = nn.GELU(approximate)
        self.second = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        result: Tensor = self.second(self.activation(self.first(h)))
        return result


class SwiGLU(nn.Module):
    """W_2 (silu(g) u), (g, u) = W_1 h, of 2/3 of ``hidden``, so as to have the weights of FeedForward. h (..., width).

    Shazeer 2020, equation 6.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = 2 * hidden // 3
        self.first = nn.Linear(width, 2 * hidden)
        self.second = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.first(h).chunk(2, dim=-1)
        result: Tensor = self.second(nn.functional.silu(gate) * value)
        return result
