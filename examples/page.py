"""The results page of the demo: one HTML file with embedded images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.eval.html_page import escape, html_page, image, table


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
    curves = read_curves(page.run, ("train/loss", "val/psnr"))
    charts = "".join(chart(name, points) for name, points in curves.items())
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


def chart(name: str, points: list[tuple[int, float]], width: int = 300, height: int = 150) -> str:
    """Return a line chart as SVG, labeled with the last value and the range of steps; empty if there are no points."""
    if not points:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    last_step, last = points[-1]
    span, top, bottom = (high - low) or 1.0, 12, height - 22

    def place(step: int, value: float) -> str:
        return f"{step / max(last_step, 1) * (width - 60):.1f},{bottom - (value - low) / span * (bottom - top):.1f}"

    line = " ".join(place(*point) for point in points)
    x, y = place(last_step, last).split(",")
    return f"""<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">
<path d="M0 {bottom} H{width - 60}" stroke="var(--line)"/>
<polyline points="{line}" fill="none" stroke="var(--ours)" stroke-width="2" stroke-linejoin="round"/>
<circle cx="{x}" cy="{y}" r="3" fill="var(--ours)"/><text x="{float(x) + 7:.1f}" y="{float(y) + 4:.1f}">{last:.4g}</text>
<text x="0" y="{height - 6}">step 0</text><text x="{width - 60}" y="{height - 6}" text-anchor="end">{last_step}</text>
</svg><figcaption>{escape(name)}</figcaption></figure>"""


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
