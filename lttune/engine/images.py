"""Images and targets as the detector meets them, with the scale that leads back to the file's own pixels."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lttune.data.lvis import LvisDataset
from lttune.data.transforms import flip, resize
from lttune.engine.config import InputConfig
from lttune.engine.loaders import Loaders
from lttune.engine.seeds import stream_seed
from lttune.errors import WorkerLostError
from lttune.types import Annotations, IntArray, Target

# Decoded images are kept while they fit here, since small data sets are visited many times.
_MEMORY_BYTES = 1 << 30


class ImageSource:
    """Loads images of one split by number, transformed for training or for testing.

    Args:
        annotations: the split.
        root: folder of the images.
        config: sizes and augmentation.
        seed: of the training transforms; None gives the test transforms.
        with_masks: whether targets carry masks.
        reopen: gives the annotations in another process; with it, `config.num_loaders` processes load the batches.
    """

    def __init__(
        self,
        annotations: Annotations,
        root: Path,
        config: InputConfig,
        *,
        seed: int | None,
        with_masks: bool = True,
        reopen: Callable[[], Annotations] | None = None,
    ) -> None:
        self.annotations = annotations
        self.loaders: Loaders | None = None
        if reopen is not None and config.num_loaders > 0:
            alone = replace(config, num_loaders=0)
            opened = partial(_loading, reopen, root, alone, seed=seed, with_masks=with_masks)
            self.loaders = Loaders(config.num_loaders, opened)
        self._dataset = LvisDataset(annotations, root, with_masks=with_masks)
        self._config = config
        self._seed = seed
        pixels = int((annotations.image_heights * annotations.image_widths).sum())
        instances = len(annotations.annotation_ids) / max(1, annotations.num_images)
        self._memo: dict[int, tuple[Tensor, Target]] | None = (
            {} if pixels * (3 + instances * with_masks) < _MEMORY_BYTES else None
        )

    def __len__(self) -> int:
        return len(self._dataset)

    def load(self, image: int, epoch: int = 0) -> tuple[Tensor, Target]:
        """Image (3, H, W) uint8 and its target, as the detector meets them in that epoch."""
        pixels, target = self._read(image)
        sizes = self._config.short_px
        if self._seed is None:
            return (
                resize(pixels, target, short_px=max(sizes), max_long_px=self._config.max_long_px)
                if sizes
                else (pixels, target)
            )
        if not sizes and not self._config.flip:
            return pixels, target
        draws = np.random.default_rng(stream_seed(self._seed, "transforms", epoch, image))
        if sizes:
            size = int(draws.choice(sizes))
            pixels, target = resize(pixels, target, short_px=size, max_long_px=self._config.max_long_px)
        return flip(pixels, target) if draws.random() < self._config.flip else (pixels, target)

    def batches(self, order: IntArray, batch_size: int, epoch: int = 0, start: int = 0) -> "PrefetchedBatches":
        """Whole batches of `order` from batch number `start`, the next ones loading while one trains."""
        return PrefetchedBatches(self, order, batch_size, epoch, start)

    def uniform_batches(self, images: IntArray, batch_size: int) -> list[IntArray]:
        """The images in ascending order, cut into batches of one size of image, so that nothing is padded."""
        sizes = np.stack([self.annotations.image_heights[images], self.annotations.image_widths[images]], axis=1)
        batches: list[IntArray] = []
        start = 0
        for i in range(1, len(images) + 1):
            if i == len(images) or i - start == batch_size or (sizes[i] != sizes[start]).any():
                batches.append(images[start:i])
                start = i
        return batches

    def _read(self, image: int) -> tuple[Tensor, Target]:
        if self._memo is None:
            return self._dataset[image]
        if image not in self._memo:
            self._memo[image] = self._dataset[image]
        return self._memo[image]


def _loading(
    reopen: Callable[[], Annotations], root: Path, config: InputConfig, *, seed: int | None, with_masks: bool
) -> Callable[[int, int], tuple[Tensor, Target]]:
    return ImageSource(reopen(), root, config, seed=seed, with_masks=with_masks).load


class PrefetchedBatches:
    """Iterates over (image numbers, images, targets), loading one batch ahead in a thread, or as many as the source's
    processes need to have work; an incomplete last one is dropped."""

    def __init__(self, source: ImageSource, order: IntArray, batch_size: int, epoch: int, start: int) -> None:
        self._source = source
        self._epoch = epoch
        whole = len(order) // batch_size
        batches = [order[i * batch_size : (i + 1) * batch_size] for i in range(start, whole)]
        self._waiting = deque(batches)
        self._loading: deque[tuple[IntArray, list[Future[tuple[Tensor, Target]]]]] = deque()
        self._depth = 1 if source.loaders is None else 2
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lttune-images") if source.loaders is None else None

    def __iter__(self) -> "PrefetchedBatches":
        return self

    def __next__(self) -> tuple[IntArray, list[Tensor], list[Target]]:
        while self._waiting and len(self._loading) <= self._depth:
            images = self._waiting.popleft()
            self._loading.append((images, [self._submit(int(image)) for image in images]))
        if not self._loading:
            self.close()
            raise StopIteration
        images, futures = self._loading.popleft()
        try:
            loaded = [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise WorkerLostError("a process that loads images died; look for a lack of memory (/dev/shm).") from error
        return images, [pixels for pixels, _ in loaded], [target for _, target in loaded]

    def close(self) -> None:
        """Drop what is being loaded, and stop the thread."""
        for _, futures in self._loading:
            for future in futures:
                future.cancel()
        self._loading.clear()
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, image: int) -> "Future[tuple[Tensor, Target]]":
        if self._source.loaders is not None:
            return self._source.loaders.submit(image, self._epoch)
        assert self._pool is not None
        return self._pool.submit(self._source.load, image, self._epoch)


def to_file_pixels(boxes: Tensor, size: Sequence[int], height: int, width: int) -> Tensor:
    """Boxes (..., 4) of an image resized to a size (H, W), in pixels of its file."""
    scale = torch.tensor([width / size[1], height / size[0]] * 2, dtype=torch.float64)
    return boxes if bool((scale == 1).all()) else (boxes.double() * scale).float()
