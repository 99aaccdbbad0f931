"""Prints the achieved block-mask statistics that MaskTests compares with, from the text of the method (Python's own
random numbers).

    python3 tools/simulate_masks.py
"""
import math
import random

import numpy as np


def block_mask(height, width, ratio):
    """Block-wise mask as BEiT and iBOT draw it; the wanted count is often not reached."""
    wanted = ratio * height * width
    mask = np.zeros((height, width), dtype=bool)
    while (remaining := wanted - mask.sum()) > 0:
        for _ in range(10):
            area = random.uniform((min(height, width) // 3) ** 2, remaining)
            aspect = math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            block = np.s_[top : top + h, left : left + w]
            if 0 < h * w - mask[block].sum() <= remaining:
                mask[block] = True
                break
        else:
            break
    return mask


def main():
    random.seed(0)
    for side, views in [(7, 40_000), (14, 20_000)]:
        ratios = [random.choice([0.0, random.uniform(0.1, 0.5)]) for _ in range(views)]
        achieved = np.array([block_mask(side, side, ratio).mean() for ratio in ratios])
        masked = achieved[achieved > 0]
        print(
            f"{side}x{side}: unmasked {np.mean(achieved == 0):.4f}, mean ratio {achieved.mean():.5f} "
            f"± {achieved.std() / math.sqrt(views):.5f}, std {achieved.std():.5f}, mean of masked {masked.mean():.5f}"
        )


if __name__ == "__main__":
    main()
