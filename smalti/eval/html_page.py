"""Pages of results: one HTML file without any other file, for light and dark mode."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #667085; --line: #e4e7ec; --paper: #fff; --ours: #1f6feb;
  --good: #067647; --bad: #b42318 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #98a2b3; --line: #344054; --paper: #14171c; --ours: #6ea8fe; --good: #75e0a7;
    --bad: #fda29b } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 3rem auto; padding: 0 1.5rem; overflow-wrap: break-word }
h1 { font-size: 1.9rem; margin-bottom: .2rem } h2 { margin: 2.4rem 0 .6rem; font-size: 1.25rem }
p.lead, .soft { color: var(--soft) } .scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .42rem .7rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child, th.text, td.text { text-align: left }
img { max-width: 100%; border-radius: 6px } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
figure { margin: 0 } figcaption { color: var(--soft); font-size: .9rem } .charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)) }
svg { max-width: 100%; height: auto } svg text { fill: var(--soft); font-size: 11px } code { font-size: .92em }
dt { font-weight: 600; margin-top: .6rem } dd { margin: 0; color: var(--soft) }
"""


def html_page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return a complete page.

    Args:
        title: plain text.
        body: HTML below <body>.
        style: CSS in addition to that of all pages.
        script: JavaScript that runs when the page is loaded.
    """
    scripts = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style>{body}{scripts}</html>\n"
    )


def escape(text: object) -> str:
    """Return text for HTML. What is not valid Unicode, such as bytes in names of files, becomes question marks."""
    return html.escape(str(text).encode(errors="replace").decode())


def data_uri(file: Path) -> str:
    """Return a PNG, JPEG or WebP file as a URI that contains it."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f"data:{_TYPES[file.suffix.lower()]};base64,{data}"


def image(file: Path) -> str:
    """Return an <img> element with an embedded file."""
    return f'<img alt="{escape(file.stem)}" src="{data_uri(file)}">'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Return a table that scrolls if it is too wide.

    Args:
        header: headings as HTML. There is no row of headings if all are empty.
        rows: cells as HTML.
        text_columns: number of columns at the left that contain text. The others are aligned to the right.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = (' class="text"' if index < text_columns else "" for index in range(len(cells)))
        return f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))}</tr>"

    head = line("th", header) if any(header) else ""
    return f'<div class="scroll"><table>{head}{"".join(line("td", row) for row in rows)}</table></div>'
