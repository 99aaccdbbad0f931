#!/usr/bin/env python3
"""Reference values of Tests/HSSLModelsTests/PositionTests.swift: DINO's interpolate_pos_encoding by torch, in float64.

Embedding of a side x side grid, one channel: p[i] = ((7*i*i + 3*i) % 17)/17 - 0.5 for i in row-major order. Prints the
rows of each target grid.
"""
import torch

for side, height, width in [(4, 6, 6), (4, 2, 2), (3, 5, 2), (4, 2, 8), (1, 2, 2)]:
    p = torch.tensor([((7 * i * i + 3 * i) % 17) / 17 - 0.5 for i in range(side * side)], dtype=torch.float64).reshape(
        1, 1, side, side)
    out = torch.nn.functional.interpolate(p, scale_factor=((height + 0.1) / side, (width + 0.1) / side), mode="bicubic")
    assert out.shape[-2:] == (height, width)
    values = ", ".join(f"{v:.9f}" for v in out.flatten().tolist())
    print(f"({side}, {height}, {width}, [{values}]),")
