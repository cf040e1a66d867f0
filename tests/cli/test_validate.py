"""A search space is checked without data, GPU or anything written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_a_valid_space_says_what_trial_0_is(lttune: Run, tmp_path: Path) -> None:
    ran = lttune("validate", "acsl", "--set", "search.trials=3")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("acsl: valid. acsl on 60 glyph categories")
    assert "3 trials" in ran.out
    assert "\nacsl: trains classifier, on cached features (fidelity cached)\n" in ran.out
    assert "\n  differs from what was published: no horizontal flip" in ran.out
    assert "\nacsl: 8 epochs, 1,496 iterations of 8, 11,968 images\n" in ran.out
    assert "  loss.score_threshold: 0.05, 0.95; trial 0 has 0.7\n" in ran.out
    assert "  optim.lr: 0.001, 0.1, log; trial 0 has 0.01\n" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_object(lttune: Run) -> None:
    ran = lttune("validate", "acsl", "--json", "--set", "optim.lr=0.05")
    found = json.loads(ran.out)
    assert (found["method"], found["trials"]) == ("acsl", 24)
    assert found["trial_0"]["loss.score_threshold"] == 0.7
    assert "optim.lr" not in found["trial_0"]
    assert found["initial"] == [found["trial_0"]]
    assert found["notes"] == ["acsl: 8 epochs, 1,496 iterations of 8, 11,968 images"]


def test_every_method_says_what_trains_and_what_its_first_trial_is(lttune: Run) -> None:
    out = lttune("validate", "all").out
    assert "\nacsl: trains classifier, on cached features (fidelity cached)\n" in out
    assert "\necm: trains everything, on images (fidelity full)\n" in out
    sections = dict(part.split(": ", 1) for part in re.split(r"\n(?=\w)", out) if " trains " in part)
    assert list(sections) == json.loads(lttune("validate", "all", "--json").out)["method"].split(", ")
    assert "  loss.margin_exponent: 0.0, 1.0; trial 5 has 0.25" in sections["ecm"]
    assert "loss.margin_exponent" not in sections["acsl"]
    for section in sections.values():
        assert "  optim.lr: " in section


def test_a_recipe_that_the_setting_cannot_have_is_refused(lttune: Run) -> None:
    ran = lttune("validate", "acsl", "--set", "fidelity=cached", "--set", "recipe.parts=all")
    assert ran.code == 2
    assert "fidelity is cached, but recipe.parts is all; use `fidelity: full`, or leave recipe.parts out" in ran.err
