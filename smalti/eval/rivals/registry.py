"""Finding rivals by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.metrics.base import Medium
from smalti.eval.rivals.base import Approximation, Rival
from smalti.eval.rivals.bicubic import Bicubic
from smalti.eval.rivals.image_codecs import AVIF, JPEG, WebP
from smalti.eval.rivals.linear import HOW_TO_GET_IT, LinearRival
from smalti.eval.rivals.video_codecs import H264, HEVC

RIVALS: tuple[type[Rival], ...] = (LinearRival, Bicubic, JPEG, WebP, AVIF, H264, HEVC)
"""All rivals, in the order of reports."""


class MissingRival(Rival):
    """A rival that cannot take part, so that reports say why.

    Args:
        name: name of the rival.
        reason: why it cannot take part.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.label, self.description, self.reason = name, name, "", reason

    def find_obstacle(self) -> str | None:
        """Return the reason."""
        return self.reason

    def approximate(self, original: Tensor, bits: float) -> dict[float, Approximation]:
        """Return no approximations."""
        return {}


def select_rivals(spec: str, medium: Medium) -> list[str]:
    """Return the names that a text selects.

    Args:
        spec: "all", "none", or names separated by commas.
        medium: whether the samples are images or clips; "all" are the rivals of this medium.

    Raises:
        SmaltiError: there is no such rival, or it is of the other medium.
    """
    by_name = {rival.name: rival for rival in RIVALS}
    matching = [name for name, rival in by_name.items() if medium in rival.media]
    if spec in ("all", "none"):
        return matching if spec == "all" else []
    names = [name.strip() for name in spec.split(",")]
    for name in names:
        if name not in matching:
            reason = f"takes no {medium}" if name in by_name else "does not exist"
            raise SmaltiError(f"The rival '{name}' {reason}: use all, none, or names among {', '.join(matching)}.")
    return [name for name in matching if name in names]


def build_rivals(names: Sequence[str], *, frame_stride: int = 1, linear_codec: Rival | None = None) -> list[Rival]:
    """Build rivals for `smalti.eval.evaluate.evaluate`.

    Args:
        names: names of `RIVALS`.
        frame_stride: temporal stride of the tokenizer if the samples are clips; 1 for images.
        linear_codec: the rival of this name, which needs training data (see `smalti.eval.rivals.linear`); None to report
            that it is missing.
    """
    missing = MissingRival(LinearRival.name, f"it needs training data: {HOW_TO_GET_IT}")
    special: dict[str, Rival] = {LinearRival.name: linear_codec or missing, Bicubic.name: Bicubic(frame_stride)}
    by_name = {rival.name: rival for rival in RIVALS}
    return [special[name] if name in special else by_name[name]() for name in names]
