"""Where exported values were found: what every exported file says at its top."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from lttune.engine.assets import Assets, file_digest_once
from lttune.engine.config import TrainConfig
from lttune.errors import InputError
from lttune.types import Fidelity


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What values were found on.

    Attributes:
        trial: as people name it, `trial 3 of study acsl`.
        setting: the setting's description, in one line.
        train_sha256: of the annotation files.
        transferred_to: what the values are written for where that is not what they were found on, else None.
    """

    trial: str
    method: str
    setting: str
    is_generated: bool
    num_categories: int
    train_sha256: str
    val_sha256: str
    fidelity: Fidelity
    optimizer: str
    batch_size: int
    transferred_to: str | None = None

    @classmethod
    def of(
        cls, config: TrainConfig, assets: Assets, *, trial: str, setting: str, transferred_to: str | None = None
    ) -> "Origin":
        """The origin of a trial's values; reads the training annotations."""
        return cls(
            trial=trial,
            method=config.method,
            # A description of several lines would end a comment.
            setting=" ".join(setting.split()) or "a setting without a description",
            is_generated=config.data.glyphs is not None,
            num_categories=assets.train.num_categories,
            train_sha256=file_digest_once(assets.train_annotations),
            val_sha256=file_digest_once(assets.val_annotations),
            fidelity=config.fidelity,
            optimizer=config.optim.name,
            batch_size=config.schedule.batch_size,
            transferred_to=transferred_to,
        )

    def lines(self) -> list[str]:
        """The header, without comment signs."""
        lines = [
            f"Written by lttune {version('lttune')}: {self.trial}, method {self.method}.",
            f"Found on: {self.setting}; fidelity {self.fidelity}; {self.optimizer} at a batch of {self.batch_size}.",
            f"Data: {'generated' if self.is_generated else 'given'}, {self.num_categories} categories, annotations "
            f"sha256 {self.train_sha256[:16]} (train) and {self.val_sha256[:16]} (validation).",
        ]
        if self.transferred_to is not None:
            lines.append(
                f"UNCONFIRMED HYPOTHESIS: nobody has tried these values on {self.transferred_to}; they were found on "
                "what stands above."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values for `provenance.json`."""
        return {
            "setting": self.setting,
            "data": {
                "generated": self.is_generated,
                "num_categories": self.num_categories,
                "train_sha256": self.train_sha256,
                "val_sha256": self.val_sha256,
            },
            "fidelity": self.fidelity,
            "transferred_to": self.transferred_to,
        }


def commented(lines: list[str]) -> str:
    """The lines as comments of YAML and Python."""
    return "".join(f"# {line}\n" for line in lines)


def require_transfer(is_allowed: bool, *, what: str, found_on: str, to: str) -> None:
    """Refuse to write values for something that they were not found on, unless that was asked for.

    Raises:
        InputError: one sentence that names the option.
    """
    if not is_allowed:
        raise InputError(
            f"the values of {what} were found on {found_on}, not on {to}; add --transfer to write them as an "
            "unconfirmed hypothesis."
        )


def sampled_of_optimizer(params: Mapping[str, Any]) -> bool:
    """Whether values of the optimiser are among the sampled ones; they mean something with that optimiser only."""
    return any(key.startswith("optim.") for key in params)
