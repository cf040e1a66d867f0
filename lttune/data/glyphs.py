"""A synthetic long-tail dataset in LVIS's format, the same to the byte for one configuration: the embedded default.

Each image draws from its own generator, keyed by seed, split and image number, so that the number of workers changes
nothing. Bytes also depend on the versions of NumPy and of Pillow with its FreeType and JPEG libraries.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from lttune.data.frequency import frequency_groups
from lttune.data.glyph_catalogue import Glyph, glyph_catalogue, render
from lttune.data.glyph_config import MAX_CATEGORIES_PER_IMAGE, GlyphConfig, Split, keyed_generator
from lttune.data.glyph_entries import ImageMaker, Made, make_one, set_maker
from lttune.errors import InputError
from lttune.types import FREQUENT, GROUP_LETTERS, IntArray

__all__ = ["GlyphConfig", "GlyphFiles", "make_glyphs", "plan_images"]

Progress = Callable[[int, int], None]
Entry = dict[str, Any]

# Categories that a balanced validation image holds, as a training image of the default does.
_CATEGORIES_PER_IMAGE = 3.6
# Balanced validation images of a category, where there is room: with fewer, its AP says little.
_MIN_BALANCED = 4
# Sprites are scaled down to their size in an image, but no coarser than the default's image side asks.
_MIN_SPRITE_PX = 96
# Images that a worker process takes at a time.
_CHUNK = 16
# A process starts in 1 to 3 s, most of them torch's where the caller's script imports it, and draws 10 megapixels a
# second: the default set is not worth a second one.
_PIXELS_PER_WORKER = 50_000_000

_SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class GlyphFiles:
    """Where the parts of a dataset lie."""

    train_annotations: Path
    train_images: Path
    val_annotations: Path
    val_images: Path


def make_glyphs(
    config: GlyphConfig, out: Path, *, num_workers: int = 1, progress: Progress | None = None
) -> GlyphFiles:
    """Draw the dataset into a new folder, which appears only when it is whole.

    Args:
        config: what to draw.
        out: the folder; it must not exist, or be empty.
        num_workers: most processes; a small set is drawn by one. With more than one, a script needs the usual
            `if __name__ == "__main__"`, because the processes are spawned.
        progress: told the number of finished images and of all images.

    Raises:
        InputError: the folder holds something, or the number of workers is not positive.
    """
    if num_workers < 1:
        raise InputError(f"num_workers is {num_workers}; use at least 1.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; delete it or give another.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        # A folder inside, because the temporary one is readable by its owner only.
        whole = Path(temporary) / "glyphs"
        whole.mkdir()
        _write_dataset(config, whole, num_workers, progress)
        whole.rename(out)
    return GlyphFiles(
        train_annotations=out / "train.json",
        train_images=out / "train",
        val_annotations=out / "val.json",
        val_images=out / "val",
    )


def plan_images(config: GlyphConfig, split: Split) -> list[list[int]]:
    """Categories of each image of a split, without drawing anything."""
    return _plan(config, split, _planned_counts(config, split))


def _write_dataset(config: GlyphConfig, folder: Path, num_workers: int, progress: Progress | None) -> None:
    glyphs = glyph_catalogue(config.num_categories)
    sprite_px = max(_MIN_SPRITE_PX, round(config.max_glyph * config.size_px))
    counts: dict[Split, IntArray] = {split: _planned_counts(config, split) for split in _SPLITS}
    maker = ImageMaker(
        config=config,
        folder=folder,
        sprites=[render(glyph, sprite_px) for glyph in glyphs],
        is_frequent=(frequency_groups(counts["train"]) == FREQUENT).tolist(),
    )
    plans = {split: _plan(config, split, counts[split]) for split in _SPLITS}
    jobs = [(split, number, chosen) for split in _SPLITS for number, chosen in enumerate(plans[split])]
    for split in _SPLITS:
        (folder / split).mkdir()
    images: dict[Split, list[Entry]] = {split: [] for split in _SPLITS}
    annotations: dict[Split, list[Entry]] = {split: [] for split in _SPLITS}
    # Closed in any case, so that no process writes any more when the folder is cleared away after an error.
    with closing(_make_all(maker, jobs, num_workers)) as made:
        for num_done, ((split, _, _), (image, of_image)) in enumerate(zip(jobs, made, strict=True), start=1):
            images[split].append(image)
            annotations[split] += of_image
            if progress is not None:
                progress(num_done, len(jobs))
    categories = _category_entries(glyphs, annotations["train"])
    for split in _SPLITS:
        document = {
            "info": {"description": "lttune glyphs", "split": split, "config": config.identity()},
            "licenses": [],
            "images": images[split],
            "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations[split], start=1)],
            "categories": categories,
        }
        (folder / f"{split}.json").write_bytes(orjson.dumps(document))


def _num_images(config: GlyphConfig, split: Split) -> int:
    return config.num_train_images if split == "train" else config.num_val_images


def _planned_counts(config: GlyphConfig, split: Split) -> IntArray:
    """(C,) images of each category, descending, which together crowd no image."""
    C, num_images = config.num_categories, _num_images(config, split)
    room = num_images * MAX_CATEGORIES_PER_IMAGE
    if split == "val" and config.val == "balanced":
        count = max(_MIN_BALANCED, int(num_images * _CATEGORIES_PER_IMAGE / C))
        return np.full(C, min(count, room // C, num_images), np.int64)
    if config.counts == "lvis_v1":
        return _lvis_counts(C, num_images, room)
    most = max(2.0, num_images / 3)
    while (counts := np.round(np.geomspace(most, 2, C)).astype(np.int64)).sum() > room:
        most = max(2.0, most * 0.99)
    return counts


def _lvis_counts(num_categories: int, num_images: int, room: int) -> IntArray:
    """(C,) image counts with the shares of LVIS v1's categories, descending, at least one each."""
    text = files("lttune.data").joinpath("lvis_v1_image_counts.json").read_text()
    known = np.array(orjson.loads(text), np.float64)
    # The middle of each of C equal parts of the ranks.
    ranks = ((np.arange(num_categories) + 0.5) * len(known) / num_categories).astype(np.int64)
    scale = 0.9 * room / known[ranks].sum()  # nearly full images: the head of the law needs them
    counts: IntArray
    while (counts := np.clip(np.round(known[ranks] * scale), 1, num_images).astype(np.int64)).sum() > room:
        scale *= 0.99
    return counts


def _plan(config: GlyphConfig, split: Split, counts: IntArray) -> list[list[int]]:
    """Categories of each image: every category in exactly its number of images, and images about equally full."""
    generator, num_images = keyed_generator(config.seed, split, "plan"), _num_images(config, split)
    load = np.zeros(num_images, np.int64)
    plan: list[list[int]] = [[] for _ in range(num_images)]
    for category in generator.permutation(len(counts)).tolist():
        # The emptiest images, equally full ones in random order.
        chosen = np.argsort(load + generator.random(num_images), kind="stable")[: counts[category]]
        load[chosen] += 1
        for image in chosen.tolist():
            plan[image].append(category)
    return plan


def _make_all(
    maker: ImageMaker, jobs: Sequence[tuple[Split, int, Sequence[int]]], num_workers: int
) -> Generator[Made, None, None]:
    """The images in the order of their jobs."""
    num_useful = min(num_workers, len(jobs) * maker.config.size_px**2 // _PIXELS_PER_WORKER)
    if num_useful <= 1:
        yield from starmap(maker, jobs)
        return
    # Threads would wait for each other: most of the work holds the interpreter's lock. A forked process may inherit a
    # lock of torch's threads for good, so processes are spawned.
    with ProcessPoolExecutor(
        num_useful, mp_context=get_context("spawn"), initializer=set_maker, initargs=(maker,)
    ) as pool:
        yield from pool.map(make_one, *zip(*jobs, strict=True), chunksize=_CHUNK)


def _category_entries(glyphs: Sequence[Glyph], train_annotations: Sequence[Entry]) -> list[Entry]:
    """Categories with their counts in the training annotations, which also decide their frequency group."""
    instances = [a["category_id"] - 1 for a in train_annotations]
    images = [c for c, _ in {(a["category_id"] - 1, a["image_id"]) for a in train_annotations}]
    instance_count, image_count = (np.bincount(c, minlength=len(glyphs)) for c in (instances, images))
    return [
        {
            "id": number + 1,
            "name": (name := glyph.name.lower().replace(" ", "_")),
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": f"the character U+{ord(glyph.character):04X}",
            "frequency": GROUP_LETTERS[group],
            "image_count": int(image_count[number]),
            "instance_count": int(instance_count[number]),
        }
        for number, (glyph, group) in enumerate(zip(glyphs, frequency_groups(image_count), strict=True))
    ]
