"""docs/evidence.md and its pictures, from the lines of docs/evidence/results.jsonl."""

import html
import pathlib
import statistics

import evidence_cells as cells

MEASURES = {"gap": "gap, nats", "cosine_distance": "1 − cos", "cka_distance": "1 − CKA"}
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
             against_variant: str = "plain", seeds: list = cells.SEEDS) -> list:
        """Points of top-1 over the rival, for each of the seeds that both have."""
        mine, rival = self.of(objective, base, head, variant), self.of(objective, base, against, against_variant)
        return [100 * (mine[s]["top1"] - rival[s]["top1"]) for s in seeds if s in mine and s in rival]

    def common_seeds(self, objective: str, base: str) -> list:
        """Those that the base alone has, and every head that has any: heads are ranked by nothing else."""
        found = [self.of(objective, base, head) for head in [ALONE] + cells.HEADS]
        return [seed for seed in cells.SEEDS if all(seed in runs for runs in found if runs)]


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


def equal_time_table(runs: Runs, objectives: list, base: str = "vit_nano") -> list:
    """A head costs time: its gain over the base alone with as many images, and with a quarter more."""
    head = cells.USUAL_HEAD[base]
    rows = [f"| objective | alone, 4 epochs | alone, 5 epochs | with the {head} head, 4 epochs | seeds | gain over 5 "
            "epochs, points |", "|---|---|---|---|---|---|"]
    for objective in objectives:
        alone, helped = runs.of(objective, base, ALONE), runs.of(objective, base, head)
        longer = runs.of(objective, base, ALONE, "epochs-5")
        seeds = [seed for seed in longer if seed in alone and seed in helped]
        if not seeds:
            continue
        figures = " | ".join(top1({seed: found[seed] for seed in seeds}) for found in (alone, longer, helped))
        gain = runs.gain(objective, base, head, against_variant="epochs-5", seeds=seeds)
        rows.append(f"| {objective} | {figures} | {len(seeds)} | {spread(gain, sign=True)} |")
    return rows


def colored_table(runs: Runs) -> list:
    rows = ["| head | runs | k-NN top-1, % | gain over none, points | CLS and mean |", "|---|---|---|---|---|"]
    for head in [ALONE, cells.USUAL_HEAD["vit_nano"]]:
        found = runs.of("mocov3", "vit_nano", head, "clipart")
        if found:
            gain = runs.gain("mocov3", "vit_nano", head, "clipart", against_variant="clipart") if head != ALONE else []
            both = spread([100 * line["top1_cls_mean"] for line in found.values()])
            points = spread(gain, sign=True) if gain else ""
            rows.append(f"| {head} | {len(found)} | {top1(found)} | {points} | {both} |")
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


def searches(runs: Runs, objective: str, base: str = "vit_nano") -> list:
    """The searches of one pair of objective and base that are there."""
    names = [search.name for search in cells.all_searches() if (search.objective, search.base) == (objective, base)]
    return [runs.results[name] for name in names if name in runs.results]


def measures(runs: Runs, objective: str) -> dict:
    """Head → mean of each measure over the searches, and the mean gain of the full runs, where both are known."""
    found, result, seeds = searches(runs, objective), {}, runs.common_seeds(objective, "vit_nano")
    for head in cells.HEADS:
        gains = runs.gain(objective, "vit_nano", head, seeds=seeds)
        rows = [row for search in found for row in search["heads"] if row["head"] == head]
        if gains and rows and all(row[key] is not None for row in rows for key in MEASURES):
            result[head] = {key: statistics.mean(row[key] for row in rows) for key in MEASURES}
            result[head] |= {"gain": statistics.mean(gains), "eligible": all(row["eligible"] for row in rows)}
    return result


def ranks(values: list) -> list:
    """1 for the largest; equal ones share their mean."""
    order = sorted(values, reverse=True)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def rank_correlation(a: list, b: list) -> float:
    """Spearman's."""
    return statistics.correlation(ranks(a), ranks(b))


def search_text(runs: Runs, objective: str) -> list:
    """The measures beside the gains, and how well they order them."""
    known = measures(runs, objective)
    if not known:
        return []
    rows = ["| head | " + " | ".join(MEASURES.values()) + " | gain of full runs, points |", "|---|---|---|---|---|"]
    for head, row in sorted(known.items(), key=lambda item: -item[1]["gap"]):
        name = head if row["eligible"] else f"{head} (collapsed)"
        figures = " | ".join(f"{row[key]:.3f}" for key in MEASURES)
        rows.append(f"| {name} | {figures} | {row['gain']:+.2f} |")
    if len(known) > 2:
        gains = [row["gain"] for row in known.values()]
        signs = [f"{rank_correlation([row[key] for row in known.values()], gains):+.2f}" for key in MEASURES]
        rows.append(f"| rank correlation with the gains | {' | '.join(signs)} | |")
    found = searches(runs, objective)
    best = max(known, key=lambda head: known[head]["gain"])
    chosen = [search["winner"] for search in found]
    lost = [known[best]["gain"] - known[head]["gain"] for head in chosen if head in known]
    seeds = len(runs.common_seeds(objective, "vit_nano"))
    text = f"\nChosen: {', '.join(map(str, chosen))}; best in full runs: {best}"
    text += " (of the one seed that all heads have)" if seeds == 1 else f" (mean of the {seeds} seeds of all heads)"
    text += f"; the choice loses {statistics.mean(lost):.2f} points to it." if lost else "."
    costs = seconds_of(dict(enumerate(found)))
    full = [s for head in cells.HEADS for s in seconds_of(runs.of(objective, "vit_nano", head))]
    if costs and full:
        text += f" A search takes {statistics.mean(costs) / statistics.mean(full):.2f} of the processor time of a run."
    return rows + [text]


def section(title: str, text: str, rows: list) -> str:
    body = "\n".join(rows) if len(rows) > 2 else "No run yet."
    return f"## {title}\n\n{text}\n\n{body}\n"


def precision_table(runs: Runs, objectives: list, base: str = "vit_nano") -> list:
    head = cells.USUAL_HEAD[base]
    rows = ["| objective | float32 | int8 | int8, gradients from codes | seeds | the last − float32, points |",
            "|---|---|---|---|---|---|"]
    for objective in objectives:
        floats, plain, codes = (runs.of(objective, base, head, variant) for variant in ["float32", "plain", "codes"])
        seeds = [seed for seed in codes if seed in floats and seed in plain]
        if not seeds:
            continue
        figures = " | ".join(top1({seed: found[seed] for seed in seeds}) for found in (floats, plain, codes))
        points = runs.gain(objective, base, head, "codes", against=head, against_variant="float32", seeds=seeds)
        rows.append(f"| {objective} | {figures} | {len(seeds)} | {spread(points, sign=True)} |")
    return rows


def write(docs: pathlib.Path, results: dict) -> None:
    runs = Runs(results)
    total = len(cells.all_cells())
    there = sum(1 for cell in cells.all_cells() if cell.name in results)
    searches_there = sum(1 for search in cells.all_searches() if search.name in results)
    parts = [f"""# Does a head of another architecture help?

    tools/evidence            # {total} runs, about ten hours on two cores; goes on where it stopped

{there} of {total} runs and {searches_there} of {len(cells.all_searches())} searches are here
([results](evidence/results.jsonl)). Fashion-MNIST, {cells.EPOCHS} epochs of 60,000
images, int8 unless a table says otherwise, the recipe `{cells.RECIPE}` with the settings of
`tools/evidence_cells.py`. k-NN of the 10,000 test images against 60,000 (k = 20) on the global feature; ± is the
standard error over seeds. Cost is processor time of one thread. Raw pixels reach 84.59 %.
"""]
    for objective in ["mocov3", "ibot"]:
        parts.append(section(f"Six heads on ViT-nano under {objective}", "Depth 2, no shortcut in the first block.",
                             heads_table(runs, objective)))
        text = search_text(runs, objective)
        if text:
            parts.append(section(f"What hssl search says under {objective}",
                                 "All six heads beside one base, for 30 % of a run, held against the runs above "
                                 "([picture](evidence/search.svg)).", text))
    head = cells.USUAL_HEAD["vit_nano"]
    pairs = [(objective, "vit_nano", head) for objective in ["mocov3", "ibot", "byol", "dino", "simmim"]]
    parts.append(section("Objectives", "The base alone and with one head.", pairs_table(runs, pairs)))
    pairs = [("mocov3", base, cells.USUAL_HEAD[base]) for base in cells.USUAL_HEAD]
    parts.append(section("Bases", "Each base alone and with one foreign head.", pairs_table(runs, pairs)))
    longer = equal_time_table(runs, ["mocov3", "ibot", "byol", "dino"])
    parts.append(section("At equal time", "A head costs time (\"cost, times\" above): the base alone with five epochs "
                         "instead of four, on the same seeds.", longer))
    parts.append(section("Colour pictures", f"Debian's clip art at 32 pixels, `{cells.COLOR_RECIPE}`: 6,480 pictures, "
                         "and 1,625 held out (an error of 1.2 points each, common to both).",
                         colored_table(runs)))
    ablations = [("mocov3", "resnet", name) for name in ["first-shortcut", "depth-1", "depth-4"]]
    ablations += [("mocov3", "convnext", f"kernel-{kernel}") for kernel in [3, 5]]
    parts.append(section("Ablations", "One change at a time.", variants_table(runs, ablations)))
    parts.append(section("Precision", "float32 training and int8's, whose gradients of weights were float32 products "
                         "until 2026-11-29 (as in the tables above) and are products of codes since.",
                         precision_table(runs, ["mocov3", "ibot", "byol", "dino", "simmim"])))
    # Written by a person, after looking at the tables.
    reading = docs / "evidence/reading.md"
    if reading.exists():
        parts.append(reading.read_text())
    (docs / "evidence.md").write_text("\n".join(parts))
    (docs / "evidence").mkdir(exist_ok=True)
    for name, picture in [("heads", draw(runs)), ("search", scatter(runs))]:
        if picture:
            (docs / f"evidence/{name}.svg").write_text(picture)


COLORS = {"mocov3": "#2a6fdb", "ibot": "#d1495b"}


def scatter(runs: Runs) -> str:
    """Each measure of a search against the gains of full runs, a dot a head."""
    known = {objective: measures(runs, objective) for objective in COLORS}
    gains = [row["gain"] for rows in known.values() for row in rows.values()]
    if not gains:
        return ""
    side, gap, left, top = 220, 50, 60, 30
    low, high = min(0.0, *gains), max(0.0, *gains)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + 3 * (side + gap)} {top + side + 70}" '
             'font-family="sans-serif" font-size="12">',
             f'<text x="{left}" y="18">k-NN gain of full runs, points, against what the search measures</text>']
    for index, (key, label) in enumerate(MEASURES.items()):
        x0 = left + index * (side + gap)
        values = [row[key] for rows in known.values() for row in rows.values()]
        first, last = min(values), max(values)
        parts.append(f'<rect x="{x0}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#888"/>')
        parts.append(f'<text x="{x0 + side / 2}" y="{top + side + 34}" text-anchor="middle">{label}</text>')
        for x, value in [(x0 + 12, first), (x0 + side - 58, last)]:
            parts.append(f'<text x="{x}" y="{top + side + 16}" text-anchor="middle">{value:.3f}</text>')
        for value in sorted({low, high}) if index == 0 else []:
            y = top + 8 + (side - 16) * (high - value) / ((high - low) or 1)
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{value:+.1f}</text>')
        for objective, rows in known.items():
            for head, row in rows.items():
                x = x0 + 12 + (side - 70) * (row[key] - first) / ((last - first) or 1)
                y = top + 8 + (side - 16) * (high - row["gain"]) / ((high - low) or 1)
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLORS[objective]}"/>')
                parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{html.escape(head)}</text>')
    for index, (objective, color) in enumerate(COLORS.items()):
        parts.append(f'<text x="{left + 90 * index}" y="{top + side + 60}" fill="{color}">{objective}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"


def draw(runs: Runs) -> str:
    """Gains of the heads over the base alone, a dot a seed, a bar at the mean."""
    gains = {(o, h): runs.gain(o, "vit_nano", h) for o in COLORS for h in cells.HEADS}
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
        for offset, (objective, color) in zip([-14, 14], COLORS.items()):
            found = gains[objective, head]
            if not found:
                continue
            x = middle + offset
            mean = y(statistics.mean(found))
            parts.append(f'<line x1="{x - 9:.1f}" x2="{x + 9:.1f}" y1="{mean:.1f}" y2="{mean:.1f}" '
                         f'stroke="{color}" stroke-width="3"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="3" fill="{color}" fill-opacity="0.6"/>'
                      for value in found]
    for index, (objective, color) in enumerate(COLORS.items()):
        parts.append(f'<text x="{left + 90 * index}" y="{top + height + 42}" fill="{color}">{objective}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"
