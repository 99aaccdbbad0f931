"""What is learnt: six objectives, each for a base alone or under HSSL, over one whole batch.

A *stream* is the base or, where there is one, the auxiliary head. Each has its own projection; the global target of
every stream comes from one stream of the teacher, the *guide*: the auxiliary head where there is one, else the
base. Targets of patches come from the teacher's base.

Views are stacked view-major: with B images, rows 0..<B are the first view, B..<2B the second.
"""

import dataclasses
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from bases import make_base
from heads import Auxiliary


@dataclasses.dataclass
class Features:
    """Of one stream of a network: after its final norm."""

    cls: Tensor  # [V, D]
    patches: Tensor  # [V, N, D]


@dataclasses.dataclass
class Outcome:
    """`parts` in the order of a fixture's `losses`, after the loss itself; `outputs` are named as in a fixture's
    first step.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    outputs: dict[str, Tensor]
    state: dict[str, Tensor]


class Network(nn.Module):
    """A student or teacher: base, auxiliary head and projections, under the names of a checkpoint."""

    def __init__(self, base: dict, auxiliary: dict | None, objective: "Objective", teacher: bool) -> None:
        super().__init__()
        self.base = make_base(base)
        self.auxiliary = Auxiliary(width=self.base.width, side=self.base.side, **auxiliary) if auxiliary else None
        self.head = objective.projections(self.base.width, self.streams, teacher)

    @property
    def streams(self) -> list[str]:
        return ["base"] if self.auxiliary is None else ["base", "auxiliary"]

    @property
    def guide(self) -> str:
        return self.streams[-1]

    def features(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Features]:
        grid = self.base.grid(images, mask)
        found = {"base": Features(self.base.global_feature(grid), self.base.local_features(grid))}
        if self.auxiliary is not None:
            found["auxiliary"] = Features(*self.auxiliary(grid.cells))
        return found


class Objective:
    """Settings are those of a fixture's `objective`."""

    # Whether there is a teacher without an auxiliary head too.
    always_teacher = True
    masks = False
    global_views = True
    # Sizes of what a frozen teacher says of an image; None: there is no such teacher.
    answers: dict[str, tuple[int, ...]] | None = None

    def __init__(self, settings: dict) -> None:
        self.settings = settings

    def projections(self, width: int, streams: list[str], teacher: bool) -> nn.ModuleDict:
        raise NotImplementedError

    def initial_state(self) -> dict[str, Tensor]:
        """What an update changes besides parameters: drawn, not zero, so that it counts from the first step."""
        return {}

    def __call__(self, student: Network, teacher: Network | None, batch: dict, state: dict, schedule: dict) -> Outcome:
        raise NotImplementedError

    def updated(self, student: Network) -> None:
        """Called without gradients after every update of the parameters."""


def mean_of(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


# DINO and iBOT


class Prototypes(nn.Module):
    """[…, d] → logits […, K]: cosines with the rows of weight_v, whose gain is fixed at 1."""

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(count, inputs).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight_v, dim=-1))


class DINO(Objective):
    """Cross-view cross-entropy H(q, z) = −Σ q·log softmax(z / τ_student) on CLS."""

    centers: tuple[str, ...] = ("cls",)

    def projections(self, width: int, streams: list[str], teacher: bool) -> nn.ModuleDict:
        hidden, bottleneck = self.settings["hidden_dim"], self.settings["bottleneck_dim"]
        head = nn.ModuleDict()
        for stream in streams:
            head[f"{stream}_mlp"] = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
            )
        head["prototypes"] = Prototypes(bottleneck, self.settings["prototypes"])
        return head

    def initial_state(self) -> dict[str, Tensor]:
        # Both are drawn whichever are used, so that a seed gives DINO and iBOT the same batches.
        drawn = {name: 0.05 * torch.randn(self.settings["prototypes"]) for name in IBOT.centers}
        return {name: drawn[name] for name in self.centers}

    @staticmethod
    def logits(network: Network, stream: str, x: Tensor) -> Tensor:
        return network.head["prototypes"](network.head[f"{stream}_mlp"](x))

    def entropy(self, target: Tensor, logits: Tensor) -> Tensor:
        return -(target * F.log_softmax(logits / self.settings["student_temperature"], dim=-1)).sum(-1)

    def moved(self, center: Tensor, logits: Tensor) -> Tensor:
        momentum = self.settings["center_momentum"]
        return momentum * center + (1 - momentum) * logits.flatten(0, -2).mean(0)

    def __call__(self, student: Network, teacher: Network, batch: dict, state: dict, schedule: dict) -> Outcome:
        views, local, guide = batch["global_views"], batch.get("local_views"), teacher.guide
        with torch.no_grad():
            taught = teacher.features(views)
            teacher_cls = self.logits(teacher, guide, taught[guide].cls)
            targets = F.softmax((teacher_cls - state["cls"]) / schedule["teacher_temperature"], dim=-1).chunk(2)
        images = len(targets[0])
        seen = student.features(views, batch.get("masks"))
        seen_local = student.features(local) if local is not None else {}
        parts, outputs = {}, {f"teacher.{guide}_cls": teacher_cls}
        for stream in student.streams:
            logits = self.logits(student, stream, seen[stream].cls)
            outputs[f"student.{stream}_cls"] = logits
            crops = list(logits.split(images))
            if local is not None:
                crops += self.logits(student, stream, seen_local[stream].cls).split(images)
            parts[f"cls_{stream}"] = mean_of(
                [
                    self.entropy(target, crop).mean()
                    for view, target in enumerate(targets)
                    for other, crop in enumerate(crops)
                    if other != view
                ]
            )
        outcome = Outcome(mean_of(list(parts.values())), parts, outputs, {"cls": self.moved(state["cls"], teacher_cls)})
        self.add_patches(
            outcome, student, teacher, seen["base"].patches, taught["base"].patches, batch, state, schedule
        )
        return outcome

    def add_patches(
        self,
        outcome: Outcome,
        student: Network,
        teacher: Network,
        seen: Tensor,
        taught: Tensor,
        batch: dict,
        state: dict,
        schedule: dict,
    ) -> None:
        """Nothing here; seen, taught [V, N, D] are patches of the bases."""


class IBOT(DINO):
    """DINO, and H between the bases' logits of the patches that are masked in the student's view: a mean over the
    masked, then over views and images.
    """

    masks = True
    centers = ("cls", "patch")

    def add_patches(
        self,
        outcome: Outcome,
        student: Network,
        teacher: Network,
        seen: Tensor,
        taught: Tensor,
        batch: dict,
        state: dict,
        schedule: dict,
    ) -> None:
        with torch.no_grad():
            teacher_logits = self.logits(teacher, "base", taught)
            target = F.softmax((teacher_logits - state["patch"]) / schedule["teacher_patch_temperature"], dim=-1)
        logits = self.logits(student, "base", seen)
        masked = batch["masks"].flatten(1).to(logits.dtype)
        sums = (self.entropy(target, logits) * masked).sum(1)
        # A view without any masked patch has no patch loss.
        outcome.parts["patch"] = (sums / masked.sum(1).clamp(min=1)).mean()
        outcome.loss = outcome.loss + outcome.parts["patch"]
        outcome.outputs |= {"student.base_patch": logits, "teacher.base_patch": teacher_logits}
        outcome.state["patch"] = self.moved(state["patch"], teacher_logits)


# MoCo v3 and BYOL


class BatchNorm(nn.Module):
    """Over the rows of one view of the whole update: biased variance, ε 1e-5, no running statistics, since
    projections are thrown away.
    """

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=1e-5)


class Pairs(Objective):
    """Each view's prediction is held against the other view's projection by the teacher's guide."""

    def projector(self, width: int) -> nn.Sequential:
        raise NotImplementedError

    def predictor(self) -> nn.Sequential:
        raise NotImplementedError

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """[B, d] of one view, [B, d] of the other: a scalar."""
        raise NotImplementedError

    def projections(self, width: int, streams: list[str], teacher: bool) -> nn.ModuleDict:
        head = nn.ModuleDict()
        for stream in streams:
            head[f"{stream}_projector"] = self.projector(width)
            if not teacher:
                head[f"{stream}_predictor"] = self.predictor()
        return head

    def __call__(self, student: Network, teacher: Network, batch: dict, state: dict, schedule: dict) -> Outcome:
        views, guide = batch["global_views"], teacher.guide
        with torch.no_grad():
            cls = teacher.features(views)[guide].cls
            targets = [teacher.head[f"{guide}_projector"](view) for view in cls.chunk(2)]
        seen = student.features(views)
        parts, outputs = {}, {}
        for stream in student.streams:
            projector, predictor = student.head[f"{stream}_projector"], student.head[f"{stream}_predictor"]
            predictions = [predictor(projector(view)) for view in seen[stream].cls.chunk(2)]
            outputs[f"student.{stream}_prediction"] = torch.cat(predictions)
            parts[f"global_{stream}"] = self.compare(predictions[0], targets[1]) + self.compare(
                predictions[1], targets[0]
            )
        return Outcome(mean_of(list(parts.values())), parts, outputs, state)


class MoCoV3(Pairs):
    """InfoNCE over the whole batch, times 2τ; nothing has a bias but the batch norms, and the last of these has no
    affine part.
    """

    def mlp(self, width: int, layers: int, last_norm: bool) -> nn.Sequential:
        hidden, out = self.settings["hidden_dim"], self.settings["out_dim"]
        stack = nn.Sequential()
        for _ in range(layers - 1):
            stack.extend([nn.Linear(width, hidden, bias=False), BatchNorm(hidden), nn.ReLU()])
            width = hidden
        stack.append(nn.Linear(width, out, bias=False))
        return stack.append(BatchNorm(out, affine=False)) if last_norm else stack

    def projector(self, width: int) -> nn.Sequential:
        return self.mlp(width, self.settings["projector_layers"], last_norm=True)

    def predictor(self) -> nn.Sequential:
        return self.mlp(self.settings["out_dim"], 2, self.settings["predictor_last_norm"])

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        temperature = self.settings["temperature"]
        cosines = F.normalize(prediction, dim=-1) @ F.normalize(target, dim=-1).mT
        return 2 * temperature * F.cross_entropy(cosines / temperature, torch.arange(len(cosines)))


class BYOL(Pairs):
    """The squared distance of unit vectors, 2 − 2·cos."""

    def mlp(self, width: int) -> nn.Sequential:
        hidden, out = self.settings["hidden_dim"], self.settings["out_dim"]
        return nn.Sequential(nn.Linear(width, hidden), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, out, bias=False))

    def projector(self, width: int) -> nn.Sequential:
        return self.mlp(width)

    def predictor(self) -> nn.Sequential:
        return self.mlp(self.settings["out_dim"])

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (2 - 2 * F.cosine_similarity(prediction, target, dim=-1, eps=1e-12)).mean()


# SimMIM


class SimMIM(Objective):
    """Pixels of masked cells from every stream's patches, L1, one view.

    Under HSSL the base also imitates the teacher head's CLS of the *unmasked* image. That is normalised over the
    batch: otherwise a constant would do.
    """

    always_teacher = False
    masks = True
    global_views = False

    def projections(self, width: int, streams: list[str], teacher: bool) -> nn.ModuleDict:
        head = nn.ModuleDict()
        if teacher:
            return head
        for stream in streams:
            head[f"{stream}_decoder"] = nn.Linear(width, 3 * self.settings["mask_stride"] ** 2)
        if "auxiliary" in streams:
            head["base_predictor"] = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        return head

    def __call__(self, student: Network, teacher: Network | None, batch: dict, state: dict, schedule: dict) -> Outcome:
        images, masks, stride = batch["images"], batch["masks"], self.settings["mask_stride"]
        seen = student.features(images, masks)
        masked = torch.kron(masks, torch.ones(stride, stride, dtype=torch.bool))[:, None].to(images.dtype)
        parts, outputs = {}, {}
        for stream in student.streams:
            # A patch's vector becomes the pixels of its square, channel by channel, row by row.
            squares = student.head[f"{stream}_decoder"](seen[stream].patches).unflatten(1, tuple(masks.shape[1:]))
            pixels = F.pixel_shuffle(squares.movedim(-1, 1), stride)
            outputs[f"student.{stream}_pixels"] = pixels
            parts[f"pixels_{stream}"] = ((images - pixels).abs() * masked).sum() / (3 * masked.sum() + 1e-5)
        loss = mean_of(list(parts.values()))
        if teacher is not None:
            with torch.no_grad():
                cls = teacher.features(images)["auxiliary"].cls
                target = F.batch_norm(cls, None, None, training=True, eps=1e-5)
            prediction = student.head["base_predictor"](seen["base"].patches.mean(1))
            outputs["student.base_prediction"] = prediction
            parts["global_base"] = (1 - F.cosine_similarity(prediction, target, dim=-1, eps=1e-12)).mean()
            loss = loss + schedule["global_weight"] * parts["global_base"]
        return Outcome(loss, parts, outputs, state)


# Distillation


class Distill(Objective):
    """A frozen teacher's answers to the view that the student sees: its global feature, and its cells in any
    orthonormal basis. The network beside the student is its average, which nothing is asked.

    Similarities are taken to anchors, the teacher's unit vectors of the last images before this update.
    """

    global_views = False

    def __init__(self, settings: dict) -> None:
        super().__init__(settings)
        side, rank = settings["teacher_side"], settings["teacher_rank"]
        self.answers = {"teacher_globals": (settings["teacher_width"],), "teacher_cells": (side * side, rank)}

    def projections(self, width: int, streams: list[str], teacher: bool) -> nn.ModuleDict:
        head = nn.ModuleDict()
        if not teacher:
            for stream in streams:
                orthogonal = self.settings["projection"] == "orthogonal"
                head[f"{stream}_projection"] = nn.Linear(width, self.settings["teacher_width"], bias=not orthogonal)
        return head

    def updated(self, student: Network) -> None:
        """One step of Björck and Bowie towards orthonormal columns, or rows where these are fewer."""
        if self.settings["projection"] == "orthogonal":
            for stream in student.streams:
                weight = student.head[f"{stream}_projection"].weight
                weight.copy_(1.5 * weight - 0.5 * weight @ weight.mT @ weight)

    def initial_state(self) -> dict[str, Tensor]:
        """A queue half full: how many vectors it has, and where the next one goes."""
        size = self.settings["anchors"]
        vectors = F.normalize(torch.randn(size, self.settings["teacher_width"]), dim=-1)
        vectors[size // 2 :] = 0
        return {"vectors": vectors, "place": torch.tensor([size // 2, size // 2], dtype=torch.get_default_dtype())}

    @staticmethod
    def divergence(target: Tensor, logits: Tensor) -> Tensor:
        """KL of each row of logits from a row of the target's logits."""
        return F.kl_div(
            F.log_softmax(logits, dim=-1), F.log_softmax(target, dim=-1), log_target=True, reduction="none"
        ).sum(-1)

    @staticmethod
    def similarities(cells: Tensor, side: int) -> Tensor:
        """[B, N, D] on a square grid → cosines of every cell to the others on a grid of that side [B, side², side² − 1]."""
        own = math.isqrt(cells.shape[1])
        grid = cells.mT.unflatten(-1, (own, own))
        if own != side:
            grid = F.interpolate(grid, size=(side, side), mode="bilinear", antialias=True)
        unit = F.normalize(grid.flatten(2).mT, dim=-1)
        cosines, count = unit @ unit.mT, side * side
        others = ~torch.eye(count, dtype=torch.bool)
        return cosines[:, others].unflatten(1, (count, count - 1))

    def queued(self, state: dict[str, Tensor], unit: Tensor) -> dict[str, Tensor]:
        vectors, (count, place) = state["vectors"].clone(), (int(value) for value in state["place"])
        for row in unit:
            vectors[place] = row
            place, count = (place + 1) % len(vectors), min(count + 1, len(vectors))
        return {"vectors": vectors, "place": torch.tensor([count, place], dtype=vectors.dtype)}

    def __call__(self, student: Network, teacher: Network, batch: dict, state: dict, schedule: dict) -> Outcome:
        settings, target = self.settings, batch["teacher_globals"]
        unit, anchors = F.normalize(target, dim=-1), state["vectors"][: int(state["place"][0])]
        own, their = settings["similarity_temperature"]
        seen = student.features(batch["images"])
        parts, outputs, losses = {}, {}, []
        for stream in student.streams:
            found = student.head[f"{stream}_projection"](seen[stream].cls)
            outputs[f"student.{stream}_projection"] = found
            direction = F.normalize(found, dim=-1)
            terms = {
                "global": (1 - (direction * unit).sum(-1)).mean(),
                "similarity": self.divergence(unit @ anchors.mT / their, direction @ anchors.mT / own).mean(),
                "mse": (found - target).square().mean(),
            }
            parts |= {f"{term}_{stream}": value for term, value in terms.items()}
            losses.append(sum(settings[f"{term}_weight"] * value for term, value in terms.items()))
        cells, temperature = seen["base"].patches, settings["patch_temperature"]
        side = min(math.isqrt(cells.shape[1]), settings["teacher_side"])
        parts["patch"] = self.divergence(
            self.similarities(batch["teacher_cells"], side) / temperature,
            self.similarities(cells, side) / temperature,
        ).mean()
        loss = mean_of(losses) + settings["patch_weight"] * parts["patch"]
        return Outcome(loss, parts, outputs, self.queued(state, unit))


OBJECTIVES: dict[str, type[Objective]] = {
    "ibot": IBOT, "dino": DINO, "mocov3": MoCoV3, "byol": BYOL, "simmim": SimMIM, "distill": Distill
}


def make_objective(settings: dict) -> Objective:
    return OBJECTIVES[settings["name"]](settings)
