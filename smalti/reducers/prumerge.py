"""PruMerge and PruMerge+: select salient tokens and merge their nearest neighbors into them (arXiv 2403.15388)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import (
    Grid,
    Reduced,
    Reducer,
    check_keys,
    check_saliency,
    check_tokens,
    compact,
    count_kept,
    gather_tokens,
)

_LAST_EXCLUSIVE = 575
"""Where the published code ends the strided positions, whatever the number of tokens."""


class PruMerge(Reducer):
    """Merge the neighbors of salient tokens into them, and all other tokens into one more token.

    Centers are the K tokens with the largest saliency a. Each center i absorbs the tokens j whose keys are nearest to its
    own in cosine: y_i = x_i + sum_j a_j x_j. The last token is the sum of a_j x_j over all tokens that are no centers. The
    centers are in descending order of their saliency.

    The published code is changed where it errs. With `ratio=None`, the number of outliers of a sample does not depend on
    its batch, and is at least 1; strided positions of "plus" cover all N tokens, and none is a center twice.

    Args:
        ratio: fraction of tokens that are centers; None for the share of outliers of the saliency, a > Q3 + 1.5 (Q3 - Q1).
        plus: whether to add centers at regular strides in raster order (PruMerge+): of N / K without `ratio` divided by 3,
            with `ratio` itself, from its half.
        neighbors: how many tokens a center absorbs, at most N - 1.
        upstream: whether to do exactly what the published code does, including its errors. See the class's notes above.
    """

    kind = "merge"
    needs = ("saliency",)

    def __init__(
        self, ratio: float | None = None, plus: bool = False, neighbors: int = 32, upstream: bool = False
    ) -> None:
        super().__init__()
        if ratio is not None and not 0 < ratio <= 1:
            raise SmaltiError(f"ratio is {ratio}: choose a fraction above 0, up to 1, or None.")
        self.ratio, self.plus, self.neighbors, self.upstream = ratio, plus, neighbors, upstream

    @property
    def fixed_length(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the number of tokens depends on the grid only."""
        return self.ratio is not None and not self.plus

    def reduce(
        self, tokens: Tensor, grid: Grid, *, saliency: Tensor | None = None, keys: Tensor | None = None
    ) -> Reduced:
        """Return (B, centers + 1, C); the token that collects the rest is the last of each sample."""
        check_tokens(tokens, grid)
        scores = check_saliency(saliency, tokens, "PruMerge")
        keys = check_keys(keys, tokens)
        if self.upstream and tokens.shape[1] <= self.neighbors:
            raise SmaltiError(
                f"The published PruMerge needs more than {self.neighbors} tokens, not {tokens.shape[1]}: use larger "
                "images, or upstream=False."
            )
        if self.upstream:
            centers, candidates = _published_centers(scores, self.ratio, self.plus)
            lengths = torch.full((len(centers),), centers.shape[1], dtype=torch.int64, device=centers.device)
            own = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
        else:
            centers, lengths = _select_centers(scores, self.ratio, self.plus)
            candidates = torch.arange(tokens.shape[1], device=centers.device).expand_as(scores)
            own = centers
        return _merge(tokens, keys, scores, centers, lengths, candidates, own, self.neighbors)

    def expand(self, reduced: Reduced, grid: Grid) -> Tensor:
        """Spread the tokens back, each divided by the total weight of what it contains."""
        sizes = reduced.sizes.clamp(min=1e-12)[..., None]  # pyright: ignore[reportOptionalMemberAccess]
        mean = Reduced(reduced.tokens / sizes, reduced.lengths, reduced.assignment)
        return super().expand(mean, grid)


def _count_outliers(scores: Tensor) -> Tensor:
    """Return (B,), how many scores of each row (B, N) are above Q3 + 1.5 (Q3 - Q1)."""
    levels = torch.tensor([0.25, 0.75], dtype=torch.float32, device=scores.device)
    first, third = torch.quantile(scores.float(), levels, dim=1)
    return (scores.float() > (third + 1.5 * (third - first))[:, None]).sum(1)


def _select_centers(scores: Tensor, ratio: float | None, plus: bool) -> tuple[Tensor, Tensor]:
    """Return the centers (B, K), -1 for padding, and their number (B,)."""
    batch, total = scores.shape
    order = scores.argsort(dim=1, descending=True, stable=True)
    if ratio is not None and not plus:
        count = count_kept(ratio, total)
        return order[:, :count], torch.full((batch,), count, dtype=torch.int64, device=scores.device)
    position = torch.arange(total, device=scores.device)
    if ratio is None:
        counts = _count_outliers(scores).clamp(min=1)
        stride, start = (total // counts // 3).clamp(min=1)[:, None], torch.zeros_like(counts)[:, None]
    else:
        counts = torch.full((batch,), count_kept(ratio, total), dtype=torch.int64, device=scores.device)
        stride = torch.full_like(counts, max(int(1 / ratio + 1e-6), 1))[:, None]
        start = stride // 2
    selected = position < counts[:, None]
    if not plus:
        ranks, lengths = compact(selected)
        return _at(order, ranks), lengths
    chosen = torch.zeros_like(selected).scatter(1, order, selected)
    strided = (position >= start) & ((position - start) % stride == 0) & ~chosen
    places, lengths = compact(torch.cat((selected, strided), 1))
    return _at(torch.cat((order, position.expand(batch, -1)), 1), places), lengths


def _at(values: Tensor, index: Tensor) -> Tensor:
    """Return values (B, L) at indices (B, M), -1 where an index is -1."""
    return values.gather(1, index.clamp(min=0)).masked_fill(index < 0, -1)


def _published_centers(scores: Tensor, ratio: float | None, plus: bool) -> tuple[Tensor, Tensor]:
    """Return centers (B, K) and candidates (B, N or fewer) of the published code.

    Centers can repeat. The candidates are the centers, then the tokens that are none, without as many of the first of them
    as there are repetitions.
    """
    batch, total = scores.shape
    adaptive = ratio is None
    if ratio is None:
        ratio = int(_count_outliers(scores.flatten()[None])) / scores.numel()  # of the whole batch
    count = int(total * ratio)
    centers = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    if plus:
        if ratio == 0 or (adaptive and (batch > 1 or ratio > 1 / 3)):
            raise SmaltiError(
                "The published PruMerge+ handles one sample at a time, of which up to a third are outliers, but some: use "
                "upstream=False."
            )
        stride = int(int(1 / ratio) / 3) if adaptive else int(1 / ratio)
        positions = torch.arange(0 if adaptive else stride // 2, _LAST_EXCLUSIVE, stride, device=scores.device)
        positions = positions[positions < total]
        if adaptive:
            positions = positions[~torch.isin(positions, centers[0])]
        elif len(positions) != count:
            raise SmaltiError(
                f"The published PruMerge+ needs {count} positions at a stride of {stride}, but there are {len(positions)}: "
                "use upstream=False."
            )
        centers = torch.cat((centers, positions.expand(batch, -1)), 1)
    is_center = torch.zeros_like(scores, dtype=torch.bool).scatter(1, centers, value=True)
    rest = torch.argsort(is_center.to(torch.uint8), dim=1, stable=True)  # no centers first, in raster order
    repeated = centers.shape[1] - is_center.sum(1)
    candidates = [
        torch.cat((c, r[int(d) : total - len(c) + int(d)])) for c, r, d in zip(centers, rest, repeated, strict=True)
    ]
    return centers, torch.stack(candidates)


def _merge(
    tokens: Tensor,
    keys: Tensor,
    scores: Tensor,
    centers: Tensor,
    lengths: Tensor,
    candidates: Tensor,
    own: Tensor,
    neighbors: int,
) -> Reduced:
    """Merge tokens into centers.

    Args:
        tokens: (B, N, C).
        keys: (B, N, D).
        scores: (B, N) weights.
        centers: (B, K) positions, -1 for padding.
        lengths: (B,) number of centers.
        candidates: (B, L) positions that can be merged.
        own: (B, K) place of each center among the candidates.
        neighbors: number of tokens that each center absorbs.
    """
    batch, total, _ = tokens.shape
    other_keys, other_tokens, weights = keys, tokens, scores
    if own is not centers:
        other_keys, other_tokens = gather_tokens(keys, candidates), gather_tokens(tokens, candidates)
        weights = scores.gather(1, candidates)
    # Products are divided by norms: a normalized copy of all keys would take as much memory as the tokens.
    norms = torch.linalg.vector_norm(other_keys, dim=-1).clamp(min=1e-12)
    similarity = F.normalize(gather_tokens(keys, centers), dim=-1) @ other_keys.transpose(1, 2)
    similarity = similarity / norms[:, None]
    similarity = similarity.scatter(2, own.clamp(min=0)[..., None], float("-inf"))
    values, nearest = similarity.topk(min(neighbors, candidates.shape[1] - 1), dim=2)
    padding = (centers < 0)[..., None]
    absorbed = weights[:, None].expand(-1, centers.shape[1], -1).gather(2, nearest).masked_fill(padding, 0)
    matrix = torch.zeros_like(similarity).scatter(2, nearest, absorbed)
    merged = torch.baddbmm(gather_tokens(tokens, centers), matrix, other_tokens)

    # A padding index -1 is redirected to an extra column.
    is_center = scores.new_zeros(batch, total + 1, dtype=torch.bool)
    is_center = is_center.scatter(1, torch.where(centers < 0, total, centers), value=True)[:, :total]
    rest_weights = weights.masked_fill(is_center.gather(1, candidates), 0)
    rest = rest_weights[:, None] @ other_tokens
    out = F.pad(merged, (0, 0, 0, 1)).scatter(1, lengths[:, None, None].expand(-1, 1, tokens.shape[2]), rest)
    sizes = (1 + absorbed.sum(2)).masked_fill(padding[..., 0], 0)
    sizes = F.pad(sizes, (0, 1)).scatter(1, lengths[:, None], rest_weights.sum(1, keepdim=True))

    # A token is represented by the most similar center that absorbed it.
    closest = torch.full_like(similarity, float("-inf"))
    if centers.shape[1]:
        closest = closest.scatter(2, nearest, values.masked_fill(padding, float("-inf")))
        best, place = closest.max(1)
        place = torch.where(best == float("-inf"), lengths[:, None], place)
    else:
        place = lengths[:, None].expand_as(candidates)
    assignment = torch.full_like(is_center, -1, dtype=torch.int64).scatter(1, candidates, place)
    rank = torch.arange(centers.shape[1], device=centers.device).expand_as(centers)
    target = torch.where(centers < 0, total, centers).flip(1)  # the first of repeated centers is written last
    assignment = F.pad(assignment, (0, 1)).scatter(1, target, rank.flip(1))[:, :total]
    return Reduced(out, lengths + 1, assignment, F.pad(centers, (0, 1), value=-1), sizes)
