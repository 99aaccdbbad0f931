"""The Python pipeline at its best: two Pillow processes decode into shared memory, OpenVINO int8 runs batches from
there.

    peers_pillow.py MODEL.onnx BATCH f32|own

The last word: whether OpenVINO keeps float32 where nothing is quantised, or takes the precision that it would itself.
Reads JSON lines
{"folder": …, "output": …}; answers with the seconds from the list of files to the saved features. Imports, compiling
the model and starting the workers are
not counted.
"""

import json
import multiprocessing
import os
import sys
import time
from multiprocessing import shared_memory

SIDE, RESIZE, WORKERS, BATCHES_AHEAD = 224, 256, 2, 4


def work(tasks, done, name: str, slots: int) -> None:
    import numpy as np
    from PIL import Image

    memory = shared_memory.SharedMemory(name)
    pixels = np.ndarray((slots, SIDE, SIDE, 3), np.uint8, memory.buf)
    while (task := tasks.get()) is not None:
        path, slot = task
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        (w, h) = image.size
        (rw, rh) = (RESIZE, RESIZE * h // w) if w <= h else (RESIZE * w // h, RESIZE)
        # Only the crop's part is resampled, as our own resize does.
        (x, y) = (round((rw - SIDE) / 2), round((rh - SIDE) / 2))
        box = (x * w / rw, y * h / rh, (x + SIDE) * w / rw, (y + SIDE) * h / rh)
        pixels[slot] = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
        done.put(slot)
    del pixels
    memory.close()


def compiled(path: str, batch: int, float32: bool):
    """The model takes the workers' bytes: conversion, mean and standard deviation run inside OpenVINO."""
    import openvino
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    from peers_engines import ov_compile
    from peers_vit import MEAN, STD

    steps = PrePostProcessor(openvino.Core().read_model(path))
    steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC")).set_shape([batch, SIDE, SIDE, 3])
    steps.input().model().set_layout(Layout("NCHW"))
    steps.input().preprocess().convert_element_type(Type.f32).mean([255 * v for v in MEAN]).scale(
        [255 * v for v in STD]).convert_layout(Layout("NCHW"))
    return ov_compile(steps.build(), float32).create_infer_request()


def main(path: str, batch: int, float32: bool) -> None:
    context = multiprocessing.get_context("fork")
    slots = BATCHES_AHEAD * batch
    memory = shared_memory.SharedMemory(create=True, size=slots * SIDE * SIDE * 3)
    tasks, done = context.SimpleQueue(), context.SimpleQueue()
    # Before OpenVINO and its threads exist in this process.
    workers = [context.Process(target=work, args=(tasks, done, memory.name, slots), daemon=True)
               for _ in range(WORKERS)]
    for worker in workers:
        worker.start()

    import numpy as np

    pixels = np.ndarray((BATCHES_AHEAD, batch, SIDE, SIDE, 3), np.uint8, memory.buf)
    pixels[:] = 0
    request = compiled(path, batch, float32)
    request.infer([pixels[0]], share_inputs=True)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.perf_counter()
        files = sorted(os.path.join(asked["folder"], name) for name in os.listdir(asked["folder"]))
        features, pending = [], [0] * BATCHES_AHEAD

        def feed(number: int) -> None:
            part = files[number * batch : (number + 1) * batch]
            pending[number % BATCHES_AHEAD] = len(part)
            for place, file in enumerate(part):
                tasks.put((file, number % BATCHES_AHEAD * batch + place))

        total = -(-len(files) // batch)
        for number in range(min(BATCHES_AHEAD, total)):
            feed(number)
        for number in range(total):
            group = number % BATCHES_AHEAD
            while pending[group]:
                pending[done.get() // batch] -= 1
            request.infer([pixels[group]], share_inputs=True)
            features.append(request.get_output_tensor(0).data[: len(files) - number * batch].copy())
            if number + BATCHES_AHEAD < total:
                feed(number + BATCHES_AHEAD)
        np.save(asked["output"], np.concatenate(features))
        print(json.dumps({"seconds": time.perf_counter() - start, "images": len(files)}), flush=True)
    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.join()
    del pixels
    memory.close()
    memory.unlink()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), {"f32": True, "own": False}[sys.argv[3]])
