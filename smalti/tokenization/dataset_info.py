"""What every shard of a token dataset carries: the tokenizer, the preprocessing, the types and the versions.

Two shards belong together if they carry the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from smalti.errors import SmaltiError
from smalti.tokenization.storage import numpy_type

FORMAT = "smalti-token-dataset"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Description of a token dataset. Every shard contains it.

    Attributes:
        format: name of the format of its shards.
        kind: "tokens", "latents" or "reduced" (latents).
        fingerprint: fingerprint of the tokenizer's weights.
        tokenizer: name of the tokenizer, for people.
        branch: branch of a joint tokenizer; None for the default.
        tile: height and width of tiles in pixels; None for whole frames.
        precision: precision in which the network computes.
        preprocessing: settings of each version, in order; see `smalti.tokenization.preprocessing.Version`.
        arrays: names of the stored arrays.
        dtype: type of their values.
        packed_bits: bits per id if ids are packed, see `smalti.tokenization.storage`; else None.
        codebook_size: number of values of a token, in decimal: JSON readers lose large integers; None for latents.
        tokens_per_position: tokens G, or for latents channels C, per latent position.
        statistics: mean and standard deviation of each channel by which latents were normalized; None if they were not.
        vocabulary: SHA-256 of the vocabulary whose ids are stored instead of the tokenizer's; None without one.
        reduction: reducer of the latents, see `smalti.tokenization.reduction.Reduction.describe`; None without one.
        columns: columns of the samples that are kept.
        smalti: version of Smalti.
        torch: version of PyTorch.
    """

    format: str
    kind: Literal["tokens", "latents", "reduced"]
    fingerprint: str
    tokenizer: str
    branch: str | None
    tile: int | None
    precision: str
    preprocessing: tuple[dict[str, Any], ...]
    arrays: tuple[str, ...]
    dtype: str
    packed_bits: int | None
    codebook_size: str | None
    tokens_per_position: int
    statistics: dict[str, list[float]] | None
    vocabulary: str | None
    reduction: dict[str, Any] | None = None
    columns: tuple[str, ...]
    smalti: str
    torch: str

    def array_type(self, name: str) -> np.dtype[Any]:
        """Return the little-endian NumPy type in which an array of this name is stored."""
        if self.packed_bits:
            return np.dtype(np.uint8)
        return numpy_type({"lengths": "int32", "assignment": "int32", "sizes": "float32"}.get(name, self.dtype))

    def to_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        lists = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        return {"format_name": FORMAT, "format_version": FORMAT_VERSION} | asdict(self) | lists

    @classmethod
    def from_dict(cls, content: Any, file: object) -> DatasetInfo:
        """Invert `to_dict`.

        Args:
            content: what was read from JSON.
            file: where it was read from, for messages.

        Raises:
            SmaltiError: the content is not that of a token dataset, or of another version.
        """
        if not isinstance(content, dict) or content.get("format_name") != FORMAT:
            raise SmaltiError(f"{file} does not describe a token dataset: pass a folder of `smalti tokenize-dataset`.")
        if content.get("format_version") != FORMAT_VERSION:
            raise SmaltiError(
                f"{file} has format version {content['format_version']}: install a newer version of smalti."
            )
        names = {field.name for field in fields(cls)}
        if not names <= content.keys():
            missing = ", ".join(sorted(names - content.keys()))
            raise SmaltiError(f"{file} is damaged (it lacks {missing}): tokenize the dataset again.")
        values = {name: content[name] for name in names}
        for name in ("preprocessing", "arrays", "columns"):
            values[name] = tuple(values[name])
        return cls(**values)

    def find_difference(self, other: DatasetInfo) -> str | None:
        """Return the name of the first attribute that differs, in the order of the class; None if all are equal."""
        return next((f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)), None)
