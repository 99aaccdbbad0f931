#!/usr/bin/env python3
"""Statistics of torchvision's RandomResizedCrop.get_params, for AugmentationTests: mean area and the rate of the
fallback crop."""

import math
import random


def fallback(width, height):
    ratio = width / height
    if ratio < 3 / 4:
        return width, round(width / (3 / 4))
    if ratio > 4 / 3:
        return round(height * (4 / 3)), height
    return width, height


def draw(width, height, scale):
    for _ in range(10):
        target = width * height * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            return left, top, w, h
    w, h = fallback(width, height)
    return (width - w) // 2, (height - h) // 2, w, h


def main():
    random.seed(1)
    count = 200_000
    for width, height in [(500, 375), (28, 28), (100, 300), (400, 60)]:
        crops = [draw(width, height, (0.14, 1.0)) for _ in range(count)]
        w, h = fallback(width, height)
        whole = ((width - w) // 2, (height - h) // 2, w, h)
        area = sum(c[2] * c[3] for c in crops) / count / (width * height)
        rate = sum(c == whole for c in crops) / count
        print(f"CropStatistics(width: {width}, height: {height}, meanArea: {area:.5f}, fallbackRate: {rate:.5f}),")


if __name__ == "__main__":
    main()
