"""One page that fetches nothing and takes every text as text."""

import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from PIL import Image

from lttune.reporting.models import Pair
from lttune.reporting.page import Chapter, page
from lttune.reporting.plots import Plot
from lttune.reporting.tables import Table

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
TABLE = Table(title=EVIL, columns=(EVIL, "AP"), rows=((EVIL, EVIL),), num_words=1)


@pytest.fixture(scope="module")
def document() -> str:
    def draw(_: object) -> go.Figure:
        return go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=EVIL, text=[EVIL, EVIL]))

    picture = Image.new("RGB", (8, 8), "red")
    chapter = Chapter(
        name=EVIL,
        facts=[(EVIL, EVIL)],
        values=TABLE,
        plots=[Plot(name="one", title=EVIL, caption=EVIL, draw=draw)],
        pairs=[Pair(file_name=f"folder/{EVIL}", annotated=picture, detected=picture)],
        notes=[EVIL],
    )
    return page(EVIL, EVIL, [TABLE], [EVIL], [chapter, chapter])


class _Outline(HTMLParser):
    """Tags in order, and the attributes that could run or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.risky: list[tuple[str, str | None]] = []
        self.ids: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.risky += [(name, value) for name, value in attrs if name.startswith("on") or name in {"src", "href"}]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def outline(document: str) -> _Outline:
    parser = _Outline()
    parser.feed(document)
    parser.close()
    return parser


def test_plotlys_script_is_in_it_once(document: str, outline: _Outline) -> None:
    assert len(re.findall(r"plotly\.js v\d", document)) == 1
    # Plotly, one for each of two plots with its settings, our own.
    assert outline.tags.count("script") <= 1 + 2 * 2 + 1


def test_nothing_is_fetched(outline: _Outline) -> None:
    assert outline.risky
    assert all(value is not None and value.startswith("data:") for _, value in outline.risky)
    assert "link" in outline.tags
    assert "iframe" not in outline.tags


def test_a_policy_forbids_the_network(document: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', document)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]


def test_texts_are_shown_and_not_run(document: str, outline: _Outline) -> None:
    assert "<script>alert" not in document
    assert "<img src=x" not in document
    assert outline.tags.count("img") == 4
    assert outline.text.count(EVIL) >= 10


def test_every_plot_has_an_element_of_its_own(outline: _Outline) -> None:
    assert outline.ids == ["study-1-one", "study-2-one"]


def test_it_fits_phones_and_paper(document: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in document
    assert "@media print" in document
    assert "color-scheme: light" in document


def test_numbers_stand_right(document: str) -> None:
    assert '<th class="n">AP</th>' in document
