"""Photographs from Debian packages, and the folders of crops that the parts work on. Cached; the same bytes for the
same seed and Pillow."""

import os
import pathlib
import random
import shutil
import subprocess

from peers_common import CACHE, Fault, note

PACKAGES = ["lomiri-wallpapers-16.04", "mate-backgrounds"]


def photographs() -> list[pathlib.Path]:
    """JPEG photographs: of the folder HSSL_PEERS_PHOTOGRAPHS, or of Debian packages that are unpacked, not
    installed."""
    given = os.environ.get("HSSL_PEERS_PHOTOGRAPHS")
    folder = pathlib.Path(given) if given else CACHE / "photographs"
    if not given and not folder.exists():
        packed = CACHE / "debs"
        packed.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            note(f"fetching the Debian package {package} for its photographs")
            got = subprocess.run(["apt-get", "download", "-q", package], cwd=packed, capture_output=True, text=True)
            if got.returncode:
                raise Fault(f"apt-get download {package} failed ({got.stderr.strip()[-200:]}); name a folder of photographs in HSSL_PEERS_PHOTOGRAPHS")
        unpacked = CACHE / "photographs.part"
        shutil.rmtree(unpacked, ignore_errors=True)
        for deb in sorted(packed.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(deb), str(unpacked)], check=True)
        unpacked.rename(folder)
    # Packaged wallpapers also hold drawings; these are PNG or in `abstract`.
    found = sorted(
        p for p in folder.rglob("*")
        if p.suffix.lower() in (".jpg", ".jpeg") and not p.is_symlink() and "abstract" not in p.parts)
    if not found:
        raise Fault(f"{folder} holds no JPEG photographs")
    return found


def crops(count: int, width: int, height: int, suffix: str) -> pathlib.Path:
    """A folder of `count` random crops, width×height (a quarter of them upright unless square), each at most 4 times as
    large before scaling."""
    from PIL import Image

    folder = CACHE / f"crops-{width}x{height}-{count}{suffix}"
    if folder.exists():
        return folder
    note(f"making {count} images in {folder}")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    chance = random.Random(1)
    sources = photographs()
    for index, source in enumerate(sources):
        with Image.open(source) as opened:
            image = opened.convert("RGB")
        for number in range(index, count, len(sources)):
            (w, h) = (width, height) if width == height or chance.random() < 0.75 else (height, width)
            largest = min(4.0, image.width / w, image.height / h)
            scale = chance.uniform(min(1.0, largest), largest)
            (boxed_w, boxed_h) = (w * scale, h * scale)
            (x, y) = (chance.uniform(0, image.width - boxed_w), chance.uniform(0, image.height - boxed_h))
            crop = image.resize((w, h), Image.Resampling.BICUBIC, box=(x, y, x + boxed_w, y + boxed_h))
            options = {"quality": 90} if suffix == ".jpg" else {"compress_level": 3}
            crop.save(part / f"{number:05d}{suffix}", **options)
    part.rename(folder)
    return folder
