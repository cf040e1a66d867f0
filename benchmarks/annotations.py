"""Annotations of the size of LVIS v1 train: first parse, opening from the cache, and memory of several workers.

    python -m benchmarks.annotations

Images and their categories are those that the glyph dataset would have with 1203 categories; instances are spread over
them until there are as many annotations as in LVIS v1 train, with polygons whose length gives its file size. The rival
parses with Python's json and groups the annotations in a loop, as lvis-api does. Each measurement has its own process.
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import psutil

from benchmarks.evaluation import machine
from lttune.data.annotation_cache import cached_annotations
from lttune.data.frequency import category_frequencies
from lttune.data.glyphs import GlyphConfig, plan_images
from lttune.data.lvis import LvisDataset
from lttune.data.sampling import repeat_factors

NUM_IMAGES, NUM_ANNOTATIONS, NUM_CATEGORIES = 100_170, 1_270_141, 1203
MEAN_POINTS = 48  # of a polygon, which makes the file as large as LVIS's, 1.1 GB
IMAGE_HEIGHT, IMAGE_WIDTH = 480, 640
CHUNK = 20_000
MIB = 1 << 20


def write_annotations(path: Path, num_images: int, num_annotations: int, rng: np.random.Generator) -> None:
    """Write an LVIS-format file piece by piece, since its objects would fill the memory."""
    config = GlyphConfig(num_categories=NUM_CATEGORIES, num_train_images=num_images)
    plan = plan_images(config, "train")
    pairs = np.array([(image, category) for image, present in enumerate(plan) for category in present])
    # Each pair once, the other annotations as further instances of random pairs.
    rows = np.concatenate([np.arange(len(pairs)), rng.integers(len(pairs), size=num_annotations - len(pairs))])
    pairs = pairs[np.sort(rows)]
    with path.open("wb") as file:
        file.write(b'{"categories":' + orjson.dumps([{"id": c + 1, "name": f"c{c}"} for c in range(NUM_CATEGORIES)]))
        file.write(b',"images":[')
        _write_joined(file.write, ([_image_entry(i, plan[i], rng)] for i in range(num_images)))
        file.write(b'],"annotations":[')
        _write_joined(file.write, _annotation_entries(pairs, rng))
        file.write(b"]}")


def _write_joined(write: Callable[[bytes], Any], chunks: Iterator[list[dict[str, Any]]]) -> None:
    for i, chunk in enumerate(chunks):
        write(b"," * (i > 0) + orjson.dumps(chunk)[1:-1])


def _image_entry(image: int, present: list[int], rng: np.random.Generator) -> dict[str, Any]:
    return {
        "id": 3 * image + 1,
        "height": IMAGE_HEIGHT,
        "width": IMAGE_WIDTH,
        "coco_url": f"http://images.cocodataset.org/train2017/{image:012}.jpg",
        "neg_category_ids": (np.setdiff1d(rng.integers(NUM_CATEGORIES, size=8), present) + 1).tolist(),
        "not_exhaustive_category_ids": [c + 1 for c in present[:1]],
    }


def _annotation_entries(pairs: Any, rng: np.random.Generator) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        lengths = 2 * (3 + rng.poisson(MEAN_POINTS - 3, len(part)))
        numbers = np.round(rng.random(int(lengths.sum())) * IMAGE_HEIGHT, 2)
        polygons = [polygon.tolist() for polygon in np.split(numbers, np.cumsum(lengths)[:-1])]
        boxes = np.round(rng.random((len(part), 4)) * IMAGE_HEIGHT / 2 + 1, 2).tolist()
        yield [
            {
                "id": start + i + 1,
                "image_id": 3 * int(image) + 1,
                "category_id": int(category) + 1,
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "segmentation": [polygon],
            }
            for i, ((image, category), box, polygon) in enumerate(zip(part, boxes, polygons, strict=True))
        ]


def parse_as_rival(path: Path) -> None:
    """Python's json and the loops that lvis-api makes its index with."""
    with path.open() as file:
        document = json.load(file)
    images, annotations = {}, {}
    of_image: dict[int, list[Any]] = defaultdict(list)
    of_category: dict[int, list[int]] = defaultdict(list)
    for image in document["images"]:
        images[image["id"]] = image
    for annotation in document["annotations"]:
        annotations[annotation["id"]] = annotation
        of_image[annotation["image_id"]].append(annotation)
        of_category[annotation["category_id"]].append(annotation["image_id"])


def open_checked(path: Path, cache: Path) -> None:
    """Open a file's columns and compare every checksum, as a search does when it starts; parse it where it is new."""
    cached_annotations(path, cache)


def timed(run: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def work(path: Path, cache: Path, barrier: Barrier) -> dict[str, float]:
    """What one worker of several spends on opening the columns, and on all that a trial's start reads of them."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_full_info()
    began = time.perf_counter()
    annotations = cached_annotations(path, cache, is_checked=False)
    seconds = time.perf_counter() - began
    opened = process.memory_full_info()
    kept = (
        category_frequencies(annotations),
        repeat_factors(annotations, threshold=1e-3),
        LvisDataset(annotations, Path()),
    )
    barrier.wait()  # so that every worker maps the columns while memory is read
    used = process.memory_full_info()
    barrier.wait()
    assert kept
    return {
        "open, s": seconds,
        "open, MiB of RSS": (opened.rss - before.rss) / MIB,
        "open, MiB of USS": (opened.uss - before.uss) / MIB,
        "start of a trial, MiB of RSS": (used.rss - before.rss) / MIB,
        "start of a trial, MiB of USS": (used.uss - before.uss) / MIB,
    }


def _measure(connection: Any, run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    result = run(*arguments)
    connection.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def in_processes(run: Callable[..., Any], *arguments: Any, number: int = 1) -> list[tuple[Any, float]]:
    """The result of each of some new processes, and its peak RSS in MiB."""
    context = multiprocessing.get_context("spawn")
    started = []
    for _ in range(number):
        mine, theirs = context.Pipe()
        process = context.Process(target=_measure, args=(theirs, run, arguments))
        process.start()
        started.append((process, mine))
    results = [mine.recv() for _, mine in started]
    for process, _ in started:
        process.join()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Annotations of LVIS v1's size: parse, open, memory per worker.")
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--annotations", type=int, default=NUM_ANNOTATIONS)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--without-rival", action="store_true", help="leave out json and its loops")
    arguments = parser.parse_args()

    print(f"machine: {machine()}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "train.json", Path(folder) / "cache"
        write_annotations(path, arguments.images, arguments.annotations, np.random.default_rng(0))
        print(
            f"data: {arguments.images} images, {arguments.annotations} annotations, {path.stat().st_size / MIB:.0f} MiB"
        )
        # The cache does not trust the time stamp of a file that was written a moment ago.
        time.sleep(3)
        for name, run, given in (
            ("first parse, columns written", open_checked, (path, cache)),
            ("opened, checksums compared", open_checked, (path, cache)),
            ("json and loops", parse_as_rival, (path,)),
        ):
            if run is not parse_as_rival or not arguments.without_rival:
                (((wall, cpu), peak),) = in_processes(timed, run, *given)
                print(f"{name:<32}{wall:8.2f} s, {cpu:6.2f} s of CPU, peak {peak:6.0f} MiB of RSS")
        size = sum(file.stat().st_size for file in cache.rglob("*.*"))
        print(f"columns on disk: {size / MIB:.0f} MiB")
        barrier = multiprocessing.get_context("spawn").Barrier(arguments.workers)
        workers = [result for result, _ in in_processes(work, path, cache, barrier, number=arguments.workers)]
        print(f"{arguments.workers} workers at a time, of each:")
        for key in workers[0]:
            values = [worker[key] for worker in workers]
            print(f"{key:<32}{median(values):8.2f} ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
