"""The demo's page: one HTML file, with its pictures inside."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STYLE = """
:root { --ink: #1d2129; --soft: #667085; --line: #e4e7ec; --paper: #fff; --ours: #1f6feb; --base: #b54708; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #98a2b3; --line: #344054; --paper: #14171c; --ours: #6ea8fe; --base: #fdb022; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 3rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.9rem; margin-bottom: .2rem } h2 { margin: 2.4rem 0 .6rem; font-size: 1.25rem }
p.lead, .soft { color: var(--soft) }
table { border-collapse: collapse; width: 100% } th, td { padding: .42rem .7rem; border-bottom: 1px solid var(--line);
  text-align: right } th:first-child, td:first-child, td.note { text-align: left } td.note { color: var(--soft) }
img { max-width: 100%; border-radius: 6px } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
figure { margin: 0 } figcaption { color: var(--soft); font-size: .9rem } .charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)) }
svg text { fill: var(--soft); font-size: 11px } code { font-size: .92em }
"""


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        run: the training run's folder, with TensorBoard's events.
        metrics: the contents of metrics.json.
        sheet: originals beside reconstructions.
        photo: a photo before, `tokens` as tokens, `back` after.
        tokens: its token file.
        back: its reconstruction.
        seconds: that training took.
        files: paths to name, each with what it is.
    """

    run: Path
    metrics: dict[str, Any]
    sheet: Path
    photo: Path
    tokens: Path
    back: Path
    seconds: float
    files: list[tuple[Path, str]]


def write_page(page: Page, file: Path) -> Path:
    """Write the page; returns its path."""
    curves = read_curves(page.run, ("train/loss", "val/psnr", "val/perceptual"))
    charts = "".join(chart(name, points) for name, points in curves.items())
    steps = curves["train/loss"][-1][0] + 1 if curves["train/loss"] else 0
    photo, tokens = page.photo.stat().st_size, page.tokens.stat().st_size
    rows = "".join(
        f"<tr><td><code>{html.escape(str(p))}</code></td><td class=note>{what}</td></tr>" for p, what in page.files
    )
    file.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Smalti: a tokenizer trained in minutes</title><style>{_STYLE}</style>
<h1>A tokenizer, trained in {page.seconds / 60:.1f} minutes</h1>
<p class="lead">{steps} steps on packaged photos, on a CPU; every picture below was held out of training.</p>
<h2>Original, reconstruction, difference</h2>{image(page.sheet)}
<h2>A photo as tokens, and back</h2>
<div class="pair"><figure>{image(page.photo)}<figcaption>{photo / 1024:.0f} KiB as PNG</figcaption></figure>
<figure>{image(page.back)}<figcaption>from {tokens / 1024:.1f} KiB of tokens</figcaption></figure></div>
<h2>Metrics</h2>{metrics_table(page.metrics)}
<h2>Training</h2><div class="charts">{charts}</div>
<h2>Files</h2><table>{rows}</table></html>
""",
        encoding="utf-8",
    )
    return file


def image(file: Path) -> str:
    """An <img> that carries its picture."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{html.escape(file.stem)}" src="data:image/png;base64,{data}">'


def read_curves(run: Path, names: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) points of each scalar that the run logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    logged = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] if name in logged else [] for name in names}


def chart(name: str, points: list[tuple[int, float]], width: int = 300, height: int = 150) -> str:
    """A line chart as SVG, with the first, last and extreme values written at it."""
    if not points:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    last_step, last = points[-1]
    span, top, bottom = (high - low) or 1.0, 12, height - 22

    def place(step: int, value: float) -> str:
        return f"{step / max(last_step, 1) * (width - 60):.1f},{bottom - (value - low) / span * (bottom - top):.1f}"

    line = " ".join(place(*point) for point in points)
    x, y = place(last_step, last).split(",")
    return f"""<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(name)}">
<path d="M0 {bottom} H{width - 60}" stroke="var(--line)"/>
<polyline points="{line}" fill="none" stroke="var(--ours)" stroke-width="2" stroke-linejoin="round"/>
<circle cx="{x}" cy="{y}" r="3" fill="var(--ours)"/><text x="{float(x) + 7:.1f}" y="{float(y) + 4:.1f}">{last:.4g}</text>
<text x="0" y="{height - 6}">step 0</text><text x="{width - 60}" y="{height - 6}" text-anchor="end">{last_step}</text>
</svg><figcaption>{html.escape(name)}</figcaption></figure>"""


def metrics_table(metrics: dict[str, Any]) -> str:
    """The metrics beside the baseline's; what is not comparable with published values says so."""
    rows = []
    for name, entry in metrics["metrics"].items():
        baseline = metrics["baseline"]["metrics"].get(name, {}).get("value")
        note = "" if entry["comparable"] else "stand-in: not comparable with published values"
        other = "" if baseline is None else f"{baseline:.4g}"
        rows.append(f"<tr><td>{name}</td><td>{entry['value']:.4g}</td><td>{other}</td><td class=note>{note}</td></tr>")
    code = metrics["codebook"]
    rows.append(f"<tr><td>bits a pixel</td><td>{code['bits_per_pixel']:.4g}</td><td></td><td></td></tr>")
    rows.append(
        f"<tr><td>compression of 24-bit RGB</td><td>{code['compression_ratio']:.4g}x</td><td></td><td></td></tr>"
    )
    for i, group in enumerate(code["groups"]):
        note = f"{group['used']} of {code['codebook_size']} codes used"
        perplexity = f"<td>perplexity of token {i}</td><td>{group['perplexity']:.4g}</td>"
        rows.append(f"<tr>{perplexity}<td></td><td class=note>{note}</td></tr>")
    return f"<table><tr><th>held-out photos</th><th>tokenizer</th><th>bicubic</th><th></th></tr>{''.join(rows)}</table>"
