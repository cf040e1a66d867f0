"""What a person sees in a browser: MLflow's pages after a search of two methods, and the report of it.

Screenshots are kept in the folder that LTTUNE_SCREENSHOTS names, else in pytest's own.
"""

import json
import os
import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.slow

SPEC = Path(__file__).with_name("two_methods.yaml")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 90_000.0
HEADLINE = ("AP", "AP_r", "AP_c", "AP_f")


class Window:
    """One browser page, what its console complained of, and whom it asked for anything."""

    def __init__(self, page: Any, screenshots: Path) -> None:
        self.page = page
        self._screenshots = screenshots
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def keep(self, name: str) -> None:
        """A screenshot of the whole page."""
        self.page.screenshot(path=self._screenshots / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("LTTUNE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("there is no Chromium on this machine; install your system's package of it")
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        # As root, which machines for tests often are, Chromium has no sandbox.
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def window(chromium: Any, screenshots: Path) -> Iterator[Window]:
    page = chromium.new_page(viewport={"width": 1500, "height": 950})
    page.set_default_timeout(PATIENCE_MS)
    yield Window(page, screenshots)
    page.close()


@pytest.fixture(scope="module")
def searched(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A workplace in which both methods were searched."""
    place = type(whole[0])(tmp_path_factory.mktemp("two_methods"))
    shutil.copytree(whole[2], place.out / "cache")
    place.run("search", str(SPEC), "--study", "two")
    yield place
    place.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture
def mlflow_pages(searched: Any) -> Iterator[str]:
    """The address of MLflow's pages on the store of that search."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = searched.start("ui", "--port", str(port))
    address = f"http://127.0.0.1:{port}"
    server.wait_for(lambda: answers(f"{address}/health"), "MLflow's pages")
    yield address
    server.end(signal.SIGINT, whole_group=True)


def test_mlflow_lists_parent_and_children_and_compares_them(mlflow_pages: str, searched: Any, window: Window) -> None:
    runs = searched.mlflow_runs("two")
    experiment = runs[None].info.experiment_id
    page = window.page

    page.goto(f"{mlflow_pages}/#/experiments/{experiment}/runs")
    parent = page.get_by_role("link", name="two", exact=True)
    parent.wait_for()
    parent.locator("xpath=ancestor::*[@role='gridcell']").get_by_role("button").first.click()
    for number in range(4):
        page.get_by_text(f"trial {number}", exact=True).first.wait_for()
    window.keep("mlflow_runs")

    chosen = [runs[0].info.run_id, runs[1].info.run_id]
    query = f"runs={quote(json.dumps(chosen))}&experiments={quote(json.dumps([experiment]))}"
    page.goto(f"{mlflow_pages}/#/compare-runs?{query}")
    page.get_by_text("Comparing 2 Runs", exact=False).first.wait_for()
    for metric in HEADLINE:
        page.get_by_text(metric, exact=True).first.wait_for()
    text = page.inner_text("body")
    for run in (runs[0], runs[1]):
        assert run.info.run_id in text
    assert {"cross_entropy", "acsl"} <= {runs[number].data.tags["lttune.method"] for number in (0, 1)}
    window.keep("mlflow_compare")


def test_the_report_stands_alone_and_draws_every_plot(searched: Any, window: Window, tmp_path: Path) -> None:
    searched.run("report", "two", "--to", str(tmp_path / "report"))
    page = window.page
    (written,) = (tmp_path / "report").glob("*.html")
    page.goto(written.as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length > 0")
    page.wait_for_function(
        "[...document.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg'))"
    )
    page.wait_for_timeout(500)  # for what is drawn again once the page is whole
    window.keep("report")

    num_plots = page.locator(".js-plotly-plot").count()
    assert num_plots >= 5
    for plot in page.locator(".js-plotly-plot").all():
        box, drawn = plot.bounding_box(), plot.locator(".main-svg").first.bounding_box()
        assert box is not None
        assert drawn is not None
        assert 200 < drawn["width"] <= box["width"] + 1, "drawn wider than its place"
        assert 150 < drawn["height"] <= box["height"] + 1
    assert window.complaints == []
    assert window.hosts == {""}, "the page asked somebody for something"

    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    window.keep("report_on_a_phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
