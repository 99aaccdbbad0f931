"""Writes a short training run in float64 as one safetensors file, or replays such a file and says how far PyTorch
is from it.

    trajectory.py write CONFIG.json OUT.safetensors
    trajectory.py replay [--double] FILE.safetensors …

The file's metadata `hssl.reference` is the configuration, with the names of the loss's `parts`. README.md lists the
tensors and the bounds.
"""

import argparse
import json
import math
import pathlib
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from objectives import Network, make_objective

KEY = "hssl.reference"
# Of the images in turn: how many of an image's patches iBOT masks; one has none.
MASK_RATIOS = (0.35, 0.0, 0.2, 0.45)
SIMMIM_RATIO = 0.6
# A parameter's exact gradient is zero where the file's is below this: a bias before a norm over the batch.
ZERO = 1e-9


# A run


class AdamW:
    """Written out, since a trajectory pins it: decoupled decay, bias corrections by the number of this tensor's own
    updates.
    """

    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self) -> None:
        self.moments: dict[str, tuple[int, Tensor, Tensor]] = {}

    @torch.no_grad()
    def update(self, name: str, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        count, mean, square = self.moments.get(name, (0, torch.zeros_like(gradient), torch.zeros_like(gradient)))
        count += 1
        mean = self.beta1 * mean + (1 - self.beta1) * gradient
        square = self.beta2 * square + (1 - self.beta2) * gradient.square()
        self.moments[name] = (count, mean, square)
        if parameter.ndim > 1 and not name.endswith("bias"):
            parameter.mul_(1 - rate * decay)
        corrected = mean / (1 - self.beta1**count)
        deviation = (square / (1 - self.beta2**count)).sqrt()
        parameter.sub_(rate * corrected / (deviation + self.epsilon))


class Run:
    """Student, teacher, what else is learnt, and one step of it."""

    def __init__(self, configuration: dict) -> None:
        self.configuration = configuration
        self.objective = make_objective(configuration["objective"])
        auxiliary = configuration.get("auxiliary")
        self.networks = {"student": self._network(auxiliary, teacher=False)}
        if self.objective.always_teacher or auxiliary:
            self.networks["teacher"] = self._network(auxiliary, teacher=True).requires_grad_(False)
        self.state = {name: storable(value) for name, value in self.objective.initial_state().items()}
        self.optimizer = AdamW()

    def _network(self, auxiliary: dict | None, teacher: bool) -> Network:
        """A teacher unlike its student from the start; nothing is zero or one, so that every term counts."""
        network = Network(self.configuration["base"], auxiliary, self.objective, teacher)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(storable(parameter + 0.08 * torch.randn_like(parameter)))
        return network

    def tensors(self) -> dict[str, Tensor]:
        """What a run starts from and ends with, by its name in a file."""
        found = {
            f"{role}.{name}": value
            for role, network in self.networks.items()
            for name, value in network.named_parameters()
        }
        return found | {f"state.{name}": value for name, value in self.state.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        mine = {name for name in self.tensors()}
        if mine != tensors.keys():
            raise ValueError(f"the file starts from other tensors: {sorted(mine ^ tensors.keys())[:5]}")
        for role, network in self.networks.items():
            for name, parameter in network.named_parameters():
                parameter.copy_(tensors[f"{role}.{name}"])
        self.state = {name: tensors[f"state.{name}"].clone() for name in self.state}

    def draw(self) -> dict[str, Tensor]:
        """A batch of noise; masks [V, h, w] bool over the base's last grid."""
        c = self.configuration
        images, size = c["images"], c["base"]["image_size"]
        grid = c.get("mask_grid", 0)
        if self.objective.answers:
            answers = {name: storable(torch.randn(images, *shape)) for name, shape in self.objective.answers.items()}
            return {"images": storable(torch.randn(images, 3, size, size)), **answers}
        if not self.objective.global_views:
            return {
                "images": storable(torch.randn(images, 3, size, size)),
                "masks": torch.rand(images, grid, grid) < SIMMIM_RATIO,
            }
        batch = {"global_views": storable(torch.randn(2 * images, 3, size, size))}
        if c.get("local_views"):
            batch["local_views"] = storable(torch.randn(c["local_views"] * images, 3, c["local_size"], c["local_size"]))
        if self.objective.masks:
            ratios = torch.tensor([MASK_RATIOS[view % len(MASK_RATIOS)] for view in range(2 * images)])
            batch["masks"] = torch.rand(2 * images, grid, grid) < ratios[:, None, None]
        return batch

    def step(
        self, index: int, batch: dict[str, Tensor]
    ) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor], list[str]]:
        """→ the loss and its parts, the objective's outputs, the gradients before clipping and freezing, the names
        of the parts.
        """
        schedule = {key: values[index] for key, values in self.configuration["schedule"].items()}
        student, teacher = self.networks["student"], self.networks.get("teacher")
        student.zero_grad(set_to_none=True)
        outcome = self.objective(student, teacher, batch, self.state, schedule)
        outcome.loss.backward()
        gradients = {}
        clip = self.configuration["optimizer"]["clip_gradient"]
        for name, parameter in student.named_parameters():
            # What the loss does not depend on stays as it is: not even decayed.
            gradients[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            frozen = schedule.get("freeze_prototypes") and name == "head.prototypes.weight_v"
            if parameter.grad is None or frozen:
                continue
            # Every tensor is clipped by its own norm; 0 switches clipping off.
            factor = min(1.0, clip / (float(parameter.grad.norm()) + 1e-6)) if clip else 1.0
            self.optimizer.update(name, parameter, parameter.grad * factor, schedule["lr"], schedule["weight_decay"])
        with torch.no_grad():
            self.objective.updated(student)
        if teacher is not None:
            momentum, taught = schedule["teacher_momentum"], dict(student.named_parameters())
            with torch.no_grad():
                for name, parameter in teacher.named_parameters():
                    parameter.copy_(momentum * parameter + (1 - momentum) * taught[name])
        self.state = outcome.state
        losses = [float(value.detach()) for value in (outcome.loss, *outcome.parts.values())]
        return losses, outcome.outputs, gradients, list(outcome.parts)


def storable(value: Tensor) -> Tensor:
    """Rounded to float32, so that a file holds exactly what was computed with."""
    return value.detach().float().to(torch.get_default_dtype())


# Files


def run_all(run: Run, batches: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of a file but the inputs, as computed."""
    found, losses, parts = {}, [], []
    for index, batch in enumerate(batches):
        values, outputs, gradients, parts = run.step(index, batch)
        losses.append(values)
        if index == 0:
            found |= {f"step0.{name}": value.detach() for name, value in outputs.items()}
            found |= {f"step0.gradient.{name}": value for name, value in gradients.items()}
    found |= {f"final.{name}": value.detach().clone() for name, value in run.tensors().items()}
    found["losses"] = torch.tensor(losses)
    return found, parts


def write(configuration: dict, path: pathlib.Path) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(configuration["seed"])
    run = Run(configuration)
    tensors = {f"initial.{name}": value.detach().clone() for name, value in run.tensors().items()}
    batches = [run.draw() for _ in range(configuration["steps"])]
    tensors |= {f"step{index}.{name}": value for index, batch in enumerate(batches) for name, value in batch.items()}
    computed, parts = run_all(run, batches)
    tensors |= computed
    stored = {
        name: (value.byte() if value.dtype == torch.bool else value.float()).contiguous()
        for name, value in tensors.items()
    }
    save_file(stored, path, metadata={KEY: json.dumps(configuration | {"parts": parts}), "format": "pt"})
    losses = ", ".join(f"{value:.5f}" for value in computed["losses"][:, 0].tolist())
    print(f"{path}: losses {losses} ({', '.join(parts)})")


def read(path: pathlib.Path) -> tuple[dict, dict[str, Tensor]]:
    """The configuration and tensors of a file. Two older files say the same in other words: they are translated."""
    with safe_open(path, "pt") as file:
        configuration = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if "base" in configuration:
        return configuration, tensors
    c = configuration
    base = {key: c[key] for key in ("image_size", "patch_size", "embed_dim", "depth", "num_heads")}
    translated = {
        "base": {"family": "vit", **base},
        "auxiliary": {"family": "convnext", "depth": c["auxiliary_depth"], "kernel_size": c["auxiliary_kernel_size"]},
        "objective": {
            "name": "ibot",
            "hidden_dim": c["head_hidden_dim"],
            "bottleneck_dim": c["head_bottleneck_dim"],
            "prototypes": c["prototypes"],
            "student_temperature": c["student_temperature"],
            "center_momentum": c["center_momentum"],
        },
        "optimizer": {"clip_gradient": c["clip_gradient"]},
        "images": c["images"],
        "steps": c["steps"],
        "schedule": c["schedule"],
    }
    return translated, {name.replace(".center.", ".state."): value for name, value in tensors.items()}


# Comparison


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest error over largest magnitude."""
    return float((found.double() - wanted.double()).abs().max() / wanted.abs().max().clamp(min=1e-12))


def moved(found: Tensor, wanted: Tensor, start: Tensor) -> float:
    """Size of the error over how far the reference moved."""
    return float((found.double() - wanted.double()).norm() / (wanted.double() - start.double()).norm().clamp(min=1e-12))


class Worst:
    """The largest error of a kind in units of its bound."""

    def __init__(self, kind: str) -> None:
        self.kind, self.value, self.bound, self.name = kind, 0.0, math.inf, "nothing"

    def see(self, value: float, bound: float, name: str) -> None:
        # A value that is no number is never within a bound.
        if self.name == "nothing" or not value / bound <= self.value / self.bound:
            self.value, self.bound, self.name = value, bound, name

    @property
    def within(self) -> bool:
        return self.name == "nothing" or self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.kind} {self.value:.1e} of {self.bound:.1e} ({self.name})"


def replay(path: pathlib.Path, double: bool) -> bool:
    """Prints the worst errors of a file; true where all are within the bounds for float32."""
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    configuration, tensors = read(path)
    dtype = torch.get_default_dtype()
    tensors = {name: value.bool() if value.dtype == torch.uint8 else value.to(dtype) for name, value in tensors.items()}

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    run = Run(configuration)
    run.load(under("initial."))
    inputs = ("global_views", "local_views", "images", "masks", "teacher_globals", "teacher_cells")
    batches = [
        {name: value for name, value in under(f"step{index}.").items() if name in inputs}
        for index in range(configuration["steps"])
    ]
    found, _ = run_all(run, batches)

    gradients = under("step0.gradient.")
    exempt = {name for name, value in gradients.items() if value.abs().max() < ZERO}
    losses, outputs, slopes, final, drift = (
        Worst(kind) for kind in ("losses", "outputs", "gradients", "final", "exempt")
    )
    bound = 5e-4 if configuration["objective"]["name"] in ("mocov3", "byol") else 1e-4
    for index, (ours, theirs) in enumerate(zip(found["losses"].tolist(), tensors["losses"].tolist(), strict=True)):
        for ours_part, theirs_part in zip(ours, theirs, strict=True):
            # Tensors that rounding moves make later losses differ by more.
            losses.see(abs(ours_part / theirs_part - 1), 1e-4 if index and exempt else 1e-5, f"step {index}")
    for name, wanted in under("step0.").items():
        if name not in inputs and not name.startswith("gradient."):
            outputs.see(relative(found[f"step0.{name}"], wanted), bound, name)
    for name, wanted in gradients.items():
        if name not in exempt:
            slopes.see(relative(found[f"step0.gradient.{name}"], wanted), bound, name)
    # AdamW moves a tensor by about the rate in every step, so two runs part by at most twice the sum.
    reach = 2 * sum(configuration["schedule"]["lr"])
    for name, wanted in under("final.").items():
        ours, start = found[f"final.{name}"], tensors[f"initial.{name}"]
        if name.partition(".")[2] in exempt:
            drift.see(float((ours - wanted).abs().max()), reach, name)
            continue
        if name.endswith("qkv.bias"):
            # Softmax ignores the keys' bias: its exact gradient is zero too.
            (ours, keys, ours_v), (wanted, wanted_keys, wanted_v), (start, _, start_v) = (
                t.chunk(3) for t in (ours, wanted, start)
            )
            drift.see(float((keys - wanted_keys).abs().max()), reach, f"{name}, keys")
            ours, wanted, start = torch.cat([ours, ours_v]), torch.cat([wanted, wanted_v]), torch.cat([start, start_v])
        final.see(moved(ours, wanted, start), 2e-3, name)
    kinds = (losses, outputs, slopes, final, drift)
    agrees = all(kind.within for kind in kinds)
    print(f"{'agrees ' if agrees else 'DIFFERS'}  {path.name}: {'; '.join(map(str, kinds))}", flush=True)
    return agrees


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="trajectory.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="make a file")
    writing.add_argument("configuration", type=pathlib.Path)
    writing.add_argument("output", type=pathlib.Path)
    replaying = commands.add_parser(
        "replay", help="compare PyTorch with files; exit status 1 where a bound is exceeded"
    )
    replaying.add_argument("--double", action="store_true", help="in float64 instead of float32")
    replaying.add_argument("files", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    if options.command == "write":
        write(json.loads(options.configuration.read_text()), options.output)
        return 0
    return 0 if all([replay(path, options.double) for path in options.files]) else 1


if __name__ == "__main__":
    sys.exit(main())
