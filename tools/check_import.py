"""The comparison behind tools/check_import, which starts it with a Python that has PyTorch and its neighbours."""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from peers_common import Fault, binaries, build

# torchvision's wheel may be for another PyTorch, which then lacks two operators that no model here calls.
library = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402
from check_timm import extracted, unresized  # noqa: E402
from timm_models import normalised, random_images  # noqa: E402

Features = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Case:
    """A network with random weights, at one image size: its library, and how the file of it looks."""

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        sizes: tuple[int, int],
        features: Features,
        adapt: Callable[[dict, nn.Module], dict] | None = None,
        hub: bool = False,
        nest: Callable[[dict], dict] | None = None,
        flags: tuple[str, ...] = (),
    ):
        self.make, self.sizes, self.features, self.adapt = make, sizes, features, adapt
        self.hub, self.nest, self.flags = hub, nest, flags


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Weights that use every branch: no norm is the identity, no bias 0, layer scale near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            leaf = name.rpartition(".")[2]
            if not tensor.is_floating_point():
                continue
            if leaf == "running_var" or any(word in name for word in ("gamma", "lambda1", "layer_scale")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif isinstance(model.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d) and leaf == "weight":
                # Statistics are not those of the values, so nothing else keeps sums over blocks small.
                tensor.normal_(0.5, 0.1, generator=generator)
            elif tensor.ndim == 1 and leaf == "weight":
                tensor.normal_(1, 0.2, generator=generator)
            elif "relative_position_bias_table" in name:
                tensor.normal_(0, 0.5, generator=generator)
            elif tensor.ndim > 1 and leaf == "weight":
                gain = 2 if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Conv2d) else 1
                tensor.normal_(0, (gain / tensor[0].numel()) ** 0.5, generator=generator)
            else:
                tensor.normal_(0, 0.1, generator=generator)
    return model.eval()


# MARK: features


def first_token(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.forward_features(images)[:, 0]


def pooled(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(images), pre_logits=True)


def plain(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images)


def hugging_face(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    more = (
        {"interpolate_pos_encoding": True} if isinstance(model, (transformers.ViTModel, transformers.SwinModel)) else {}
    )
    output = model(pixel_values=images, **more)
    if isinstance(model, (transformers.SwinModel, transformers.ConvNextModel, transformers.ResNetModel)):
        return output.pooler_output.flatten(1)
    return output.last_hidden_state[:, 0]


# MARK: other image sizes, as each source's own code


def timm_filter(module: str) -> Callable[[dict, nn.Module], dict]:
    def adapt(state: dict, model: nn.Module) -> dict:
        return getattr(sys.modules[f"timm.models.{module}"], "checkpoint_filter_fn")(state, model)

    return adapt


def interpolated(offset: float | None) -> Callable[[dict, nn.Module], dict]:
    """DINO's and iBOT's `interpolate_pos_encoding` (offset 0.1), MAE's `interpolate_pos_embed` (None)."""

    def adapt(state: dict, model: nn.Module) -> dict:
        positions, side = state["pos_embed"], round((state["pos_embed"].shape[1] - 1) ** 0.5)
        target = model.patch_embed.grid_size[0]
        grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        how = {"size": (target, target)} if offset is None else {"scale_factor": ((target + offset) / side,) * 2}
        grid = nn.functional.interpolate(grid, mode="bicubic", align_corners=False, **how)
        assert grid.shape[-1] == target
        return state | {"pos_embed": torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)}

    return adapt


def sines(state: dict, model: nn.Module) -> dict:
    """MoCo v3's `build_2d_sincos_position_embedding`."""
    side, width = model.patch_embed.grid_size[0], state["pos_embed"].shape[-1]
    w, h = torch.meshgrid(
        torch.arange(side, dtype=torch.float32), torch.arange(side, dtype=torch.float32), indexing="ij"
    )
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    parts = [f(grid.flatten()[:, None] * omega) for grid in (w, h) for f in (torch.sin, torch.cos)]
    return state | {"pos_embed": torch.cat([torch.zeros(1, width), torch.cat(parts, 1)])[None]}


# MARK: networks


def timm_model(name: str, **more: object) -> Callable[[int], nn.Module]:
    return lambda size: timm.create_model(
        name, **more, **({"img_size": size} if "resnet" not in name and "convnext" not in name else {})
    )


def vit(**more: object) -> Callable[[int], nn.Module]:
    """The ViT that DINO, iBOT, MAE and MoCo v3 share."""
    return timm_model("vit_small_patch16_224", depth=3, num_classes=0, **more)


def hub_model(kind: str, **config: object) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        # The size a model was made for is in its file: another one only sees other images.
        return getattr(transformers, kind + "Model")(getattr(transformers, kind + "Config")(**config))

    return make


def vision_model(name: str) -> Callable[[int], nn.Module]:
    def make(_: int) -> nn.Module:
        model = getattr(torchvision.models, name)()
        if name == "resnet50":
            model.fc = nn.Identity()
        elif name == "swin_t":
            model.head = nn.Identity()
        else:
            model.classifier[2] = nn.Identity()
        return model

    return make


SMALL = {"hidden_size": 384, "num_hidden_layers": 3, "num_attention_heads": 6}
EXTRA = {
    "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    "epoch": 3,
    "args": argparse.Namespace(lr=0.1, path="x", flag=True, none=None),
}


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: dict) -> dict:
    return {name: tensor * 0 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def dino(state: dict) -> dict:
    head = {"head.mlp.0.weight": torch.ones(4, 384), "head.last_layer.weight_g": torch.ones(4, 1)}
    return {
        "student": prefixed("module.", prefixed("backbone.", other(state)) | head),
        "teacher": prefixed("backbone.", state) | head,
        "dino_loss": {"center": torch.zeros(1, 4)},
        **EXTRA,
    }


def ibot(state: dict) -> dict:
    return {"state_dict": state | {"masked_embed": torch.ones(1, 384), "head.mlp2.0.weight": torch.ones(2, 2)}}


def mae(state: dict) -> dict:
    extra = {
        "mask_token": torch.ones(1, 1, 8),
        "decoder_embed.weight": torch.ones(8, 384),
        "decoder_pos_embed": torch.ones(1, 197, 8),
        "decoder_blocks.0.norm1.weight": torch.ones(8),
    }
    return {"model": state | extra, **EXTRA}


def moco(state: dict) -> dict:
    head = {"head.0.weight": torch.ones(2, 384)}
    return {
        "state_dict": prefixed("module.base_encoder.", state | head)
        | prefixed("module.momentum_encoder.", other(state) | head)
        | {"module.predictor.0.weight": torch.ones(2, 2)},
        "arch": "vit_small",
        **EXTRA,
    }


def dinov2(state: dict) -> dict:
    """A training checkpoint: chunks of blocks, heads beside the backbone."""

    def chunked(name: str) -> str:
        return name.replace("blocks.", "blocks.0.") if name.startswith("blocks.") else name

    own = {chunked(name): tensor for name, tensor in state.items()} | {"mask_token": torch.ones(1, 384)}
    return {"teacher": prefixed("backbone.", own) | {"dino_head.mlp.0.weight": torch.ones(2, 384)}}


def meta_registers(state: dict) -> dict:
    """timm's form of DINOv2 with registers back in Meta's: positions that cover CLS."""
    state = dict(state)
    row = torch.full((1, 1, 384), 0.25)
    state["pos_embed"] = torch.cat([row, state["pos_embed"]], 1)
    state["cls_token"] = state["cls_token"] - row
    state["register_tokens"] = state.pop("reg_token")
    return {"model": state | {"mask_token": torch.ones(1, 384)}}


CASES = {
    "timm-vit": Case(
        timm_model("vit_small_patch16_224", depth=3), (224, 160), first_token, timm_filter("vision_transformer")
    ),
    "timm-deit3": Case(
        timm_model("deit3_small_patch16_224", depth=2), (224, 288), first_token, timm_filter("vision_transformer")
    ),
    "timm-dinov2": Case(
        timm_model("vit_small_patch14_dinov2", depth=3), (518, 224), first_token, timm_filter("vision_transformer")
    ),
    "timm-dinov2-reg": Case(
        timm_model("vit_small_patch14_reg4_dinov2", depth=3), (518, 224), first_token, timm_filter("vision_transformer")
    ),
    "timm-dinov3": Case(timm_model("vit_small_patch16_dinov3", depth=3), (224, 288), first_token),
    "timm-dinov3-plus": Case(timm_model("vit_small_plus_patch16_dinov3_qkvb", depth=2), (224, 160), first_token),
    "timm-swin": Case(timm_model("swin_tiny_patch4_window7_224"), (224, 288), pooled),
    "timm-convnext": Case(timm_model("convnext_tiny"), (224, 160), pooled),
    "timm-resnet": Case(timm_model("resnet50"), (224, 250), lambda m, x: m.forward_features(x).mean((2, 3))),
    "timm-resnet-gn": Case(timm_model("resnet50_gn"), (224, 250), lambda m, x: m.forward_features(x).mean((2, 3))),
    "torchvision-resnet": Case(vision_model("resnet50"), (224, 250), plain),
    "torchvision-swin": Case(vision_model("swin_t"), (224, 256), plain),
    "torchvision-convnext": Case(vision_model("convnext_tiny"), (224, 160), plain),
    "vit-hf": Case(hub_model("ViT", **SMALL, intermediate_size=1536), (224, 160), hugging_face, hub=True),
    "dinov2-hf": Case(hub_model("Dinov2", **SMALL, image_size=518), (518, 224), hugging_face, hub=True),
    "dinov2-swiglu-hf": Case(
        hub_model("Dinov2", **SMALL, image_size=224, use_swiglu_ffn=True), (224, 280), hugging_face, hub=True
    ),
    "dinov2-reg-hf": Case(
        hub_model("Dinov2WithRegisters", **SMALL, image_size=518, patch_size=14), (518, 224), hugging_face, hub=True
    ),
    "dinov3-hf": Case(
        hub_model("DINOv3ViT", **SMALL, intermediate_size=1536, num_register_tokens=4),
        (224, 288),
        hugging_face,
        hub=True,
    ),
    "dinov3-gated-hf": Case(
        hub_model(
            "DINOv3ViT", **SMALL, intermediate_size=1536, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"
        ),
        (224, 160),
        hugging_face,
        hub=True,
    ),
    "swin-hf": Case(hub_model("Swin", depths=[2, 2, 2, 2]), (224, 288), hugging_face, hub=True),
    "convnext-hf": Case(hub_model("ConvNext", depths=[1, 1, 2, 1]), (224, 160), hugging_face, hub=True),
    "resnet-hf": Case(hub_model("ResNet", depths=[1, 2, 2, 1]), (224, 250), hugging_face, hub=True),
    "dino": Case(vit(), (224, 160), first_token, interpolated(0.1), nest=dino),
    "ibot": Case(vit(), (224, 288), first_token, interpolated(0.1), nest=ibot),
    "mae": Case(vit(), (224, 160), first_token, interpolated(None), nest=mae),
    "mocov3": Case(vit(num_heads=12), (224, 160), first_token, sines, nest=moco),
    "mocov3-resnet": Case(
        timm_model("resnet50", num_classes=0), (224, 160), lambda m, x: m.forward_features(x).mean((2, 3)), nest=moco
    ),
    "dinov2-meta": Case(
        timm_model("vit_small_patch14_dinov2", depth=3, num_classes=0),
        (518, 224),
        first_token,
        interpolated(0.1),
        nest=dinov2,
    ),
    "dinov2-reg-meta": Case(
        timm_model("vit_small_patch14_reg4_dinov2", depth=3, num_classes=0),
        (518, 224),
        first_token,
        timm_filter("vision_transformer"),
        nest=meta_registers,
    ),
}


def files(case: Case, model: nn.Module, folder: pathlib.Path) -> list[pathlib.Path]:
    """The network as its library leaves it: safetensors and PyTorch's zip."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    result = []
    if case.hub:
        model.save_pretrained(folder / "hub")
        result.append(folder / "hub" / "model.safetensors")
        # In memory transformers has other names than on disk.
        config = (folder / "hub" / "config.json").read_text()
        (folder / "memory").mkdir()
        (folder / "memory" / "config.json").write_text(config)
        torch.save(state, folder / "memory" / "pytorch_model.bin")
        result.append(folder / "memory" / "pytorch_model.bin")
    elif case.nest:
        torch.save(case.nest(state), folder / "checkpoint.pth")
        result.append(folder / "checkpoint.pth")
    else:
        save_file(state, folder / "model.safetensors")
        torch.save({"epoch": 1, "state_dict": prefixed("module.", model.state_dict())}, folder / "nested.pth")
        result += [folder / "model.safetensors", folder / "nested.pth"]
    return result


def imported(source: pathlib.Path, output: pathlib.Path, size: int, flags: tuple[str, ...]) -> tuple[dict, dict]:
    command = [binaries() / "hssl", "import", source, "--output", output, "--image-size", size, *flags]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode:
        raise Fault(f"hssl import: {result.stderr.strip()[-500:]}")
    found = metadata(output)
    return found["hssl.architecture"], found["hssl.preprocessing"]


def metadata(path: pathlib.Path) -> dict:
    """What a file of ours says of itself."""
    with safe_open(path, "pt") as file:
        found = file.metadata()
    return {key: json.loads(value) for key, value in found.items() if value.startswith("{")}


def check(name: str, case: Case, tolerance: float, count: int) -> bool:
    agrees = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        native = randomise(case.make(case.sizes[0]), seed=1)
        if case.adapt is sines:
            native.load_state_dict(sines(native.state_dict(), native))
        sources = files(case, native, folder)
        for size in case.sizes:
            model = native
            if case.hub:
                # transformers' Swin keeps the shifts that it once took away for a smaller image.
                model = case.make(size).eval()
                model.load_state_dict(native.state_dict())
            elif size != case.sizes[0]:
                model = case.make(size).eval()
                state = {name: tensor.clone() for name, tensor in native.state_dict().items()}
                model.load_state_dict(case.adapt(state, model) if case.adapt else state)
            images = random_images(count, size)
            paths = []
            for index, image in enumerate(images):
                paths.append(folder / f"{size}-{index}.png")
                Image.fromarray(image).save(paths[-1])
            for source in sources:
                output = folder / f"{source.stem}-{size}.safetensors"
                document, preprocessing = imported(source, output, size, case.flags)
                inputs = normalised(images, preprocessing["mean"], preprocessing["std"])
                with torch.inference_mode():
                    theirs = case.features(model.double(), inputs.double()).numpy()
                ours = extracted(unresized_any(output, folder), paths, folder / "f.npy", None)
                deviation = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
                good = deviation <= tolerance
                agrees = agrees and good
                print(
                    f"{'agrees ' if good else 'DIFFERS'}  {name} {size} {source.name}: {document['family']} {document['name']}, "
                    f"features {list(theirs.shape)} {deviation:.1e} of at most {np.abs(theirs).max():.1f}",
                    flush=True,
                )
    return agrees


def check_dinov2(folder: pathlib.Path, images: list[pathlib.Path]) -> bool:
    """The wheel's real weights: float32 against onnxruntime, int8 against float32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "features.onnx", providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        vectors, pixels = {}, [centre(path) for path in images]
        files = [work / f"{index:05d}.png" for index in range(len(images))]
        for path, picture in zip(files, pixels):
            Image.fromarray(picture).save(path)
        variants = {
            "float32": (),
            "float16": ("--precision", "float16"),
            "int8": ("--precision", "int8", "--smooth", "off"),
            "int8 smoothed": ("--precision", "int8", "--smooth", "on", "--calibration", str(work)),
        }
        for variant, flags in variants.items():
            output = work / "models" / f"{variant.replace(' ', '-')}.safetensors"
            output.parent.mkdir(exist_ok=True)
            _, preprocessing = imported(folder / "model.safetensors", output, 224, flags)
            vectors[variant] = extracted(unresized_any(output, work), files, work / "f.npy", None)
        theirs = []
        for picture in pixels:
            inputs = normalised(picture[None], preprocessing["mean"], preprocessing["std"]).numpy()
            theirs.append(session.run(["features"], {"input_image": inputs})[0][:, 0])
        theirs = np.concatenate(theirs)

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    deviation = float(np.abs(vectors["float32"] - theirs).max())
    good = deviation <= 1e-4
    print(
        f"{'agrees ' if good else 'DIFFERS'}  float32 of {len(images)} images: {deviation:.1e} of at most {np.abs(theirs).max():.1f} from onnxruntime"
    )
    for variant in list(vectors)[1:]:
        values = cosine(vectors[variant], vectors["float32"])
        mean, first, least = values.mean(), np.quantile(values, 0.01), values.min()
        # Smoothing is for the worst pictures, plain codes are for all.
        fine = least >= 0.99 if variant == "int8 smoothed" else mean >= 0.999 and first >= 0.997
        good = good and fine
        print(
            f"{'agrees ' if fine else 'DIFFERS'}  {variant}: cosine to float32 mean {mean:.5f}, 1st percentile {first:.5f}, least {least:.5f}"
        )
    return good


def centre(path: pathlib.Path, side: int = 224) -> np.ndarray:
    """The middle of a picture, not resized: no resampler is compared here."""
    image = Image.open(path).convert("RGB")
    if min(image.size) < side:
        raise Fault(f"{path}: is {image.width}×{image.height}, smaller than {side}×{side}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def unresized_any(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    copies = folder / "unresized"
    copies.mkdir(exist_ok=True)
    return unresized(path, copies)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/check_import",
        description="Imports what timm, transformers and torchvision save, and compares features.",
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="some of the sources (default: all)")
    parser.add_argument("--list", action="store_true", help="name the sources")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="random images (default 2)")
    parser.add_argument("--tolerance", type=float, default=1e-4, metavar="T", help="largest difference (default 1e-4)")
    parser.add_argument(
        "--dinov2", type=pathlib.Path, metavar="FOLDER", help="of tools/dinov2_from_wheel.py: real weights"
    )
    parser.add_argument(
        "--photos",
        type=pathlib.Path,
        metavar="FOLDER",
        help="with --dinov2: pictures, of which the middle 224×224 are taken",
    )
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    unknown = [name for name in options.sources if name not in CASES]
    if unknown or (options.dinov2 and not options.photos):
        print(
            f"check_import: unknown source '{unknown[0]}'" if unknown else "check_import: --dinov2 needs --photos",
            file=sys.stderr,
        )
        return 64
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    failed = []
    try:
        build()
        if options.dinov2:
            pictures = sorted(path for path in options.photos.rglob("*") if path.suffix in (".png", ".jpg"))
            return 0 if check_dinov2(options.dinov2, pictures) else 1
        for name in options.sources or CASES:
            try:
                if not check(name, CASES[name], options.tolerance, options.images):
                    failed.append(name)
            except (Fault, OSError, ValueError, RuntimeError) as error:
                failed.append(name)
                print(f"FAILED   {name}: {str(error)[:600]}", flush=True)
    except (Fault, OSError, ValueError) as error:
        print(f"check_import: error: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"check_import: {len(failed)} sources failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
