"""A wrong value of any key that a search may set names the file, the key and what is allowed."""

from pathlib import Path

import pytest

from lttune.errors import SpecError
from lttune.losses import LOSSES
from lttune.spec.load import load_spec
from lttune.spec.search import searchable_keys

# No value may be all of these; text stands for a wrong type.
WRONG = (-1e9, "nonsense")


@pytest.mark.parametrize("method", sorted(LOSSES))
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_value(method: str, wrong: object, tmp_path: Path) -> None:
    keys = [key for key in searchable_keys(method) if key.count(".") == 1]
    path = tmp_path / "space.yaml"
    text = "\n".join(f"  {key}: {wrong}" for key in keys)
    path.write_text(f"schema: 1\nmethod: {method}\non: glyphs\nsearch: {{trials: 1}}\nspace: {{}}\nfixed:\n{text}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    lines = str(caught.value).splitlines()
    for key in keys:
        (line,) = [line for line in lines if line.startswith(f"{path}: fixed.{key}")]
        said = line.removeprefix(f"{path}: fixed.{key}")
        assert any(word in said for word in ("use ", "is not ", "Known: ", "Did you mean ")), line
