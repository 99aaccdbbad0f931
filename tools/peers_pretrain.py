"""Whole pretraining steps: `hssl bench pretrain` beside the published step in PyTorch, which first proves that it is
that step."""

import json
import subprocess
import sys
import time

from peers_common import ROOT, TOOLS, Fault, Samples, Worker, head, hssl, note, paired, table, tail, verdict

SIZES = {
    "small": (
        "ViT-S/16 224, 2 global views, batch 8, K 8192",
        [
            "--architecture", "vit_small", "--image-size", 224, "--patch-size", 16, "--batch-size", 8, "--prototypes",
            8192],
        8),
    "nano": (
        "ViT-nano/4 28, 2 global views, batch 64, K 512",
        ["--architecture", "vit_nano", "--image-size", 28, "--patch-size", 4, "--batch-size", 64, "--prototypes", 512],
        64),
}
# By objective: the sizes of the recipes, and batches that batch norm needs.
OBJECTIVES = ["ibot", "dino", "mocov3", "byol", "simmim"]
OBJECTIVE_SIZES = {
    "small": ["--architecture", "vit_small", "--image-size", 224, "--patch-size", 16, "--prototypes", 8192],
    "nano": ["--architecture", "vit_nano", "--image-size", 28, "--patch-size", 7, "--prototypes", 512],
}
OBJECTIVE_IMAGES = {"small": {"mocov3": 32, "byol": 32}, "nano": dict.fromkeys(OBJECTIVES, 128)}
OURS = {"hssl-float32": ("HSSL float32", "float32"), "hssl-int8": ("HSSL int8", "int8")}
THEIRS = {"published": "PyTorch float32, the published step", "used": "PyTorch float32, without unused logits"}
ORDER = ["hssl-float32", "published", "hssl-int8", "used"]


class Bench:
    """Slices of `hssl bench pretrain`, each a new process: as many updates as fill the slice."""

    def __init__(self, precision: str, arguments: list, images: int) -> None:
        self.arguments = ["bench", "pretrain", *arguments, "--precision", precision, "--threads", 2]
        self.images = images
        self.rate = self.run(1)["images_per_second"]
        self.settings = "threads 2"

    def run(self, steps: int) -> dict:
        return hssl(*self.arguments, "--steps", steps)

    def ask(self, seconds: float) -> dict:
        answer = self.run(max(1, min(100_000, round(seconds * self.rate / self.images))))
        self.settings = f"threads 2, micro-batch {answer['micro_batch']}"
        return answer

    def close(self) -> None: ...


def prove() -> None:
    """The PyTorch step replays the float64 trajectories of the tests: a peer that computes something else proves
    nothing."""
    fixtures = sorted((ROOT / "Tests" / "HSSLPretrainingTests" / "Fixtures").glob("hssl-*.safetensors"))
    if not fixtures:
        raise Fault("Tests/HSSLPretrainingTests/Fixtures holds no trajectory to replay")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(TOOLS / "peers_hssl.py"), "replay", *map(str, fixtures)],
        capture_output=True, text=True)
    if result.returncode:
        raise Fault(f"replaying the trajectories in PyTorch failed: {result.stderr.strip()[-800:]}")
    for name, (loss, final) in json.loads(result.stdout).items():
        print(f"PyTorch replays {name}: losses within {loss:.1e} relative (≤ 1e-5), final tensors within {final:.1e} of their way (≤ 2e-3)")
        if not (loss <= 1e-5 and final <= 2e-3):
            raise Fault(f"the PyTorch step does not follow {name}: its times would mean nothing")
    print()


def prove_objectives() -> None:
    """The same of `peers_objectives.py`: what it times is what the other fixtures hold."""
    fixtures = sorted((ROOT / "Tests" / "HSSLPretrainingTests" / "Fixtures").glob("*.safetensors"))
    command = [sys.executable, "-W", "ignore", str(TOOLS / "peers_objectives.py"), "replay", *map(str, fixtures)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode or not fixtures:
        raise Fault(f"the PyTorch steps do not follow the fixtures:\n{(result.stdout + result.stderr).strip()[-1500:]}")
    print(f"PyTorch replays {len(fixtures)} fixtures within their bounds\n")


def rates(title: str, runners: dict, rounds: int, seconds: float) -> tuple[dict, dict]:
    """Slices in turn: images/s of every runner, and the peak memory it last told."""
    results, memory = {name: Samples() for name in runners}, {}
    for round in range(rounds):
        note(f"{title}: round {round + 1} of {rounds}")
        for name, runner in runners.items():
            answer = runner.ask(seconds=seconds)
            results[name].add(answer["images_per_second"])
            memory[name] = answer["peak_rss_bytes"]
            time.sleep(0.2)
    for runner in runners.values():
        runner.close()
    print(f"{title}: median of {rounds} rounds (least–greatest), slices of {seconds:g} s in turn\n")
    return results, memory


def objectives(rounds: int, seconds: float, configurations: str, names: str) -> bool:
    """One row an objective and configuration: our two precisions beside PyTorch."""
    head("Pretraining steps by objective, images/s (images, not views), 2 threads", ("torch",))
    prove_objectives()
    reached, rows = True, []
    for configuration in configurations.split(","):
        for name in names.split(","):
            arguments, images = OBJECTIVE_SIZES[configuration], OBJECTIVE_IMAGES[configuration].get(name, 8)
            title = f"{configuration}, {name}, batch {images}"
            arguments = [*arguments, "--batch-size", images, "--objective", name]
            runners = {key: Bench(precision, arguments, images) for key, (_, precision) in OURS.items()}
            runners["torch"] = Worker("peers_objectives.py", "serve", configuration, name, images)
            results, memory = rates(title, runners, rounds, seconds)
            rows.append([
                title, results["torch"].text(2),
                *(paired(results[key], results["torch"]) for key in OURS),
                " / ".join(f"{memory[key] / 1e6:.0f}" for key in ["torch", *OURS])])
            for key, goal in (("hssl-float32", 1.8), ("hssl-int8", 3.0)):
                reached &= verdict(
                    f"{title}: {OURS[key][0]} / PyTorch float32", results[key].median / results["torch"].median, goal)
    print()
    table(
        ["", "PyTorch, images/s", "float32 / PyTorch", "int8 / PyTorch", "peak RSS MB: PyTorch / float32 / int8"], rows)
    tail()
    return reached


def pretrain(rounds: int, seconds: float, configurations: str, names: str | None) -> bool:
    for configuration in configurations.split(","):
        if configuration not in SIZES:
            raise Fault(f"--configurations {configuration}: known are {', '.join(SIZES)}")
    for name in (names or "").split(","):
        if name and name not in OBJECTIVES:
            raise Fault(f"--objectives {name}: known are {', '.join(OBJECTIVES)}")
    if names:
        return objectives(rounds, seconds, configurations, names)
    head("Pretraining steps, images/s (images, not views), 2 threads", ("torch",))
    prove()
    reached = True
    for configuration in configurations.split(","):
        title, arguments, images = SIZES[configuration]
        note(f"{title}: starting")
        runners = {name: Bench(OURS[name][1], arguments, images) if name in OURS else Worker(
            "peers_hssl.py", "serve", configuration, name) for name in ORDER}
        results, memory = rates(title, runners, rounds, seconds)
        rows = []
        for name, label in {**THEIRS, **{n: l for n, (l, _) in OURS.items()}}.items():
            ratios = [paired(results[name], results[peer]) for peer in THEIRS] if name in OURS else ["", ""]
            rows.append([label, results[name].text(2), *ratios, f"{memory[name] / 1e6:.0f}", runners[name].settings])
        table(["", "images/s", "/ published", "/ without unused logits", "peak RSS MB", "settings"], rows)
        best = max(OURS, key=lambda name: results[name].median)
        reached &= verdict(
            f"{configuration}: {OURS[best][0]} / PyTorch float32, the published step",
            results[best].median / results["published"].median, 3.0)
        if configuration == "small":
            reached &= verdict(
                f"{configuration}: {OURS[best][0]}, peak RSS", memory[best] / 1e9, 1.0, least=False, unit=" GB",
                timed=False)
    tail()
    return reached
