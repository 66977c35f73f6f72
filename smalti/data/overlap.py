"""Finding validation samples that are also training samples."""

from __future__ import annotations

from pathlib import PurePath

from smalti.data.sources import IndexedSource, Source

_EXAMPLES = 3
"""Number of samples to name."""


def describe_overlap(train: Source, validation: Source) -> str | None:
    """Describe which items of two sources are the same; None if there are none, or if this is not known.

    Compares where the items come from, not their content: a copy of a file is not found. Shards are compared as a whole.

    Args:
        train: source of the training samples.
        validation: source of the validation samples.

    Returns:
        A clause such as "2 of 4 validation images are training images (a.jpg, b.jpg)".
    """
    train_origins, validation_origins = train.origins(), validation.origins()
    if train_origins is None or validation_origins is None:
        return None
    used = set(train_origins)
    shared = [index for index, origin in enumerate(validation_origins) if origin in used]
    if not shared:
        return None
    examples = [_name(validation, index, validation_origins[index]) for index in shared[:_EXAMPLES]]
    listed = ", ".join(examples) + (", ..." if len(shared) > len(examples) else "")
    kind = ("videos" if validation.videos else "images") if isinstance(validation, IndexedSource) else "shards"
    verb = f"is also among the training {kind}" if len(shared) == 1 else f"are also training {kind}"
    return f"{len(shared)} of {len(validation_origins)} validation {kind} {verb} ({listed})"


def _name(source: Source, index: int, origin: str) -> str:
    return source.name(index) if isinstance(source, IndexedSource) else PurePath(origin).name
