#!/usr/bin/env python3
"""Writes Tests/CommandTests/Fixtures/dino.pth: a tiny ViT as DINO's training code saves it with torch.save.

    tools/make_import_fixture.py Tests/CommandTests/Fixtures/dino.pth

Element i of the tensor that is n-th in order of names is n + i/1000. Needs PyTorch.
"""

import argparse
import sys

import torch

WIDTH, PATCH, CELLS = 8, 4, 4
BLOCK = {
    "norm1.weight": [WIDTH],
    "norm1.bias": [WIDTH],
    "attn.qkv.weight": [3 * WIDTH, WIDTH],
    "attn.qkv.bias": [3 * WIDTH],
    "attn.proj.weight": [WIDTH, WIDTH],
    "attn.proj.bias": [WIDTH],
    "norm2.weight": [WIDTH],
    "norm2.bias": [WIDTH],
    "mlp.fc1.weight": [4 * WIDTH, WIDTH],
    "mlp.fc1.bias": [4 * WIDTH],
    "mlp.fc2.weight": [WIDTH, 4 * WIDTH],
    "mlp.fc2.bias": [WIDTH],
}
SHAPES = {
    "cls_token": [1, 1, WIDTH],
    "pos_embed": [1, 1 + CELLS, WIDTH],
    "patch_embed.proj.weight": [WIDTH, 3, PATCH, PATCH],
    "patch_embed.proj.bias": [WIDTH],
    "norm.weight": [WIDTH],
    "norm.bias": [WIDTH],
} | {f"blocks.0.{name}": shape for name, shape in BLOCK.items()}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 64
    state = {
        name: number + torch.arange(torch.Size(SHAPES[name]).numel()).reshape(SHAPES[name]) / 1000
        for number, name in enumerate(sorted(SHAPES))
    }
    head = {"head.mlp.0.weight": torch.ones(2, WIDTH), "head.last_layer.weight_g": torch.ones(2, 1)}
    checkpoint = {
        "student": {f"module.backbone.{name}": -tensor for name, tensor in state.items()} | head,
        "teacher": {f"backbone.{name}": tensor for name, tensor in state.items()} | head,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit", lr=0.1),
    }
    torch.save(checkpoint, sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
