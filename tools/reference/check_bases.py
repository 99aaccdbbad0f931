"""Loads what these bases deploy into timm's models, strictly, and compares the features in float64: both must mean
the same by every tensor.
"""

import pathlib
import sys

import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

from bases import Base, make_base
from timm_models import architecture, build, normalised, random_images, randomise
from trajectory import relative

# Published sizes, Swin also where windows are padded (160) and where the last grid is smaller than a window, and
# the sizes for 28 pixels.
MODELS = [
    ("vit_tiny", 224, None),
    ("swin_tiny", 224, None),
    ("swin_tiny", 160, None),
    ("convnext_tiny", 224, None),
    ("resnet50_gn", 224, None),
    ("resnet50_gn", 160, None),
    ("vit_nano", 28, 4),
    ("swin_micro", 28, 2),
    ("swin_micro", 20, 2),
    ("swin_micro", 44, 2),
    ("convnext_micro", 28, 2),
    ("resnet_micro", 28, None),
]
BOUND = 1e-12


def base_of(document: dict) -> Base:
    """The base of an architecture as model files describe it, which names a window's and a kernel's size in full."""
    renamed = {"window_size": "window", "kernel_size": "kernel"}
    dropped = ("name", "mlp_ratio", "in_chans")
    return make_base({renamed.get(key, key): value for key, value in document.items() if key not in dropped})


def main() -> int:
    torch.set_default_dtype(torch.float64)
    failed = 0
    for name, size, patch in MODELS:
        document = architecture(name, size, patch)
        base = randomise(base_of(document))
        images = normalised(random_images(2, size), [0.5] * 3, [0.25] * 3).double()
        theirs = build(document).double()
        theirs.load_state_dict(base.deployed(), strict=True)
        with torch.inference_mode():
            error = relative(base.global_feature(base.grid(images)), theirs(images))
        failed += not error <= BOUND
        verdict = "agrees " if error <= BOUND else "DIFFERS"
        kind = type(theirs).__name__
        print(f"{verdict}  {name} at {size}: {error:.1e} of the largest feature ({kind}, strict load)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
