"""Search spaces from Python."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lttune.api.shared import losses_with, recipes_with
from lttune.spec import load
from lttune.spec.search import SearchSpec

if TYPE_CHECKING:
    from lttune.tuning.trainable import MethodTrainable


def load_spec(
    source: str | Path,
    *,
    on: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    trainable: "type[MethodTrainable] | None" = None,
) -> SearchSpec:
    """A search space with the setting it runs on.

    Args:
        source: a path, or the name of a search space that comes with lttune (`acsl`).
        on: another setting than the file's, by name or path.
        overrides: by dotted key, as `--set` has them: `{"search.trials": 8, "optim.lr": 0.02}`.
        data_root: what relative data paths start from; else LTTUNE_DATA, else the current folder.
        trainable: of a method of one's own.

    Raises:
        SpecError: one line per fault, each with file and key path.
    """
    return load.load_spec(
        source,
        on=on,
        overrides={
            key: value if isinstance(value, str) else json.dumps(value) for key, value in (overrides or {}).items()
        },
        data_root=data_root,
        recipe_of=recipes_with(trainable),
        losses=losses_with(trainable),
    )
