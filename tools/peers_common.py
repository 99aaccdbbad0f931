"""What every part of tools/peers shares: the machine, the cache, our commands, medians, tables.

Standard library only: a child inherits the peak RSS of a heavy parent, so the processes that start measured commands
stay small.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("HSSL_PEERS_CACHE", "~/.cache/hssl-peers")).expanduser()
TOOLS = pathlib.Path(__file__).resolve().parent


class Fault(Exception):
    """What stops a part, in one line."""


def binaries() -> pathlib.Path:
    return pathlib.Path(os.environ.get("HSSL_BIN", ROOT / ".build" / "release"))


def build(products: tuple[str, ...] = ("hssl", "hssl-extract")) -> None:
    """Release builds of our commands, unless HSSL_BIN names a folder that has them."""
    if "HSSL_BIN" in os.environ:
        return
    for product in products:
        note(f"building {product} (release)")
        result = subprocess.run(
            ["swift", "build", "-c", "release", "--package-path", str(ROOT), "--product", product], capture_output=True,
            text=True)
        if result.returncode:
            raise Fault(f"swift build --product {product} failed:\n{(result.stdout + result.stderr)[-3000:]}")


def hssl(*arguments: object) -> dict:
    """The JSON document of `hssl … --json -`."""
    command = [str(binaries() / "hssl"), *map(str, arguments), "--json", "-"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Fault(f"{' '.join(command)}: exit status {result.returncode}: {result.stderr.strip()[-500:]}")
    return json.loads(result.stdout)


def launch(*command: object) -> dict:
    """Runs a command under peers_launch.py: wall and CPU seconds, peak RSS, milliseconds to the first byte on
    stdout."""
    result = subprocess.run(
        [sys.executable, "-S", "-E", str(TOOLS / "peers_launch.py"), *map(str, command)], capture_output=True,
        text=True)
    if result.returncode:
        raise Fault(f"{' '.join(map(str, command))}: {result.stderr.strip()[-500:]}")
    return json.loads(result.stdout)


class Worker:
    """A Python process that answers JSON lines with JSON lines; its first one says that it is ready, and with which
    settings."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.name = " ".join([script, *map(str, arguments)])
        command = [sys.executable, "-W", "ignore", str(TOOLS / script), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.settings = self._answer().get("settings", "")

    def _answer(self) -> dict:
        # Libraries may print lines of their own.
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Fault(f"{self.name} ended with status {self.process.wait()}")

    def ask(self, **request: object) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# Machine


def cpu_name() -> str:
    fields = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    known = [
        "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "asimddp",
        "i8mm"]
    family = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    return f"{name} {family}, {len(os.sched_getaffinity(0))} CPUs: {' '.join(f for f in known if f in flags)}"


def load() -> float:
    return os.getloadavg()[0]


def others(seconds: float = 2.0) -> float:
    """CPUs that other processes keep busy while this one sleeps: unlike the load average, free of what this run itself
    did before."""

    def idle() -> tuple[int, int]:
        fields = [int(v) for v in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return fields[3] + fields[4], sum(fields)

    (idle_before, all_before) = idle()
    time.sleep(seconds)
    (idle_after, all_after) = idle()
    return (1 - (idle_after - idle_before) / max(1, all_after - all_before)) * (os.cpu_count() or 1)


# CPUs in use by others above which a time proves nothing, and whether the part that runs started on such a machine.
QUIET = 0.1
busy = False


def head(title: str, packages: tuple[str, ...] = ()) -> None:
    import importlib.metadata as metadata

    global busy
    used = others()
    busy = used > QUIET
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"\n## {title}\n")
    print(f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, HSSL {commit}, {cpu_name()}")
    if versions:
        print(f"Python {platform.python_version()}, {versions}")
    print(f"before: other processes use {used:.2f} CPUs, load average {load():.2f}", flush=True)
    if busy:
        note(f"warning: other processes use {used:.2f} CPUs, so the times are void")


def tail() -> None:
    # The load average holds this run's own threads; the CPUs of others do not.
    print(f"after: other processes use {others():.2f} CPUs, load average {load():.2f}", flush=True)


def note(text: str) -> None:
    print(f"tools/peers: {text}", file=sys.stderr, flush=True)


def peak_rss() -> int:
    """Of this process since its exec, bytes (ru_maxrss would include its parent's)."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


# Figures


class Samples:
    """Rates or times of one row: median, least and greatest."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, digits: int = 1) -> str:
        return f"{self.median:.{digits}f} ({min(self.values):.{digits}f}–{max(self.values):.{digits}f})"


def paired(ours: Samples, theirs: Samples) -> str:
    """Ratio of the medians, and the span of the ratios of the rounds."""
    rounds = [a / b for a, b in zip(ours.values, theirs.values)]
    return f"{ours.median / theirs.median:.2f} ({min(rounds):.2f}–{max(rounds):.2f})"


def table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for index, row in enumerate([header, *rows]):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


def verdict(
    name: str, value: float, goal: float, least: bool = True, unit: str = "", digits: int = 2, timed: bool = True
) -> bool:
    """One line of a goal; true where it is reached. A time that was taken on a busy machine decides nothing."""
    reached = value >= goal if least else value <= goal
    word = "void   " if timed and busy else "reached" if reached else "MISSED "
    print(f"{word}  {name}: {value:.{digits}f}{unit} (goal {'≥' if least else '≤'} {goal:g}{unit})", flush=True)
    return reached and word != "void   "
