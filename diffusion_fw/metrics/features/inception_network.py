"""The Inception-v3 on which FID is defined: TensorFlow's graph inception-2015-12-05, in torch.

It differs from the Inception-v3 of torchvision: 1008 classes, averages that leave out the padding, and a maximum where
the last block should have an average (Szegedy et al. 2016 for the network, Heusel et al. 2017 for its use). Modules
have the names of the published files of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class Layer(NamedTuple):
    """A convolution of a block: its name, its output channels, its kernel and its stride."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class Convolution(nn.Module):
    """A convolution, batch normalization and ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, padding: tuple[int, int] = (0, 0)
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


Branch = Sequence[Layer | tuple[Layer, Layer]]
"""Convolutions one after the other; a pair stands side by side."""


class Block(nn.Module):
    """Branches side by side, concatenated; the last one is a pooling, with a convolution if it has a width.

    Convolutions of stride 1 keep the size, those of stride 2 are not padded.
    """

    def __init__(self, inputs: int, branches: Sequence[Branch], pool: nn.Module, pool_outputs: int = 0):
        super().__init__()
        self.branches = [[step if isinstance(step[0], Layer) else (step,) for step in branch] for branch in branches]
        for branch in self.branches:
            width = inputs
            for step in branch:
                for name, outputs, kernel, stride in step:
                    padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else (0, 0)
                    self.add_module(name, Convolution(width, outputs, kernel, stride, padding))
                width = sum(layer.outputs for layer in step)
        self.pool = pool
        self.branch_pool = Convolution(inputs, pool_outputs, (1, 1)) if pool_outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = torch.cat([getattr(self, layer.name)(y) for layer in step], dim=1)
            outputs.append(y)
        return torch.cat([*outputs, self.branch_pool(self.pool(x))], dim=1)


def average() -> nn.Module:
    """The average of 3x3 values, without those of the padding."""
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def block_35(inputs: int, pool_outputs: int) -> Block:
    """A block at 35x35 positions."""
    branches: list[Branch] = [
        [Layer("branch1x1", 64)],
        [Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))],
        [
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3)),
        ],
    ]
    return Block(inputs, branches, average(), pool_outputs)


def to_17() -> Block:
    """The block from 35x35 to 17x17 positions."""
    branches: list[Branch] = [
        [Layer("branch3x3", 384, (3, 3), 2)],
        [
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3), 2),
        ],
    ]
    return Block(288, branches, nn.MaxPool2d(3, stride=2))


def block_17(width: int) -> Block:
    """A block at 17x17 positions, with ``width`` channels between its factored 7x7 convolutions."""
    across, down = (1, 7), (7, 1)
    branches: list[Branch] = [
        [Layer("branch1x1", 192)],
        [Layer("branch7x7_1", width), Layer("branch7x7_2", width, across), Layer("branch7x7_3", 192, down)],
        [
            Layer("branch7x7dbl_1", width),
            Layer("branch7x7dbl_2", width, down),
            Layer("branch7x7dbl_3", width, across),
            Layer("branch7x7dbl_4", width, down),
            Layer("branch7x7dbl_5", 192, across),
        ],
    ]
    return Block(768, branches, average(), 192)


def to_8() -> Block:
    """The block from 17x17 to 8x8 positions."""
    branches: list[Branch] = [
        [Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2)],
        [
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), 2),
        ],
    ]
    return Block(768, branches, nn.MaxPool2d(3, stride=2))


def block_8(inputs: int, pool: nn.Module) -> Block:
    """A block at 8x8 positions."""
    across, down = (1, 3), (3, 1)
    branches: list[Branch] = [
        [Layer("branch1x1", 320)],
        [Layer("branch3x3_1", 384), (Layer("branch3x3_2a", 384, across), Layer("branch3x3_2b", 384, down))],
        [
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, (3, 3)),
            (Layer("branch3x3dbl_3a", 384, across), Layer("branch3x3dbl_3b", 384, down)),
        ],
    ]
    return Block(inputs, branches, pool, 192)


class InceptionNetwork(nn.Module):
    """Images (B, 3, 299, 299), (p - 128) / 128 for pixels p of 0 .. 255, to 2048 features; ``fc`` gives 1008 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, (3, 3), 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = Convolution(32, 64, (3, 3), padding=(1, 1))
        self.MaxPool_1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = Convolution(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Convolution(80, 192, (3, 3))
        self.MaxPool_2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = block_35(192, 32)
        self.Mixed_5c = block_35(256, 64)
        self.Mixed_5d = block_35(288, 64)
        self.Mixed_6a = to_17()
        self.Mixed_6b = block_17(128)
        self.Mixed_6c = block_17(160)
        self.Mixed_6d = block_17(160)
        self.Mixed_6e = block_17(192)
        self.Mixed_7a = to_8()
        self.Mixed_7b = block_8(1280, average())
        self.Mixed_7c = block_8(2048, nn.MaxPool2d(3, stride=1, padding=1))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name != "fc":
                x = layer(x)
        return x.mean((2, 3))
