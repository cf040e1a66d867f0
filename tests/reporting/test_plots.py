"""Each plot draws what the study holds, for a page and into a file."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from lttune.reporting.models import CategoryPrecision
from lttune.reporting.plots import Plot, study_plots
from lttune.reporting.trials import read_trials

ALL = ["history", "learning-curves", "pareto", "importance", "parallel", "slice", "contour", "categories"]
CATEGORIES = [
    CategoryPrecision(name="<b>cup</b>", group="r", num_images=3, values={"published": 10.0, "best": 30.0}),
    CategoryPrecision(name="dog", group="f", num_images=300, values={"published": 60.0, "best": 61.0}),
]


@pytest.fixture
def plots(make_study: Any) -> dict[str, Plot]:
    fixed = {"loss.background_ratio_rare": "0.01", "loss.background_ratio_frequent": "1"}
    record = make_study("mine", tuned=(50.0, 52.0, None, 51.0), overrides=fixed)
    return {plot.name: plot for plot in study_plots(record, read_trials(record), CATEGORIES)}


def test_what_can_be_drawn_is(plots: dict[str, Plot]) -> None:
    assert list(plots) == ALL


@pytest.mark.parametrize("name", ALL)
def test_axes_of_a_page_have_titles_and_a_light_ground(name: str, plots: dict[str, Plot]) -> None:
    figure = plots[name].figure()
    assert figure.data
    assert figure.layout.height == plots[name].size_px[1]
    assert figure.layout.template.layout.plot_bgcolor == "white"
    if name == "parallel":
        assert "background<br>ratio common" in figure.layout.xaxis.ticktext
    else:
        assert any(axis.title.text for axis in figure.select_xaxes())
        assert any(axis.title.text for axis in figure.select_yaxes())


@pytest.mark.parametrize("name", ALL)
def test_files_are_drawn(name: str, plots: dict[str, Plot], tmp_path: Any) -> None:
    plots[name].write_png(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as file:
        pixels = np.asarray(file.convert("L"))
    assert pixels.shape[1] > 600
    assert 0 < (pixels < 200).mean() < 0.9
    assert pixels[0].min() == 255


def test_learning_curves_point_out_trial_0_and_the_best(plots: dict[str, Plot]) -> None:
    lines = {line.name: line for line in plots["learning-curves"].figure().data}
    assert {name for name, line in lines.items() if line.showlegend} == {"trial 0", "trial 1, the best"}
    assert list(lines["trial 1, the best"].y) == [51.0, 52.0]


def test_the_front_is_of_both_metrics(plots: dict[str, Plot]) -> None:
    parts = plots["pareto"].figure().data
    points = {text: at for part in parts for text, *at in zip(part.text, part.x, part.y, strict=True)}
    front = next(part for part in parts if part.name == "on the front")
    assert set(points) == {"trial 0", "trial 1", "trial 3"}
    for x, y in zip(front.x, front.y, strict=True):
        assert not any(other[0] >= x and other[1] >= y and other != [x, y] for other in points.values())


def test_names_are_no_markup(plots: dict[str, Plot]) -> None:
    published, best = plots["categories"].figure().data
    assert published.text[0] == "&lt;b&gt;cup&lt;/b&gt; (r)"
    assert list(best.x) == [3, 300]
    assert list(best.y) == [30.0, 61.0]


def test_few_trials_are_called_few(plots: dict[str, Plot]) -> None:
    assert plots["importance"].caption.startswith("Too few trials: with 3, below 50,")


def test_enough_trials_are_not(make_study: Any) -> None:
    record = make_study("many", tuned=[40 + n % 13 for n in range(50)], overrides={"search.sampler": "random"})
    caption = next(p.caption for p in study_plots(record, read_trials(record), ()) if p.name == "importance")
    assert caption.startswith("Share of each")


def test_one_trial_has_a_history_alone(make_study: Any) -> None:
    record = make_study("one", tuned=(50.0,))
    assert [plot.name for plot in study_plots(record, read_trials(record), ())] == ALL[:3]


def test_a_study_without_a_result_has_no_plot(make_study: Any) -> None:
    record = make_study("new", tuned=(None,))
    assert list(study_plots(record, read_trials(record), ())) == []
