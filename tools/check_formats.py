"""Reads what HSSLFormats writes with the libraries that users read it with, and the other way round.

    python3 tools/check_formats.py        needs numpy, pandas, safetensors and torch
"""

import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

NAMES = ["a.png", 'b, "c"\n.png', "é/漢.png"] + [f"{i}.png" for i in range(3, 100)]


def expected() -> np.ndarray:
    rows = [[0, 1, -2.5], [1e-20, 3.4028235e38, 0.1], [-0.0, 1e-45, 16777216]]
    rows += [[np.float32(i * 3 + j) / np.float32(7) for j in range(3)] for i in range(3, 100)]
    return np.array(rows, dtype=np.float32)


def equal(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    if found.dtype != np.float32 or found.shape != wanted.shape or found.tobytes() != wanted.tobytes():
        sys.exit(f"{name}: differs: {found.dtype} {found.shape}, expected {wanted.dtype} {wanted.shape}")
    print(f"{name}: {found.shape} equal bit for bit")


def run(variable: str, folder: pathlib.Path, test: str) -> None:
    package = os.environ.get("HSSL_PACKAGE", str(pathlib.Path(__file__).parent.parent))
    command = ["swift", "test", "--package-path", package, "--filter", f"EmbeddingWriterTests.{test}"]
    result = subprocess.run(command, env={**os.environ, variable: str(folder)}, capture_output=True, text=True)
    if result.returncode != 0 or "skipped (" in result.stdout + result.stderr:
        sys.exit(result.stdout[-3000:] + result.stderr[-3000:])


def check_written(folder: pathlib.Path) -> None:
    wanted = expected()
    patches = np.concatenate([wanted[:, None, :], -wanted[:, None, :]], axis=1)
    array = np.load(folder / "vectors.npy", allow_pickle=False)
    assert array.flags.c_contiguous
    equal("vectors.npy", array, wanted)
    equal("vectors.npy, mapped", np.array(np.load(folder / "vectors.npy", mmap_mode="r")), wanted)
    equal("patches.npy", np.load(folder / "patches.npy", allow_pickle=False), patches)
    equal("none.npy", np.load(folder / "none.npy", allow_pickle=False), wanted[:0])

    table = pd.read_csv(folder / "vectors.csv")
    assert list(table.columns) == ["filenames", "embedding_0", "embedding_1", "embedding_2"], table.columns
    assert list(table["filenames"]) == NAMES
    equal("vectors.csv, pandas", table.iloc[:, 1:].to_numpy(np.float32), wanted)
    with open(folder / "vectors.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, strict=True))
    assert [row[0] for row in rows[1:]] == NAMES
    equal("vectors.csv, csv", np.array([row[1:] for row in rows[1:]], dtype=np.float32), wanted)
    assert len(pd.read_csv(folder / "none.csv")) == 0

    for name, values in (("vectors.jsonl", wanted), ("patches.jsonl", patches)):
        lines = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        assert [line["path"] for line in lines] == NAMES and [line["row"] for line in lines] == list(range(100))
        equal(name, np.array([line["embedding"] for line in lines], dtype=np.float32), values)
    assert list(pd.read_json(folder / "vectors.jsonl", lines=True)["path"]) == NAMES

    equal("vectors.safetensors", load_file(folder / "vectors.safetensors")["embeddings"].numpy(), wanted)
    equal("patches.safetensors", load_file(folder / "patches.safetensors")["embeddings"].numpy(), patches)
    equal("none.safetensors", load_file(folder / "none.safetensors")["embeddings"].numpy(), wanted[:0])

    tensors = {
        "f32": torch.tensor([[1, 2, 3], [4, 5, 6.5]]), "f64": torch.tensor([0.1], dtype=torch.float64),
        "f16": torch.tensor([1, 2**-24, -65504], dtype=torch.float16), "bf16": torch.tensor(
            [1, -2], dtype=torch.bfloat16),
        "i8": torch.tensor([-127, 0, 127], dtype=torch.int8), "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "i16": torch.tensor([-300], dtype=torch.int16), "i32": torch.tensor([-70000], dtype=torch.int32),
        "i64": torch.tensor(1 << 40), "u64": torch.tensor([2**64 - 1], dtype=torch.uint64), "bool": torch.tensor(
            [False, True]),
        'é "quoted"\n': torch.zeros(0, 4),
    }
    found = load_file(folder / "tensors.safetensors")
    assert found.keys() == tensors.keys(), found.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape and torch.equal(
            found[name], tensor), name
    with safe_open(folder / "tensors.safetensors", "pt") as file:
        metadata = file.metadata()
    checksum = metadata.pop("hssl.crc32c")
    assert metadata == {"format": "pt", "note": "ü😀\n"}, metadata
    data = (folder / "tensors.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0 and checksum == f"{crc32c(data[start:]):08x}"
    # The reference writer's bytes are ours: the same order of tensors, hence the same data section.
    save_file(tensors, folder / "reference.safetensors")
    reference = (folder / "reference.safetensors").read_bytes()
    assert reference[8 + int.from_bytes(reference[:8], "little") :] == data[start:], "order of tensors"
    print(f"tensors.safetensors: {len(tensors)} tensors, metadata and checksum equal; data section as the reference writer's")


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def write_others(folder: pathlib.Path) -> None:
    np.save(folder / "numpy.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    values = torch.tensor([[0.5, -1], [2, 3.5]])
    save_file(
        {
            "f32": values, "f16": values.half(), "bf16": values.bfloat16(), "f64": values.double(),
            "i64": torch.tensor([1 << 40]),
            "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 3),
        },
        folder / "torch.safetensors", metadata={"format": "pt", "key": "välue"},
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run("HSSL_WRITE_SAMPLES", folder, "testWriteSamples")
        check_written(folder)
        write_others(folder)
        run("HSSL_READ_SAMPLES", folder, "testReadSamples")
        print("numpy.npy, torch.safetensors: read")


if __name__ == "__main__":
    main()
