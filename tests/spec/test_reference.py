"""The reference in docs/ is what the schema says today."""

from pathlib import Path

from lttune.losses import LOSSES
from lttune.spec.reference import reference
from lttune.spec.search import searchable_keys

FILE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_docs_have_todays_reference() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "run: python -m lttune.spec.reference docs/reference.md"


def test_every_value_of_every_loss_is_in_it_with_a_text() -> None:
    lines = reference().splitlines()
    for method in LOSSES:
        for key in searchable_keys(method):
            if key.count(".") == 1 and not key.startswith("recipe.parts"):
                (line, *_) = [line for line in lines if f"`{key}`" in line] or [""]
                assert line.count("|") == 5, key
                if key.startswith("loss."):
                    assert line.split("|")[4].strip(), f"{method}: {key} has no text"
