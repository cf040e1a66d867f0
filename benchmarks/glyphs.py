"""Speed of the glyph dataset on one core: images per second by size, and the time of the default set.

python -m benchmarks.glyphs
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from lttune.data.glyph_catalogue import glyph_catalogue
from lttune.data.glyphs import GlyphConfig, make_glyphs

_NUM_RUNS = 3
# Per run and size. With so few images, half of the categories put as many objects into each as the default has.
_NUM_IMAGES, _NUM_VAL_IMAGES, _NUM_CATEGORIES = 100, 4, 30


def _times(run: Callable[[Path], object]) -> list[float]:
    """CPU seconds of each run, which other processes disturb less than wall seconds."""
    times = []
    for _ in range(_NUM_RUNS):
        with TemporaryDirectory() as folder:
            began = time.process_time()
            run(Path(folder) / "glyphs")
            times.append(time.process_time() - began)
    return times


def _row(name: str, values: list[float], unit: str) -> str:
    return f"{name:<22} median {median(values):8.1f}   min {min(values):8.1f}   max {max(values):8.1f} {unit}"


def main() -> None:
    print(f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, {_NUM_RUNS} runs")
    default = GlyphConfig()
    glyph_catalogue(default.num_categories)  # scanned once per process, so that it belongs to no run
    for size_px in (160, 320, 640):
        config = replace(
            default,
            size_px=size_px,
            num_categories=_NUM_CATEGORIES,
            num_train_images=_NUM_IMAGES,
            num_val_images=_NUM_VAL_IMAGES,
        )
        times = _times(partial(make_glyphs, config))
        print(_row(f"{size_px} px", [(_NUM_IMAGES + _NUM_VAL_IMAGES) / t for t in times], "images per CPU second"))
    times = _times(partial(make_glyphs, default))
    total = default.num_train_images + default.num_val_images
    print(_row(f"default, {total} images", times, "CPU seconds"))


if __name__ == "__main__":
    main()
