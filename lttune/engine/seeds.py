"""Random streams as functions of (seed, stream, position), so that a resumed run draws what an unbroken one would."""

import numpy as np
import numpy.typing as npt
import torch

# One number per stream, never reused: two streams of one seed must not meet.
STREAMS = {
    "model": 1,
    "images": 2,
    "rois": 3,
    "loss": 4,
    "detector": 5,
    "transforms": 6,
    "sampler": 7,
    "jitter": 8,
    "image": 9,
}

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment, 2^64 over the golden ratio


def stream_seed(seed: int, stream: str, *position: int) -> int:
    """A 63-bit seed for one position (epoch, step, ...) of a stream."""
    words = np.random.SeedSequence([seed, STREAMS[stream], *position]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def reseed(generator: torch.Generator, seed: int, stream: str, *position: int) -> torch.Generator:
    """Put a generator at one position of a stream."""
    return generator.manual_seed(stream_seed(seed, stream, *position))


def row_keys(
    seed: int, epoch: int, images: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """(R,) random keys that depend on nothing but seed, epoch, image number and row within the image.

    A cached and a live trunk, or another batch composition, therefore draw the same RoIs. The mixer is splitmix64.
    """
    base = np.uint64(stream_seed(seed, "rois", epoch))
    with np.errstate(over="ignore"):
        return _mix(
            _mix(base + (images.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
            + (rows.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        )


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
