"""Builds or precisions of ours in short turns: differences of half a percent on a machine whose speed wanders by ten.

    python3 tools/peers_turns.py float32:1 float16:1                 two precisions at batch 1
    python3 tools/peers_turns.py int8:16 int8:16@/tmp/old/hssl      two builds at batch 16
    python3 tools/peers_turns.py int8:1:swin_tiny float32:1:swin_tiny    another architecture than vit_small

All processes are alive; each runs for a turn and is then stopped (SIGSTOP) while the others have theirs, so a slow
minute of the machine is everybody's. The
rate is the median of all calls, of which those that a stop interrupted are few. Two runs one after the other would need
dozens of pairs to say as much.
"""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

from peers_common import Fault, Samples, binaries, head, note, table, tail

PAUSE = 0.02


@dataclasses.dataclass
class Contestant:
    """`precision[:batch[:architecture]][@hssl]`."""

    text: str

    def __post_init__(self) -> None:
        run, _, binary = self.text.partition("@")
        self.precision, _, rest = run.partition(":")
        batch, _, architecture = rest.partition(":")
        self.architecture = architecture or "vit_small"
        try:
            self.batch = int(batch or 1)
        except ValueError:
            raise Fault(f"{self.text}: {batch} is no batch size") from None
        self.binary = pathlib.Path(binary) if binary else binaries() / "hssl"
        # A turn holds several calls: those of batch 16 take a third of a second in float32.
        self.turn = 0.5 if self.batch == 1 else 2.0

    def start(self, steps: int) -> subprocess.Popen:
        command = [
            self.binary, "bench", "extract", "--architecture", self.architecture, "--image-size", 224, "--precision",
            self.precision,
                   "--batch-size", self.batch, "--threads", 2, "--steps", steps, "--json", "-"]
        return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def rate(self, process: subprocess.Popen) -> float:
        out, error = process.communicate()
        if process.returncode:
            raise Fault(f"{self.text}: {error.strip()[-500:]}")
        return json.loads(out)["images_per_second"]


def turns(contestants: list[Contestant], count: int = 10) -> list[float]:
    """Images a second of each over so many turns."""
    processes: list[subprocess.Popen] = []
    try:
        for contestant in contestants:
            rate = contestant.rate(contestant.start(2))
            processes.append(contestant.start(max(3, round(count * contestant.turn * rate / contestant.batch))))
            # Weights are drawn and packed before the first call; later turns hold calls only.
            time.sleep(2)
            processes[-1].send_signal(signal.SIGSTOP)
        alive = list(zip(contestants, processes))
        while alive:
            for contestant, process in alive:
                process.send_signal(signal.SIGCONT)
                time.sleep(contestant.turn)
                process.send_signal(signal.SIGSTOP)
                time.sleep(PAUSE)
            # The next round begins with another one, and ends when the first has done its calls.
            alive = alive[1:] + alive[:1]
            if any(process.poll() is not None for _, process in alive):
                break
        rates = []
        for contestant, process in zip(contestants, processes):
            # Its last calls, again alone.
            process.send_signal(signal.SIGCONT)
            rates.append(contestant.rate(process))
        return rates
    finally:
        for process in processes:
            process.kill()


def main() -> int:
    try:
        contestants = [Contestant(text) for text in sys.argv[1:]]
        if len(contestants) < 2:
            raise Fault("usage: peers_turns.py precision[:batch[:architecture]][@hssl] precision[:batch[:architecture]][@hssl] …")
        names = ", ".join(dict.fromkeys(c.architecture for c in contestants))
        head(f"HSSL in turns: {names} at 224, images/s, 2 threads")
        rates = [Samples() for _ in contestants]
        for _ in range(3):
            for sample, rate in zip(rates, turns(contestants)):
                sample.add(rate)
        rows = []
        for contestant, sample in zip(contestants, rates):
            ratios = [a / b for a, b in zip(sample.values, rates[0].values)]
            rows.append([contestant.text, sample.text(), f"{sorted(ratios)[1]:.3f} ({min(ratios):.3f}–{max(ratios):.3f})"])
        table(["", "median of 3 (least–greatest)", "to the first"], rows)
        tail()
    except Fault as fault:
        note(f"error: {fault}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
