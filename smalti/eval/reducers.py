"""What reducers lose: latents are reduced, spread back and decoded, and the pixels are measured.

pixels -> tokenizer -> latents -> each reducer -> tokens -> spread back -> decoder -> metrics
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.functional import full_precision
from smalti.eval.latent_saliency import latent_saliency
from smalti.eval.metrics.base import SampleMetric
from smalti.pixels import pixels_to_uint8
from smalti.reducers import Reduced, Reducer, expand_latents, parse_ladder, reduce_latents
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Latents

ALL_TOKENS = "all tokens"
"""Label of the reconstruction from all latents."""


@dataclass(frozen=True)
class ReducerPicture:
    """What one reducer makes of one image. Images are (3, H, W) uint8.

    Attributes:
        label: the reducer.
        tokens: number of tokens of this image.
        reconstruction: the decoded image.
        overlay: the original with dropped positions darkened, or, if nothing is dropped, with the borders of what was
        merged.
    """

    label: str
    tokens: int
    reconstruction: Tensor
    overlay: Tensor


@dataclass
class ReducerEvaluation:
    """Results of all reducers.

    Attributes:
        tokens: mean number of tokens per image, by label.
        values: mean of each metric by label and name of the metric.
        positions: number of latent positions per image.
        samples: number of images.
        pictures: name, original (3, H, W) uint8 and what the reducers make of it, for the first images.
    """

    tokens: dict[str, float] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    positions: int = 0
    samples: int = 0
    pictures: list[tuple[str, Tensor, list[ReducerPicture]]] = field(default_factory=list)


@torch.inference_mode()
def evaluate_reducers(
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    names: Sequence[str],
    metrics: Sequence[SampleMetric],
    *,
    saliency: str = "contrast",
    device: torch.device | str = "cpu",
    num_pictures: int = 2,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> ReducerEvaluation:
    """Measure reducers on images.

    Args:
        tokenizer: in evaluation mode, on the device.
        batches: pixels (B, 3, H, W) in [-1, 1], all of one size, and names.
        names: reducers, see `smalti.reducers.parse_ladder`.
        metrics: metrics with values per sample. They are reset first.
        saliency: see `smalti.eval.latent_saliency`.
        device: where everything runs.
        num_pictures: number of images to return pictures of.
        seed: seed of the noise of a generative decoder, the same for all candidates of a batch.
        progress: called with the number of measured images.

    Raises:
        SmaltiError: there are no images, they differ in size, or a reducer does not fit the latents.
    """
    result = ReducerEvaluation()
    reducers: dict[str, Reducer] = {}
    layout = None
    totals: dict[str, int] = {}
    for metric in metrics:
        metric.reset()
        metric.to(device)
    for batch in batches:
        pixels = batch.pixels.to(device)
        latents = tokenizer.encode(pixels.to(next(tokenizer.parameters()).dtype))
        if layout is None:
            layout = latents.layout()
            _, height, width = latents.grids[0]
            for name in names:
                reducers |= parse_ladder(name, (height, width))
        if latents.layout() != layout:
            raise SmaltiError(
                "The images differ in size, so that numbers of tokens cannot be compared: use a protocol that crops, such "
                "as square64."
            )
        needed = any("saliency" in reducer.needs for reducer in reducers.values())
        importance = latent_saliency(saliency, tokenizer, latents, pixels) if needed else None
        original = pixels_to_uint8(pixels)
        decoded: dict[str, Tensor] = {ALL_TOKENS: _decode(tokenizer, latents, seed)}
        parts: dict[str, list[Reduced]] = {}
        for label, reducer in reducers.items():
            inputs = importance if "saliency" in reducer.needs else None
            parts[label] = reduce_latents(reducer, latents, inputs)
            decoded[label] = _decode(tokenizer, expand_latents(reducer, parts[label], latents), seed)
            totals[label] = totals.get(label, 0) + sum(int(part.lengths.sum()) for part in parts[label])
        with full_precision(torch.device(device)):
            for metric in metrics:
                metric.update(original, decoded, batch.names)
        result.samples += len(original)
        for index in range(min(num_pictures - len(result.pictures), len(original))):
            pictures = _draw(original[index], decoded, parts, latents, index)
            result.pictures.append((batch.names[index], original[index].cpu(), pictures))
        if progress is not None:
            progress(result.samples)
    if layout is None:
        raise SmaltiError("There are no images to measure: check --data.")
    result.positions = layout.positions
    result.tokens = {ALL_TOKENS: float(layout.positions)}
    result.tokens |= {label: total / result.samples for label, total in totals.items()}
    result.values = {label: {metric.name: metric.compute(label) for metric in metrics} for label in result.tokens}
    return result


def _decode(tokenizer: Tokenizer, latents: Latents, seed: int) -> Tensor:
    """Return 8-bit pixels."""
    generator = torch.Generator(latents.z.device).manual_seed(seed) if tokenizer.decoder.generative else None
    decoded = tokenizer.decode(latents, generator)
    if not bool(decoded.isfinite().all()):
        raise SmaltiError("The decoder returned NaN or infinite pixels: check the tokenizer's weights.")
    return pixels_to_uint8(decoded)


def _draw(
    original: Tensor, decoded: dict[str, Tensor], parts: dict[str, list[Reduced]], latents: Latents, index: int
) -> list[ReducerPicture]:
    """Return what all reducers make of one image of a batch."""
    _, height, width = latents.grids[0]
    pictures = []
    for label, reduced in parts.items():
        assignment = reduced[0].assignment
        marked = original if assignment is None else overlay(original, assignment[index].reshape(height, width))
        tokens = sum(int(part.lengths[index]) for part in reduced)
        pictures.append(ReducerPicture(label, tokens, decoded[label][index].cpu(), marked.cpu()))
    return pictures


def overlay(image: Tensor, assignment: Tensor) -> Tensor:
    """Return an image with dropped positions darkened and white lines between positions of different tokens.

    Args:
        image: (3, H, W) uint8.
        assignment: (h, w) token of each position, -1 where it was dropped.
    """
    cells = F.interpolate(assignment[None, None].double(), image.shape[1:], mode="nearest")[0, 0].long()
    shown = torch.where(cells < 0, image // 5, image)
    if bool((assignment < 0).any()):
        return shown
    border = torch.zeros_like(cells, dtype=torch.bool)
    border[1:] |= cells[1:] != cells[:-1]
    border[:, 1:] |= cells[:, 1:] != cells[:, :-1]
    return torch.where(border, 255, shown).to(torch.uint8)
