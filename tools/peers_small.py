"""What hssl-extract needs on a small device: memory, time to the first embedding, size of the binary."""

import pathlib
import shutil
import statistics
import subprocess

from peers_common import CACHE, ROOT, Fault, binaries, head, launch, note, table, tail, verdict
from peers_extract import model_files
from peers_images import crops


def static_binary() -> pathlib.Path:
    """hssl-extract with Swift's libraries inside, not stripped."""
    note("building hssl-extract with --static-swift-stdlib")
    scratch = ROOT / ".build-peers" / "static"
    command = [
        "swift", "build", "-c", "release", "--package-path", str(ROOT), "--scratch-path", str(scratch), "--product",
        "hssl-extract", "--static-swift-stdlib"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Fault(f"swift build --static-swift-stdlib failed:\n{(result.stdout + result.stderr)[-3000:]}")
    return scratch / "release" / "hssl-extract"


def foundations(binary: pathlib.Path) -> str:
    """Which parts of Foundation the linker kept, by the mangled names of their modules, and which shared ones are
    needed."""
    symbols = subprocess.run(["nm", str(binary)], capture_output=True, text=True, check=True).stdout
    needed = subprocess.run(["readelf", "-d", str(binary)], capture_output=True, text=True, check=True).stdout
    found = []
    for module in ("Foundation", "FoundationEssentials", "FoundationInternationalization"):
        # A symbol of another module may mention it; one that it owns begins with its name.
        owned = sum(line.split()[-1].startswith(f"$s{len(module)}{module}") for line in symbols.splitlines()
                    if len(line.split()) == 3)
        if owned:
            found.append(f"{module} ({owned} symbols)")
        if f"lib{module}.so" in needed:
            found.append(f"lib{module}.so")
    return ", ".join(found) or "none"


def small(runs: int) -> bool:
    head("hssl-extract on a small device: ViT-S/16 224 int8")
    built = static_binary()
    stripped = CACHE / "hssl-extract-stripped"
    shutil.copy(built, stripped)
    subprocess.run(["strip", str(stripped)], check=True)
    model = model_files("plain", resize=256)["int8"]
    files = sorted(crops(200, 500, 375, ".jpg").iterdir())[:20]
    for file in [model, *files]:
        file.read_bytes()
    rows, reached = [], True
    verdicts = []
    for label, binary in (("dynamic, as built", binaries() / "hssl-extract"), ("static, stripped", stripped)):
        output = CACHE / "small.npy"
        many = launch(
            binary, "--model", model, *files, "--output", output, "--batch-size", 1, "--threads", 2, "--log-level",
            "error")
        firsts = []
        for _ in range(runs):
            answer = launch(
                binary, "--model", model, files[0], "--output", "-", "--batch-size", 1, "--threads", 2, "--log-level",
                "error")
            if answer["first"] is None:
                raise Fault(f"{binary} wrote nothing to standard output")
            firsts.append(answer["first"] * 1e3)
        first = statistics.median(firsts)
        rows.append([label, f"{many['rss'] / 1e6:.1f}", f"{first:.0f} ({min(firsts):.0f}–{max(firsts):.0f})", f"{binary.stat().st_size / 1e6:.1f}"])
        verdicts.append((f"{label}: peak RSS at batch 1", many["rss"] / 1e6, 90, " MB"))
        verdicts.append((f"{label}: exec to the first embedding, median of {runs}", first, 150, " ms"))
    verdicts.append(("static, stripped: size", stripped.stat().st_size / 1e6, 20, " MB"))
    table(["", "peak RSS MB", "first embedding ms", "size MB"], rows)
    for name, value, goal, unit in verdicts:
        reached &= verdict(name, value, goal, least=False, unit=unit, digits=1, timed=unit == " ms")
    print(f"Foundation in the static binary: {foundations(built)}")
    tail()
    return reached
