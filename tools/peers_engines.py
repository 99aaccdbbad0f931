"""The peers, each in a process of its own so that no library's idle threads disturb another's slice.

    peers_engines.py prepare FOLDER WEIGHTS,… BATCH,…     writes the ONNX files, calibrated on FOLDER/calibration.npy
    peers_engines.py serve ENGINE BATCH FOLDER WEIGHTS

WEIGHTS is `plain` or `outliers` for ViT-S/16, else the name of an architecture of timm_models at 224 pixels.
A server reads JSON lines: {"seconds": s} → the median rate of a slice; {"images": a.npy, "output": b.npy} → CLS
features.
"""

import json
import pathlib
import statistics
import sys
import time

from peers_common import Worker, peak_rss

# What is timed: engine → (row, precision).
ENGINES = {
    "torch-float32": ("PyTorch float32, SDPA", "float32"),
    "torch-int8": ("PyTorch dynamic int8", "int8"),
    "ort-float32": ("ONNX Runtime float32", "float32"),
    "ort-int8-qdq": ("ONNX Runtime QDQ int8", "int8"),
    "ort-int8-dynamic": ("ONNX Runtime dynamic int8", "int8"),
    "ov-float32": ("OpenVINO float32, from PyTorch", "float32"),
    "ov-float32-onnx": ("OpenVINO float32, from ONNX", "float32"),
    "ov-int8-qdq": ("OpenVINO QDQ int8, linear layers", "int8"),
    "ov-int8-qdq-f32": ("OpenVINO QDQ int8, linear layers, f32 hint", "int8"),
    "ov-int8-qdq-all": ("OpenVINO QDQ int8, every operation", "int8"),
    "ov-int8-qdq-all-f32": ("OpenVINO QDQ int8, every operation, f32 hint", "int8"),
}


def network(weights: str):
    """The PyTorch model that peers run: images [B, 3, 224, 224] → features [B, D]."""
    if weights in ("plain", "outliers"):
        from peers_vit import vit_small

        return vit_small(outliers=weights == "outliers")
    from timm_models import architecture, build, randomise

    return randomise(build(architecture(weights, 224)))


# Preparation


def export(model, batch: int, path: pathlib.Path) -> None:
    import warnings

    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(batch, 3, 224, 224),), str(path), opset_version=17, dynamo=False,
            input_names=["images"], output_names=["features"])


def prepare(folder: pathlib.Path, weight_sets: list[str], batches: list[int]) -> None:
    import logging

    import numpy as np
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)
    pixels = np.load(folder / "calibration.npy")

    class Reader(CalibrationDataReader):
        def __init__(self, batch: int) -> None:
            self.batches = iter([{"images": pixels[i : i + batch]} for i in range(0, len(pixels), batch)])

        def get_next(self):
            return next(self.batches, None)

    for weights in weight_sets:
        model = network(weights)
        # What is a product with weights: in ViT-S only the patch embedding is a convolution, and it stays as it is.
        layers = ["MatMul", "Gemm"] if weights in ("plain", "outliers") else ["MatMul", "Gemm", "Conv"]
        for batch in batches:
            stem = f"{weights}-{batch}"
            plain, ready = folder / f"{stem}.onnx", folder / f"{stem}-ready.onnx"
            export(model, batch, plain)
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            graph = onnx.load(ready).graph
            constants = {i.name for i in graph.initializer}
            attention = [n.name for n in graph.node if n.op_type == "MatMul" and not constants & set(n.input)]
            common = {
                "quant_format": QuantFormat.QDQ,
                "per_channel": True,
                "activation_type": QuantType.QUInt8,
                "weight_type": QuantType.QInt8,
            }
            # Only the inputs of these layers: what is accurate, and lets the runtime fuse bias, GELU and residual
            # behind the product.
            quantize_static(
                str(ready), str(folder / f"{stem}-qdq.onnx"), Reader(batch), op_types_to_quantize=layers,
                nodes_to_exclude=attention,
                extra_options={"OpTypesToExcludeOutputQuantization": layers}, **common)
            # A quantised Pad, which Swin has, ends OpenVINO 2026.4.1 with a segmentation fault; it computes nothing.
            pads = [n.name for n in graph.node if n.op_type == "Pad"]
            quantize_static(
                str(ready), str(folder / f"{stem}-qdq-all.onnx"), Reader(batch), nodes_to_exclude=pads, **common)
            quantize_dynamic(
                str(ready), str(folder / f"{stem}-dynamic.onnx"), op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True, weight_type=QuantType.QInt8)


# Servers


def torch_engine(int8: bool, weights: str):
    import torch

    torch.set_num_threads(2)
    model = network(weights)
    if int8:
        import warnings

        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig})

    def run(images):
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    engine = f", quantised engine {torch.backends.quantized.engine}" if int8 else ""
    return run, f"threads {torch.get_num_threads()}{engine}"


def ort_engine(path: pathlib.Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0], "threads 2"


def ov_compile(model, float32: bool):
    """Latency hint, two threads; float32 is kept where asked for (a CPU with bfloat16 would use that instead)."""
    import openvino

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2}
    if float32:
        hints["INFERENCE_PRECISION_HINT"] = "f32"
    return openvino.Core().compile_model(model, "CPU", hints)


def ov_engine(engine: str, batch: int, folder: pathlib.Path, weights: str):
    import openvino

    if engine == "ov-float32":
        import torch

        shape = [batch, 3, 224, 224]
        model = openvino.convert_model(network(weights), example_input=torch.zeros(shape), input=shape)
    else:
        suffix = {"ov-float32-onnx": "", "ov-int8-qdq": "-qdq", "ov-int8-qdq-all": "-qdq-all"}[
            engine.removesuffix("-f32")]
        model = openvino.Core().read_model(folder / f"{weights}-{batch}{suffix}.onnx")
    compiled = ov_compile(model, float32=ENGINES[engine][1] == "float32" or engine.endswith("-f32"))
    request = compiled.create_infer_request()

    def run(images):
        request.infer([images], share_inputs=True)
        return request.get_output_tensor(0).data.copy()

    chosen = compiled.get_property("INFERENCE_PRECISION_HINT")
    threads, streams = (compiled.get_property(name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS"))
    return run, f"threads {threads}, streams {streams}, precision of the rest {chosen.get_type_name()}"


def open_engine(engine: str, batch: int, folder: pathlib.Path, weights: str):
    if engine.startswith("torch"):
        return torch_engine(engine == "torch-int8", weights)
    if engine.startswith("ort"):
        suffix = {"ort-float32": "", "ort-int8-qdq": "-qdq", "ort-int8-dynamic": "-dynamic"}[engine]
        return ort_engine(folder / f"{weights}-{batch}{suffix}.onnx")
    return ov_engine(engine, batch, folder, weights)


def serve(engine: str, batch: int, folder: pathlib.Path, weights: str) -> None:
    import numpy as np

    run, settings = open_engine(engine, batch, folder, weights)
    images = np.random.default_rng(1).uniform(-2, 2, (batch, 3, 224, 224)).astype(np.float32)
    run(images)
    print(json.dumps({"settings": settings}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "seconds" in request:
            run(images)
            times, end = [], time.perf_counter() + request["seconds"]
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                run(images)
                times.append(time.perf_counter() - start)
            answer = {
                "images_per_second": batch / statistics.median(times), "calls": len(times),
                "peak_rss_bytes": peak_rss()}
        else:
            pixels = np.load(request["images"])
            rows = [run(pixels[i : i + batch]) for i in range(0, len(pixels) - batch + 1, batch)]
            np.save(request["output"], np.concatenate(rows))
            answer = {"rows": len(rows) * batch}
        print(json.dumps(answer), flush=True)


class Server(Worker):
    """The parent's side of one peer process."""

    def __init__(self, engine: str, batch: int, folder: pathlib.Path, weights: str = "plain") -> None:
        super().__init__("peers_engines.py", "serve", engine, batch, folder, weights)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(pathlib.Path(sys.argv[2]), sys.argv[3].split(","), [int(b) for b in sys.argv[4].split(",")])
    else:
        serve(sys.argv[2], int(sys.argv[3]), pathlib.Path(sys.argv[4]), sys.argv[5])
