"""A folder of JPEGs to a file of features: hssl-extract beside Pillow workers and OpenVINO, and beside what decoding
and inference cost apart."""

import pathlib
import time

import numpy as np

from peers_common import CACHE, Samples, Worker, binaries, head, hssl, launch, note, paired, table, tail, verdict
from peers_extract import PACKAGES, cosines, model_files, onnx_files
from peers_images import crops

BATCH = 16


PRECISIONS = {"f32": "f32 hint", "own": "precision of its own"}


def faster_model(folder: pathlib.Path, precision: str) -> pathlib.Path:
    """Of the two QDQ models the one that OpenVINO runs faster here."""
    from peers_engines import Server

    rates = {}
    for engine, suffix in (("ov-int8-qdq", "-qdq"), ("ov-int8-qdq-all", "-qdq-all")):
        if precision == "f32":
            engine += "-f32"
        server = Server(engine, BATCH, folder)
        rates[server.ask(seconds=2)["images_per_second"]] = folder / f"plain-{BATCH}{suffix}.onnx"
        server.close()
    return rates[max(rates)]


def decode_model() -> pathlib.Path:
    """A model of next to no work (10 MFLOP an image): what hssl-extract then costs is reading, decoding and
    preparing."""
    import torch

    from peers_vit import ViT, write_model

    torch.manual_seed(0)
    path = CACHE / "models" / "decode.safetensors"
    write_model(ViT(224, 112, 32, 1, 1).eval(), path, "custom", "float32", 256)
    return path


def pipeline(rounds: int, count: int) -> bool:
    head(f"A folder of {count} JPEGs (500×375) to features, ViT-S/16 int8, 2 cores", PACKAGES)
    folder = crops(count, 500, 375, ".jpg")
    model, decode = model_files("plain", resize=256)["int8"], decode_model()
    onnx = onnx_files(("plain",), (BATCH,))
    theirs = {precision: Worker("peers_pillow.py", faster_model(onnx, precision), BATCH, precision)
              for precision in PRECISIONS}
    ours_output, theirs_output = CACHE / "pipeline-ours.npy", CACHE / "pipeline-theirs.npy"
    # All files are in the page cache from here on.
    first = sorted(folder.iterdir())[0]
    for file in folder.iterdir():
        file.read_bytes()

    def extract(model: pathlib.Path, threads: int, *inputs: pathlib.Path) -> dict:
        return launch(
            binaries() / "hssl-extract", "--model", model, *inputs, "--output", ours_output, "--threads", threads,
            "--batch-size", BATCH, "--log-level", "error")

    # The decoder's own start-up, taken off below.
    start_up = min(extract(decode, 1, first)["cpu"] for _ in range(3))
    ours, memory, decoding, bound = (Samples() for _ in range(4))
    peers = {precision: Samples() for precision in PRECISIONS}
    agreement = 0.0
    for round in range(rounds):
        note(f"round {round + 1} of {rounds}")
        decoding.add((extract(decode, 1, folder)["cpu"] - start_up) / (count - 1))
        answer = extract(model, 2, folder)
        ours.add(count / answer["wall"])
        peak = answer["rss"]
        for precision, peer in peers.items():
            time.sleep(0.5)
            peer.add(count / theirs[precision].ask(folder=str(folder), output=str(theirs_output))["seconds"])
        agreement = cosines(np.load(ours_output), np.load(theirs_output)).mean()
        time.sleep(0.5)
        steps = max(3, min(50, count // BATCH))
        memory.add(hssl(
            "bench", "extract", "--architecture", "vit_small", "--image-size", 224, "--precision", "int8",
            "--batch-size", BATCH, "--threads", 2, "--steps", steps)["images_per_second"])
        bound.add(0.8 / (1 / memory.values[-1] + decoding.values[-1] / 2))
    for worker in theirs.values():
        worker.close()
    print(f"median of {rounds} rounds (least–greatest); ours from exec to exit, theirs without Python's start-up and compiling the model\n")
    table(
        ["", "images/s"],
        [
            [f"hssl-extract, whole command ({peak / 1e6:.0f} MB)", ours.text()],
            *([f"Pillow (2 processes) + OpenVINO int8, {PRECISIONS[p]}", peer.text()] for p, peer in peers.items()),
            *([f"ratio to that, {PRECISIONS[p]}", paired(ours, peer)] for p, peer in peers.items()),
            ["HSSL int8 in memory, batch 16", memory.text()],
            ["0.8 / (1/in memory + decode/2)", bound.text()],
        ])
    print(f"decoding and preparing: {decoding.median * 1e3:.2f} ms of CPU an image; mean cosine of the two pipelines' features {agreement:.5f}")
    reached = True
    for precision, peer in peers.items():
        reached &= verdict(f"hssl-extract / Pillow + OpenVINO, {PRECISIONS[precision]}", ours.median / peer.median, 2.0)
    reached &= verdict("hssl-extract / what its parts allow at 80 %", ours.median / bound.median, 1.0)
    tail()
    return reached
