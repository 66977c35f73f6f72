"""The results page of the demo: one HTML file with embedded images."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.eval.html_page import escape, html_page, image, table

_BASELINES = {
    "val/psnr_linear_codec": "linear codec",
    "val/psnr_bicubic": "bicubic",
    "val/psnr_mean_color": "mean color",
}
"""What the curve of the PSNR is compared with, by the name in the log."""


@dataclass(frozen=True)
class Page:
    """Content of the results page.

    Attributes:
        run: folder of the training run, with TensorBoard event files.
        metrics: content of metrics.json.
        contact_sheet: image of originals, reconstructions and differences.
        photo: an original photo.
        token_file: the tokens of the photo.
        reconstruction: the photo reconstructed from its tokens.
        training_seconds: duration of the training.
        files: output files, each with a description.
    """

    run: Path
    metrics: dict[str, Any]
    contact_sheet: Path
    photo: Path
    token_file: Path
    reconstruction: Path
    training_seconds: float
    files: list[tuple[Path, str]]


def write_page(page: Page, file: Path) -> Path:
    """Write the page and return its path."""
    curves = read_curves(page.run, ("train/loss", "val/psnr", *_BASELINES))
    baselines = {label: curves[name][-1][1] for name, label in _BASELINES.items() if curves[name]}
    charts = chart("train/loss", curves["train/loss"])
    charts += chart("val/psnr in dB; dashed: methods without training", curves["val/psnr"], baselines)
    steps = curves["train/loss"][-1][0] + 1 if curves["train/loss"] else 0
    photo_kib, token_kib = page.photo.stat().st_size / 1024, page.token_file.stat().st_size / 1024
    rows = ((f"<code>{escape(path)}</code>", escape(description)) for path, description in page.files)
    body = f"""
<h1>A tokenizer trained in {page.training_seconds / 60:.1f} minutes</h1>
<p class="lead">{steps} steps on packaged photos. All images below were held out of training.</p>
<h2>Original, reconstruction, difference</h2>{image(page.contact_sheet)}
<h2>A photo and its reconstruction from tokens</h2>
<div class="pair"><figure>{image(page.photo)}<figcaption>Original: {photo_kib:.0f} KiB as PNG</figcaption></figure>
<figure>{image(page.reconstruction)}<figcaption>Reconstruction from {token_kib:.1f} KiB of tokens</figcaption></figure>
</div>
<h2>Metrics</h2>{metrics_table(page.metrics)}
<h2>Training</h2><div class="charts">{charts}</div>
<h2>Files</h2>{table(("", ""), rows, text_columns=2)}"""
    file.write_text(html_page("Smalti: a tokenizer trained in minutes", body), encoding="utf-8")
    return file


def read_curves(run: Path, names: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) points of each named scalar; an empty list if the run did not log it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    logged = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] if name in logged else [] for name in names}


def chart(
    name: str,
    points: list[tuple[int, float]],
    levels: dict[str, float] | None = None,
    width: int = 300,
    height: int = 150,
) -> str:
    """Return a line chart as SVG, labeled with the last value and the range of steps; empty if there are no points.

    Args:
        name: caption.
        points: (step, value) of each point.
        levels: values to compare with, by their labels. Each is a dashed horizontal line.
        width: width of the chart in pixels.
        height: height of the chart in pixels.
    """
    if not points:
        return ""
    levels = levels or {}
    values = [value for _, value in points] + list(levels.values())
    low, high = min(values), max(values)
    last_step, last = points[-1]
    right, top, bottom = width - (110 if levels else 60), 12, height - 22
    span = (high - low) or 1.0

    def place_value(value: float) -> float:
        return bottom - (value - low) / span * (bottom - top)

    def place(step: int, value: float) -> str:
        return f"{step / max(last_step, 1) * right:.1f},{place_value(value):.1f}"

    line = " ".join(place(*point) for point in points)
    x, y = place(last_step, last).split(",")
    labels = spread_labels([place_value(last), *map(place_value, levels.values())])
    dashed = "".join(
        f'<path d="M0 {place_value(value):.1f} H{right}" stroke="var(--base)" stroke-dasharray="4 3"/>'
        f'<text x="{right + 7}" y="{label + 4:.1f}">{value:.4g} {escape(text)}</text>'
        for (text, value), label in zip(levels.items(), labels[1:], strict=True)
    )
    return f"""<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">
<path d="M0 {bottom} H{right}" stroke="var(--line)"/>{dashed}
<polyline points="{line}" fill="none" stroke="var(--ours)" stroke-width="2" stroke-linejoin="round"/>
<circle cx="{x}" cy="{y}" r="3" fill="var(--ours)"/>
<text class="ours" x="{right + 7}" y="{labels[0] + 4:.1f}">{last:.4g}</text>
<text x="0" y="{height - 6}">step 0</text><text x="{right}" y="{height - 6}" text-anchor="end">{last_step}</text>
</svg><figcaption>{escape(name)}</figcaption></figure>"""


def spread_labels(positions: list[float], distance: float = 12.0) -> list[float]:
    """Move positions of labels down until they are at least `distance` apart; their order stays the same."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    moved = list(positions)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + distance)
    return moved


def metrics_table(metrics: dict[str, Any]) -> str:
    """Return a table of the metrics and those of the baseline, with a note next to values that papers do not have."""
    rows = []
    for name, entry in metrics["metrics"].items():
        baseline = metrics["baseline"]["metrics"].get(name, {}).get("value")
        note = entry["comparable_with"] or entry["not_comparable_because"]
        rows.append(_row(name, f"{entry['value']:.4g}", "" if baseline is None else f"{baseline:.4g}", note))
    codebook, bits = metrics["codebook"], metrics["baseline"]["bits_per_pixel"]
    rows.append(_row("bits per pixel", f"{codebook['bits_per_pixel']:.4g}", f"{bits:.4g}"))
    rows.append(_row("compression of 24-bit RGB", f"{codebook['compression_ratio']:.4g}x", f"{24 / bits:.4g}x"))
    for index, group in enumerate(codebook["groups"]):
        note = f"{group['used']} of {group['reachable']} reachable codewords used"
        rows.append(_row(f"perplexity of token {index}", f"{group['perplexity']:.4g}", note=note))
    return table(("held-out photos", "tokenizer", "bicubic", ""), rows)


def _row(name: str, value: str, baseline: str = "", note: str = "") -> tuple[str, ...]:
    return name, value, baseline, f'<span class="soft">{escape(note)}</span>'
