"""Forcing a language model to generate valid images."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from smalti.errors import SmaltiError
from smalti.export.vocabulary.constraints import next_allowed
from smalti.export.vocabulary.grammar import Grid, SizeTokens
from smalti.export.vocabulary.manifest import VisualVocabulary


class ImageGrammarLogitsProcessor(LogitsProcessor):
    """Allows only ids that continue a valid image, and in text only ids that do not belong to images.

    An image begins with the begin token, which a prompt contains or the model generates. From there on, every step allows
    one id or closed ranges of ids: the size, the codes, the ends of rows, the end. Outside of images, codes and separators
    are forbidden, and everywhere the padding rows of the embedding table. Pass it to `generate`:

        model.generate(**inputs, logits_processor=[ImageGrammarLogitsProcessor(vocabulary)], eos_token_id=...)

    Args:
        vocabulary: a vocabulary with flat sequences and a begin token.
        grid: grid to force; None: that of the vocabulary, or the one that the prompt or the model states.
        max_length: number of tokens at which generation stops. An image of a known grid that would not end before is not
            begun. None: no such check.

    Raises:
        SmaltiError: the sequences are not flat or have no begin token, or the grid is not valid.
    """

    def __init__(self, vocabulary: VisualVocabulary, grid: Grid | None = None, max_length: int | None = None) -> None:
        if vocabulary.layout != "flat" or vocabulary.grammar.begin is None:
            raise SmaltiError(
                f"The preset {vocabulary.preset} has no begin token or several ids per step, so that its images cannot be "
                "forced: choose a preset such as flat."
            )
        self.vocabulary = vocabulary
        self.grid = grid or vocabulary.grid.fixed
        if self.grid is not None:
            vocabulary.grid.check(self.grid)
        elif vocabulary.grammar.size is None:
            raise SmaltiError(f"Images of the preset {vocabulary.preset} do not state their size: pass the grid.")
        self.max_length = max_length
        self._image_length = 0 if self.grid is None else vocabulary.length(self.grid)
        self.begin = vocabulary.specials[vocabulary.grammar.begin].id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V) with minus infinity at ids that may not follow input_ids (B, S).

        Raises:
            SmaltiError: V is smaller than the vocabulary, or an image in the prompt states no valid size.
        """
        if scores.shape[-1] < self.vocabulary.rows:
            raise SmaltiError(
                f"The model predicts {scores.shape[-1]} ids, but the visual vocabulary has {self.vocabulary.rows}: call "
                f"model.resize_token_embeddings({self.vocabulary.rows})."
            )
        result = scores.clone()
        for sequence, row in zip(input_ids, result, strict=True):
            begins = (sequence == self.begin).nonzero()
            allowed = None
            if len(begins):
                allowed = next_allowed(self.vocabulary, sequence[int(begins[-1]) :].tolist(), self.grid)
            if allowed is None:
                self._forbid_images(row, len(sequence))
            else:
                _keep(row, allowed)
        return result

    def _forbid_images(self, row: Tensor, length: int) -> None:
        """Forbid, in place, what may not occur in text."""
        vocabulary = self.vocabulary
        ranges = [*vocabulary.ranges, (vocabulary.rows, len(row) - 1)]
        if isinstance(vocabulary.grammar.size, SizeTokens):
            size = vocabulary.grammar.size
            ranges.append((size.base + 1, size.base + size.count))
        for low, high in ranges:
            row[low : high + 1] = -torch.inf
        forbidden = [vocabulary.specials[role].id for role in vocabulary.grammar.roles()]
        forbidden = [number for number in forbidden if number != self.begin]
        if vocabulary.mask is not None:
            forbidden.append(vocabulary.mask)
        if self.max_length is not None and self.grid is not None and length + self._image_length > self.max_length:
            forbidden.append(self.begin)
        row[forbidden] = -torch.inf


def _keep(row: Tensor, allowed: tuple[tuple[int, int], ...]) -> None:
    """Forbid, in place, all ids outside of the allowed ranges."""
    kept = [row[low : high + 1].clone() for low, high in allowed]
    row.fill_(-torch.inf)
    for (low, high), values in zip(allowed, kept, strict=True):
        row[low : high + 1] = values
    if len(allowed) == 1 and allowed[0][0] == allowed[0][1]:
        row[allowed[0][0]] = 0.0  # forced, whatever earlier processors did
