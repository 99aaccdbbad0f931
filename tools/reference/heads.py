"""Auxiliary heads: blocks of an architecture other than the base's, over the base's grid before its final norm.

A block takes and gives a grid [B, h, w, D]. `shortcut` false takes every shortcut of the block away; no block has
layer scale.
"""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from blocks import Attention, Mlp, SwinBlock, TransformerBlock, group_norm, over_channels_first


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int, kernel: int, shortcut: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        branch = self.pwconv2(F.gelu(self.pwconv1(self.norm(over_channels_first(self.dwconv, x)))))
        return x + branch if self.shortcut else branch


class ResNetBlock(nn.Module):
    """Plain convolutions with group norm. Without a shortcut the last ReLU sees the branch alone."""

    def __init__(self, width: int, ratio: float, shortcut: bool) -> None:
        super().__init__()
        narrow = int(width * ratio)
        self.conv1, self.norm1 = nn.Conv2d(width, narrow, 1, bias=False), group_norm(narrow)
        self.conv2, self.norm2 = nn.Conv2d(narrow, narrow, 3, padding=1, bias=False), group_norm(narrow)
        self.conv3, self.norm3 = nn.Conv2d(narrow, width, 1, bias=False), group_norm(width)
        self.shortcut = shortcut

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.norm3(self.conv3(x))

    def forward(self, x: Tensor) -> Tensor:
        branch = over_channels_first(self.branch, x)
        return F.relu(x + branch if self.shortcut else branch)


class ResMLPBlock(nn.Module):
    """A Linear over the positions, then an MLP over the channels: bound to one grid, whose positions it counts."""

    def __init__(self, width: int, positions: int, shortcut: bool) -> None:
        super().__init__()
        self.norm1, self.linear_tokens = nn.LayerNorm(width, eps=1e-6), nn.Linear(positions, positions)
        self.norm2, self.mlp_channels = nn.LayerNorm(width, eps=1e-6), Mlp(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.linear_tokens(self.norm1(x).flatten(1, 2).mT).mT.reshape(x.shape)
        x = x + mixed if self.shortcut else mixed
        branch = self.mlp_channels(self.norm2(x))
        return x + branch if self.shortcut else branch


class ViTBlock(TransformerBlock):
    """Global attention, without positions of its own: the base's tokens have theirs."""

    def mix(self, x: Tensor) -> Tensor:
        return self.attn(x.flatten(1, 2)).reshape(x.shape)


class PoolFormerBlock(nn.Module):
    """3×3 average pooling mixes the positions (padding is not counted), an MLP the channels; both after a norm over
    positions and channels together.

    With a shortcut x + pool(n) − n, as published. Without one pool(n): pool(n) − n by itself would only keep what
    is *unlike* its neighbours.
    """

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(width, groups=1), group_norm(width, groups=1)
        self.mlp = Mlp(width)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        n = over_channels_first(self.norm1, x)
        pooled = over_channels_first(self.pool, n)
        x = x + pooled - n if self.shortcut else pooled
        branch = self.mlp(over_channels_first(self.norm2, x))
        return x + branch if self.shortcut else branch


class Auxiliary(nn.Module):
    """`depth` blocks of a family, the first without shortcuts unless `first_shortcut`; the head's CLS is the mean
    of the last grid.

    side: rows of the base's last grid, which a window (at most 7, and half the grid) and a ResMLP are sized by.
    """

    def __init__(
        self,
        family: str,
        width: int,
        side: int,
        depth: int,
        first_shortcut: bool = False,
        kernel_size: int = 7,
        num_heads: int | None = None,
        bottleneck_ratio: float = 0.25,
    ) -> None:
        super().__init__()
        heads = num_heads or max(1, width // 32)
        window = min(7, (side + 1) // 2)

        def block(index: int) -> nn.Module:
            shortcut = first_shortcut or index > 0
            match family:
                case "convnext":
                    return ConvNeXtBlock(width, kernel_size, shortcut)
                case "resnet":
                    return ResNetBlock(width, bottleneck_ratio, shortcut)
                case "mlp":
                    return ResMLPBlock(width, side * side, shortcut)
                case "swin":
                    return SwinBlock(width, heads, side, window, window // 2 if index % 2 else 0, shortcut)
                case "vit":
                    return ViTBlock(width, Attention(width, heads), shortcut)
                case "poolformer":
                    return PoolFormerBlock(width, shortcut)
            raise ValueError(f"unknown family of auxiliary heads: {family}")

        self.blocks = nn.ModuleList(block(index) for index in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """[B, h, w, D] → CLS [B, D] and positions [B, h·w, D], both after the head's norm."""
        for block in self.blocks:
            cells = block(cells)
        return self.norm(cells.mean((1, 2))), self.norm(cells).flatten(1, 2)
