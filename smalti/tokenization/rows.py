"""The rows of a token dataset: one version of one sample, with everything that leads back to pixels.

Shapes: N positions, G tokens per position, C channels.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from smalti.types import Layout

Columns = dict[str, str | bytes]
"""Captions and other data of a sample by suffix: text for the suffixes in `TEXT_SUFFIXES`, else bytes."""

TEXT_SUFFIXES = frozenset(("txt", "text", "caption", "json", "jsonl", "cls", "id", "url", "csv", "xml", "yaml"))
"""Suffixes of columns that are text in UTF-8."""


@dataclass(frozen=True)
class Row:
    """One row of a shard.

    Attributes:
        key: name of the sample in its source; of a clip, with its start in seconds: "bikes.mp4@1.320".
        version: index of the preprocessing, or augmentation, from 0.
        arrays: what is stored, by name: "ids", or "mean" and possibly "log_variance". See `smalti.tokenization.storage`.
        layout: the latent grids, the size and the number of frames.
        rate: frames per second of a clip; None for an image.
        columns: captions and other data of the sample.
    """

    key: str
    version: int
    arrays: dict[str, np.ndarray]
    layout: Layout
    rate: Fraction | None
    columns: Columns


def is_text(column: str) -> bool:
    """Return whether a column is text, by the last part of its suffix."""
    return column.rpartition(".")[2].lower() in TEXT_SUFFIXES


def describe_row(row: Row) -> dict[str, Any]:
    """Return everything about a row but its arrays and columns, as JSON can represent it."""
    layout = row.layout
    return {
        "key": row.key,
        "version": row.version,
        "size": list(layout.size),
        "frames": layout.frames,
        "rate": None if row.rate is None else str(row.rate),
        "grids": [list(grid) for grid in layout.grids],
    }


def parse_row(record: dict[str, Any], arrays: dict[str, np.ndarray], columns: Columns) -> Row:
    """Invert `describe_row`.

    Raises:
        KeyError, TypeError, ValueError: the record is damaged.
    """
    height, width = record["size"]
    grids = tuple((t, h, w) for t, h, w in record["grids"])
    layout = Layout(grids=grids, size=(height, width), frames=record["frames"])
    rate = None if record["rate"] is None else Fraction(record["rate"])
    return Row(record["key"], record["version"], arrays, layout, rate, columns)


def row_to_json(row: Row) -> str:
    """Return a row without its arrays as one line of JSON. Columns that are not text are encoded in Base64."""
    columns = {
        name: value if isinstance(value, str) else {"base64": base64.b64encode(value).decode("ascii")}
        for name, value in row.columns.items()
    }
    return json.dumps(describe_row(row) | ({"columns": columns} if columns else {}), ensure_ascii=False)


def row_from_json(line: str, arrays: dict[str, np.ndarray]) -> Row:
    """Invert `row_to_json`.

    Raises:
        KeyError, TypeError, ValueError: the line is damaged.
    """
    record = json.loads(line)
    columns = {
        name: value if isinstance(value, str) else base64.b64decode(value["base64"])
        for name, value in record.get("columns", {}).items()
    }
    return parse_row(record, arrays, columns)
