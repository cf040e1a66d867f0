"""One HTML page that needs nothing but itself: plotly's script is in it, and its policy lets nothing be fetched."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image
from plotly.offline import get_plotlyjs

from lttune.reporting.models import Pair
from lttune.reporting.plots import Plot
from lttune.reporting.tables import Table

# Plotly's WebGL traces compile their shaders, hence `unsafe-eval`.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "worker-src blob:"
)
# Nothing that sends a plot anywhere.
_CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage", "zoom2d", "resetScale2d"]]}
_JPEG_QUALITY = 85

_STYLE = """
:root { color-scheme: light; --line: #e2e8f0; --quiet: #64748b; --ink: #1e293b; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2.5rem) 4rem; max-width: 1500px; background: #fff;
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0.5rem 0; } h2 { margin: 3rem 0 0.5rem; padding-top: 1rem;
  border-top: 2px solid var(--line); } h3 { font-size: 1.05rem; margin: 0 0 0.25rem; }
.quiet, figcaption { color: var(--quiet); font-size: 0.9rem; margin: 0 0 0.5rem; }
.scroll { overflow-x: auto; margin-bottom: 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.facts td { white-space: normal; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { border-bottom: 2px solid #94a3b8; } .n { text-align: right; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1.5rem 2rem; }
.plots > section { min-width: 0; } .wide { grid-column: 1 / -1; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1.5rem 2rem; }
.pairs figure { margin: 0; } .pairs div { display: grid; grid-template-columns: 1fr 1fr; gap: 0.5rem; }
.pairs img { width: 100%; height: auto; border-radius: 4px; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } .plots { display: block; }
  .plots > section, .pairs figure, .scroll { break-inside: avoid; margin-bottom: 1rem; }
  .scroll { overflow: visible; } th, td { white-space: normal; } .modebar { display: none !important; } }
"""

# Plots keep the width of the screen unless they are told that they are printed.
_SCRIPT = """
const plots = () => document.querySelectorAll(".js-plotly-plot");
const fit = width => plots().forEach(plot => Plotly.relayout(plot, width ? {width, autosize: false}
  : {width: null, autosize: true}));
// A plot is drawn before those beside it share its row.
addEventListener("load", () => plots().forEach(plot => Plotly.Plots.resize(plot)));
matchMedia("print").addEventListener("change", print => fit(print.matches ? 680 : null));
"""


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One study on the page.

    Attributes:
        facts: pairs of a name and a value.
        values: the best trial's values beside the published ones.
    """

    name: str
    facts: Sequence[tuple[str, str]]
    values: Table
    plots: Sequence[Plot] = ()
    pairs: Sequence[Pair] = ()
    notes: Sequence[str] = field(default=())


def page(
    title: str, subtitle: str, tables: Iterable[Table], remarks: Iterable[str], chapters: Iterable[Chapter]
) -> str:
    """The whole document; every text is taken as text, whatever it holds."""
    head = "".join(_paragraph(line) for line in remarks)
    body = "".join(_table(table) for table in tables) + head
    studies = "".join(_chapter(chapter, number) for number, chapter in enumerate(chapters, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="quiet">{escape(subtitle)}</p>
{body}
{studies}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _chapter(chapter: Chapter, number: int) -> str:
    facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in chapter.facts)
    notes = "".join(map(_paragraph, chapter.notes))
    plots = "".join(_plot(plot, f"study-{number}-{plot.name}") for plot in chapter.plots)
    pairs = "".join(map(_pair, chapter.pairs))
    if pairs:
        pairs = (
            '<section><h3>Images of the tune half</h3><p class="quiet">Left as annotated, right as many detections of '
            f'the best trial, the surest first.</p><div class="pairs">{pairs}</div></section>'
        )
    return (
        f'<h2>{escape(chapter.name)}</h2><div class="scroll"><table class="facts">{facts}</table></div>'
        f'{_table(chapter.values)}{notes}<div class="plots">{plots}</div>{pairs}'
    )


def _plot(plot: Plot, identifier: str) -> str:
    width, height = plot.size_px
    drawn = plot.figure().to_html(
        full_html=False, include_plotlyjs=False, config=_CONFIG, div_id=identifier, default_height=f"{height}px"
    )
    kind = ' class="wide"' if width > 500 else ""
    return (
        f"<section{kind}><h3>{escape(plot.title)}</h3><p class='quiet'>{escape(plot.caption)}</p>"
        f'<div class="scroll"><div style="min-width: {width}px">{drawn}</div></div></section>'
    )


def _pair(pair: Pair) -> str:
    name = escape(Path(pair.file_name).name)
    images = f'<img src="{_data_uri(pair.annotated)}" alt="{name} with its annotations">'
    images += f'<img src="{_data_uri(pair.detected)}" alt="{name} with detections">'
    return f"<figure><div>{images}</div><figcaption>{name}</figcaption></figure>"


def _data_uri(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="n"' if place >= table.num_words else "" for place in range(len(cells))]
        inner = (f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3><div class="scroll"><table><thead>{row(table.columns, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _paragraph(line: str) -> str:
    return f"<p>{escape(line)}</p>"
