"""Blocks that bases and auxiliary heads share. Grids are channels last, [B, h, w, C]; tokens are [B, N, C]."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


def over_channels_first(module: nn.Module, grid: Tensor) -> Tensor:
    """Applies a PyTorch layer that wants [B, C, h, w] to a grid [B, h, w, C]."""
    return module(grid.movedim(-1, 1)).movedim(1, -1)


def groups_of(channels: int) -> int:
    """Groups of a group norm: 32 where that divides 64 channels or more, else as many as leave each at least four
    channels.
    """
    if channels >= 64 and channels % 32 == 0:
        return 32
    return next(g for g in range(max(1, channels // 4), 0, -1) if channels % g == 0)


def group_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    return nn.GroupNorm(groups or groups_of(channels), channels, eps=1e-5)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; the hidden layer is four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head softmax attention among the tokens of a sample."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, N, D]; `bias`, which broadcasts to [B, heads, N, N], is added to the scaled scores."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + bias
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)
        return self.proj(mixed.flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP. Without shortcuts both branches replace what they are given."""

    epsilon = 1e-6

    def __init__(self, width: int, attention: Attention, shortcut: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=self.epsilon)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width, eps=self.epsilon)
        self.mlp = Mlp(width)
        self.shortcut = shortcut

    def mix(self, x: Tensor) -> Tensor:
        return self.attn(x)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.mix(self.norm1(x))
        x = x + branch if self.shortcut else branch
        branch = self.mlp(self.norm2(x))
        return x + branch if self.shortcut else branch


# Windows


class WindowAttention(Attention):
    """Attention within a square window, with a learned bias for every offset between two of its positions."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__(width, heads)
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))

    def position_bias(self) -> Tensor:
        """[heads, N, N] with N = window²; the table's row of an offset (Δy, Δx) is (Δy + w − 1)·(2w − 1) + Δx + w −
        1.
        """
        side = torch.arange(self.window)
        y, x = side.repeat_interleave(self.window), side.repeat(self.window)
        rows = (y[:, None] - y + self.window - 1) * (2 * self.window - 1) + (x[:, None] - x + self.window - 1)
        return self.relative_position_bias_table[rows].permute(2, 0, 1)


class Windows:
    """Where the tokens of every window come from in an h×w grid that is rolled by `shift` up and left, then padded
    below and right with zeros.

    `source` [windows, N] holds the grid's token y·w + x, or h·w where there is none. `region` [windows, N]: only
    tokens of one region see each other, since the roll brings together what lies on opposite sides of the grid.
    Padding is not hidden: it takes part as zeros do.
    """

    def __init__(self, height: int, width: int, window: int, shift: int) -> None:
        (rows, y_regions), (columns, x_regions) = (self._axis(n, window, shift) for n in (height, width))
        inside = (rows < height)[:, None] & (columns < width)
        source = torch.where(inside, rows[:, None] * width + columns, height * width)
        self.source = self._cut(source, window)
        self.region = self._cut(3 * y_regions[:, None] + x_regions, window)

    @staticmethod
    def _axis(size: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
        """Of every place on an axis after roll and padding: the place it held before (`size`: padding) and its
        region.
        """
        padded = -(-size // window) * window
        place = torch.arange(padded)
        before = torch.where(place < size, (place + shift) % size, size)
        # What was rolled to the end is the last region; the rest of the last window the middle one.
        region = (
            (place >= padded - window).long() + (place >= padded - shift).long() if shift else torch.zeros_like(place)
        )
        return before, region

    @staticmethod
    def _cut(plane: Tensor, window: int) -> Tensor:
        """[H, W] → [windows, window²], both in row-major order."""
        return plane.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)

    def gather(self, tokens: Tensor) -> Tensor:
        """[B, h·w, C] → [B·windows, N, C], the windows of a sample beside each other."""
        with_zeros = F.pad(tokens, (0, 0, 0, 1))
        return with_zeros[:, self.source.flatten()].unflatten(1, tuple(self.source.shape)).flatten(0, 1)

    def scatter(self, windows: Tensor, samples: int, count: int) -> Tensor:
        """The other way round; what stands in for padding is dropped. Every token lies in exactly one window."""
        flat = windows.unflatten(0, (samples, -1)).flatten(1, 2)
        return flat[:, self.source.flatten().argsort()[:count]]

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """[windows, 1, N, N]: −100 between tokens of different regions, which the softmax turns into nothing."""
        return -100.0 * (self.region[:, :, None] != self.region[:, None, :])[:, None].to(dtype)


class SwinBlock(TransformerBlock):
    """Attention within windows that every second block shifts. A window that is not smaller than the grid is the
    grid, unshifted (as timm).
    """

    epsilon = 1e-5

    def __init__(self, width: int, heads: int, grid: int, window: int, shift: int, shortcut: bool = True) -> None:
        whole = window >= grid
        window = grid if whole else window
        super().__init__(width, WindowAttention(width, heads, window), shortcut)
        self.window = window
        self.shift = 0 if whole else shift

    def mix(self, x: Tensor) -> Tensor:
        samples, height, width, _ = x.shape
        windows = Windows(height, width, self.window, self.shift)
        bias = self.attn.position_bias()[None]
        if self.shift:
            bias = (bias + windows.hidden(x.dtype)).repeat(samples, 1, 1, 1)
        mixed = self.attn(windows.gather(x.flatten(1, 2)), bias)
        return windows.scatter(mixed, samples, height * width).reshape(x.shape)
