#!/usr/bin/env python3
"""Writes Tests/HSSLDataTests/Fixtures: source images, and what Pillow makes of them (raw RGB bytes), listed in
manifest.json.

Needs numpy and Pillow 13 or later (earlier versions order the passes of some resizes differently). The output depends
on nothing else: run it again
and `git diff` shows what a new Pillow changes.
"""

import io
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


def upright(file):
    """The pixels of a file as CImage.h defines them, by Pillow."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image).astype(int) >> 8)[..., None], 3, 2)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        return np.asarray(black)
    return np.asarray(image.convert("RGB"))


def decode_case(name, data, whole=None, **extra):
    """A file; `whole` is the one that it must look like, where Pillow does not read it itself."""
    write(name, data)
    pixels = upright(io.BytesIO(whole) if whole else FOLDER / name)
    manifest["decode"].append({"file": name} | expect(name, pixels) | extra)


def save(image, format, **options):
    stream = io.BytesIO()
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


def app1(jpeg, *payloads):
    """A JPEG with markers right behind its start."""
    markers = b"".join(b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data for data in payloads)
    return jpeg[:2] + markers + jpeg[2:]


def tiff_block(kind, *values, order="<"):
    """EXIF with nothing but the orientation, as a number of that type."""
    packed = struct.pack(order + {3: "H", 4: "I", 5: "II", 8: "h", 9: "i", 11: "f"}[kind], *values)
    inline = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", 26)
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
    block += struct.pack(order + "HHI", 0x0112, kind, 1) + inline + b"\0" * 4
    return block + (packed if len(packed) > 4 else b"")


def make_odd_cases():
    """What cameras, phones and programs write besides what the formats' pages say."""
    small = Image.fromarray(rgb(15, 9))
    jpeg = save(small, "JPEG", quality=90, subsampling=0)
    pixels = np.asarray(small)
    head = b"Exif\0\0"
    namespace = b"http://ns.adobe.com/xap/1.0/\0"
    attribute = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
    element = b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>"
    for name, payloads in {
        "exif-long": [head + tiff_block(4, 6)],
        "exif-long-big-endian": [head + tiff_block(4, 8, order=">")],
        "exif-signed": [head + tiff_block(9, 3)],
        "exif-rational": [head + tiff_block(5, 12, 2)],
        "exif-float": [head + tiff_block(11, 5.0)],
        "exif-doubled": [head + head + tiff_block(3, 6)],
        "exif-second-marker": [namespace + b"<x:xmpmeta/>", head + tiff_block(3, 7)],
        "exif-in-two-markers": [head + tiff_block(4, 6)[:14], head + tiff_block(4, 6)[14:]],
        "exif-of-zero": [head + tiff_block(3, 0), namespace + attribute % 6],
        "exif-before-xmp": [namespace + attribute % 3, head + tiff_block(3, 6)],
        "xmp-attribute": [namespace + attribute % 6],
        "xmp-element": [namespace + element % 8],
        "xmp-beside-exif": [head + exif(6)[:8] + struct.pack("<H", 0), namespace + element % 2],
    }.items():
        decode_case(f"{name}.jpg", app1(jpeg, *payloads))

    def text(keyword, data, kind=b"iTXt", deflated=False):
        middle = bytes([int(deflated), 0]) + b"\0\0" if kind == b"iTXt" else b"\0" if kind == b"zTXt" else b""
        return kind, keyword + b"\0" + middle + (zlib.compress(data) if deflated or kind == b"zTXt" else data)

    profile = head + exif(6)
    lines = "\n".join(profile.hex()[i:i + 72] for i in range(0, 2 * len(profile), 72))
    profile = f"\nexif\n{len(profile):8}\n{lines}\n".encode()
    xmp, raw = b"XML:com.adobe.xmp", b"Raw profile type exif"
    for name, chunk in {
        "exif-prefixed": (b"eXIf", head + tiff_block(3, 6)),
        "exif-long": (b"eXIf", tiff_block(4, 6)),
        "xmp-attribute": text(xmp, attribute % 6),
        "xmp-element": text(xmp, element % 3),
        "xmp-deflated": text(xmp, attribute % 5 + b" " * 500, deflated=True),
        "profile-deflated": text(raw, profile, b"zTXt"),
        "profile-text": text(raw, profile, b"tEXt"),
    }.items():
        decode_case(f"{name}.png", png(pixels, 8, 2, before=[chunk]))
    decode_case("xmp-after-pixels.png", png(pixels, 8, 2, after=[text(xmp, attribute % 8)]))

    decode_case("progressive-turned.jpg", app1(save(small, "JPEG", progressive=True), head + tiff_block(3, 8)))
    # Some phones write zeros for a baseline scan's first and last coefficient and its bits.
    zeroed = bytearray(jpeg)
    scan = zeroed.find(b"\xff\xda")
    zeroed[scan + 11:scan + 14] = bytes(3)
    decode_case("scan-zeroed.jpg", bytes(zeroed))

    bits = (texture(13, 9, 1) // 64 % 2).astype(int)
    palette = random.integers(0, 256, 768, dtype=np.uint8).tobytes()
    alpha = random.integers(0, 256, 256, dtype=np.uint8).tobytes()
    decode_case("palette-large.png", png(bits, 1, 3, before=[(b"PLTE", palette)]))
    decode_case("palette-large-2.png", png(bits * 3, 2, 3, before=[(b"PLTE", palette[:90])]))
    decode_case(
        "palette-large-alpha.png", png(bits * 2, 4, 3, before=[(b"PLTE", palette), (b"tRNS", alpha)]))
    decode_case("palette-short-alpha.png", png(bits, 8, 3, before=[(b"PLTE", palette[:6]), (b"tRNS", alpha[:9])]))
    decode_case("palette-in-grey.png", png(bits, 8, 0, before=[(b"PLTE", palette[:6])]))
    rgba = np.concatenate([pixels, pixels[..., :1]], 2)
    decode_case("key-beside-alpha.png", png(rgba, 8, 6, before=[(b"tRNS", b"\0\1\0\1\0\1")]))

    # Whole pictures whose end marker is missing, or zeros where it was to come.
    whole = png(pixels, 8, 2)
    decode_case("no-end.png", whole[:-12], whole, repaired=True)
    decode_case("cut-end.png", whole[:-5], whole, repaired=True)
    decode_case("zeros-for-end.png", whole[:-12] + bytes(40), whole, repaired=True)
    for name, data in {
        "": jpeg, "-progressive": save(small, "JPEG", progressive=True, quality=80),
        "-restart": save(small, "JPEG", restart_marker_blocks=1),
        "-cmyk": save(small.convert("CMYK"), "JPEG", quality=90),
    }.items():
        decode_case(f"no-end{name}.jpg", data[:-2], data, repaired=True)
        decode_case(f"zeros-for-end{name}.jpg", data[:-2] + bytes(99), data, repaired=True)
    decode_case("half-end.jpg", jpeg[:-1], jpeg, repaired=True)


def make_more_format_cases():
    picture = Image.fromarray(rgb(37, 23))
    alpha = Image.fromarray(np.concatenate([texture(37, 23), texture(37, 23, 1) * 2 - 128], 2).clip(0, 255).round()
                            .astype(np.uint8), "RGBA")
    grey, palette = picture.convert("L"), picture.quantize(50)
    bits = picture.convert("1")
    cmyk = Image.fromarray(texture(37, 23, 4).round().astype(np.uint8), "CMYK")
    deep = Image.fromarray((texture(37, 23, 1)[..., 0] * 257).round().clip(0, 65535).astype(np.uint16))
    turned = [Image.Exif() for _ in range(9)]
    for orientation in range(1, 9):
        turned[orientation][0x0112] = orientation

    decode_case("rgb.webp", save(picture, "WEBP", quality=80))
    decode_case("lossless.webp", save(picture, "WEBP", lossless=True))
    decode_case("alpha.webp", save(alpha, "WEBP", quality=80))
    decode_case("alpha-lossless.webp", save(alpha, "WEBP", lossless=True))
    decode_case("animated.webp", save(alpha, "WEBP", save_all=True, append_images=[picture], lossless=True))
    decode_case("exif-6.webp", save(picture, "WEBP", lossless=True, exif=turned[6]))
    decode_case("exif-5-alpha.webp", save(alpha, "WEBP", exif=turned[5]))
    decode_case("xmp.webp", save(picture, "WEBP", xmp=b'<x tiff:Orientation="3"/>'))

    decode_case("palette.gif", save(palette, "GIF", interlace=0))
    decode_case("interlaced.gif", save(palette, "GIF", interlace=1))
    decode_case("grey.gif", save(grey, "GIF"))
    decode_case("transparent.gif", save(palette, "GIF", transparency=7))
    frames = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).quantize(20), bits]
    decode_case("animated.gif", save(palette, "GIF", save_all=True, append_images=frames, duration=50))
    # A picture smaller than the screen, and one that is larger.
    plain = save(palette, "GIF", interlace=0)
    for name, screen in {"gif-inside-screen": (50, 40), "gif-beyond-screen": (20, 10)}.items():
        for suffix, data in {"": plain, "-transparent": save(palette, "GIF", transparency=7, interlace=0)}.items():
            placed = bytearray(data)
            placed[6:10] = struct.pack("<HH", *screen)
            descriptor = placed.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 37, 23))
            placed[descriptor + 1:descriptor + 5] = struct.pack("<HH", 4, 3)
            decode_case(f"{name}{suffix}.gif", bytes(placed))

    for name, image in {"rgb": picture, "grey": grey, "palette": palette, "bits": bits, "alpha": alpha}.items():
        decode_case(f"{name}.bmp", save(image, "BMP"))
    make_bmp_cases()

    for name, image in {
        "rgb": picture, "grey": grey, "palette": palette, "bits": bits, "alpha": alpha, "cmyk": cmyk, "grey-16": deep,
    }.items():
        for suffix, compression in {"": None, "-lzw": "tiff_lzw", "-deflate": "tiff_adobe_deflate",
                                    "-packbits": "packbits"}.items():
            decode_case(f"{name}{suffix}.tiff", save(image, "TIFF", compression=compression))
    decode_case("jpeg.tiff", save(picture, "TIFF", compression="jpeg", quality=90))
    decode_case("grey-jpeg.tiff", save(grey, "TIFF", compression="jpeg"))
    decode_case("group3.tiff", save(bits, "TIFF", compression="group3"))
    decode_case("group4.tiff", save(bits, "TIFF", compression="group4"))
    decode_case("strips.tiff", save(picture, "TIFF", compression="tiff_lzw", strip_size=4 * 37 * 3))
    decode_case("big.tiff", save(picture, "TIFF", big_tiff=True))
    decode_case("pages.tiff", save(picture, "TIFF", save_all=True, append_images=[grey]))
    for orientation in range(1, 9):
        decode_case(f"exif-{orientation}.tiff", save(picture, "TIFF", exif=turned[orientation]))
    make_tiff_cases()

    for suffix in ("jfif", "jpe", "pjpeg"):
        decode_case(f"suffix.{suffix}", save(picture, "JPEG"))
    decode_case("two.mpo", save(picture, "MPO", save_all=True, append_images=[picture.rotate(180)]))


def bmp(width, height, bits, data, compression=0, palette=b"", masks=b"", header=40, top_down=False):
    rows = -height if top_down else height
    block = struct.pack("<IiiHHIIiiII", header, width, rows, 1, bits, compression, len(data), 0, 0,
                        len(palette) // 4, 0)
    block += masks.ljust(header - 40, b"\0") if header > 40 else masks
    offset = 14 + len(block) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + block + palette + data


def bmp_rows(samples, bits):
    rows = samples.reshape(samples.shape[0], -1)
    packed = [png_rows(row[None], bits)[1:] if bits <= 8 else row.astype(f"<u{bits // 8}").tobytes() for row in rows]
    return b"".join(row + bytes(-len(row) % 4) for row in packed)


def make_bmp_cases():
    width, height = 13, 9
    colors = random.integers(0, 256, (256, 4), dtype=np.uint8)
    for bits in (1, 4):
        indices = (texture(width, height, 1)[..., 0] // 16).astype(int) % 2**bits
        palette = colors[:2**bits].tobytes()
        decode_case(f"palette-{bits}.bmp", bmp(width, height, bits, bmp_rows(indices, bits), palette=palette))
    indices = (texture(width, height, 1)[..., 0] // 16).astype(int)
    decode_case("top-down.bmp", bmp(width, height, 8, bmp_rows(indices, 8), palette=colors.tobytes(), top_down=True))
    decode_case("palette-few.bmp", bmp(width, height, 8, bmp_rows(indices, 8), palette=colors[:6].tobytes()))
    words = random.integers(0, 65536, (height, width))
    decode_case("bits-15.bmp", bmp(width, height, 16, bmp_rows(words, 16)))
    decode_case("bits-16.bmp", bmp(width, height, 16, bmp_rows(words, 16), 3, masks=struct.pack(
        "<III", 0xF800, 0x7E0, 0x1F)))
    longs = random.integers(0, 2**32, (height, width))
    decode_case("bits-32.bmp", bmp(width, height, 32, bmp_rows(longs, 32)))
    for name, masks in {"bgra": (0xFF0000, 0xFF00, 0xFF, 0xFF000000), "rgba": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
                        "abgr": (0xFF000000, 0xFF0000, 0xFF00, 0xFF)}.items():
        decode_case(f"bits-{name}.bmp", bmp(
            width, height, 32, bmp_rows(longs, 32), 3, masks=struct.pack("<IIII", *masks), header=56))
    decode_case("rows-unpadded.bmp", bmp(width, height, 24, bmp_rows(rgb(width, height), 8))[:-1])
    core = struct.pack("<IHHHH", 12, width, height, 1, 4) + colors[:16, :3].tobytes()
    decode_case("os2.bmp", b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(core)) + core + bmp_rows(indices % 16, 4))

    runs = b"".join(
        bytes([5, row, 0, 4, 1, 2, 3, row]) + bytes([width - 9, 7, 0, 0]) for row in range(height - 2))
    # A jump over the rest of a row, a short row, and the end.
    runs += bytes([3, 9, 0, 2, 10, 0]) + bytes([width, 4, 0, 1])
    decode_case("runs-8.bmp", bmp(width, height, 8, runs, 1, palette=colors.tobytes()))
    runs = b"".join(bytes([7, 0x3A, 0, 5, 0x12, 0x34, 0x50, 0, 1, 0xB0 | row % 16, 0, 0]) for row in range(height))
    decode_case("runs-4.bmp", bmp(width, height, 4, runs + b"\0\1", 2, palette=colors[:16].tobytes()))


def tiff(fields, chunks, tiled=False, order="<"):
    """A page: (tag, type, values) and its strips or tiles."""
    fields = list(fields)
    data = b"".join(chunks)
    starts = np.cumsum([8] + [len(part) for part in chunks[:-1]]).tolist()
    fields += [(324 if tiled else 273, 4, starts), (325 if tiled else 279, 4, [len(part) for part in chunks])]
    directory, extra = struct.pack(order + "H", len(fields)), b""
    after = 8 + len(data) + len(data) % 2 + 2 + 12 * len(fields) + 4
    for tag, kind, values in sorted(fields):
        packed = struct.pack(order + str(len(values)) + {3: "H", 4: "I"}[kind], *values)
        directory += struct.pack(order + "HHI", tag, kind, len(values))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", after + len(extra))
            extra += packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data) + len(data) % 2)
    return head + data + bytes(len(data) % 2) + directory + bytes(4) + extra


def make_tiff_cases():
    width, height = 37, 23
    color, grey = rgb(width, height), texture(width, height, 1)
    deep = (texture(width, height) * 257).round().clip(0, 65535).astype(np.uint16)
    alpha = np.concatenate([color, (grey * 2 - 128).clip(0, 255).round().astype(np.uint8)], 2)

    def page(samples, bits, photometric, *more):
        return [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [1]),
                (262, 3, [photometric]), (277, 3, [samples]), *more]

    strip = [(278, 4, [height])]
    decode_case("rgb-16.tiff", tiff(page(3, 16, 2, *strip), [deep.astype("<u2").tobytes()]))
    decode_case(
        "rgb-16-big-endian.tiff", tiff(page(3, 16, 2, *strip), [deep.astype(">u2").tobytes()], order=">"))
    inks = (texture(width, height, 4) * 257).round().clip(0, 65535).astype("<u2")
    decode_case("cmyk-16.tiff", tiff(page(4, 16, 5, *strip), [inks.tobytes()]))
    decode_case("white-is-zero.tiff", tiff(page(1, 8, 0, *strip), [grey.astype(np.uint8).tobytes()]))
    for bits in (2, 4):
        packed = png_rows((grey / 256 * 2**bits).astype(int), bits)
        rows = len(packed) // height
        packed = b"".join(packed[row * rows + 1:(row + 1) * rows] for row in range(height))
        decode_case(f"grey-{bits}.tiff", tiff(page(1, bits, 1, *strip), [packed]))
    for name, kind in {"unassociated": 2, "associated": 1, "unspecified": 0}.items():
        decode_case(f"alpha-{name}.tiff", tiff(page(4, 8, 2, *strip, (338, 3, [kind])), [alpha.tobytes()]))
    decode_case("planes.tiff", tiff(
        page(3, 8, 2, (284, 3, [2]), (278, 4, [8])),
        [color[y:y + 8, :, c].tobytes() for c in range(3) for y in range(0, height, 8)]))

    def tiles(array, tile):
        padded = np.pad(array, ((0, -height % tile), (0, -width % tile), (0, 0)))
        return [padded[y:y + tile, x:x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]

    tile = [(322, 4, [16]), (323, 4, [16])]
    decode_case("tiles.tiff", tiff(page(3, 8, 2, *tile), [part.tobytes() for part in tiles(color, 16)], tiled=True))
    decode_case("tiles-deflate.tiff", tiff(
        [*(field for field in page(1, 8, 1, *tile) if field[0] != 259), (259, 3, [8])],
        [zlib.compress(part.astype(np.uint8).tobytes()) for part in tiles(grey, 16)], tiled=True))
    decode_case("tiles-turned.tiff", tiff(
        page(3, 8, 2, *tile, (274, 3, [6])), [part.tobytes() for part in tiles(color, 16)], tiled=True))
    decode_case("planes-tiles.tiff", tiff(
        page(3, 8, 2, *tile, (284, 3, [2])),
        [part[..., c].tobytes() for c in range(3) for part in tiles(color, 16)], tiled=True))


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
    make_odd_cases()
    make_more_format_cases()
    write("manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
    print(sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()), "bytes")


if __name__ == "__main__":
    main()
