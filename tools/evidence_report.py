"""docs/evidence.md and its pictures, from the lines of docs/evidence/results.jsonl."""

import html
import pathlib
import statistics

import evidence_cells as cells

ALONE, OWN = "none", {"vit_nano": "vit", "swin_micro": "swin", "convnext_micro": "convnext", "resnet_micro": "resnet"}


class Runs:
    """Results of one comparison's cells over the seeds that are there."""

    def __init__(self, results: dict):
        self.results = results

    def of(self, objective: str, base: str, head: str, variant: str = "plain") -> dict:
        """Seed → result."""
        found = {}
        for seed in cells.SEEDS:
            line = self.results.get(f"{objective}/{base}/{head}/{variant}/{seed}")
            if line:
                found[seed] = line
        return found

    def gain(self, objective: str, base: str, head: str, variant: str = "plain", against: str = ALONE,
             against_variant: str = "plain") -> list:
        """Points of top-1 over the rival, for each seed that both have."""
        mine, rival = self.of(objective, base, head, variant), self.of(objective, base, against, against_variant)
        return [100 * (mine[s]["top1"] - rival[s]["top1"]) for s in mine if s in rival]


def spread(values: list, sign: bool = False) -> str:
    """Mean ± standard error of the mean; a lone value stands alone."""
    if not values:
        return "–"
    text = f"{statistics.mean(values):+.2f}" if sign else f"{statistics.mean(values):.2f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"
    return text


def top1(found: dict) -> str:
    return spread([100 * line["top1"] for line in found.values()])


def cost(found: dict) -> str:
    seconds = seconds_of(found)
    return f"{statistics.mean(seconds):.0f}" if seconds else "–"


def seconds_of(found: dict) -> list:
    """Processor seconds of the runs that know theirs."""
    return [line["cpu_seconds"] for line in found.values() if line["cpu_seconds"] is not None]


def heads_table(runs: Runs, objective: str, base: str = "vit_nano") -> list:
    rows = ["| head | runs | k-NN top-1, % | gain over none, points | processor seconds | CLS and mean |",
            "|---|---|---|---|---|---|"]
    for head in [ALONE] + cells.HEADS:
        found = runs.of(objective, base, head)
        if not found:
            continue
        gain = "" if head == ALONE else spread(runs.gain(objective, base, head), sign=True)
        both = spread([100 * line["top1_cls_mean"] for line in found.values()])
        name = f"{head} (the base's own kind)" if head == OWN[base] else head
        rows.append(f"| {name} | {len(found)} | {top1(found)} | {gain} | {cost(found)} | {both} |")
    return rows


def pairs_table(runs: Runs, pairs: list) -> list:
    rows = ["| objective | base | head | runs | alone | with the head | gain, points | cost, times |",
            "|---|---|---|---|---|---|---|---|"]
    for objective, base, head in pairs:
        alone, helped = runs.of(objective, base, ALONE), runs.of(objective, base, head)
        if not alone or not helped:
            continue
        costs = [seconds_of(helped), seconds_of(alone)]
        ratio = f"{statistics.mean(costs[0]) / statistics.mean(costs[1]):.2f}" if all(costs) else "–"
        gain = runs.gain(objective, base, head)
        rows.append(f"| {objective} | {base} | {head} | {len(gain)} | {top1(alone)} | {top1(helped)} | "
                    f"{spread(gain, sign=True)} | {ratio} |")
    return rows


def variants_table(runs: Runs, variants: list) -> list:
    rows = ["| objective | head | what is changed | runs | k-NN top-1, % | against the plain run, points |",
            "|---|---|---|---|---|---|"]
    for objective, head, variant in variants:
        found = runs.of(objective, "vit_nano", head, variant)
        if found:
            change = runs.gain(objective, "vit_nano", head, variant, against=head)
            rows.append(f"| {objective} | {head} | {variant} | {len(found)} | {top1(found)} | "
                        f"{spread(change, sign=True)} |")
    return rows


def section(title: str, text: str, rows: list) -> str:
    body = "\n".join(rows) if len(rows) > 2 else "No run yet."
    return f"## {title}\n\n{text}\n\n{body}\n"


def write(docs: pathlib.Path, results: dict) -> None:
    runs = Runs(results)
    total = len(cells.all_cells())
    there = sum(1 for cell in cells.all_cells() if cell.name in results)
    parts = [f"""# Does a head of another architecture help?

    tools/evidence            # {total} runs, about ten hours on two cores; goes on where it stopped

{there} of {total} runs are here ([results](evidence/results.jsonl)). Fashion-MNIST, {cells.EPOCHS} epochs of 60,000
images, int8 unless a table says otherwise, the recipe `{cells.RECIPE}` with the settings of
`tools/evidence_cells.py`. k-NN of the 10,000 test images against 60,000 (k = 20) on the global feature; ± is the
standard error over seeds. Cost is processor time of one thread. Raw pixels reach 84.59 %.
"""]
    for objective in ["mocov3", "ibot"]:
        parts.append(section(f"Six heads on ViT-nano under {objective}", "Depth 2, no shortcut in the first block.",
                             heads_table(runs, objective)))
    head = cells.USUAL_HEAD["vit_nano"]
    pairs = [(objective, "vit_nano", head) for objective in ["mocov3", "ibot", "byol", "dino", "simmim"]]
    parts.append(section("Objectives", "The base alone and with one head.", pairs_table(runs, pairs)))
    pairs = [("mocov3", base, cells.USUAL_HEAD[base]) for base in cells.USUAL_HEAD]
    parts.append(section("Bases", "Each base alone and with one foreign head.", pairs_table(runs, pairs)))
    ablations = [("mocov3", "resnet", name) for name in ["first-shortcut", "depth-1", "depth-4"]]
    ablations += [("mocov3", "convnext", f"kernel-{kernel}") for kernel in [3, 5]]
    parts.append(section("Ablations", "One change at a time.", variants_table(runs, ablations)))
    floats = [(objective, head, "float32") for objective in ["mocov3", "ibot", "byol", "dino", "simmim"]]
    parts.append(section("Precision", "float32 training against int8's.", variants_table(runs, floats)))
    (docs / "evidence.md").write_text("\n".join(parts))
    (docs / "evidence").mkdir(exist_ok=True)
    picture = draw(runs)
    if picture:
        (docs / "evidence/heads.svg").write_text(picture)


def draw(runs: Runs) -> str:
    """Gains of the heads over the base alone, a dot a seed, a bar at the mean."""
    colors = {"mocov3": "#2a6fdb", "ibot": "#d1495b"}
    gains = {(o, h): runs.gain(o, "vit_nano", h) for o in colors for h in cells.HEADS}
    values = [value for found in gains.values() for value in found]
    if not values:
        return ""
    low, high = min(0.0, *values), max(0.0, *values)
    left, top, width, height, step = 60, 30, 620, 260, 620 / len(cells.HEADS)

    def y(value: float) -> float:
        return top + height * (high - value) / ((high - low) or 1)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 50}" '
             'font-family="sans-serif" font-size="13">',
             f'<text x="{left}" y="18">k-NN gain over the base alone, points</text>',
             f'<line x1="{left}" x2="{left + width}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#888"/>']
    for tick in sorted({0.0, round(low, 1), round(high, 1)}):
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:+.1f}</text>')
    for index, head in enumerate(cells.HEADS):
        middle = left + step * (index + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{top + height + 20}" text-anchor="middle">{html.escape(head)}</text>')
        for offset, (objective, color) in zip([-14, 14], colors.items()):
            found = gains[objective, head]
            if not found:
                continue
            x = middle + offset
            mean = y(statistics.mean(found))
            parts.append(f'<line x1="{x - 9:.1f}" x2="{x + 9:.1f}" y1="{mean:.1f}" y2="{mean:.1f}" '
                         f'stroke="{color}" stroke-width="3"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="3" fill="{color}" fill-opacity="0.6"/>'
                      for value in found]
    for index, (objective, color) in enumerate(colors.items()):
        parts.append(f'<text x="{left + 90 * index}" y="{top + height + 42}" fill="{color}">{objective}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"
