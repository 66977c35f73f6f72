"""The pictures of a comparison: the worst, the median and the best sample of the first report, in all reports.

Each card shows the original at the left of a movable line and the reconstruction at its right, for clips in each frame. The
line is a range input, so that it can be dragged, and moved by the arrow keys. All cards of a sample move together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from smalti.errors import SmaltiError
from smalti.eval.comparison import Report
from smalti.eval.comparison_table import format_number
from smalti.eval.html_page import data_uri, escape

PICTURE_STYLE = """
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)) }
.cards.wide { grid-template-columns: 1fr } .cards figure { max-width: 34rem } .cards.wide figure { max-width: none }
.slider { position: relative } .slider img { display: block; width: 100% } .pixelated { image-rendering: pixelated }
.slider .original { position: absolute; inset: 0; border-radius: 6px; background: var(--original) 0 0 / 100% 100%;
  mask: linear-gradient(90deg, #000 var(--cut), #0000 0) 0 0 / calc(100% / var(--frames)) 100% repeat-x }
.slider .line { position: absolute; inset: 0; pointer-events: none; background: linear-gradient(90deg,
  #0000 calc(var(--cut) - 2px), #0008 0, #0008 calc(var(--cut) - 1px), #fff 0, #fff calc(var(--cut) + 1px), #0008 0,
  #0008 calc(var(--cut) + 2px), #0000 0) 0 0 / calc(100% / var(--frames)) 100% repeat-x }
.slider input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y }
.slider:focus-within { outline: 3px solid var(--ours); outline-offset: 2px; border-radius: 6px }
.slider b { position: absolute; top: .5rem; padding: .05rem .45rem; border-radius: 4px; background: #000a; color: #fff;
  font: 600 .72rem/1.5 system-ui, sans-serif; pointer-events: none } .slider b.left { left: .5rem }
.slider b.right { right: .5rem } h3 { margin: 1.4rem 0 .5rem; font-size: 1rem }
"""

SLIDER_SCRIPT = """
for (const sample of document.querySelectorAll('.sample')) sample.addEventListener('input', event => {
  sample.style.setProperty('--cut', event.target.value + '%');
  for (const input of sample.querySelectorAll('input')) input.value = event.target.value;
});
"""

_SMALL = 160  # pixels; smaller pictures are enlarged without smoothing
_WIDE = 2.0  # ratio of width to height from which a picture takes a row of its own


@dataclass(frozen=True)
class Choice:
    """A sample to show.

    Attributes:
        name: its name.
        title: why it was chosen.
    """

    name: str
    title: str


def choose_samples(reports: Sequence[Report]) -> list[Choice]:
    """Choose the worst, the median and the best sample of the first report, among those with pictures in all reports.

    A report has pictures of some samples only, so the rank of each sample among all is part of its title.
    """
    first = reports[0]
    metric = first.ranking_metric
    names = set.intersection(*(set(report.pictures) for report in reports))
    if metric is None:
        return [Choice(name, name) for name in sorted(names)[:3]]
    values = first.samples[metric]
    sign = 1 if first.higher_is_better(metric) else -1
    ranking = sorted(values, key=lambda name: (sign * values[name], name))
    ranks = {name: rank for rank, name in enumerate(ranking, start=1) if name in names}
    if not ranks:
        return []
    middle = (len(ranking) + 1) / 2
    chosen = {
        "Worst": min(ranks, key=lambda name: ranks[name]),
        "Median": min(ranks, key=lambda name: abs(ranks[name] - middle)),
        "Best": max(ranks, key=lambda name: ranks[name]),
    }
    titles: dict[str, str] = {}
    for title, name in chosen.items():
        titles[name] = f"{titles[name]}, {title.lower()}" if name in titles else title
    place = f"of {len(ranking)} by {metric} of {first.folder}, from the worst"
    return [Choice(name, f"{title}: {name} (number {ranks[name]} {place})") for name, title in titles.items()]


def pictures_section(reports: Sequence[Report]) -> str:
    """Return the section with the pictures.

    Raises:
        SmaltiError: a picture cannot be read.
    """
    without = [str(report.folder) for report in reports if not report.pictures]
    if without:
        text = f"{', '.join(without)} has no pictures: it was written by an earlier version, or without examples."
        return f'<h2>Pictures</h2><p class="soft">{escape(text)}</p>'
    samples = "".join(_sample(choice, reports) for choice in choose_samples(reports))
    note = (
        "Left of the line: original. Right: reconstruction. Drag it, or use the arrow keys."
        if samples
        else "The reports have no sample with pictures in common."
    )
    panels = next((picture.panels for picture in reports[0].pictures.values()), ())
    note += f" From left to right: {escape(', '.join(panels))}." if samples and panels else ""
    return f'<h2>Pictures</h2><p class="soft">{note}</p>{samples}'


def _sample(choice: Choice, reports: Sequence[Report]) -> str:
    picture = reports[0].pictures[choice.name]
    width, height = _read_size(picture.original)
    kind = "cards wide" if width > _WIDE * height else "cards"
    cards = "".join(_card(choice.name, report, small=max(width, height) < _SMALL) for report in reports)
    style = f"--cut:50%;--frames:{picture.frames};--original:url({data_uri(picture.original)})"
    return f'<h3>{escape(choice.title)}</h3><div class="sample {kind}" style="{style}">{cards}</div>'


def _card(name: str, report: Report, *, small: bool) -> str:
    file = report.pictures[name].reconstruction
    _read_size(file)
    label = escape(f"Line between original and reconstruction of {name} by {report.folder}, in percent of the width")
    pixelated = " pixelated" if small else ""
    caption = f"{report.folder}: {_describe(name, report.metrics, report.samples)}"
    return (
        f'<figure><div class="slider"><img class="{pixelated}" src="{data_uri(file)}" '
        f'alt="{escape(f"Reconstruction of {name} by {report.folder}")}"><div class="original{pixelated}"></div>'
        f'<div class="line"></div><b class="left">original</b><b class="right">reconstruction</b>'
        f'<input type="range" min="0" max="100" value="50" aria-label="{label}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _describe(name: str, metrics: Mapping[str, object], samples: Mapping[str, Mapping[str, float]]) -> str:
    values = {metric: samples[metric][name] for metric in metrics if name in samples.get(metric, {})}
    return ", ".join(f"{metric} {format_number(value)}" for metric, value in values.items())


def _read_size(file: Path) -> tuple[int, int]:
    """Return (width, height) of a picture.

    Raises:
        SmaltiError: it cannot be read.
    """
    try:
        with Image.open(file) as picture:
            picture.verify()
            return picture.size
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise SmaltiError(f"The picture {file} cannot be read: evaluate again.") from error
