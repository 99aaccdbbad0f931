#!/usr/bin/env python3
"""Writes Tests/HSSLDataTests/Fixtures: source images, and what Pillow makes of them (raw RGB bytes), listed in
manifest.json.

Needs numpy and Pillow 13 or later (earlier versions order the passes of some resizes differently). The output depends
on nothing else: run it again
and `git diff` shows what a new Pillow changes.
"""

import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

FOLDER = Path(__file__).resolve().parent.parent / "Tests" / "HSSLDataTests" / "Fixtures"
random = np.random.default_rng(20231005)


def texture(width, height, channels=3):
    """Smooth shapes, edges and noise: what decoders and filters find in photographs."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    image = np.zeros((height, width, channels))
    for c in range(channels):
        for _ in range(6):
            fx, fy, phase = random.uniform(-0.25, 0.25), random.uniform(-0.25, 0.25), random.uniform(0, 6.3)
            image[..., c] += random.uniform(8, 40) * np.sin(fx * x + fy * y + phase)
        image[..., c] += random.uniform(90, 160)
    for _ in range(5):
        cx, cy, r = random.uniform(0, width), random.uniform(0, height), random.uniform(
            2, max(3, min(width, height) / 3))
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = random.uniform(0, 255, channels)
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255)


def rgb(width, height):
    return texture(width, height).round().astype(np.uint8)


# A PNG writer for what Pillow does not write: 16-bit colour, low bit depths, Adam7.


def png_rows(samples, depth):
    rows = b""
    for row in samples.reshape(samples.shape[0], -1):
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        elif depth == 8:
            packed = row.astype(np.uint8).tobytes()
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
            packed = np.packbits(bits.reshape(-1)).tobytes()
        rows += b"\0" + packed
    return rows


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, depth, color_type, interlaced=False, before=(), after=()):
    samples = samples.astype(int)
    if samples.ndim == 2:
        samples = samples[..., None]
    height, width = samples.shape[:2]
    data = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, int(interlaced)))
    for kind, content in before:
        data += chunk(kind, content)
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        parts = [samples[y::dy, x::dx] for y, x, dy, dx in passes]
        rows = b"".join(png_rows(part, depth) for part in parts if part.size)
    else:
        rows = png_rows(samples, depth)
    data += chunk(b"IDAT", zlib.compress(rows, 9))
    for kind, content in after:
        data += chunk(kind, content)
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def exif(orientation, order="<"):
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + struct.pack(order + "H", 2)
    tiff += struct.pack(order + "HHII", 0x0100, 4, 1, 12345)
    tiff += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack(order + "I", 0)
    return tiff


manifest = {
    "pillow": Image.__version__ if hasattr(Image, "__version__") else None, "decode": [], "resize": [],
    "preprocess": [], "adjust": []}


def write(name, data):
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def expect(name, array):
    array = np.ascontiguousarray(array, np.uint8)
    write(f"expected/{name}.rgb", array.tobytes())
    return {"expected": f"expected/{name}.rgb", "width": array.shape[1], "height": array.shape[0]}


def upright(path):
    """The pixels of a file as interfaces.md defines them, by Pillow."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "I;16":
        return np.repeat((np.asarray(image).astype(int) >> 8)[..., None], 3, 2)
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        return np.asarray(black)
    return np.asarray(image.convert("RGB"))


def decode_case(name, data):
    write(name, data)
    manifest["decode"].append({"file": name} | expect(name, upright(FOLDER / name)))


def save(image, format, **options):
    from io import BytesIO

    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def make_decode_cases():
    picture = Image.fromarray(rgb(61, 47))
    for name, options in {
        "rgb-420": {"subsampling": 2},
        "rgb-422": {"subsampling": 1},
        "rgb-444": {"subsampling": 0},
        "rgb-progressive": {"progressive": True},
        "rgb-restart": {"restart_marker_blocks": 3},
        "rgb-stored-as-rgb": {"keep_rgb": True, "quality": 90},
    }.items():
        decode_case(f"{name}.jpg", save(picture, "JPEG", **({"quality": 85} | options)))
    decode_case("grey.jpg", save(picture.convert("L"), "JPEG", quality=80))
    decode_case("grey-progressive.jpg", save(picture.convert("L"), "JPEG", quality=80, progressive=True))
    decode_case(
        "cmyk.jpg", save(Image.fromarray(texture(40, 27, 4).round().astype(np.uint8), "CMYK"), "JPEG", quality=90))
    decode_case("one-pixel.jpg", save(picture.crop((0, 0, 1, 1)), "JPEG"))
    decode_case("one-row.jpg", save(picture.crop((0, 5, 61, 6)), "JPEG"))
    small = Image.fromarray(rgb(21, 13))
    for orientation in range(1, 9):
        order = "<" if orientation % 2 else ">"
        decode_case(
            f"exif-{orientation}.jpg", save(small, "JPEG", quality=92, exif=b"Exif\0\0" + exif(orientation, order)))
    decode_case("exif-invalid.jpg", save(small, "JPEG", quality=92, exif=b"Exif\0\0" + exif(9)))
    # A wrong extension is no fault: content decides.
    decode_case("png-by-content.jpg", png(rgb(9, 7), 8, 2))
    decode_case("jpeg-by-content.png", save(small, "JPEG"))

    decode_case("rgb.png", png(rgb(37, 29), 8, 2))
    decode_case("rgb-interlaced.png", png(rgb(37, 29), 8, 2, interlaced=True))
    decode_case("rgb-interlaced-tiny.png", png(rgb(3, 2), 8, 2, interlaced=True))
    decode_case(
        "rgb-16.png",
        png((texture(23, 19) * 257 + random.uniform(-128, 128, (19, 23, 3))).clip(0, 65535).round(), 16, 2))
    decode_case("grey.png", png(texture(31, 17, 1).round(), 8, 0))
    decode_case(
        "grey-16.png",
        png((texture(31, 17, 1) * 257 + random.uniform(-128, 128, (17, 31, 1))).clip(0, 65535).round(), 16, 0))
    decode_case("grey-16-interlaced.png", png((texture(31, 17, 1) * 257).round(), 16, 0, interlaced=True))
    for depth in (1, 2, 4):
        samples = (texture(31, 17, 1) / 256 * 2**depth).astype(int)
        decode_case(f"grey-{depth}.png", png(samples, depth, 0))
        palette = random.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()
        decode_case(f"palette-{depth}.png", png(samples, depth, 3, before=[(b"PLTE", palette)]))
    palette = random.integers(0, 256, 768, dtype=np.uint8).tobytes()
    indices = texture(31, 17, 1).astype(int)
    decode_case("palette-8.png", png(indices, 8, 3, before=[(b"PLTE", palette)]))
    decode_case("palette-8-interlaced.png", png(indices, 8, 3, interlaced=True, before=[(b"PLTE", palette)]))
    transparency = random.integers(0, 256, 200, dtype=np.uint8).tobytes()
    decode_case("palette-alpha.png", png(indices, 8, 3, before=[(b"PLTE", palette), (b"tRNS", transparency)]))
    alpha = np.concatenate([texture(33, 21), texture(33, 21, 1) * 2 - 128], 2).clip(0, 255).round()
    decode_case("rgba.png", png(alpha, 8, 6))
    decode_case("rgba-interlaced.png", png(alpha, 8, 6, interlaced=True))
    decode_case("rgba-16.png", png(alpha * 257, 16, 6))
    decode_case("grey-alpha.png", png(alpha[..., 2:], 8, 4))
    decode_case("grey-key.png", png(indices // 32 * 32, 8, 0, before=[(b"tRNS", struct.pack(">H", 96))]))
    key = (rgb(31, 17) // 64 * 64).astype(int)
    decode_case("rgb-key.png", png(key, 8, 2, before=[(b"tRNS", struct.pack(">HHH", *key[3, 4]))]))
    decode_case("exif-6.png", png(rgb(19, 11), 8, 2, before=[(b"eXIf", exif(6))]))
    decode_case("exif-after-pixels.png", png(rgb(19, 11), 8, 2, after=[(b"eXIf", exif(3, ">"))]))


def make_resize_cases():
    sources = {}
    sizes = {"wide": (160, 97), "tall": (60, 171), "square": (88, 88), "small": (28, 28), "strip": (200, 3)}
    for name, size in sizes.items():
        sources[name] = Image.fromarray(rgb(*size))
        write(f"{name}.png", save(sources[name], "PNG", optimize=True))
    cases = [
        ("wide", (64, 64), None), ("wide", (160, 40), None), ("wide", (30, 97), None), ("wide", (1, 1), None),
        ("wide", (53, 41), (10.25, 3.5, 150.75, 90.125)),
        ("tall", (64, 64), None), ("tall", (70, 20), None), ("tall", (29, 83), (0, 0, 60, 170)),
        ("square", (88, 88), None), ("square", (96, 96), (11, 7, 40, 52)),
        ("square", (33, 35), None), ("small", (28, 28), (3, 2, 25, 26)), ("small", (56, 31), None),
        ("small", (28, 28), (0, 0, 28, 27.5)), ("strip", (64, 64), None),
    ]
    for number, (source, size, box) in enumerate(cases):
        image = sources[source]
        result = image.resize(size, Image.BICUBIC, box=box)
        entry = {"source": f"{source}.png", "box": list(box or (0, 0, *image.size))}
        manifest["resize"].append(entry | expect(f"resize-{number}", np.asarray(result)))

    write("photo.jpg", save(Image.fromarray(rgb(331, 247)), "JPEG", quality=75))
    write("photo-tall.jpg", save(Image.fromarray(rgb(120, 431)), "JPEG", quality=75))
    for number, (source, resize, crop) in enumerate([
        ("photo.jpg", 72, 64), ("photo.jpg", 256, 224), ("photo-tall.jpg", 72, 64), ("photo-tall.jpg", 120, 97),
        ("wide.png", 97, 64), ("tall.png", 45, 32),
        ("square.png", 88, 65), ("small.png", 28, 28), ("small.png", 33, 28), ("strip.png", 17, 16),
        ("exif-6.jpg", 16, 14), ("grey.jpg", 40, 33), ("rgba.png", 20, 16),
    ]):
        image = Image.fromarray(np.asarray(upright(FOLDER / source), np.uint8))
        width, height = image.size
        short, long = min(width, height), max(width, height)
        size = (resize, resize * long // short) if width <= height else (resize * long // short, resize)
        image = image.resize(size, Image.BICUBIC)
        left, top = int(round((size[0] - crop) / 2.0)), int(round((size[1] - crop) / 2.0))
        result = image.crop((left, top, left + crop, top + crop))
        manifest["preprocess"].append({"source": source, "resize": resize, "crop": crop} | expect(
            f"preprocess-{number}", np.asarray(result)))


def adjusted(image, operation, value):
    """As torchvision's functional transforms do on Pillow images."""
    if operation == "brightness":
        return ImageEnhance.Brightness(image).enhance(value)
    if operation == "contrast":
        return ImageEnhance.Contrast(image).enhance(value)
    if operation == "saturation":
        return ImageEnhance.Color(image).enhance(value)
    if operation == "hue":
        h, s, v = image.convert("HSV").split()
        shifted = np.array(h, dtype=np.uint8)
        with np.errstate(over="ignore"):
            shifted += np.array(value * 255).astype(np.int32).astype(np.uint8)
        return Image.merge("HSV", (Image.fromarray(shifted, "L"), s, v)).convert("RGB")
    if operation == "grayscale":
        return image.convert("L").convert("RGB")
    if operation == "blur":
        return image.filter(ImageFilter.GaussianBlur(value))
    if operation == "solarize":
        return ImageOps.solarize(image, int(value))
    if operation == "flip":
        return image.transpose(Image.FLIP_LEFT_RIGHT)
    raise ValueError(operation)


def make_adjust_cases():
    cases = {
        "brightness": [0, 0.6, 1, 1.4, 2.5], "contrast": [0, 0.6, 1.4], "saturation": [0, 0.8, 1.2, 2], "hue": [
            -0.5, -0.1, -0.03, 0, 0.07, 0.1, 0.5],
        "grayscale": [0], "blur": [0.1, 0.5, 1, 1.3, 1.42, 2, 3.7], "solarize": [128, 0, 256], "flip": [0],
    }
    # Every corner of the RGB cube, primaries, greys, and texture.
    steps = np.array([0, 1, 64, 127, 128, 200, 254, 255])
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(16, 32, 3).astype(np.uint8)
    write("colors.png", save(Image.fromarray(np.concatenate([cube, rgb(32, 15)])), "PNG", optimize=True))
    image = Image.open(FOLDER / "colors.png").convert("RGB")
    for operation, values in cases.items():
        for number, value in enumerate(values):
            value = float(np.float32(value))
            result = adjusted(image, operation, value)
            manifest["adjust"].append(
                {"source": "colors.png", "operation": operation, "value": value} | expect(
                    f"{operation}-{number}", np.asarray(result)))


def main():
    import PIL

    manifest["pillow"] = PIL.__version__
    if int(PIL.__version__.split(".")[0]) < 13:
        sys.exit(f"Pillow {PIL.__version__} is too old: 13 or later is needed")
    make_decode_cases()
    make_resize_cases()
    make_adjust_cases()
    write("manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
    print(sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()), "bytes")


if __name__ == "__main__":
    main()
