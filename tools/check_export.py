"""The comparison behind tools/check_export, which starts it with a Python that has PyTorch and its neighbours."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn as nn
import transformers
from PIL import Image
from safetensors.torch import load_file

import check_import
from check_import import CASES, files, hugging_face, imported, randomise, timm
from check_timm import extracted, random_model, unresized
from peers_common import Fault, binaries, build
from timm_models import normalised, random_images

# Of the sources of tools/check_import those that differ as models of ours.
SOURCES = [
    "timm-vit", "timm-deit3", "timm-dinov2", "timm-dinov2-reg", "timm-dinov3", "timm-dinov3-plus", "timm-swin",
    "timm-convnext", "timm-resnet", "vit-hf", "dinov2-hf", "dinov2-swiglu-hf", "dinov2-reg-hf", "dinov3-hf",
    "dinov3-gated-hf", "swin-hf", "convnext-hf", "resnet-hf",
]
# Architectures of ours, name:image size[:patch size], each with another size.
OWN = {
    "vit_nano": ("vit_nano:28:4", 56),
    "swin_micro": ("swin_micro:28:2", 56),
    "convnext_micro": ("convnext_micro:28:2", 40),
    "resnet_micro": ("resnet_micro:28", 40),
    "resnet50_gn": ("resnet50_gn:224", 160),
}
# What a library has no network for, and how the refusal says it.
REFUSED = {
    ("convnext_micro", "timm"): "four stages",
    ("resnet_micro", "timm"): "stem of 7×7",
    ("resnet_micro", "hf"): "group norms",
    ("resnet50_gn", "hf"): "group norms",
}
# Not read back: no statistics to fold.
ONE_WAY = {"convnext_micro", "vit_nano", "swin_micro"}


def export(model: pathlib.Path, folder: pathlib.Path, kind: str, *flags: object) -> str:
    """What `hssl export` says; raises its refusal."""
    command = [binaries() / "hssl", "export", model, "--output", folder, "--format", kind, *flags]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode:
        if result.returncode != 1 or result.stderr.count("\n") != 1:
            raise Fault(f"hssl export: exit status {result.returncode}: {result.stderr[-500:]}")
        raise Fault(result.stderr.strip())
    return result.stdout


def load(folder: pathlib.Path, kind: str, size: int | None = None) -> nn.Module:
    """The library's own model, as its loader makes it of the folder."""
    if kind == "timm":
        fixed = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["fixed_input_size"]
        more = {"img_size": size} if size and fixed else {}
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, **more)
        if not size:
            # The loader is lenient where it resizes: the state dict by itself, into weights that are not its own.
            fresh = timm.create_model(f"local-dir:{folder}", pretrained=False)
            fresh.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        return model.eval()
    model, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    wrong = {key: sorted(map(str, value)) for key, value in report.items() if value}
    if wrong:
        raise Fault(f"transformers: {wrong}")
    return model.eval()


def features(model: nn.Module, kind: str, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        if kind == "timm":
            return model.double()(images.double()).numpy()
        return hugging_face(model.double(), images.double()).numpy()


def pictures(folder: pathlib.Path, size: int, count: int) -> tuple[list[pathlib.Path], np.ndarray]:
    images = random_images(count, size)
    paths = [folder / f"{size}-{index}.png" for index in range(count)]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    return paths, images


def prepared(folder: pathlib.Path, kind: str, model: nn.Module, picture: Image.Image) -> torch.Tensor:
    """A photograph through the library's own preparation."""
    if kind == "timm":
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        return transform(picture)[None]
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(picture, return_tensors="pt")["pixel_values"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


class Check:
    def __init__(self, folder: pathlib.Path, options: argparse.Namespace):
        self.folder, self.options = folder, options
        self.copies = folder / "unresized"
        self.copies.mkdir()
        self.agrees = True

    def line(self, good: bool, text: str) -> None:
        self.agrees = self.agrees and good
        print(f"{'agrees ' if good else 'DIFFERS'}  {text}", flush=True)

    def ours(self, model: pathlib.Path, paths: list[pathlib.Path]) -> np.ndarray:
        return extracted(unresized(model, self.copies), paths, self.folder / "f.npy", None)

    def compare(self, what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        deviation = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
        text = f"{what}: features {list(theirs.shape)} {deviation:.1e} of at most {np.abs(theirs).max():.1f}"
        self.line(deviation <= self.options.tolerance, text)

    def model(self, name: str, model: pathlib.Path, other: int) -> None:
        """One of our files through both formats and back."""
        metadata = check_import.metadata(model)
        size, preparation = metadata["hssl.architecture"]["image_size"], metadata["hssl.preprocessing"]

        def images(side: int) -> tuple[list[pathlib.Path], torch.Tensor]:
            paths, pixels = pictures(self.folder, side, self.options.images)
            return paths, normalised(pixels, preparation["mean"], preparation["std"])

        for kind in ("timm", "hf"):
            folder = self.folder / f"{model.stem}-{kind}"
            try:
                said = export(model, folder, kind)
            except Fault as fault:
                wanted = REFUSED.get((name, kind))
                if not wanted or wanted not in str(fault) or folder.exists():
                    raise
                self.line(True, f"{name} {kind}: refused: {str(fault).partition('error: ')[2]}")
                continue
            if (name, kind) in REFUSED:
                raise Fault(f"{kind}: should have been refused: {REFUSED[name, kind]}")
            paths, inputs = images(size)
            library = load(folder, kind)
            kinds = f"{name} {kind} {type(library).__name__}"
            self.compare(f"{kinds} {size}", self.ours(model, paths), features(library, kind, inputs))
            self.halves(kinds, model, folder, kind)
            self.preparation(kinds, model, folder, kind)
            if name not in ONE_WAY:
                again = self.folder / f"{folder.name}-{other}.safetensors"
                imported(folder / "model.safetensors", again, other, ())
                paths, inputs = images(other)
                theirs = features(load(folder, kind, other), kind, inputs)
                self.compare(f"{kinds} {other}, imported back", self.ours(again, paths), theirs)
            for note in said.splitlines():
                print(f"         {note}")
            if self.options.int8 and kind == "hf":
                self.int8(kinds, model, paths if name in ONE_WAY else images(size)[0], images(size)[1])

    def halves(self, what: str, model: pathlib.Path, folder: pathlib.Path, kind: str) -> None:
        half = folder.with_name(folder.name + "-half")
        export(model, half, kind, "--precision", "float16")
        whole, rounded = load_file(folder / "model.safetensors"), load_file(half / "model.safetensors")
        good = whole.keys() == rounded.keys() and all(
            torch.equal(rounded[name], tensor.half() if tensor.is_floating_point() else tensor)
            for name, tensor in whole.items()
        )
        load(half, kind)
        self.line(good, f"{what}: float16 is float32 rounded, {len(whole)} tensors")

    def preparation(self, what: str, model: pathlib.Path, folder: pathlib.Path, kind: str) -> None:
        """A picture of another shape, from its file to the features."""
        picture = Image.fromarray(random_images(1, 400)[0]).resize((400, 330))
        path = self.folder / "picture.png"
        picture.save(path)
        library = load(folder, kind)
        theirs = features(library, kind, prepared(folder, kind, library, picture))
        ours = extracted(model, [path], self.folder / "f.npy", None)
        likeness = cosine(ours, theirs)
        self.line(likeness >= 0.999, f"{what}: a picture of 400×330 through its own preparation, cosine {likeness:.5f}")

    def int8(self, what: str, model: pathlib.Path, paths: list[pathlib.Path], inputs: torch.Tensor) -> None:
        folder, own = self.folder / f"{model.stem}-int8", self.folder / f"{model.stem}-int8.safetensors"
        try:
            said = export(model, folder, "hf", "--precision", "int8", "--smooth", "off")
        except Fault as fault:
            if "convolutions only" not in str(fault):
                raise
            return self.line(True, f"{what}: int8 refused: {str(fault).partition('error: ')[2]}")
        export(model, own, "hssl", "--precision", "int8", "--smooth", "off")
        try:
            library = load(folder, "hf")
        except ValueError as error:
            # Of transformers itself: its converter of gated MLPs and a quantiser's names exclude each other.
            if "one to many" not in str(error) or "cannot load a quantised" not in said:
                raise
            return self.line(True, f"{what}: int8 is written, and transformers cannot load any, as hssl export says")
        with torch.inference_mode():
            theirs = hugging_face(library, inputs).numpy()
        likeness = cosine(self.ours(own, paths), theirs)
        self.line(likeness >= 0.998, f"{what}: int8 through compressed-tensors, cosine to hssl-extract {likeness:.5f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/check_export", description="Exports to timm and transformers, and compares features."
    )
    names = SOURCES + list(OWN)
    parser.add_argument("models", nargs="*", metavar="NAME", help="some of the models (default: all)")
    parser.add_argument("--list", action="store_true", help="name the models")
    parser.add_argument("--images", type=int, default=2, metavar="N", help="random images (default 2)")
    parser.add_argument("--tolerance", type=float, default=1e-4, metavar="T", help="largest difference (default 1e-4)")
    parser.add_argument("--int8", action="store_true", help="int8 through compressed-tensors too")
    options = parser.parse_args()
    if options.list:
        print("\n".join(names))
        return 0
    unknown = [name for name in options.models if name not in names]
    if unknown:
        print(f"check_export: unknown model '{unknown[0]}'", file=sys.stderr)
        return 64
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.logging.set_verbosity_error()
    failed = []
    try:
        build()
    except Fault as error:
        print(f"check_export: error: {error}", file=sys.stderr)
        return 1
    for name in options.models or names:
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            check = Check(folder, options)
            try:
                if name in OWN:
                    text, other = OWN[name]
                    check.model(name, random_model(text, folder, 0), other)
                else:
                    case = CASES[name]
                    network = randomise(case.make(case.sizes[0]), seed=1)
                    model = folder / "model.safetensors"
                    imported(files(case, network, folder)[0], folder / "own.safetensors", case.sizes[0], case.flags)
                    (folder / "own.safetensors").replace(model)
                    check.model(name, model, case.sizes[1])
            except (Fault, OSError, ValueError, RuntimeError) as error:
                check.agrees = False
                print(f"FAILED   {name}: {str(error)[:600]}", flush=True)
            if not check.agrees:
                failed.append(name)
    if failed:
        print(f"check_export: {len(failed)} models failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
