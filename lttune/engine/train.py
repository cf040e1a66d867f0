"""Trains a run to its end, saving as it goes."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from lttune.engine.assets import Progress
from lttune.engine.parallel import ALONE, Ranks
from lttune.engine.run import EpochRecord, TrainingRun
from lttune.errors import CacheError

logger = logging.getLogger(__name__)

# A killed run loses this much training, or fifty times what saving takes where that is longer.
_SAVE_EVERY_S, _SAVE_SHARE = 2.0, 50
# Between reports of progress.
_SLICE_S = 0.5


def train_to_end(
    run: TrainingRun,
    checkpoint: Path,
    *,
    what: str,
    progress: Progress,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    ranks: Ranks = ALONE,
) -> None:
    """Train until the run is finished, from where a checkpoint stands if there is one.

    Args:
        run: freshly built.
        checkpoint: where the unfinished run is kept; a damaged one is set aside with a warning.
        what: the name of this work for `progress`, which counts iterations.
        on_epoch: told of every epoch, those before the checkpoint included.
        ranks: those of the run, of which this is the first; the others `follow`.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    is_restored = False
    if checkpoint.exists():
        try:
            run.restore(checkpoint)
            is_restored = True
        except CacheError as error:
            logger.warning("%s It is left out and the run begins again.", error)
    ranks.from_first(lambda: is_restored)
    for record in run.history:
        on_epoch(record)
    total = run.config.schedule.epochs * run.steps_per_epoch
    saved, pause = run.seconds, _SAVE_EVERY_S
    progress(what, min(run.step, total), total)
    while not run.is_finished:
        ranks.from_first(lambda: True)
        for record in run.advance(max_seconds=_SLICE_S):
            on_epoch(record)
        progress(what, min(run.step, total), total)
        if run.seconds - saved > pause:
            began = time.monotonic()
            run.save(checkpoint)
            saved, pause = run.seconds, max(_SAVE_EVERY_S, _SAVE_SHARE * (time.monotonic() - began))
    ranks.from_first(lambda: False)
