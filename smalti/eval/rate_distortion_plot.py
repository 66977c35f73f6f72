"""The rate-distortion plot: PSNR over bits per pixel as SVG, inline in a page or as a file of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smalti.eval.html_page import escape

_WIDTH, _HEIGHT = 860, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 590, 20, 380  # edges of the plotting area; the legend is to its right
_LEGEND_LEFT, _LEGEND_LINE, _LEGEND_LETTERS = 612, 24, 34
_COLORS = ("#1f78d1", "#d1601f", "#2f9e5b", "#b0479b", "#8a6d00", "#0e8f9c", "#d43f5e", "#7a5cd6", "#6b7785")
_STYLE = """
.rd { --rd-ink: #1d2129; --rd-soft: #667085; --rd-line: #e4e7ec; --rd-paper: #fff; font: 13px system-ui, sans-serif }
@media (prefers-color-scheme: dark) {
  .rd { --rd-ink: #e6e8ec; --rd-soft: #98a2b3; --rd-line: #344054; --rd-paper: #14171c } }
.rd text { fill: var(--rd-ink); font-size: 13px } .rd .soft { fill: var(--rd-soft); font-size: 12px }
.rd .grid { stroke: var(--rd-line) } .rd .paper { fill: var(--rd-paper) }
"""


@dataclass(frozen=True)
class RateSeries:
    """One entry of the plot: a single point, or a curve through several.

    Attributes:
        label: text in the legend.
        points: (bits per pixel, PSNR in dB) of each point. Bits are positive, and all numbers are finite.
        emphasized: whether the points are drawn large and filled: for what the plot is about, not for its rivals.
    """

    label: str
    points: Sequence[tuple[float, float]]
    emphasized: bool = False


@dataclass(frozen=True)
class _Axes:
    """Maps values to positions: x is the base-2 logarithm of the bits per pixel, y is linear in dB.

    Attributes:
        octaves: the lowest and the highest base-2 logarithm of the bits per pixel.
        decibels: the lowest and the highest PSNR.
        y_step: difference between two labels of the y-axis.
    """

    octaves: tuple[float, float]
    decibels: tuple[float, float]
    y_step: float

    def place(self, bits: float, psnr: float) -> tuple[float, float]:
        (left, right), (low, high) = self.octaves, self.decibels
        x = _LEFT + (math.log2(bits) - left) / (right - left) * (_RIGHT - _LEFT)
        return x, _BOTTOM - (psnr - low) / (high - low) * (_BOTTOM - _TOP)


def rate_distortion_plot(
    series: Sequence[RateSeries],
    *,
    x_label: str = "bits per pixel",
    y_label: str = "PSNR (dB)",
    smallest_step: float = 1.0,
) -> str:
    """Draw PSNR over bits per pixel, which has a logarithmic axis. Colors follow the light or dark mode of the reader.

    With other labels, it draws any quantity over any positive one.

    >>> svg = rate_distortion_plot([
    ...     RateSeries("my tokenizer", [(1.0, 25.3)], emphasized=True),
    ...     RateSeries("JPEG", [(0.5, 22.0), (1.0, 26.1), (2.0, 29.4)]),
    ... ])
    >>> svg.startswith("<svg ") and svg.endswith("</svg>")
    True

    Args:
        series: what to draw, in the order of the legend. Entries without points are left out.
        x_label: label of the x-axis.
        y_label: label of the y-axis.
        smallest_step: smallest difference between two labels of the y-axis.

    Returns:
        An <svg> element, for an HTML page or a file with the suffix .svg. It needs no other file. Numbers are shown when
        the mouse is over a point.

    Raises:
        ValueError: a point is not finite, or its bits are not positive.
    """
    drawn = [entry for entry in series if entry.points]
    points = [point for entry in drawn for point in entry.points]
    for bits, psnr in points:
        if not (math.isfinite(bits) and math.isfinite(psnr) and bits > 0):
            raise ValueError(f"The point ({bits} bits per pixel, {psnr} dB) cannot be drawn.")
    axes = _fit_axes(points, smallest_step)
    height = max(_HEIGHT, _TOP + 2 * _LEGEND_LINE + len(drawn) * _LEGEND_LINE)
    body = [_grid(axes, x_label, y_label)]
    # What the plot is about is drawn last, on top of its rivals.
    order = sorted(range(len(drawn)), key=lambda index: drawn[index].emphasized)
    body += [_draw(drawn[index], axes, index, x_label, y_label) for index in order]
    body += [_legend_entry(entry, index) for index, entry in enumerate(drawn)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="rd" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(y_label)} over {escape(x_label)}"><style>{_STYLE}</style>'
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>{"".join(body)}</svg>'
    )


def _fit_axes(points: Sequence[tuple[float, float]], smallest_step: float) -> _Axes:
    """Return axes that contain all points with a margin."""
    logarithms = [math.log2(bits) for bits, _ in points] or [0.0]
    decibels = [psnr for _, psnr in points] or [20.0, 30.0]
    left, right = min(logarithms), max(logarithms)
    margin = max(0.06 * (right - left), 0.25, (2.5 - (right - left)) / 2)
    span = max(decibels) - min(decibels)
    exponent = math.floor(math.log10(smallest_step))
    magnitude = 10.0 ** max(math.floor(math.log10(span / 8)), exponent) if span > 0 else smallest_step
    step = next(nice * magnitude for nice in (1, 2, 5, 10) if nice * magnitude * 8 >= span)
    low = math.floor((min(decibels) - 0.75 * step) / step) * step
    high = math.ceil((max(decibels) + 0.75 * step) / step) * step
    return _Axes((left - margin, right + margin), (low, high), step)


def _grid(axes: _Axes, x_label: str, y_label: str) -> str:
    parts = []
    (left, right), (low, high) = axes.octaves, axes.decibels
    for exponent in range(math.ceil(left), math.floor(right) + 1):
        bits = 2.0**exponent
        x, _ = axes.place(bits, low)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP} V{_BOTTOM}"/>')
        parts.append(f'<text class="soft" x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{bits:.3g}</text>')
    for index in range(round((high - low) / axes.y_step) + 1):
        psnr = low + index * axes.y_step
        _, y = axes.place(1.0, psnr)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f} H{_RIGHT}"/>')
        parts.append(f'<text class="soft" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{psnr:g}</text>')
    center = (_LEFT + _RIGHT) / 2
    parts.append(f'<text class="soft" x="{center}" y="{_BOTTOM + 40}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (_TOP + _BOTTOM) / 2
    turned = f'transform="translate(14 {middle}) rotate(-90)"'
    parts.append(f'<text class="soft" text-anchor="middle" {turned}>{escape(y_label)}</text>')
    return "".join(parts)


def _draw(entry: RateSeries, axes: _Axes, index: int, x_label: str, y_label: str) -> str:
    """Return a curve through the points, in the order of their bits, and a marker with a tooltip at each."""
    color = _COLORS[index % len(_COLORS)]
    points = sorted(entry.points)
    places = [axes.place(*point) for point in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    curve = f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>' if len(points) > 1 else ""
    markers = [
        f"<g><title>{escape(entry.label)}: {bits:.4g} {escape(x_label)}, {_describe(psnr, y_label)}</title>"
        f"{_marker(x, y, entry, index)}</g>"
        for (bits, psnr), (x, y) in zip(points, places, strict=True)
    ]
    return curve + "".join(markers)


def _describe(value: float, label: str) -> str:
    """Return a value with its unit, or with its name if the label has no unit."""
    name, _, unit = label.rstrip(")").partition(" (")
    return f"{value:.2f} {unit}" if unit else f"{name} {value:.4g}"


def _marker(x: float, y: float, entry: RateSeries, index: int) -> str:
    """Return a marker. Its shape changes with the index too, so that entries differ without color."""
    radius = 6.5 if entry.emphasized else 4.0 if len(entry.points) == 1 else 3.0
    color = _COLORS[index % len(_COLORS)]
    paint = f'fill="{color if entry.emphasized else "var(--rd-paper)"}" stroke="{color}" stroke-width="1.8"'
    shape = index % 3
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {paint}/>'
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1)) if shape == 1 else ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0))
    outline = " ".join(f"{x + dx * radius:.1f},{y + dy * radius:.1f}" for dx, dy in corners)
    return f'<polygon points="{outline}" {paint}/>'


def _legend_entry(entry: RateSeries, index: int) -> str:
    y = _TOP + 10 + index * _LEGEND_LINE
    label = entry.label if len(entry.label) <= _LEGEND_LETTERS else f"…{entry.label[1 - _LEGEND_LETTERS :]}"
    color = _COLORS[index % len(_COLORS)]
    line = (
        f'<path d="M{_LEGEND_LEFT - 9} {y} h18" stroke="{color}" stroke-width="1.5"/>' if len(entry.points) > 1 else ""
    )
    text = f'<text x="{_LEGEND_LEFT + 16}" y="{y + 4}">{escape(label)}</text>'
    return f"<g><title>{escape(entry.label)}</title>{line}{_marker(_LEGEND_LEFT, y, entry, index)}{text}</g>"
