"""Tokenizers on the Hugging Face Hub, through huggingface_hub's mixin.

PretrainedTokenizer(tokenizer, report="report").push_to_hub("me/my-tokenizer")
tokenizer = PretrainedTokenizer.from_pretrained("me/my-tokenizer").tokenizer
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from smalti.errors import MissingExtraError, SmaltiError
from smalti.files import atomic_write
from smalti.tokenizers.checkpoints import CARD, load, save
from smalti.tokenizers.tokenizer import Tokenizer

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError as error:
    raise MissingExtraError("huggingface_hub", "hub", "Tokenizers on the Hugging Face Hub") from error

_METRICS, _SHEET = "metrics.json", "contact_sheet.png"
"""Files of a report of `smalti evaluate` that the model card shows."""


class PretrainedTokenizer(ModelHubMixin):
    """A tokenizer that can be uploaded to the Hub and downloaded.

    A repository has the files of an exported folder, so that `smalti.load` also takes a downloaded copy. The model card has
    the properties of the tokenizer, how to use it and, with a report, its metrics and its contact sheet.

    `save_pretrained(folder)`, `push_to_hub(repo_id)` and `from_pretrained(folder_or_repo_id)` are those of `ModelHubMixin`.

    Args:
        tokenizer: a tokenizer in evaluation mode.
        report: folder that `smalti evaluate` wrote for this tokenizer; None for a card without metrics.
        provenance: see `smalti.tokenizers.checkpoints.save`.

    Raises:
        SmaltiError: the report does not exist or is damaged.
        MissingExtraError: huggingface_hub is not installed.
    """

    def __init__(
        self, tokenizer: Tokenizer, report: str | Path | None = None, provenance: dict[str, Any] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.report = None if report is None else Path(report)
        self.provenance = provenance
        self._metrics = None if self.report is None else _read_metrics(self.report)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the exported folder, the report's metrics and pictures, and the model card."""
        save(self.tokenizer, save_directory, provenance=self.provenance, overwrite=True)
        if self.report is None or self._metrics is None:
            return
        pictures = [name for name in (_METRICS, _SHEET) if (self.report / name).is_file()]
        for name in pictures:
            with atomic_write(save_directory / name) as partial:
                partial.write_bytes((self.report / name).read_bytes())
        card = (save_directory / CARD).read_text(encoding="utf-8")
        with atomic_write(save_directory / CARD) as partial:
            partial.write_text(add_metrics(card, self._metrics, sheet=_SHEET in pictures), encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> PretrainedTokenizer:
        """Load an exported folder, or download a repository first. Its provenance and its report are kept."""
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        report = folder if (folder / _METRICS).is_file() else None
        return cls(load(folder), report, model_kwargs.get("provenance"))


def add_metrics(card: str, metrics: dict[str, Any], *, sheet: bool) -> str:
    """Return a model card with the metrics of a report before the section on provenance.

    Args:
        card: a model card of `smalti.tokenizers.model_card`.
        metrics: content of metrics.json.
        sheet: whether the folder has the contact sheet.
    """
    baseline = metrics["baseline"]["metrics"]
    rows = [
        f"| {name} | {_number(result['value'])} | {_number(baseline[name]['value']) if name in baseline else ''} |"
        for name, result in metrics["metrics"].items()
    ]
    protocol = metrics["protocol"]["name"]
    section = [
        "## Metrics",
        "",
        f"{metrics['samples']} samples, protocol `{protocol}`, measured by `smalti evaluate` {metrics['smalti']}. The "
        "baseline is bicubic downsampling and upsampling at equal nominal bits.",
        "",
        "| metric | tokenizer | baseline |",
        "|---|---|---|",
        *rows,
        "",
        *([f"![originals and reconstructions]({_SHEET})", ""] if sheet else []),
    ]
    before, heading, after = card.partition("## Provenance")
    return before + "\n".join(section) + "\n" + heading + after


def _read_metrics(report: Path) -> dict[str, Any]:
    file = report / _METRICS
    if not file.is_file():
        raise SmaltiError(f"{report} has no {_METRICS}: give a folder that `smalti evaluate --out` wrote.")
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        add_metrics("", metrics, sheet=False)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SmaltiError(f"{file} is damaged ({type(error).__name__}): evaluate the tokenizer again.") from error
    return metrics


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"
