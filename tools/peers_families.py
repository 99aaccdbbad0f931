"""Feature extraction of other families beside OpenVINO with the f32 hint: timm's models, one table for all of them."""

import time

from peers_common import Fault, Samples, head, note, paired, table, tail, verdict
from peers_engines import ENGINES, Server
from peers_extract import OURS, PACKAGES, Bench, onnx_files
from timm_models import MEAN, SHAPES, STD, normalised, random_images

# Of ours: the peers that do the same work, of which the faster counts, and how much faster than it ours should be.
RIVALS = {
    "hssl-float32": (("ov-float32", "ov-float32-onnx"), 1.1),
    "hssl-float16": (("ov-float32", "ov-float32-onnx"), None),
    "hssl-int8": (("ov-int8-qdq-f32", "ov-int8-qdq-all-f32"), 1.5),
}
# Each of ours next to the peers that it is measured against.
ORDER = (
    "hssl-int8",
    "ov-int8-qdq-f32",
    "ov-int8-qdq-all-f32",
    "hssl-float32",
    "ov-float32",
    "ov-float32-onnx",
    "hssl-float16",
)
NAMES = {name: label for name, (label, _) in {**ENGINES, **OURS}.items()} | {
    "ov-int8-qdq-f32": "OpenVINO QDQ int8, layers, f32 hint",
}
CALIBRATION_IMAGES = 32


class Rates:
    """What one runner reached at one batch."""

    def __init__(self) -> None:
        self.samples = Samples()
        self.memory = 0

    def add(self, answer: dict) -> None:
        self.samples.add(answer["images_per_second"])
        self.memory = max(self.memory, answer["peak_rss_bytes"])


def measured(architecture: str, batch: int, rounds: int, seconds: float) -> dict[str, Rates]:
    """Slices in turn: in every round each runner has one."""
    # Random images: rates do not depend on what is in them.
    images = normalised(random_images(CALIBRATION_IMAGES, 224), MEAN, STD).numpy()
    folder = onnx_files((architecture,), (batch,), images)
    # Making the files is work of our own: let the machine come to rest.
    time.sleep(2)
    found: dict[str, Rates] = {}
    runners: dict[str, Bench | Server] = {}
    try:
        for name in ORDER:
            if name in OURS:
                runners[name] = Bench(OURS[name][1], batch, architecture)
            else:
                try:
                    runners[name] = Server(name, batch, folder, architecture)
                except Fault as fault:
                    # OpenVINO 2026.4.1 ends with a segmentation fault where a PyTorch model has group norms.
                    note(f"{architecture}, batch {batch}: {NAMES[name]} is left out: {fault}")
                    continue
            found[name] = Rates()
        for round in range(rounds):
            note(f"{architecture}, batch {batch}: round {round + 1} of {rounds}")
            for name, runner in runners.items():
                found[name].add(runner.ask(seconds=seconds))
                # Threads that wait by spinning go to sleep before the next slice.
                time.sleep(0.2)
    finally:
        for runner in runners.values():
            runner.close()
    return found


def fastest(found: dict[str, Rates], engines: tuple[str, ...]) -> tuple[str, Samples]:
    started = [engine for engine in engines if engine in found]
    if not started:
        raise Fault(f"none of {', '.join(NAMES[engine] for engine in engines)} starts: nothing to compare with")
    best = max(started, key=lambda engine: found[engine].samples.median)
    return best, found[best].samples


def rates(architectures: list[str], rounds: int, seconds: float, batches: tuple[int, ...] = (1, 16)) -> bool:
    for name in architectures:
        if name not in SHAPES:
            raise Fault(f"unknown architecture '{name}' (known: {', '.join(SHAPES)})")
    head(f"Feature extraction in memory: {', '.join(architectures)} at 224, images/s, 2 threads", ("timm", *PACKAGES))
    rows, verdicts = [], []
    for architecture in architectures:
        found = {batch: measured(architecture, batch, rounds, seconds) for batch in batches}
        for name in sorted(ORDER, key=lambda name: (name in OURS, list(NAMES).index(name))):
            row = [architecture, NAMES[name]]
            for batch in batches:
                if name not in found[batch]:
                    row += ["does not start", "", ""]
                    continue
                ours, ratio = found[batch][name].samples, ""
                if name in RIVALS:
                    engines, goal = RIVALS[name]
                    best, theirs = fastest(found[batch], engines)
                    ratio = paired(ours, theirs)
                    if goal:
                        text = f"{architecture}: {NAMES[name]} / {NAMES[best]}, batch {batch}"
                        verdicts.append((text, ours.median / theirs.median, goal))
                row += [ours.text(), ratio, f"{found[batch][name].memory / 1e6:.0f}"]
            rows.append(row)
    print(
        f"median of {rounds} rounds (least–greatest), slices of {seconds:g} s in turn; OpenVINO keeps float32 where "
        "nothing is quantised (f32 hint); ratio to the faster of its rows (float16: of float32)\n"
    )
    columns = [column for batch in batches for column in (f"batch {batch}", "/ OpenVINO", "peak RSS MB")]
    table(["", "", *columns], rows)
    reached = all([verdict(text, value, goal) for text, value, goal in verdicts])
    tail()
    return reached
