#!/usr/bin/env python3
"""How far the cells of view banks are from those of a bank that keeps all channels (distill.rank 0).

    tools/bank_error.py FULL BANK...

The banks are of one teacher, data set and seed. For each: bytes a view, the error of the cosines of any two cells of a
view, the error of their inner products as a part of these, and the least cosine of the global vectors. Needs numpy and
safetensors.
"""

import json
import pathlib
import sys

import numpy as np
from safetensors import safe_open


def views(folder: pathlib.Path):
    """Global vectors [draws, width] and cells [draws, cells, rank] of each image that has answers."""
    for path in sorted(folder.glob("shard-*.safetensors")):
        with safe_open(path, "np") as shard:
            present, globals_, global_scale, cells, cell_scale = (
                shard.get_tensor(name) for name in ("present", "globals", "globals_scale", "cells", "cells_scale"))
        for image in np.flatnonzero(present):
            yield globals_[image] * global_scale[image][:, None], cells[image] * cell_scale[image][:, None, None]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def gram(x: np.ndarray) -> np.ndarray:
    return x @ x.transpose(0, 2, 1)


def describe(folder: pathlib.Path) -> dict:
    return json.loads((folder / "bank.json").read_text())


def main(full: pathlib.Path, banks: list[pathlib.Path]) -> None:
    wanted = describe(full)
    if wanted["views"]["rank"] != wanted["views"]["width"]:
        sys.exit(f"bank_error: error: {full}: keeps coordinates, not all channels")
    for bank in banks:
        own = describe(bank)
        if (own["teacher"], own["data"], own["drawn"]) != (wanted["teacher"], wanted["data"], wanted["drawn"]):
            sys.exit(f"bank_error: error: {bank}: is of another teacher, data set or seed than {full}")
        squares, worst, products, lengths, count, least = 0.0, 0.0, 0.0, 0.0, 0, 1.0
        for (a, x), (b, y) in zip(views(full), views(bank)):
            error = gram(unit(y)) - gram(unit(x))
            squares, count = squares + float((error**2).sum()), count + error.size
            worst = max(worst, float(np.abs(error).max()))
            products, lengths = products + ((gram(y) - gram(x)) ** 2).sum(), lengths + (gram(x) ** 2).sum()
            least = min(least, float((unit(a) * unit(b)).sum(-1).min()))
        sizes = own["views"]
        size = sizes["width"] + 4 + np.prod(sizes["grid"]) * sizes["rank"] + 4
        print(f"{bank}: rank {sizes['rank']}, {size} bytes a view; cosines of cells: root mean square error "
              f"{(squares / count) ** 0.5:.4f}, largest {worst:.3f}; inner products {(products / lengths) ** 0.5:.4f}; "
              f"global vectors: least cosine {least:.6f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), [pathlib.Path(path) for path in sys.argv[2:]])
