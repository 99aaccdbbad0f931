"""A plain ViT in PyTorch with timm's parameter names, random weights for it, and our model files of the same
weights."""

import json
import math
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]
PRECISIONS = ("float32", "float16", "int8")


def drop_path(branch: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth by sample; kept branches are divided by the keep probability."""
    if rate == 0 or not training:
        return branch
    keep = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(1 - rate)
    return branch * (keep / (1 - rate))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(
            0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)
        self.drop_path = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_path, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    def __init__(self, image: int, patch: int, width: int, depth: int, heads: int, mask_token: bool = False) -> None:
        super().__init__()
        self.sizes = {"image_size": image, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, width))

    def positions(self, tokens: int, grid: tuple[int, int]) -> torch.Tensor:
        """As DINO: another grid takes bicubically resampled positions, the CLS row untouched."""
        stored = self.pos_embed.shape[1] - 1
        if tokens == stored and grid[0] == grid[1]:
            return self.pos_embed
        side = math.isqrt(stored)
        patches = self.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
        return torch.cat([self.pos_embed[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def tokens(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """images [B, 3, H, W], mask [B, N] bool → tokens before the final norm [B, 1+N, D]."""
        x = self.patch_embed(images)
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_token, x)
        grid = (images.shape[2] // self.sizes["patch_size"], images.shape[3] // self.sizes["patch_size"])
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions(x.shape[1], grid)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The CLS feature after the final norm [B, D]."""
        return self.norm(self.tokens(images))[:, 0]


def vit_small(outliers: bool = False, seed: int = 0) -> ViT:
    """ViT-S/16 at 224 with seeded weights of σ 0.02, norms that are not the identity, biases that are not zero.

    With outliers, four input channels of every block's two norms are 20 times as large, as trained ViTs have them.
    """
    model = ViT(224, 16, 384, 12, 6)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.02, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.mul_(10).add_(1)
        if outliers:
            for block in model.blocks:
                for norm in (block.norm1, block.norm2):
                    norm.weight[[17, 130, 201, 350]] *= 20
    return model.eval()


def write_model(model: ViT, path: pathlib.Path, name: str, precision: str, resize: int) -> None:
    """Our model file: see `ModelFile` in Sources/HSSLModels/Files."""
    linear = {f"{key}.weight" for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    tensors = {}
    for key, value in model.state_dict().items():
        value = value.detach().float()
        if precision == "float16":
            tensors[key] = value.half()
        elif precision == "int8" and key in linear:
            scale = value.abs().amax(1, keepdim=True) / 127
            tensors[key] = torch.round(value / torch.where(scale > 0, scale, 1)).clamp(-127, 127).to(torch.int8)
            tensors[key + "_scale"] = scale
        else:
            tensors[key] = value
    crop = model.sizes["image_size"]
    metadata = {
        "format": "pt",
        "hssl.format_version": "1",
        "hssl.architecture": json.dumps({"family": "vit", "name": name, **model.sizes, "mlp_ratio": 4, "in_chans": 3}),
        "hssl.preprocessing": json.dumps(
            {"resize": resize, "crop": crop, "interpolation": "bicubic", "mean": MEAN, "std": STD}),
        "hssl.provenance": json.dumps(
            {
                "method": "random", "head": "", "data": "", "epochs": 0, "precision": precision,
                "version": "tools/peers"}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, part, metadata=metadata)
    part.rename(path)
