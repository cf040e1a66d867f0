"""A synthetic long-tail dataset in LVIS's format, the same to the byte for one configuration: the embedded default.

Each image draws from its own generator, keyed by seed, split and image number, so that the number of workers changes
nothing. Bytes also depend on the versions of NumPy and of Pillow with its FreeType and JPEG libraries.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from lttune.data.frequency import frequency_groups
from lttune.data.glyph_catalogue import Glyph, glyph_catalogue, render
from lttune.data.glyph_config import GlyphConfig, Split, keyed_generator
from lttune.data.glyph_entries import ImageMaker, Made, make_one, set_maker
from lttune.errors import InputError
from lttune.types import FREQUENT, GROUP_LETTERS, IntArray

__all__ = ["GlyphConfig", "GlyphFiles", "make_glyphs"]

Progress = Callable[[int, int], None]

# Categories that a balanced validation image holds, as a training image of the default does.
_CATEGORIES_PER_IMAGE = 3.6
# Sprites are scaled down to their size in an image, but no coarser than the default's image side asks.
_MIN_SPRITE_PX = 96
# Images that a worker process takes at a time.
_CHUNK = 16


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
        num_workers: processes, at least 1. With more than one, a script needs the usual `if __name__ == "__main__"`,
            because the processes are spawned.
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


def _write_dataset(config: GlyphConfig, folder: Path, num_workers: int, progress: Progress | None) -> None:
    glyphs = glyph_catalogue(config.num_categories)
    sprite_px = max(_MIN_SPRITE_PX, round(config.max_glyph * config.size_px))
    sprites = [render(glyph, sprite_px) for glyph in glyphs]
    splits: tuple[Split, ...] = ("train", "val")
    num_images = {"train": config.num_train_images, "val": config.num_val_images}
    categories: list[dict[str, Any]] = []
    num_done = 0
    for split in splits:
        (folder / split).mkdir()
        counts = _planned_counts(config, split, num_images[split])
        maker = ImageMaker(
            config=config,
            split=split,
            folder=folder / split,
            sprites=sprites,
            is_frequent=(frequency_groups(counts) == FREQUENT).tolist(),
        )
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, of_image in _make_all(maker, _plan(config, split, counts, num_images[split]), num_workers):
            images.append(image)
            annotations += of_image
            num_done += 1
            if progress is not None:
                progress(num_done, sum(num_images.values()))
        if split == "train":
            categories = _category_entries(glyphs, annotations)
        document = {
            "info": {"description": "lttune glyphs", "split": split, "config": asdict(config)},
            "licenses": [],
            "images": images,
            "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
            "categories": categories,
        }
        (folder / f"{split}.json").write_bytes(orjson.dumps(document))


def _planned_counts(config: GlyphConfig, split: Split, num_images: int) -> IntArray:
    """(C,) images of each category, descending."""
    C = config.num_categories
    if split == "val" and config.val == "balanced":
        return np.full(C, min(num_images, max(4, int(num_images * _CATEGORIES_PER_IMAGE / C))), np.int64)
    return np.round(np.geomspace(max(2.0, num_images / 3), 2, C)).astype(np.int64)


def _plan(config: GlyphConfig, split: Split, counts: IntArray, num_images: int) -> list[list[int]]:
    """Categories of each image: every category in exactly its number of images, and images about equally full."""
    generator = keyed_generator(config.seed, split, "plan")
    load = np.zeros(num_images, np.int64)
    plan: list[list[int]] = [[] for _ in range(num_images)]
    for category in generator.permutation(len(counts)).tolist():
        # The emptiest images, equally full ones in random order.
        chosen = np.argsort(load + generator.random(num_images), kind="stable")[: counts[category]]
        load[chosen] += 1
        for image in chosen.tolist():
            plan[image].append(category)
    return plan


def _make_all(maker: ImageMaker, plan: Sequence[Sequence[int]], num_workers: int) -> Iterator[Made]:
    """The images of a plan in order."""
    if num_workers == 1:
        yield from starmap(maker, enumerate(plan))
        return
    # Threads would wait for each other: most of the work holds the interpreter's lock. A forked process may inherit a
    # lock of torch's threads for good, so processes are spawned.
    with ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=set_maker, initargs=(maker,)
    ) as pool:
        yield from pool.map(make_one, range(len(plan)), plan, chunksize=_CHUNK)


def _category_entries(glyphs: Sequence[Glyph], train_annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
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
