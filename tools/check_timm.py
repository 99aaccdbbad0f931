"""The comparison behind tools/check_timm, which starts it with a Python that has PyTorch and timm."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn as nn
from PIL import Image

import timm_models
from peers_common import Fault, binaries, build

# Published sizes of the four families, Swin once where windows of 7 do not divide grids of 40, 20 and 10, and the
# sizes for 28 pixels.
DEFAULT = [
    "vit_small:224",
    "swin_tiny:224",
    "swin_tiny:160",
    "convnext_tiny:224",
    "resnet50_gn:224",
    "vit_nano:28:4",
    "swin_micro:28:2",
    "convnext_micro:28:2",
    "resnet_micro:28",
]


def random_model(text: str, folder: pathlib.Path, seed: int) -> pathlib.Path:
    """Writes a model file for `name:image size[:patch size]`."""
    name, *sizes = text.split(":")
    if name not in timm_models.SHAPES:
        raise Fault(f"unknown architecture '{name}' (known: {', '.join(timm_models.SHAPES)})")
    document = timm_models.architecture(name, *(int(v) for v in sizes or ["224"]))
    path = folder / f"{text.replace(':', '-')}.safetensors"
    timm_models.write_model(timm_models.randomise(timm_models.build(document), seed), document, path)
    return path


def reference(model: nn.Module, family: str, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """timm's pooled features [N, D] and those of the grid's positions [N, h·w, D], in float64."""
    with torch.inference_mode():
        grid = model.double().forward_features(images.double())
        pooled = model.forward_head(grid, pre_logits=True)
        if family == "vit":
            grid = grid[:, 1:]
        elif family == "swin":
            grid = grid.flatten(1, 2)
        else:
            grid = grid.flatten(2).transpose(1, 2)
        if family == "convnext":
            # timm norms the mean alone; a position's feature goes through the same norm.
            grid = nn.functional.layer_norm(
                grid, grid.shape[-1:], model.head.norm.weight, model.head.norm.bias, model.head.norm.eps
            )
    return pooled.numpy(), grid.numpy()


def extracted(model: pathlib.Path, files: list[pathlib.Path], output: pathlib.Path, features: str | None) -> np.ndarray:
    command = [
        binaries() / "hssl-extract",
        "--model",
        model,
        *files,
        "--output",
        output,
        "--on-error",
        "fail",
        "--log-level",
        "error",
    ]
    command += ["--features", features] if features else []
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode:
        raise Fault(result.stderr.strip()[-500:] or f"hssl-extract: exit status {result.returncode}")
    return np.load(output)


def largest(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise Fault(f"{name}: hssl-extract gives {list(ours.shape)}, timm {list(theirs.shape)}")
    return float(np.abs(ours - theirs).max())


def check(path: pathlib.Path, folder: pathlib.Path, options: argparse.Namespace) -> bool:
    """One line of a model's worst deviations; true where they are within the tolerance."""
    model, document, preprocessing = timm_models.read_model(path)
    images = timm_models.random_images(options.images, document["image_size"])
    files = []
    for index, image in enumerate(images):
        files.append(folder / f"{index:04d}.png")
        Image.fromarray(image).save(files[-1])
    # The shorter side becomes `resize` before the crop: only where both are the image's own size are no pixels
    # resampled.
    if preprocessing["resize"] != document["image_size"]:
        path = unresized(path, folder)
    inputs = timm_models.normalised(images, preprocessing["mean"], preprocessing["std"])
    pooled, grid = reference(model, document["family"], inputs)
    deviation = largest(path.name, extracted(path, files, folder / "features.npy", None), pooled)
    text = f"features {list(pooled.shape)} {deviation:.1e} of at most {np.abs(pooled).max():.1f}"
    if options.patches:
        of_patches = largest(path.name, extracted(path, files, folder / "patches.npy", "patch"), grid)
        deviation = max(deviation, of_patches)
        text += f", patches {list(grid.shape)} {of_patches:.1e} of at most {np.abs(grid).max():.1f}"
    agrees = deviation <= options.tolerance
    kind = f"{document['family']} {document['name']} {document['image_size']}"
    print(f"{'agrees ' if agrees else 'DIFFERS'}  {path.name} ({kind}): strict load; {text}", flush=True)
    return agrees


def unresized(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a model file whose images are not resized."""
    import json

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    preprocessing = json.loads(metadata["hssl.preprocessing"])
    metadata["hssl.preprocessing"] = json.dumps(preprocessing | {"resize": preprocessing["crop"]})
    copy = folder / path.name
    save_file(load_file(path), copy, metadata=metadata)
    return copy


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/check_timm",
        description="Loads our model files into timm strictly and compares features with hssl-extract.",
    )
    parser.add_argument(
        "models", nargs="*", type=pathlib.Path, metavar="MODEL", help="float32 model files; without any, random weights"
    )
    parser.add_argument(
        "--random",
        nargs="+",
        default=[],
        metavar="NAME:SIZE[:PATCH]",
        help=f"random weights of these (default: {' '.join(DEFAULT)})",
    )
    parser.add_argument("--images", type=int, default=4, metavar="N", help="random images (default 4)")
    parser.add_argument(
        "--patches", action="store_true", help="compare the features of every position of the last grid too"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="T",
        help="largest difference from timm in float64 (default 1e-4)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random weights (default 0)")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER", help="leave random models there")
    parser.add_argument(
        "--write-only", action="store_true", help="with --keep: write random models, run nothing of ours"
    )
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    failed = 0
    try:
        if not options.write_only:
            build(("hssl-extract",))
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            work: list[pathlib.Path | str] = [*options.models, *(options.random or ([] if options.models else DEFAULT))]
            for item in work:
                kept = options.keep or folder
                path = item if isinstance(item, pathlib.Path) else random_model(item, kept, options.seed)
                if options.write_only:
                    print(path)
                    continue
                try:
                    failed += not check(path, folder, options)
                except (Fault, OSError, ValueError, RuntimeError) as error:
                    # RuntimeError: PyTorch lists every tensor that a strict load misses or does not know.
                    failed += 1
                    print(f"FAILED   {path.name}: {error}", flush=True)
    except (Fault, OSError, ValueError) as error:
        print(f"check_timm: error: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"check_timm: {failed} of {len(work)} models failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
