"""How important each token is, from what a network offers: attention, features, ids, or errors of reconstruction.

Every function returns (B, N), larger for more important tokens, in raster order without class tokens. A selector works on
any of them: a vision transformer has attention, a convolutional tokenizer has features, ids and errors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.base import Grid, check_tokens


def cls_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the attention of the class token to every patch, without splitting heads (PruMerge, arXiv 2403.15388).

    Args:
        queries: (B, 1 + N, D) outputs of the query projection, class token first.
        keys: (B, 1 + N, D) outputs of the key projection.

    Returns:
        softmax(q_CLS k / sqrt(D)) over all 1 + N keys, patches only: rows sum to less than 1.
    """
    logits = (queries[:, :1] @ keys.transpose(1, 2))[:, 0] / math.sqrt(queries.shape[2])
    return logits.softmax(-1)[:, 1:]


def cls_logits(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Return the mean over heads of the scaled logits of the class token (GlobalCom2, arXiv 2501.05179).

    The values are taken before the softmax and can be negative.

    Args:
        queries: (B, 1 + N, D) outputs of the query projection, class token first.
        keys: (B, 1 + N, D) outputs of the key projection.
        heads: number of heads.

    Raises:
        SmaltiError: the number of heads does not divide D.
    """
    batch, length, width = queries.shape
    if width % heads:
        raise SmaltiError(f"{heads} heads do not divide {width} channels: pass the number of heads of the layer.")
    q = queries[:, 0].reshape(batch, heads, -1)
    k = keys.reshape(batch, length, heads, -1)
    return (torch.einsum("bhd,bnhd->bhn", q, k) / math.sqrt(width // heads)).mean(1)[:, 1:]


def class_attention(attention: Tensor) -> Tensor:
    """Return the attention of the class token to every patch, averaged over heads.

    Args:
        attention: (B, heads, 1 + N, 1 + N) attention weights with the class token first, or its row (B, heads, 1 + N).
    """
    row = attention[:, :, 0] if attention.ndim == 4 else attention
    return row.mean(1)[:, 1:]


def mean_attention(attention: Tensor) -> Tensor:
    """Return how much attention every token receives on average, for networks without a class token.

    Args:
        attention: (B, heads, N, N) attention weights: rows are queries.
    """
    return attention.mean((1, 2))


def feature_norm(features: Tensor) -> Tensor:
    """Return the Euclidean norm of the features (B, N, C)."""
    return features.norm(dim=-1)


def feature_contrast(features: Tensor, grid: Grid, window: int = 3) -> Tensor:
    """Return how much each feature differs from its neighborhood: large at edges and on small objects.

    Args:
        features: (B, N, C) of a convolutional encoder, such as latents.
        grid: (height, width) of the grid.
        window: odd size of the neighborhood.

    Returns:
        The Euclidean distance between a feature and the mean of its window; cells outside of the grid do not count.

    Raises:
        SmaltiError: the grid does not fit, or the window is even.
    """
    check_tokens(features, grid)
    if window % 2 == 0:
        raise SmaltiError(f"window is {window}: choose an odd number, so that the window has a center.")
    maps = features.transpose(1, 2).unflatten(2, grid)
    mean = F.avg_pool2d(maps, window, 1, window // 2, count_include_pad=False)
    return (maps - mean).norm(dim=1).flatten(1)


def token_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of each token's distribution in nats.

    Args:
        probabilities: (B, N, K) probabilities of a codebook's entries, or (B, N, G, K) of G independent tokens per
        position,
            whose entropies are added.
    """
    entropy = torch.special.entr(probabilities).sum(-1)
    return entropy if entropy.ndim == 2 else entropy.sum(-1)


def token_surprise(ids: Tensor, codebook_size: int) -> Tensor:
    """Return -log2 of the frequency of each id in its own sample, in bits, added over the tokens of a position.

    Args:
        ids: (B, N, G) integers.
        codebook_size: number of values of a token.
    """
    batch, positions, groups = ids.shape
    surprise = torch.zeros(batch, positions, device=ids.device)
    for group in range(groups):
        for sample in range(batch):
            values, place, counts = ids[sample, :, group].unique(return_inverse=True, return_counts=True)
            if int(values.max()) >= codebook_size or int(values.min()) < 0:
                raise SmaltiError(f"An id is not in [0, {codebook_size}): pass the ids of this tokenizer.")
            surprise[sample] -= (counts[place] / positions).log2()
    return surprise


def reconstruction_error(original: Tensor, reconstruction: Tensor, grid: Grid) -> Tensor:
    """Return the mean squared error of the pixels of each token's cell.

    Args:
        original: (B, 3, H, W) pixels.
        reconstruction: (B, 3, H, W) pixels.
        grid: (height, width) of the grid of tokens. Cells need not be whole pixels.
    """
    error = (original - reconstruction).float().square().mean(1, keepdim=True)
    return F.adaptive_avg_pool2d(error, grid).flatten(1)
