"""The published HSSL step (arXiv 2310.05108, iBOT objective) in plain PyTorch: no saving that is not in the published
code.

    peers_hssl.py replay FIXTURE…               losses beside a float64 trajectory: proves that the step is the step
    peers_hssl.py serve CONFIGURATION VARIANT   reads {"seconds": s}, answers with the median rate of whole steps
"""

import json
import pathlib
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from peers_common import peak_rss
from peers_vit import ViT, drop_path

CONFIGURATIONS = {
    # As `hssl bench pretrain` sets itself up: image, patch, width, depth, heads, auxiliary depth, hidden, bottleneck,
    # prototypes, images.
    "small": (224, 16, 384, 12, 6, 3, 2048, 256, 8192, 8),
    "nano": (28, 4, 96, 4, 3, 2, 256, 64, 512, 64),
}
# `published` projects every token of both streams, as the published code does; `used` leaves out logits that no term of
# the loss reads.
VARIANTS = ("published", "used")


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int, kernel: int, shortcut: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.shortcut = shortcut
        self.drop_path = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, D, h, w] → [B, D, h, w]."""
        branch = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return x + drop_path(branch, self.drop_path, self.training) if self.shortcut else branch


class Auxiliary(nn.Module):
    def __init__(self, width: int, depth: int, kernel: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, kernel, shortcut=i > 0) for i in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Tokens before the base's final norm [B, 1+N, D] → [B, 1+N, D]; CLS is the mean over the grid."""
        x = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
        for block in self.blocks:
            x = block(x)
        x = x.flatten(2).transpose(1, 2)
        return self.norm(torch.cat([x.mean(1, keepdim=True), x], dim=1))


class Prototypes(nn.Module):
    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(count, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, F.normalize(self.weight_v, dim=-1))


class Head(nn.Module):
    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()

        def mlp() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
                nn.Linear(hidden, bottleneck))

        self.base_mlp, self.auxiliary_mlp = mlp(), mlp()
        self.prototypes = Prototypes(bottleneck, prototypes)

    def forward(self, x: torch.Tensor, mlp: nn.Module) -> torch.Tensor:
        return self.prototypes(F.normalize(mlp(x), dim=-1))


class Network(nn.Module):
    def __init__(
        self, image: int, patch: int, width: int, depth: int, heads: int, auxiliary: int, kernel: int, hidden: int,
        bottleneck: int, prototypes: int
    ) -> None:
        super().__init__()
        self.base = ViT(image, patch, width, depth, heads, mask_token=True)
        self.auxiliary = Auxiliary(width, auxiliary, kernel)
        self.head = Head(width, hidden, bottleneck, prototypes)
        self.patch = patch

    def set_drop_path(self, rate: float) -> None:
        """Rates rise linearly over the blocks of the base and the head."""
        blocks = [*self.base.blocks, *self.auxiliary.blocks]
        for index, block in enumerate(blocks):
            block.drop_path = rate * index / max(1, len(blocks) - 1)

    def forward(self, images: torch.Tensor, mask: torch.Tensor | None, used: bool, teacher: bool) -> tuple[
        torch.Tensor | None, torch.Tensor, torch.Tensor
    ]:
        """→ logits of the base's CLS [V, K], the base's patches [V, N, K], the auxiliary CLS [V, K]."""
        tokens = self.base.tokens(images, mask)
        base = self.base.norm(tokens)
        auxiliary = self.auxiliary(tokens, (images.shape[2] // self.patch, images.shape[3] // self.patch))
        if used:
            auxiliary = auxiliary[:, :1]
            base = base[:, 1:] if teacher else base
        base = self.head(base, self.head.base_mlp)
        auxiliary = self.head(auxiliary, self.head.auxiliary_mlp)
        if used and teacher:
            return None, base, auxiliary[:, 0]
        return base[:, 0], base[:, 1:], auxiliary[:, 0]


class Learner:
    """Student, teacher, centres and AdamW; one call is one step."""

    def __init__(self, network: dict, used: bool = False, drop: float = 0.0) -> None:
        self.student, self.teacher = Network(**network), Network(**network)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.teacher.eval()
        self.student.train()
        self.student.set_drop_path(drop)
        self.used = used
        prototypes = network["prototypes"]
        self.cls_center, self.patch_center = torch.zeros(prototypes), torch.zeros(prototypes)
        parameters = list(self.student.named_parameters())
        self.prototypes = self.student.head.prototypes.weight_v
        decayed = [p for n, p in parameters if p.ndim > 1 and not n.endswith("bias")]
        others = [p for n, p in parameters if p.ndim <= 1 or n.endswith("bias")]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.999), eps=1e-8, fused=True)

    def losses(self, views: torch.Tensor, masks: torch.Tensor, local: torch.Tensor | None, s: dict) -> tuple[
        torch.Tensor, ...
    ]:
        """views [2B, 3, H, W] view-major, masks [2B, N] bool → (loss, cls_base, cls_aux, patch); moves the centres."""
        with torch.no_grad():
            _, teacher_patch, teacher_cls = self.teacher(views, None, self.used, teacher=True)
            target_cls = F.softmax((teacher_cls - self.cls_center) / s["teacher_temperature"], dim=-1).chunk(2)
            target_patch = F.softmax((teacher_patch - self.patch_center) / s["teacher_patch_temperature"], dim=-1)
            self.cls_center.lerp_(teacher_cls.mean(0), 1 - s["center_momentum"])
            self.patch_center.lerp_(teacher_patch.mean((0, 1)), 1 - s["center_momentum"])
        base_cls, base_patch, auxiliary_cls = self.student(views, masks, self.used, teacher=False)
        base_views, auxiliary_views = list(base_cls.chunk(2)), list(auxiliary_cls.chunk(2))
        if local is not None:
            count = local.shape[0] // base_views[0].shape[0]
            local_cls, _, local_auxiliary = self.student(local, None, self.used, teacher=False)
            base_views += local_cls.chunk(count)
            auxiliary_views += local_auxiliary.chunk(count)

        def entropy(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            return -(target * F.log_softmax(logits / s["student_temperature"], dim=-1)).sum(-1)

        def cls(streams: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(
                [entropy(q, z).mean() for u, q in enumerate(target_cls) for v, z in enumerate(streams) if u
                != v]).mean()

        cls_base, cls_aux = cls(base_views), cls(auxiliary_views)
        weight = masks.float() / masks.sum(1, keepdim=True).clamp(min=1)
        patch = (entropy(target_patch, base_patch) * weight).sum(1).mean()
        return 0.5 * ((cls_base + cls_aux) + 2 * patch), cls_base, cls_aux, patch

    def step(self, views: torch.Tensor, masks: torch.Tensor, local: torch.Tensor | None, s: dict) -> list[float]:
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(views, masks, local, s)
        losses[0].backward()
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        factors = [torch.clamp(s["clip_gradient"] / (n + 1e-6), max=1) for n in torch._foreach_norm(gradients)]
        torch._foreach_mul_(gradients, factors)
        if s["freeze_prototypes"]:
            self.prototypes.grad = None
        for group, decay in zip(self.optimizer.param_groups, (s["weight_decay"], 0.0)):
            group["lr"], group["weight_decay"] = s["lr"], decay
        self.optimizer.step()
        with torch.no_grad():
            teacher = list(self.teacher.parameters())
            torch._foreach_lerp_(teacher, [p.detach() for p in self.student.parameters()], 1 - s["teacher_momentum"])
        return [float(l.detach()) for l in losses]


def replay(path: str) -> tuple[float, float]:
    """The largest relative deviation of a loss, and of a final tensor in units of how far the reference moved."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        c = json.loads(file.metadata()["hssl.reference"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    learner = Learner({
        "image": c["image_size"], "patch": c["patch_size"], "width": c["embed_dim"], "depth": c["depth"], "heads": c[
            "num_heads"], "auxiliary": c["auxiliary_depth"],
        "kernel": c["auxiliary_kernel_size"], "hidden": c["head_hidden_dim"], "bottleneck": c["head_bottleneck_dim"],
        "prototypes": c["prototypes"]})
    for network, role in ((learner.student, "student"), (learner.teacher, "teacher")):
        prefix = f"initial.{role}."
        network.load_state_dict(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, strict=True)
    learner.cls_center.copy_(tensors["initial.center.cls"])
    learner.patch_center.copy_(tensors["initial.center.patch"])
    worst = 0.0
    for step in range(c["steps"]):
        s = {key: values[step] for key, values in c["schedule"].items()}
        s |= {key: c[key] for key in ("student_temperature", "center_momentum", "clip_gradient")}
        masks = tensors[f"step{step}.masks"].flatten(1).bool()
        losses = learner.step(tensors[f"step{step}.global_views"], masks, tensors.get(f"step{step}.local_views"), s)
        for ours, reference in zip(losses, tensors["losses"][step].tolist()):
            worst = max(worst, abs(ours - reference) / abs(reference))
    moved = 0.0
    finals = [("center.cls", learner.cls_center), ("center.patch", learner.patch_center)]
    for network, role in ((learner.student, "student"), (learner.teacher, "teacher")):
        finals += [(f"{role}.{name}", value) for name, value in network.state_dict().items()]
    for name, value in finals:
        start, end = tensors[f"initial.{name}"], tensors[f"final.{name}"]
        if name.endswith("qkv.bias"):
            # The exact gradient of the keys' bias is zero: rounding decides where AdamW takes it.
            value, start, end = (t.view(3, -1)[[0, 2]] for t in (value, start, end))
        moved = max(moved, float((value - end).norm() / (end - start).norm().clamp(min=1e-12)))
    return worst, moved


def serve(configuration: str, variant: str) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    image, patch, width, depth, heads, auxiliary, hidden, bottleneck, prototypes, images = CONFIGURATIONS[configuration]
    learner = Learner({
        "image": image, "patch": patch, "width": width, "depth": depth, "heads": heads, "auxiliary": auxiliary,
        "kernel": 7, "hidden": hidden, "bottleneck": bottleneck, "prototypes": prototypes},
        used=variant == "used", drop=0.1)
    for module in learner.student.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    learner.teacher.load_state_dict(learner.student.state_dict())
    views = torch.empty(2 * images, 3, image, image).uniform_(-2, 2)
    # Every second crop has 30 % of its patches masked.
    masks = torch.rand(2 * images, (image // patch) ** 2) < 0.3
    masks[1::2] = False
    s = {
        "lr": 1e-4, "weight_decay": 0.04, "teacher_momentum": 0.996, "teacher_temperature": 0.04,
        "teacher_patch_temperature": 0.04, "student_temperature": 0.1,
        "center_momentum": 0.9, "clip_gradient": 0.3, "freeze_prototypes": False}
    learner.step(views, masks, None, s)
    print(json.dumps({"settings": f"threads {torch.get_num_threads()}, SDPA, fused AdamW"}), flush=True)
    for line in sys.stdin:
        times, end = [], time.perf_counter() + json.loads(line)["seconds"]
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            learner.step(views, masks, None, s)
            times.append(time.perf_counter() - start)
        print(
            json.dumps({"images_per_second": images / statistics.median(times), "calls": len(times),
                        "peak_rss_bytes": peak_rss()}),
            flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "replay":
        torch.set_num_threads(2)
        print(json.dumps({pathlib.Path(path).name: replay(path) for path in sys.argv[2:]}))
    else:
        serve(sys.argv[2], sys.argv[3])
