"""timm's own models for the architectures of our model files, random weights for them, and our files of those weights.

The architecture is the JSON of a model file's `hssl.architecture`: {"family": "swin", "name": "swin_tiny",
"image_size": 224, …}.
"""

import json
import math
import pathlib
import sys

import numpy as np
import torch
import torch.nn as nn
from safetensors import safe_open
from safetensors.torch import save_file

MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]

SHAPES = {
    # family, sizes, and timm's name of a published model that has them.
    "vit_nano": ("vit", {"embed_dim": 96, "depth": 4, "num_heads": 3}, None),
    "vit_tiny": ("vit", {"embed_dim": 192, "depth": 12, "num_heads": 3}, "vit_tiny_patch16_224"),
    "vit_small": ("vit", {"embed_dim": 384, "depth": 12, "num_heads": 6}, "vit_small_patch16_224"),
    "vit_base": ("vit", {"embed_dim": 768, "depth": 12, "num_heads": 12}, "vit_base_patch16_224"),
    "vit_large": ("vit", {"embed_dim": 1024, "depth": 24, "num_heads": 16}, "vit_large_patch16_224"),
    "vit_small_patch14_dinov2": (
        "vit",
        {"patch_size": 14, "embed_dim": 384, "depth": 12, "num_heads": 6, "layer_scale": True},
        "vit_small_patch14_dinov2",
    ),
    "swin_micro": ("swin", {"embed_dim": 48, "depths": [2, 2], "num_heads": [2, 4], "window_size": 7}, None),
    "swin_tiny": (
        "swin",
        {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
        "swin_tiny_patch4_window7_224",
    ),
    "swin_small": (
        "swin",
        {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
        "swin_small_patch4_window7_224",
    ),
    "swin_base": (
        "swin",
        {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 7},
        "swin_base_patch4_window7_224",
    ),
    "convnext_micro": ("convnext", {"depths": [2, 2], "dims": [48, 96], "kernel_size": 7}, None),
    "convnext_tiny": (
        "convnext",
        {"depths": [3, 3, 9, 3], "dims": [96, 192, 384, 768], "kernel_size": 7},
        "convnext_tiny",
    ),
    "convnext_small": (
        "convnext",
        {"depths": [3, 3, 27, 3], "dims": [96, 192, 384, 768], "kernel_size": 7},
        "convnext_small",
    ),
    "convnext_base": (
        "convnext",
        {"depths": [3, 3, 27, 3], "dims": [128, 256, 512, 1024], "kernel_size": 7},
        "convnext_base",
    ),
    "resnet_micro": ("resnet", {"stem": "small", "planes": [12, 24], "layers": [2, 2]}, None),
    "resnet50_gn": (
        "resnet",
        {"stem": "imagenet", "planes": [64, 128, 256, 512], "layers": [3, 4, 6, 3]},
        "resnet50_gn",
    ),
}


def architecture(name: str, image_size: int, patch_size: int | None = None) -> dict:
    """The `hssl.architecture` of a named shape; patches default to 16 pixels for ViT and 4 for the others."""
    family, sizes, _ = SHAPES[name]
    document = {"family": family, "name": name, "image_size": image_size}
    if family != "resnet":
        document["patch_size"] = patch_size or (16 if family == "vit" else 4)
    document |= sizes
    if family in ("vit", "swin"):
        document["mlp_ratio"] = 4
    return document | {"in_chans": 3}


def import_timm():
    """timm, which imports torchvision but computes nothing with it here.

    A torchvision whose compiled part does not fit this PyTorch fails on two operations that it describes for
    tracing: they are declared for it then. Not before: where its compiled part does fit, a second declaration would
    end the process.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        # Kept, since the declarations go with it.
        import_timm.library = torch.library.Library("torchvision", "FRAGMENT")
        for operation in ("nms", "qnms"):
            import_timm.library.define(f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    return timm


def norm_groups(channels: int) -> int:
    """32 groups as the published models where they divide at least 64 channels, else as many as leave four channels
    a group or more.
    """
    if channels >= 64 and channels % 32 == 0:
        return 32
    return max(g for g in range(1, max(1, channels // 4) + 1) if channels % g == 0)


# Building


def build(document: dict) -> nn.Module:
    """The timm model of an architecture, without a classifier: its output is the pooled feature [B, D]."""
    timm = import_timm()
    family, name = document["family"], document["name"]
    known = SHAPES.get(name)
    published = (
        known[2] if known and known[0] == family and all(document.get(k) == v for k, v in known[1].items()) else None
    )
    if family == "vit":
        if published:
            model = timm.create_model(
                published, num_classes=0, img_size=document["image_size"], patch_size=document["patch_size"]
            )
        else:
            sizes = {key: document[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")}
            model = timm.models.vision_transformer.VisionTransformer(
                img_size=document["image_size"], num_classes=0, **sizes
            )
    elif family == "swin":
        if published:
            model = timm.create_model(
                published,
                num_classes=0,
                img_size=document["image_size"],
                patch_size=document["patch_size"],
                window_size=document["window_size"],
            )
        else:
            sizes = {key: document[key] for key in ("patch_size", "embed_dim", "depths", "num_heads", "window_size")}
            model = timm.models.swin_transformer.SwinTransformer(
                img_size=document["image_size"], num_classes=0, **sizes
            )
    elif family == "convnext":
        model = (
            timm.create_model(published, num_classes=0)
            if published and document["patch_size"] == 4
            else small_convnext(timm, document)
        )
    elif family == "resnet":
        model = timm.create_model(published, num_classes=0) if published else small_resnet(timm, document)
    else:
        raise ValueError(f"unknown family {family}")
    return model.eval()


def small_convnext(timm, document: dict) -> nn.Module:
    """timm always makes four stages and halves the grid again after a stem of 2 pixels: what an architecture has
    not is taken off.
    """
    depths, dims, patch = document["depths"], document["dims"], document["patch_size"]
    missing = 4 - len(depths)
    model = timm.models.convnext.ConvNeXt(
        num_classes=0,
        depths=(*depths, *[1] * missing),
        dims=(*dims, *dims[-1:] * missing),
        kernel_sizes=document["kernel_size"],
    )
    model.stages = model.stages[: len(depths)]
    model.stem[0] = nn.Conv2d(document["in_chans"], dims[0], patch, patch)
    return model


def small_resnet(timm, document: dict) -> nn.Module:
    """timm always begins with 64 planes and runs four stages: stem and stages are made of its parts."""
    resnet = timm.models.resnet
    planes, layers = document["planes"], document["layers"]

    def norm(channels: int, **options) -> nn.Module:
        return timm.layers.GroupNorm(channels, norm_groups(channels), **options)

    model = resnet.ResNet(resnet.Bottleneck, (1, 1, 1, 1), num_classes=0, norm_layer=norm)
    stages, _ = resnet.make_blocks(
        (resnet.Bottleneck,) * len(planes),
        planes,
        layers,
        planes[0],
        cardinality=1,
        base_width=64,
        act_layer=nn.ReLU,
        norm_layer=norm,
        aa_layer=None,
    )
    for index in range(4):
        setattr(model, f"layer{index + 1}", stages[index][1] if index < len(stages) else nn.Identity())
    model.bn1 = norm(planes[0])
    if document["stem"] == "small":
        model.conv1, model.maxpool = nn.Conv2d(document["in_chans"], planes[0], 3, 1, 1, bias=False), nn.Identity()
    else:
        model.conv1 = nn.Conv2d(document["in_chans"], planes[0], 7, 2, 3, bias=False)
    model.num_features = model.head_hidden_size = 4 * planes[-1]
    return model


# Weights


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded weights that use every branch: each layer keeps the size of what it is given, norms are not the
    identity, no bias is zero, layer scale is near 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: torch.Tensor, deviation: float, mean: float = 0.0) -> None:
        parameter.normal_(mean, deviation, generator=generator)

    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        if name.endswith("gamma"):
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            normal(parameter, 0.2, 1.0) if name.endswith("weight") else normal(parameter, 0.1)
        elif name.endswith("relative_position_bias_table"):
            normal(parameter, 0.5)
        elif parameter.ndim > 1 and name.endswith("weight"):
            # A rectifier lets half of the variance through.
            normal(
                parameter,
                math.sqrt((2 if isinstance(module, nn.Conv2d) and module.bias is None else 1) / parameter[0].numel()),
            )
        elif name.endswith("bias"):
            normal(parameter, 0.1)
        else:  # Positions and the CLS token.
            normal(parameter, 0.5)
    return model


# Images and files


def random_images(count: int, size: int, seed: int = 1) -> np.ndarray:
    """uint8 [N, H, W, 3]: smooth blobs of every colour and size with noise on them, so that images differ in what a
    model sees.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, size, size)
    for cells, strength in ((3, 60.0), (8, 40.0), (size, 15.0)):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        total += strength * nn.functional.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)
    return (total + 128).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def normalised(images: np.ndarray, mean: list[float], std: list[float]) -> torch.Tensor:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W] as a model sees them."""
    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (mean, std))
    return ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def write_model(
    model: nn.Module, document: dict, path: pathlib.Path, resize: int | None = None, half: bool = False
) -> None:
    """Our model file of a timm model's weights (see `ModelFile` in Sources/HSSLModels/Files), float32 or float16."""
    size = document["image_size"]
    precision = "float16" if half else "float32"
    metadata = {
        "format": "pt",
        "hssl.format_version": "1",
        "hssl.architecture": json.dumps(document),
        "hssl.preprocessing": json.dumps(
            {"resize": resize or size, "crop": size, "interpolation": "bicubic", "mean": MEAN, "std": STD}
        ),
        "hssl.provenance": json.dumps(
            {
                "method": "random",
                "head": "",
                "data": "",
                "epochs": 0,
                "precision": precision,
                "version": "tools/check_timm",
            }
        ),
    }
    tensors = {key: (value.half() if half else value.float()).contiguous() for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata=metadata)
    part.rename(path)


def read_model(path: pathlib.Path) -> tuple[nn.Module, dict, dict]:
    """The timm model of one of our files, loaded strictly, with its architecture and preprocessing."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if "hssl.architecture" not in metadata:
        raise ValueError(f"{path}: not an HSSL model: no hssl.architecture in the metadata")
    if any(value.dtype != torch.float32 for value in tensors.values()):
        raise ValueError(f"{path}: float16 or int8 tensors; only a float32 file is compared with timm")
    document = json.loads(metadata["hssl.architecture"])
    model = build(document)
    model.load_state_dict(tensors, strict=True)
    return model, document, json.loads(metadata["hssl.preprocessing"])
