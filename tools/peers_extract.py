"""Feature extraction: the table of rates, and how close the features are to PyTorch's."""

import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable

import numpy as np

from peers_common import CACHE, Fault, Samples, binaries, head, hssl, launch, note, paired, table, tail, verdict
from peers_engines import ENGINES, Server
from peers_images import crops
from peers_turns import Contestant, turns

PACKAGES = ("torch", "onnxruntime", "openvino", "numpy", "pillow")
OURS = {
    "hssl-float32": ("HSSL float32", "float32"), "hssl-float16": ("HSSL float16", "float16"),
    "hssl-int8": ("HSSL int8", "int8")}
# What a rate of ours is judged by, the fastest of each group: for int8 OpenVINO with the f32 hint, which keeps float32
# where nothing is quantised as HSSL does, and OpenVINO that chooses for itself (bfloat16 where the CPU has it).
RIVALS = {
    "hssl-int8": (("ov-int8-qdq-f32", "ov-int8-qdq-all-f32"), ("ov-int8-qdq", "ov-int8-qdq-all")),
    "hssl-float32": (("ov-float32", "ov-float32-onnx"),),
    "hssl-float16": (("ov-float32", "ov-float32-onnx"),),
}
GOALS = {"hssl-int8": 2.0, "hssl-float32": 1.2}
# Each of ours next to the peers that it is measured against.
ORDER = [
    "hssl-int8", "ov-int8-qdq", "ov-int8-qdq-f32", "hssl-float32", "ov-float32", "ov-float32-onnx", "hssl-float16",
    "ort-float32", "torch-float32",
    "ov-int8-qdq-all", "ov-int8-qdq-all-f32", "ort-int8-qdq", "ort-int8-dynamic", "torch-int8",
]
TEST_IMAGES, CALIBRATION_IMAGES = 256, 32


def pixels(files: list[pathlib.Path]) -> np.ndarray:
    """224×224 PNG → [N, 3, 224, 224] as the models see them; nothing is resampled, so the pixels are the same
    everywhere."""
    from PIL import Image

    from peers_vit import MEAN, STD

    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (MEAN, STD))
    return np.stack(
        [(np.asarray(Image.open(f).convert("RGB"), np.float32).transpose(2, 0, 1) / 255 - mean) / std for f in files])


def images() -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    files = sorted(crops(TEST_IMAGES + CALIBRATION_IMAGES, 224, 224, ".png").iterdir())
    return files[:TEST_IMAGES], files[TEST_IMAGES:]


def model_files(weights: str, resize: int = 224) -> dict[str, pathlib.Path]:
    from peers_vit import PRECISIONS, vit_small, write_model

    paths = {p: CACHE / "models" / f"vit_small-{weights}-{resize}-{p}.safetensors" for p in PRECISIONS}
    model = vit_small(outliers=weights == "outliers")
    for precision, path in paths.items():
        write_model(model, path, "vit_small", precision, resize)
    return paths


def onnx_files(
    weights: tuple[str, ...], batches: tuple[int, ...], calibration: np.ndarray | None = None
) -> pathlib.Path:
    """ONNX files of every weight set and batch, made again at every run; in a process of its own, whose memory goes
    with it.

    calibration [N, 3, 224, 224]: photographs, unless given.
    """
    folder = CACHE / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    note(f"exporting and calibrating ONNX files ({', '.join(weights)}; batch {', '.join(map(str, batches))})")
    np.save(folder / "calibration.npy", pixels(images()[1]) if calibration is None else calibration)
    command = [
        sys.executable, "-W", "ignore", str(pathlib.Path(__file__).with_name("peers_engines.py")), "prepare",
        str(folder), ",".join(weights), ",".join(map(str, batches))]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Fault(f"preparing ONNX files failed: {result.stderr.strip()[-1500:]}")
    return folder


# Rates


class Bench:
    """Slices of `hssl bench extract`, each a new process: random weights, as many calls as fill the slice."""

    def __init__(self, precision: str, batch: int, architecture: str = "vit_small") -> None:
        self.arguments = [
            "bench", "extract", "--architecture", architecture, "--image-size", 224, "--precision", precision,
            "--batch-size", batch, "--threads", 2]
        self.batch = batch
        self.rate = self.run(2)["images_per_second"]
        self.settings = "threads 2"
        self.fraction = 0.0

    def run(self, steps: int) -> dict:
        return hssl(*self.arguments, "--steps", steps)

    def ask(self, seconds: float) -> dict:
        answer = self.run(max(2, min(100_000, round(seconds * self.rate / self.batch))))
        self.fraction = answer["peak_fraction"]
        return answer

    def close(self) -> None: ...


def rates(rounds: int, seconds: float, batches: tuple[int, ...] = (1, 16)) -> bool:
    head("Feature extraction in memory: ViT-S/16 224, images/s, 2 threads", PACKAGES)
    folder = onnx_files(("plain",), batches)
    # Making the files is work of our own: let the machine come to rest.
    time.sleep(2)
    results: dict[tuple[str, int], Samples] = {}
    memory: dict[tuple[str, int], int] = {}
    halves: dict[int, float] = {}
    runners = {}
    reached = True
    for batch in batches:
        note(f"batch {batch}: starting {len(ORDER)} runners")
        runners = {name: Bench(OURS[name][1], batch) if name in OURS else Server(name, batch, folder) for name in ORDER}
        for round in range(rounds):
            note(f"batch {batch}: round {round + 1} of {rounds}")
            for name, runner in runners.items():
                answer = runner.ask(seconds=seconds)
                results.setdefault((name, batch), Samples()).add(answer["images_per_second"])
                memory[name, batch] = answer["peak_rss_bytes"]
                # Threads that wait by spinning go to sleep before the next slice.
                time.sleep(0.2)
        for name in OURS:
            note(f"batch {batch}: {OURS[name][0]} at {runners[name].fraction:.0%} of its peak in the last slice")
        for runner in runners.values():
            runner.close()
        # The two differ by less than slices can tell.
        single, half = turns([Contestant(f"float32:{batch}"), Contestant(f"float16:{batch}")], 10 if rounds > 1 else 2)
        halves[batch] = half / single

    def best(engines: Iterable[str], batch: int) -> str:
        return max(engines, key=lambda name: results[name, batch].median)

    names = {name: label for name, (label, _) in {**ENGINES, **OURS}.items()}
    settings = {name: runner.settings for name, runner in runners.items()}
    print(
        f"median of {rounds} rounds (least–greatest), slices of {seconds:g} s in turn; ratio to the faster OpenVINO of "
        "the same precision (float16: of float32)\n"
    )
    rows = []
    for name in (*ENGINES, *OURS):
        row = [names[name]]
        for batch in batches:
            ratio = ""
            if name in OURS:
                ratio = paired(results[name, batch], results[best(sum(RIVALS[name], ()), batch), batch])
            row += [results[name, batch].text(), ratio, f"{memory[name, batch] / 1e6:.0f}"]
        rows.append([*row, settings[name]])
    table(
        ["", *[column for batch in batches for column in (f"batch {batch}", "/ OpenVINO", "peak RSS MB")], "settings"],
        rows)
    for batch in batches:
        for name, goal in GOALS.items():
            for group in RIVALS[name]:
                rival = best(group, batch)
                ratio = results[name, batch].median / results[rival, batch].median
                reached &= verdict(
                    f"{names[name]} / {names[rival]} ({settings[rival].split(', ')[-1]}), batch {batch}", ratio, goal)
        reached &= verdict(
            f"HSSL float16 / HSSL float32 in turns of ours alone, batch {batch}", halves[batch], 0.98, digits=3)
    tail()
    return reached


# Features


def cosines(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def extracted(model: pathlib.Path, files: list[pathlib.Path]) -> np.ndarray:
    output = CACHE / "features.npy"
    launch(
        binaries() / "hssl-extract", "--model", model, *files, "--output", output, "--threads", 2, "--log-level",
        "error")
    features = np.load(output)
    if features.shape != (len(files), 384):
        raise Fault(f"hssl-extract wrote {features.shape} features of {len(files)} images")
    return features


def cosine(count: int = TEST_IMAGES) -> bool:
    head(f"Features beside PyTorch float32: cosine over {count} photographs, the same pixels", PACKAGES)
    files = images()[0][:count]
    test = CACHE / "test.npy"
    np.save(test, pixels(files))
    folder = onnx_files(("plain", "outliers"), (16,))
    reached = True
    for weights, goals in (
        ("plain", {"float32": (0.99999, 0.99999), "int8": (0.999, 0.995)}),
        ("outliers", {"float32": (0.99999, 0.99999), "int8": (0.998, None)})
    ):
        server = Server("torch-float32", 16, folder, weights)
        server.ask(images=str(test), output=str(CACHE / "reference.npy"))
        server.close()
        reference = np.load(CACHE / "reference.npy")
        rows, verdicts = [], []

        def row(label: str, features: np.ndarray) -> np.ndarray:
            values = cosines(features, reference)
            # Random weights give every image nearly the same feature; without that common part the comparison is
            # harder.
            common = reference.mean(0)
            centred = cosines(features - common, reference - common)
            figures = (values.mean(), np.percentile(values, 1), values.min(), centred.mean())
            rows.append([label, *(f"{v:.6f}" for v in figures)])
            return values

        for precision, path in model_files(weights).items():
            values = row(f"HSSL {precision}", extracted(path, files))
            if precision in goals:
                mean, first = goals[precision]
                verdicts.append((f"{weights}: HSSL {precision}, mean cosine", values.mean(), mean))
                if first is not None:
                    verdicts.append((f"{weights}: HSSL {precision}, 1st percentile", np.percentile(values, 1), first))
        for engine in ("torch-int8", "ort-int8-dynamic", "ort-int8-qdq", "ov-int8-qdq", "ov-int8-qdq-all"):
            server = Server(engine, 16, folder, weights)
            server.ask(images=str(test), output=str(CACHE / "theirs.npy"))
            server.close()
            row(ENGINES[engine][0], np.load(CACHE / "theirs.npy"))
        print("plain weights: σ 0.02\n" if weights
            == "plain" else "outliers: the same, four channels of every block's norms × 20\n")
        table(["", "mean", "1st percentile", "least", "mean, centred"], rows)
        for name, value, goal in verdicts:
            reached &= verdict(name, float(value), goal, digits=6, timed=False)
    tail()
    return reached
