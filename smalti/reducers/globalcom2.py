"""GlobalCom2: the thumbnail of an image decides how many tokens of each crop are kept (arXiv 2501.05179)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, Reduced, Reducer, check_saliency, check_tokens
from smalti.reducers.layout import stitch


@dataclass(frozen=True)
class CropSelection:
    """What is kept of the crops of one image. Crops are in raster order, as are the positions inside.

    Attributes:
        scales: (crops,) float64 fraction of its valid tokens that each crop keeps.
        valid: (crops, N) bool: False where the padding of the image is.
        thumbnail_scores: (crops, N) scores of the thumbnail, resized to the valid area; 0 elsewhere.
        scores: (crops, N) sum of normalized scores of crop and thumbnail; 0 where invalid.
        kept: for each crop, the kept positions in descending order of their scores.
    """

    scales: Tensor
    valid: Tensor
    thumbnail_scores: Tensor
    scores: Tensor
    kept: tuple[Tensor, ...]


class GlobalCom2(Reducer):
    """Keep the best tokens of each crop, more in crops that matter for the whole image.

    The output is in raster order of the stitched crops, with a newline token after each of its rows, if one is given. The
    published code writes kept tokens to wrong positions if the image was padded, which mixes rows.
    The thumbnail itself is reduced by `TopK(retention, order="saliency")` and goes before the crops.

    Args:
        crops: (rows, columns) of crops.
        retention: mean fraction of tokens to keep.
        temperature: temperature of the softmax over crops.
        upstream: whether to write kept tokens where the published code does.
    """

    kind = "select"
    needs = ("saliency", "thumbnail_saliency", "image_sizes")
    fixed_length = False

    def __init__(self, crops: Grid, retention: float = 0.25, temperature: float = 10.0, upstream: bool = False) -> None:
        super().__init__()
        self.crops, self.retention = (int(crops[0]), int(crops[1])), retention
        self.temperature, self.upstream = temperature, upstream

    def select(self, saliency: Tensor, thumbnail_saliency: Tensor, grid: Grid, image_size: Grid) -> CropSelection:
        """Decide which tokens of one image are kept.

        Args:
            saliency: (crops, N) scores of each crop.
            thumbnail_saliency: (N,) scores of the thumbnail.
            grid: (height, width) of a crop and of the thumbnail.
            image_size: (width, height) of the image in pixels, which was padded to the aspect ratio of the crops.
        """
        rows, columns = self.crops
        top, left, height, width = _valid_area(rows * grid[0], columns * grid[1], image_size)
        valid_map = torch.zeros(rows * grid[0], columns * grid[1], dtype=torch.bool, device=saliency.device)
        valid_map[top : top + height, left : left + width] = True
        resized = F.interpolate(
            thumbnail_saliency.reshape(1, 1, *grid), (height, width), mode="bilinear", align_corners=False
        )
        thumbnail_map = saliency.new_zeros(valid_map.shape)
        thumbnail_map[top : top + height, left : left + width] = resized[0, 0]
        valid, thumbnail = (_cut(x, self.crops, grid) for x in (valid_map, thumbnail_map))
        scores = _normalize(saliency * valid) + _normalize(thumbnail)
        scales = self._scales(thumbnail_saliency.reshape(grid))
        kept = []
        for score, mask, scale in zip(scores, valid, scales.tolist(), strict=True):
            order = score.masked_fill(~mask, float("-inf")).argsort(descending=True, stable=True)
            kept.append(order[: int(int(mask.sum()) * scale)])
        return CropSelection(scales, valid, thumbnail, scores, tuple(kept))

    def _scales(self, thumbnail: Tensor) -> Tensor:
        """Return (crops,) float64 fractions to keep for a map of thumbnail scores (height, width)."""
        rows, columns = self.crops
        height, width = thumbnail.shape[0] // rows, thumbnail.shape[1] // columns
        sums = [
            thumbnail[
                i * height : (i + 1) * height if i < rows - 1 else None,
                j * width : (j + 1) * width if j < columns - 1 else None,
            ].sum()
            for i in range(rows)
            for j in range(columns)
        ]
        logits = torch.stack(sums).double() / self.temperature
        weights = (logits - logits.max()).exp()
        weights = weights / (weights.sum() + 1e-8)
        return (self.retention * (1 + weights - weights.mean())).clamp(max=1)

    def reduce(
        self,
        tokens: Tensor,
        grid: Grid,
        *,
        saliency: Tensor | None = None,
        keys: Tensor | None = None,
        thumbnail_saliency: Tensor | None = None,
        image_sizes: Sequence[Grid] | None = None,
        newline: Tensor | None = None,
    ) -> Reduced:
        """Return the kept tokens of all crops and the newlines.

        Args:
            tokens: (B, crops * N, C), crop by crop in raster order.
            grid: (height, width) of one crop and of the thumbnail.
            saliency: (B, crops * N) scores of the tokens. See `smalti.reducers.saliency.cls_logits`.
            keys: not used.
            thumbnail_saliency: (B, N) scores of the thumbnail's tokens.
            image_sizes: (width, height) of each image in pixels.
            newline: (C,) token after each row of the stitched crops; None for none.
        """
        crops = self.crops[0] * self.crops[1]
        check_tokens(tokens, grid, crops)
        scores = check_saliency(saliency, tokens, "GlobalCom2").unflatten(1, (crops, -1))
        if thumbnail_saliency is None or image_sizes is None or len(image_sizes) != len(tokens):
            raise SmaltiError(
                "GlobalCom2 needs the saliency of the thumbnail and the size of each image: pass thumbnail_saliency (B, N) "
                "and image_sizes, one (width, height) per image."
            )
        order = []
        for index, size in enumerate(image_sizes):
            selection = self.select(scores[index], thumbnail_saliency[index], grid, size)
            order.append(self._order(selection, grid, newline is not None))
        lengths = torch.tensor([len(o) for o in order], device=tokens.device)
        total = tokens.shape[1]
        places = torch.full((len(order), int(lengths.max())), -1, dtype=torch.int64, device=tokens.device)
        for row, o in zip(places, order, strict=True):
            row[: len(o)] = o
        source = tokens if newline is None else torch.cat((tokens, newline.expand(len(tokens), 1, -1)), 1)
        out = source.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[2]))
        out = out.masked_fill(places[..., None] < 0, 0)
        indices = places.masked_fill(places == total, -1)
        assignment = torch.full((len(order), total + 1), -1, dtype=torch.int64, device=tokens.device)
        rank = torch.arange(places.shape[1], device=tokens.device).expand_as(places)
        assignment = assignment.scatter(1, torch.where(indices < 0, total, indices), rank)[:, :total]
        return Reduced(out, lengths, assignment, indices)

    def _order(self, selection: CropSelection, grid: Grid, newlines: bool) -> Tensor:
        """Return the positions (crop * N + position) in the order of the output; crops * N stands for a newline."""
        crops, total = selection.valid.shape
        source = torch.full((crops, total), -1, dtype=torch.int64, device=selection.valid.device)
        for crop, kept in enumerate(selection.kept):
            # The published code uses the index among valid positions as if it were a position.
            place = (selection.valid[crop].cumsum(0) - 1)[kept] if self.upstream else kept
            source[crop, place] = crop * total + kept
        stitched = stitch(source[None, ..., None], self.crops, grid).reshape(self.crops[0] * grid[0], -1)
        if newlines:
            stitched = F.pad(stitched, (0, 1), value=crops * total)
        return stitched[stitched >= 0]


def _valid_area(height: int, width: int, image_size: Grid) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the part of a grid that an image (width, height) covers without padding."""
    image_width, image_height = image_size
    if image_width / image_height > width / height:
        padding = (height - int(image_height * (width / image_width))) // 2
        return padding, 0, height - 2 * padding, width
    padding = (width - int(image_width * (height / image_height))) // 2
    return 0, padding, height, width - 2 * padding


def _cut(stitched: Tensor, crops: Grid, grid: Grid) -> Tensor:
    """Return a map (rows * H, columns * W) as (crops, N)."""
    maps = stitched.reshape(crops[0], grid[0], crops[1], grid[1])
    return maps.transpose(1, 2).reshape(crops[0] * crops[1], -1)


def _normalize(scores: Tensor) -> Tensor:
    """Return rows divided by their Euclidean norms; zero rows stay zero."""
    return scores / scores.norm(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
