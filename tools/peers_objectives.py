"""A whole step of any objective in PyTorch: the definitions of tools/reference with what PyTorch has to make them fast
(scaled_dot_product_attention, fused AdamW, foreach EMA).

    peers_objectives.py replay FIXTURE…    within the fixtures' bounds, or exit status 1
    peers_objectives.py serve CONFIGURATION OBJECTIVE IMAGES
                                           reads {"seconds": s}, answers with the median rate of whole steps
"""

import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "reference"))

import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import blocks  # noqa: E402
import trajectory  # noqa: E402
from peers_common import peak_rss  # noqa: E402

# As `hssl bench pretrain` sets itself up: the base, depth of the ConvNeXt head, the MLPs of prototypes and of pairs.
CONFIGURATIONS = {
    "small": (
        {"image_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}, 3,
        {"hidden_dim": 2048, "bottleneck_dim": 256, "prototypes": 8192}, {"hidden_dim": 4096, "out_dim": 256}),
    "nano": (
        {"image_size": 28, "patch_size": 7, "embed_dim": 96, "depth": 4, "num_heads": 3}, 2,
        {"hidden_dim": 256, "bottleneck_dim": 64, "prototypes": 512}, {"hidden_dim": 512, "out_dim": 128}),
}
SCHEDULE = {
    "lr": 1e-4, "weight_decay": 0.04, "teacher_momentum": 0.996, "teacher_temperature": 0.04,
    "teacher_patch_temperature": 0.04, "freeze_prototypes": False, "global_weight": 1.0}


def attention(self: blocks.Attention, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


blocks.Attention.forward = attention


class Step:
    """Student, teacher and optimizer of one objective; what `trajectory.Run` does, without what it writes down."""

    def __init__(self, configuration: str, name: str, images: int) -> None:
        base, depth, prototypes, pairs = CONFIGURATIONS[configuration]
        own = {
            "ibot": prototypes, "dino": prototypes,
            "mocov3": pairs | {"projector_layers": 3, "predictor_last_norm": True, "temperature": 0.2}, "byol": pairs,
            "simmim": {"mask_stride": base["patch_size"]}}[name]
        self.run = trajectory.Run({
            "base": {"family": "vit", **base}, "auxiliary": {"family": "convnext", "depth": depth, "kernel_size": 7},
            "objective": {"name": name, "student_temperature": 0.1, "center_momentum": 0.9, **own},
            "images": images, "mask_grid": base["image_size"] // base["patch_size"]})
        self.student, self.teacher = self.run.networks["student"], self.run.networks["teacher"]
        for module in self.student.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.parameters = dict(self.student.named_parameters())
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        rest = [p for p in self.parameters.values() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": SCHEDULE["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
            lr=SCHEDULE["lr"], fused=True)
        # A network without a predictor follows what it has.
        self.followers = [(p, self.parameters[n]) for n, p in self.teacher.named_parameters()]
        self.batch = self.run.draw()

    def __call__(self) -> None:
        outcome = self.run.objective(self.student, self.teacher, self.batch, self.run.state, SCHEDULE)
        self.optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        for gradient, norm in zip(gradients, torch._foreach_norm(gradients)):
            gradient.mul_(min(1.0, 0.3 / (float(norm) + 1e-6)))
        self.optimizer.step()
        with torch.no_grad():
            theirs, ours = zip(*self.followers)
            torch._foreach_lerp_(list(theirs), [p.detach() for p in ours], 1 - SCHEDULE["teacher_momentum"])
        self.run.state = {name: value.detach() for name, value in outcome.state.items()}


def serve(configuration: str, name: str, images: int) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    step = Step(configuration, name, images)
    step()
    print(json.dumps({"settings": f"threads {torch.get_num_threads()}, SDPA, fused AdamW"}), flush=True)
    for line in sys.stdin:
        times, end = [], time.perf_counter() + json.loads(line)["seconds"]
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        answer = {"images_per_second": images / statistics.median(times), "calls": len(times)}
        print(json.dumps(answer | {"peak_rss_bytes": peak_rss()}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "replay":
        torch.set_num_threads(2)
        sys.exit(0 if all([trajectory.replay(pathlib.Path(path), False) for path in sys.argv[2:]]) else 1)
    serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
