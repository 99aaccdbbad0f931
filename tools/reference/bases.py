"""Base models under timm's parameter names: what is pretrained and deployed.

A base turns images [B, 3, H, W] into a grid of vectors before its final norm, and says what its global and local
features are. While pretraining, masked cells of the grid are replaced by `mask_token` where patches have just been
embedded: there, a cell of the last grid covers mask_stride × mask_stride patches.
"""

from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from blocks import Attention, Mlp, SwinBlock, TransformerBlock, group_norm, over_channels_first


class Grid(NamedTuple):
    """What comes out of a base before its final norm."""

    cells: Tensor  # [B, h, w, D]
    cls: Tensor | None = None  # [B, D]


class Base(nn.Module):
    """`width` is D, `side` the rows of the last grid at the image size it is made for."""

    width: int
    side: int
    mask_stride = 1

    def grid(self, images: Tensor, mask: Tensor | None = None) -> Grid:
        """mask [B, h, w], true where the model may not see."""
        raise NotImplementedError

    def global_feature(self, grid: Grid) -> Tensor:
        """[B, D]"""
        raise NotImplementedError

    def local_features(self, grid: Grid) -> Tensor:
        """[B, h·w, D]"""
        raise NotImplementedError

    def masked(self, patches: Tensor, mask: Tensor | None) -> Tensor:
        """patches [B, rows, columns, C] with the mask token in place of what is masked."""
        if mask is None:
            return patches
        cells = torch.ones(self.mask_stride, self.mask_stride, dtype=torch.bool)
        return torch.where(torch.kron(mask, cells)[..., None], self.mask_token, patches)

    def deployed(self) -> dict[str, Tensor]:
        """The tensors of the model file, which timm loads: without the mask token."""
        return {name: value for name, value in self.state_dict().items() if name != "mask_token"}


# ViT


def resampling(stored: int, wanted: int) -> Tensor:
    """[wanted, stored]: bicubic weights (a = −0.75) along an axis as DINO takes them, from (i + ½)·stored/(wanted +
    0.1) − ½; indices end at the edge.
    """
    a = -0.75
    place = (torch.arange(wanted, dtype=torch.float64) + 0.5) * stored / (wanted + 0.1) - 0.5
    matrix = torch.zeros(wanted, stored, dtype=torch.float64)
    for tap in range(-1, 3):
        index = place.floor() + tap
        t = (place - index).abs()
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        weight = torch.where(t <= 1, near, far)
        matrix.scatter_add_(1, index.clamp(0, stored - 1).long()[:, None], weight[:, None])
    return matrix.to(torch.get_default_dtype())


class ViT(Base):
    def __init__(self, image_size: int, patch_size: int, embed_dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.width, self.side = embed_dim, image_size // patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, embed_dim, patch_size, patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.blocks = nn.ModuleList(TransformerBlock(embed_dim, Attention(embed_dim, num_heads)) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def positions(self, height: int, width: int) -> Tensor:
        """[h, w, D]: stored ones, or resampled where the grid is another."""
        stored = self.pos_embed[0, 1:].unflatten(0, (self.side, self.side))
        if (height, width) == (self.side, self.side):
            return stored
        return torch.einsum("ya,xb,abd->yxd", resampling(self.side, height), resampling(self.side, width), stored)

    def grid(self, images: Tensor, mask: Tensor | None = None) -> Grid:
        patches = self.masked(self.patch_embed["proj"](images).movedim(1, -1), mask)
        samples, height, width, _ = patches.shape
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(samples, -1, -1)
        x = torch.cat([cls, (patches + self.positions(height, width)).flatten(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x)
        return Grid(x[:, 1:].unflatten(1, (height, width)), x[:, 0])

    def global_feature(self, grid: Grid) -> Tensor:
        return self.norm(grid.cls)

    def local_features(self, grid: Grid) -> Tensor:
        return self.norm(grid.cells).flatten(1, 2)


# Swin


class Swin(Base):
    """One depth and number of heads a stage; every stage after the first halves the grid and doubles the channels."""

    def __init__(
        self, image_size: int, patch_size: int, embed_dim: int, depths: list[int], num_heads: list[int], window: int
    ) -> None:
        super().__init__()
        rows = image_size // patch_size
        self.mask_stride = 2 ** (len(depths) - 1)
        self.width, self.side = embed_dim * self.mask_stride, rows // self.mask_stride
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, embed_dim, patch_size, patch_size), "norm": nn.LayerNorm(embed_dim, eps=1e-5)}
        )
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.layers = nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            width = embed_dim << stage
            layer = nn.ModuleDict()
            if stage:
                layer["downsample"] = nn.ModuleDict(
                    {"norm": nn.LayerNorm(2 * width, eps=1e-5), "reduction": nn.Linear(2 * width, width, bias=False)}
                )
            shifts = [0, window // 2]
            layer["blocks"] = nn.ModuleList(
                SwinBlock(width, heads, rows >> stage, window, shifts[index % 2]) for index in range(depth)
            )
            self.layers.append(layer)
        self.norm = nn.LayerNorm(self.width, eps=1e-5)

    @staticmethod
    def neighbours(x: Tensor) -> Tensor:
        """[B, h, w, C] → [B, h/2, w/2, 4C]: each 2×2 square column by column, (0,0), (1,0), (0,1), (1,1)."""
        return torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)

    def grid(self, images: Tensor, mask: Tensor | None = None) -> Grid:
        patches = self.patch_embed["norm"](self.patch_embed["proj"](images).movedim(1, -1))
        x = self.masked(patches, mask)
        for layer in self.layers:
            if "downsample" in layer:
                merge = layer["downsample"]
                x = merge["reduction"](merge["norm"](self.neighbours(x)))
            for block in layer["blocks"]:
                x = block(x)
        return Grid(x)

    def global_feature(self, grid: Grid) -> Tensor:
        return self.norm(grid.cells).mean((1, 2))

    def local_features(self, grid: Grid) -> Tensor:
        return self.norm(grid.cells).flatten(1, 2)


# ConvNeXt


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, MLP, layer scale, shortcut."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(over_channels_first(self.conv_dw, x))) * self.gamma


class ConvNeXt(Base):
    def __init__(self, image_size: int, patch_size: int, depths: list[int], dims: list[int], kernel: int = 7) -> None:
        super().__init__()
        self.mask_stride = 2 ** (len(dims) - 1)
        self.width, self.side = dims[-1], image_size // patch_size // self.mask_stride
        self.stem = nn.ModuleList([nn.Conv2d(3, dims[0], patch_size, patch_size), nn.LayerNorm(dims[0], eps=1e-6)])
        self.mask_token = nn.Parameter(torch.zeros(1, dims[0]))
        self.stages = nn.ModuleList()
        for index, (depth, width) in enumerate(zip(depths, dims, strict=True)):
            stage = nn.ModuleDict()
            if index:
                narrower = dims[index - 1]
                stage["downsample"] = nn.ModuleList(
                    [nn.LayerNorm(narrower, eps=1e-6), nn.Conv2d(narrower, width, 2, 2)]
                )
            stage["blocks"] = nn.ModuleList(ConvNeXtBlock(width, kernel) for _ in range(depth))
            self.stages.append(stage)
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(self.width, eps=1e-6)})

    def grid(self, images: Tensor, mask: Tensor | None = None) -> Grid:
        convolution, norm = self.stem
        x = self.masked(norm(convolution(images).movedim(1, -1)), mask)
        for stage in self.stages:
            if "downsample" in stage:
                norm, convolution = stage["downsample"]
                x = over_channels_first(convolution, norm(x))
            for block in stage["blocks"]:
                x = block(x)
        return Grid(x)

    def global_feature(self, grid: Grid) -> Tensor:
        return self.head["norm"](grid.cells.mean((1, 2)))

    def local_features(self, grid: Grid) -> Tensor:
        return self.head["norm"](grid.cells).flatten(1, 2)


# ResNet


class StandardisedConv(nn.Conv2d):
    """No bias; while training, the weights of every output channel have mean 0 and (biased) variance 1. Deployed as
    the plain weights that result.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def folded(self) -> Tensor:
        rows = self.weight.flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        return (centred / (variance + 1e-6).sqrt()).reshape(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.folded(), None, self.stride, self.padding)


class Bottleneck(nn.Module):
    """1×1, 3×3 (which takes the stride), 1×1 to four times the planes; x is [B, C, h, w]."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * planes
        self.conv1, self.bn1 = StandardisedConv(inputs, planes, 1), group_norm(planes)
        self.conv2, self.bn2 = StandardisedConv(planes, planes, 3, stride), group_norm(planes)
        self.conv3, self.bn3 = StandardisedConv(planes, outputs, 1), group_norm(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(StandardisedConv(inputs, outputs, 1, stride), group_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet(Base):
    """Stem `imagenet`: 7×7 at stride 2, then 3×3 max pooling at stride 2; `small`: 3×3 at stride 1. There is no
    place where patches could be masked.
    """

    def __init__(self, image_size: int, stem: str, planes: list[int], layers: list[int]) -> None:
        super().__init__()
        large = {"imagenet": True, "small": False}[stem]
        first = planes[0]
        self.width = 4 * planes[-1]
        self.side = image_size // (4 if large else 1) // 2 ** (len(layers) - 1)
        self.conv1 = StandardisedConv(3, first, 7, 2) if large else StandardisedConv(3, first, 3)
        self.bn1 = group_norm(first)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.stages: list[nn.Sequential] = []
        channels = first
        for index, (count, stage_planes) in enumerate(zip(layers, planes, strict=True)):
            stage = nn.Sequential()
            for block in range(count):
                stage.append(Bottleneck(channels, stage_planes, 2 if index and not block else 1))
                channels = 4 * stage_planes
            self.add_module(f"layer{index + 1}", stage)
            self.stages.append(stage)

    def grid(self, images: Tensor, mask: Tensor | None = None) -> Grid:
        if mask is not None:
            raise ValueError("a ResNet has no patches to mask")
        x = self.pool(F.relu(self.bn1(self.conv1(images))))
        for stage in self.stages:
            x = stage(x)
        return Grid(x.movedim(1, -1))

    def global_feature(self, grid: Grid) -> Tensor:
        return grid.cells.mean((1, 2))

    def local_features(self, grid: Grid) -> Tensor:
        return grid.cells.flatten(1, 2)

    def deployed(self) -> dict[str, Tensor]:
        tensors = super().deployed()
        for name, module in self.named_modules():
            if isinstance(module, StandardisedConv):
                tensors[f"{name}.weight"] = module.folded().detach()
        return tensors


FAMILIES: dict[str, type[Base]] = {"vit": ViT, "swin": Swin, "convnext": ConvNeXt, "resnet": ResNet}


def make_base(settings: dict) -> Base:
    """settings: `family` and the sizes that its initialiser names."""
    return FAMILIES[settings["family"]](**{key: value for key, value in settings.items() if key != "family"})
