"""The cells of tools/evidence: which runs there are. The rule of each comparison stood here before the runs."""

import dataclasses

HEADS = ["convnext", "resnet", "mlp", "swin", "vit", "poolformer"]
SEEDS = [0, 1, 2]
# 240,000 images: four epochs of 60,000.
EPOCHS = 4
# Recipes that only name base, data and views; every other default follows from them (hssl recipe FILE).
RECIPE = "models/vit_nano-fashion.yaml"
# The same on colour pictures: tools/clipart.
COLOR_RECIPE = "models/vit_nano-clipart.yaml"
PATCHLESS = "model.patch_size=null"
# One head for comparisons over bases, objectives and precisions, fixed before they were run.
USUAL_HEAD = {"vit_nano": "resnet", "convnext_micro": "resnet", "resnet_micro": "convnext", "swin_micro": "resnet"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One pretraining run."""
    objective: str
    base: str
    head: str
    variant: str
    seed: int
    precision: str = "int8"
    settings: tuple = ()
    recipe: str = RECIPE

    @property
    def name(self) -> str:
        return f"{self.objective}/{self.base}/{self.head}/{self.variant}/{self.seed}"

    @property
    def is_colored(self) -> bool:
        return self.recipe == COLOR_RECIPE


@dataclasses.dataclass(frozen=True)
class Search:
    """One search over all heads, whose choice is held against the runs with each."""
    objective: str
    seed: int
    base: str = "vit_nano"
    recipe: str = RECIPE

    @property
    def name(self) -> str:
        return f"search/{self.objective}/{self.base}/{self.seed}"

    @property
    def settings(self) -> tuple:
        return (f"objective.name={self.objective}", f"schedule.epochs={EPOCHS}")


def cell(objective: str, head: str, seed: int, base: str = "vit_nano", variant: str = "plain", extra: tuple = (),
         precision: str = "int8") -> Cell:
    settings = [f"objective.name={objective}", f"auxiliary.family={head}", f"schedule.epochs={EPOCHS}"]
    if base != "vit_nano":
        settings += [f"model.architecture={base}", PATCHLESS]
    return Cell(objective, base, head, variant, seed, precision, tuple(settings + list(extra)))


def colored(head: str, seed: int) -> Cell:
    """A run over the clip art, as its recipe says but for the head."""
    settings = (f"auxiliary.family={head}",)
    return Cell("mocov3", "vit_nano", head, "clipart", seed, settings=settings, recipe=COLOR_RECIPE)


def all_searches() -> list:
    return [Search(objective, seed) for seed in SEEDS for objective in ["mocov3", "ibot"]]


def all_cells() -> list:
    """In the order in which they say most: seeds come last, so that a first table is there early."""
    result = []
    for seed in SEEDS:
        # Does a head help, and which? Heads of the base's own family are the control.
        for objective in ["mocov3", "ibot"]:
            for head in ["none"] + HEADS:
                result.append(cell(objective, head, seed))
        # Other objectives and bases, with one head each.
        for objective in ["byol", "dino", "simmim"]:
            for head in ["none", USUAL_HEAD["vit_nano"]]:
                result.append(cell(objective, head, seed))
        for base in ["convnext_micro", "resnet_micro", "swin_micro"]:
            for head in ["none", USUAL_HEAD[base]]:
                result.append(cell("mocov3", head, seed, base=base))
        # A head costs time: the base alone, with a quarter more images.
        for objective in ["mocov3", "ibot", "byol", "dino"]:
            result.append(cell(objective, "none", seed, variant="epochs-5", extra=("schedule.epochs=5",)))
        for head in ["none", USUAL_HEAD["vit_nano"]]:
            result.append(colored(head, seed))
        # Does int8 cost accuracy?
        for objective in ["mocov3", "ibot", "byol", "dino", "simmim"]:
            result.append(cell(objective, USUAL_HEAD["vit_nano"], seed, variant="float32", precision="float32"))
        # Plain runs up to 2026-11-29 had gradients of weights in float32; since then int8 training multiplies codes for
        # them too. The same recipe again, to see that it does not matter.
        if seed == 0:
            for objective in ["mocov3", "ibot", "byol", "dino", "simmim"]:
                result.append(cell(objective, USUAL_HEAD["vit_nano"], seed, variant="codes"))
        # Ablations of the head.
        for name, extra in [("first-shortcut", "auxiliary.first_shortcut=true"), ("depth-1", "auxiliary.depth=1"),
                            ("depth-4", "auxiliary.depth=4")]:
            result.append(cell("mocov3", "resnet", seed, variant=name, extra=(extra,)))
        for kernel in [3, 5]:
            extra = (f"auxiliary.kernel_size={kernel}",)
            result.append(cell("mocov3", "convnext", seed, variant=f"kernel-{kernel}", extra=extra))
    return result
