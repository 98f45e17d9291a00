"""The autoencoder of latent diffusion: an encoder to a Gaussian of few channels on a coarser grid, and a decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_fw.networks.adm_unet import ChannelMult, Channels
from diffusion_fw.networks.blocks.ddpm_layers import FACTORS, Attention, Doubled, convolution, group_norm
from diffusion_fw.networks.blocks.ddpm_levels import level_sizes, level_widths
from diffusion_fw.registry import Runtime, Size, register

EPS = 1e-6
LOG_VARIANCE = (-30.0, 20.0)
"""The bounds of log s^2 of Rombach et al. 2022, in their code."""


class Block(nn.Module):
    """skip(h) + conv(silu(norm(conv(silu(norm(h)))))). h (B, channels, ...) -> (B, out_channels, ...)."""

    def __init__(self, channels: int, out_channels: int, dims: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            group_norm(channels, EPS),
            nn.SiLU(),
            convolution(dims, channels, out_channels),
            group_norm(out_channels, EPS),
            nn.SiLU(),
            convolution(dims, out_channels, out_channels),
        )
        self.skip = nn.Identity() if channels == out_channels else convolution(dims, channels, out_channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        result: Tensor = self.skip(h) + self.layers(h)
        return result


def _middle(width: int, dims: int) -> list[nn.Module]:
    return [Block(width, width, dims), Attention(width, 1, eps=EPS), Block(width, width, dims)]


def _head(width: int, channels: int, dims: int) -> list[nn.Module]:
    return [group_norm(width, EPS), nn.SiLU(), convolution(dims, width, channels)]


@register("network", "kl_autoencoder")
class KLAutoencoder(nn.Module):
    """An encoder x -> N(m, s^2) of latent_channels on a grid that each level after the first halves, and a decoder.

    The KL-regularised autoencoder of Rombach et al. 2022, section 3.1 and appendix G: residual blocks without a time,
    one attention at the coarsest level of each half. Train it with objective=autoencoder, and give the result as
    codec=kl_autoencoder. x (B, C, L), (B, C, H, W) or (B, C, T, H, W); called as a network, it reconstructs x from m.

    Raises ConfigError for other shapes, and for sides that the levels do not divide.
    """

    class_conditional = False
    uses_label = False
    reconstructs = True

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        latent_channels: Size = 4,
        channels: Channels = 64,
        channel_mult: ChannelMult = (1, 2),
        num_res_blocks: Size = 1,
    ) -> None:
        super().__init__()
        level_sizes("kl_autoencoder", shape, channel_mult, (), dims=(1, 2, 3))
        widths, dims = level_widths(channels, channel_mult), len(shape) - 1
        down: list[nn.Module] = [convolution(dims, shape[0], widths[0])]
        for level, width in enumerate(widths):
            if level:
                down.append(convolution(dims, widths[level - 1], widths[level - 1], stride=FACTORS[dims]))
            before = widths[max(0, level - 1)]
            down += [Block(width if index else before, width, dims) for index in range(num_res_blocks)]
        last = widths[-1]
        down += [*_middle(last, dims), *_head(last, 2 * latent_channels, dims)]
        up: list[nn.Module] = [convolution(dims, latent_channels, last), *_middle(last, dims)]
        for level in reversed(range(len(widths))):
            width, after = widths[level], widths[max(0, level - 1)]
            up += [Block(width, width, dims) for _ in range(num_res_blocks)]
            if level:
                up += [Doubled(dims), convolution(dims, width, after)]
        up += _head(widths[0], shape[0], dims)
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        halvings = len(widths) - 1
        sides = zip(shape[1:], FACTORS[dims], strict=True)
        self.latent_shape = (latent_channels, *(side // factor**halvings for side, factor in sides))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m and s of q(z | x), both (B, *latent_shape)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, (0.5 * log_variance.clamp(*LOG_VARIANCE)).exp()

    def reconstruct(self, z: Tensor) -> Tensor:
        """x (B, *shape) of z (B, *latent_shape)."""
        result: Tensor = self.decoder(z)
        return result

    def forward(self, x: Tensor, label: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        return self.reconstruct(self.posterior(x)[0])


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL(N(m, s^2) || N(0, I)) (B,) = sum (m^2 + s^2 - 1 - log s^2) / 2 over the values of a latent."""
    terms = mean.square() + deviation.square() - 1 - 2 * torch.log(deviation)
    return 0.5 * terms.flatten(1).sum(1)
