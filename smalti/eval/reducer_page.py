"""The report of `smalti evaluate --reduce`: metrics.json, pictures, and one page with curves for all reducers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError
from smalti.eval.html_page import escape, html_page, image, table
from smalti.eval.metrics.base import SampleMetric
from smalti.eval.rate_distortion_plot import RateSeries, rate_distortion_plot
from smalti.eval.reducers import ALL_TOKENS, ReducerEvaluation
from smalti.files import atomic_write
from smalti.images import write_image

RESULTS, PAGE, PICTURES = "metrics.json", "reducers.html", "images"
FORMAT = "smalti-reducers"
_STYLE = """.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem }
.strip img { width: 100%; image-rendering: pixelated } .strip figcaption { overflow-wrap: anywhere }"""


def write_reducer_report(
    evaluation: ReducerEvaluation, metrics: Sequence[SampleMetric], out: Path, settings: dict[str, Any]
) -> list[Path]:
    """Write the report.

    Args:
        evaluation: the results.
        metrics: the metrics that were measured.
        out: folder to write to; created if it does not exist.
        settings: tokenizer, data and protocol, for metrics.json and the page.

    Returns:
        The files for people to open: metrics.json and the page.

    Raises:
        SmaltiError: a file cannot be written.
    """
    try:
        strips = [_write_pictures(index, evaluation, out / PICTURES) for index in range(len(evaluation.pictures))]
        with atomic_write(out / PAGE) as partial:
            partial.write_text(_page(evaluation, metrics, settings, strips), encoding="utf-8")
        content = {
            "format": FORMAT,
            **settings,
            "samples": evaluation.samples,
            "positions": evaluation.positions,
            "metrics": {metric.name: metric.definition for metric in metrics},
            "results": [
                {"reducer": label, "tokens": tokens, **evaluation.values[label]}
                for label, tokens in evaluation.tokens.items()
            ],
        }
        with atomic_write(out / RESULTS) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SmaltiError(f"The report cannot be written to {out} ({error}): choose another --out.") from error
    return [out / RESULTS, out / PAGE]


def family(label: str) -> str:
    """Return the name of the reducer of a label: "m3" for "m3:scale=36"."""
    return label.partition(":")[0]


def curve(evaluation: ReducerEvaluation, metric: SampleMetric) -> str:
    """Return an SVG of a metric over the number of tokens, with one curve per reducer."""
    families = dict.fromkeys(family(label) for label in evaluation.tokens if label != ALL_TOKENS)
    series = [
        RateSeries(
            name,
            [
                (tokens, evaluation.values[label][metric.name])
                for label, tokens in evaluation.tokens.items()
                if family(label) == name
            ],
        )
        for name in families
    ]
    reference = (evaluation.tokens[ALL_TOKENS], evaluation.values[ALL_TOKENS][metric.name])
    title = f"{metric.name} ({metric.unit})" if metric.unit else metric.name
    return rate_distortion_plot(
        [RateSeries(ALL_TOKENS, [reference], emphasized=True), *series],
        x_label="tokens",
        y_label=title,
        smallest_step=1.0 if metric.unit == "dB" else 0.01,
    )


def _page(
    evaluation: ReducerEvaluation, metrics: Sequence[SampleMetric], settings: dict[str, Any], strips: list[str]
) -> str:
    origin = ", ".join(f"{key}: {value}" for key, value in settings.items())
    body = [
        "<h1>Fewer tokens</h1>",
        f'<p class="lead">{evaluation.samples} images of {evaluation.positions} latent positions. {escape(origin)}</p>',
    ]
    for metric in metrics:
        better = "higher" if metric.higher_is_better else "lower"
        body.append(f"<h2>{escape(metric.name)} ({better} is better)</h2>{curve(evaluation, metric)}")
    header = ["reducer", "tokens", *(escape(metric.name) for metric in metrics)]
    rows = [
        [escape(label), f"{tokens:.4g}", *(f"{evaluation.values[label][metric.name]:.4g}" for metric in metrics)]
        for label, tokens in evaluation.tokens.items()
    ]
    note = (
        '<p class="soft">The upper picture is decoded from the tokens after they were spread back. The lower one shows '
        "which positions were dropped (dark) or merged (no line between them).</p>"
    )
    body += [f"<h2>Results</h2>{table(header, rows)}", f"<h2>Pictures</h2>{note}", *strips]
    return html_page("Fewer tokens", "".join(body), style=_STYLE)


def _write_pictures(index: int, evaluation: ReducerEvaluation, folder: Path) -> str:
    """Write the pictures of one image, and return their HTML."""
    name, original, pictures = evaluation.pictures[index]
    files = []
    for place, picture in enumerate(pictures):
        pair = folder / f"{index:02d}-{place:02d}-reconstruction.png", folder / f"{index:02d}-{place:02d}-kept.png"
        write_image(pair[0], picture.reconstruction)
        write_image(pair[1], picture.overlay)
        caption = f"{escape(picture.label)}: {picture.tokens} tokens"
        files.append(f"<figure>{image(pair[0])}{image(pair[1])}<figcaption>{caption}</figcaption></figure>")
    first = folder / f"{index:02d}-original.png"
    write_image(first, original)
    shown = f"<figure>{image(first)}<figcaption>original</figcaption></figure>"
    return f'<h3>{escape(name)}</h3><div class="strip">{shown}{"".join(files)}</div>'
