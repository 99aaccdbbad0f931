"""The comparison behind tools/check_onnx, which starts it with a Python that has PyTorch, timm and the runtimes."""

import argparse
import json
import logging
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import timm_models
from check_timm import extracted, random_model, unresized
from peers_common import Fault, binaries, build

THREADS = len(os.sched_getaffinity(0))
# Least cosine with hssl-extract's float32 features: of the worst image and patch, and of int8 of the mean image.
BOUNDS = {"float32": 0.99999, "float16": 0.9999, "int8": 0.999}
# timm's networks whose parts our named architectures do not have, imported: layer scale, registers, rotary positions,
# SwiGLU, and batch norm that becomes part of the convolutions.
FOREIGN = {
    "dinov2_reg": ("vit_small_patch14_reg4_dinov2", {"depth": 4, "img_size": 224}),
    "dinov3": ("vit_small_patch16_dinov3", {"depth": 4, "img_size": 224}),
    "dinov3_plus": ("vit_small_plus_patch16_dinov3_qkvb", {"depth": 4, "img_size": 224}),
    "resnet50": ("resnet50", {}),
}
DEFAULT = [
    "vit_nano:28:4", "swin_micro:28:2", "convnext_micro:28:2", "resnet_micro:28", "vit_small:224", "swin_tiny:224",
    "swin_tiny:160", "convnext_tiny:224", "resnet50_gn:224", *FOREIGN,
]


def foreign_model(name: str, folder: pathlib.Path, seed: int) -> pathlib.Path:
    """A model file that `hssl import` makes of a network of timm's with random weights."""
    timm = timm_models.import_timm()
    network, more = FOREIGN[name]
    model = timm_models.randomise(timm.create_model(network, **more), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                # Statistics are not those of the values: nothing else keeps sums over blocks small.
                module.weight.normal_(0.5, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    source, path = folder / f"{name}-timm.safetensors", folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, source)
    command("import", source, "--output", path)
    return path


def command(*words: object) -> str:
    result = subprocess.run(
        [str(binaries() / "hssl"), *map(str, words), "--log-level", "error"], capture_output=True, text=True)
    if result.returncode:
        raise Fault(f"hssl {words[0]}: {result.stderr.strip()[-500:]}")
    return result.stdout


# Runtimes


def ort_session(path: pathlib.Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["global", "patch"], {"pixel_values": images})


def ov_session(path: pathlib.Path):
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    request = openvino.Core().compile_model(str(path), "CPU", hints).create_infer_request()

    def run(images):
        request.infer([images])
        return [request.get_tensor(name).data.copy() for name in ("global", "patch")]

    return run


RUNTIMES = {"onnxruntime": ort_session, "OpenVINO": ov_session}


# Comparison


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    if ours.shape != theirs.shape:
        raise Fault(f"{list(theirs.shape)} where hssl-extract gives {list(ours.shape)}")
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)


def check_file(path: pathlib.Path, images: np.ndarray) -> None:
    """What onnx's own checker says, and that the metadata tell how images are prepared."""
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    for key in ("image_mean", "image_std", "crop_size"):
        json.loads(metadata[key])
    shape = model.graph.input[0].type.tensor_type.shape.dim
    if shape[0].dim_param != "batch" or [d.dim_value for d in shape][1:] != list(images.shape[1:]):
        raise Fault("the input is not [batch, 3, H, W]")


def check(path: pathlib.Path, folder: pathlib.Path, options: argparse.Namespace) -> bool:
    """Lines of one model, one a precision and runtime; true where all are within the bounds."""
    path = unresized(path, folder / "copies")
    with safe_open(path, "np") as file:
        metadata = {key: json.loads(file.metadata()[f"hssl.{key}"]) for key in ("architecture", "preprocessing")}
    size, preprocessing = metadata["architecture"]["image_size"], metadata["preprocessing"]
    pictures = timm_models.random_images(options.images, size)
    files = []
    for index, picture in enumerate(pictures):
        files.append(folder / f"{index:04d}.png")
        Image.fromarray(picture).save(files[-1])
    images = timm_models.normalised(pictures, preprocessing["mean"], preprocessing["std"]).numpy()
    wanted = [extracted(path, files, folder / "features.npy", kind) for kind in ("cls", "patch")]
    agrees = True
    for precision in options.precision:
        output = folder / f"{path.stem}-{precision}.onnx"
        more = ["--calibration", options.calibration] if options.calibration and precision == "int8" else []
        if options.threads:
            more += ["--threads", options.threads]
        command("export", path, "--format", "onnx", "--precision", precision, "--output", output, *more)
        check_file(output, images)
        for runtime, session in RUNTIMES.items():
            run = session(output)
            parts = [run(images[first : first + 3]) for first in range(0, len(images), 3)]
            found = [np.concatenate([part[place] for part in parts]) for place in (0, 1)]
            alone = max(
                float(np.abs(a - b[:1]).max() / np.abs(b[:1]).max()) for a, b in zip(run(images[:1]), found))
            of_image, of_patch = (cosines(a, b) for a, b in zip(wanted, found))
            judged = of_image.mean() if precision == "int8" else min(of_image.min(), of_patch.min())
            good = judged >= BOUNDS[precision] and alone < 1e-3
            agrees &= good
            print(
                f"{'agrees ' if good else 'DIFFERS'}  {path.stem:20} {precision:8} {runtime:11} "
                f"global mean {of_image.mean():.7f} least {of_image.min():.7f}, "
                f"patch mean {of_patch.mean():.7f} least {of_patch.min():.7f}, "
                f"batch 1 against 3 {alone:.0e}, {output.stat().st_size / 1e6:.1f} MB", flush=True)
    if options.time:
        measure(path, folder, images, options)
    return agrees


# Time


def own_quantisers(plain: pathlib.Path, folder: pathlib.Path, images: np.ndarray) -> dict[str, pathlib.Path]:
    """onnxruntime's models of our float32 file: static codes of the products' inputs, of every operator, and dynamic
    ones.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter([{"pixel_values": images[i : i + 1]} for i in range(len(images))])

        def get_next(self):
            return next(self.images, None)

    ready = folder / "ready.onnx"
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    graph = onnx.load(ready).graph
    constants = {i.name for i in graph.initializer}
    attention = [n.name for n in graph.node if n.op_type == "MatMul" and not constants & set(n.input)]
    paths = {name: folder / f"{plain.stem}-{name}.onnx" for name in ("static", "static-all", "dynamic")}
    common = {
        "quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    layers = ["MatMul", "Gemm"]
    quantize_static(
        str(ready), str(paths["static"]), Reader(), op_types_to_quantize=layers, nodes_to_exclude=attention,
        extra_options={"OpTypesToExcludeOutputQuantization": layers}, **common)
    pads = [n.name for n in graph.node if n.op_type == "Pad"]
    quantize_static(str(ready), str(paths["static-all"]), Reader(), nodes_to_exclude=pads, **common)
    quantize_dynamic(
        str(ready), str(paths["dynamic"]), op_types_to_quantize=layers, per_channel=True, weight_type=QuantType.QInt8)
    return paths


def measure(path: pathlib.Path, folder: pathlib.Path, images: np.ndarray, options: argparse.Namespace) -> None:
    """Milliseconds of batch 1: our files and onnxruntime's quantisers', taking turns in one process; medians."""
    files = {f"hssl {p}": folder / f"{path.stem}-{p}.onnx" for p in options.precision}
    if "float32" in options.precision:
        own = own_quantisers(files["hssl float32"], folder, images)
        files |= {f"onnxruntime {name}": file for name, file in own.items()}
    image = images[:1]
    for runtime, session in RUNTIMES.items():
        runs = {}
        for name, file in files.items():
            try:
                runs[name] = session(file)
                runs[name](image)
            except Exception as error:  # A runtime that does not know an operator says so in its own class.
                print(f"time     {path.stem:20} {runtime:11} {name}: {str(error).splitlines()[0][:100]}", flush=True)
                runs.pop(name, None)
        times = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run(image)
                times[name].append(1000 * (time.perf_counter() - start))
        for name, values in times.items():
            print(f"time     {path.stem:20} {runtime:11} {name:24} {statistics.median(values):8.2f} ms", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/check_onnx", description="Runs our ONNX files in onnxruntime and OpenVINO beside hssl-extract.")
    parser.add_argument(
        "models", nargs="*", type=pathlib.Path, metavar="MODEL", help="float32 model files; without any, random weights")
    parser.add_argument(
        "--random", nargs="+", metavar="NAME[:SIZE[:PATCH]]",
        help=f"random weights of {', '.join(timm_models.SHAPES)}; imported: {', '.join(FOREIGN)}")
    parser.add_argument("--precision", nargs="+", choices=list(BOUNDS), default=list(BOUNDS))
    parser.add_argument("--images", type=int, default=6, metavar="N", help="compared (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    parser.add_argument("--calibration", metavar="DATA", help="for int8 (default: generated images)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the exports (default: every processor)")
    parser.add_argument("--time", action="store_true", help="also time batches of 1 beside onnxruntime's quantisers")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="of --time (default 15)")
    options = parser.parse_args()
    work: list[pathlib.Path | str] = [*options.models, *(options.random or ([] if options.models else DEFAULT))]
    failed = 0
    try:
        build()
    except Fault as error:
        print(f"check_onnx: error: {error}", file=sys.stderr)
        return 1
    for item in work:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "copies").mkdir()
            try:
                if isinstance(item, pathlib.Path):
                    path = item
                elif item in FOREIGN:
                    path = foreign_model(item, folder, options.seed)
                else:
                    path = random_model(item, folder, options.seed)
                failed += not check(path, folder, options)
            except (Fault, OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
                failed += 1
                print(f"FAILED   {item}: {error}", flush=True)
    if failed:
        print(f"check_onnx: {failed} of {len(work)} models failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
