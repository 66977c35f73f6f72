"""Codewords as initial embeddings of visual tokens.

Shapes: K codes per position; C channels of a codeword; D width of a language model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.export.vocabulary.manifest import VisualVocabulary
    from smalti.tokenizers.bottlenecks import Quantizer

MAX_ROWS = 2**20
"""Number of codewords of a codebook from which on tables are refused."""


@torch.inference_mode()
def codebook_vectors(quantizer: Quantizer) -> list[Tensor]:
    """Return one table (codebook_size, C) float32 per code of a position. The rows of a position sum to its codeword.

    With z(c) the codeword of a position, and c_k all zero but code k, the row of code k is z(c_k) - (K - 1) / K z(0). The
    sum is exact up to rounding for quantizers whose codeword is a sum of terms per code: GQ, BSQ, FSQ, residual and
    projected ones.

    Raises:
        SmaltiError: the codebook has more than 2^20 codewords.
    """
    size, count = quantizer.codebook_size, quantizer.tokens_per_position
    if size > MAX_ROWS:
        raise SmaltiError(
            f"A table of {size} codewords is too large: leave out the embeddings, or cut the codes into smaller ones."
        )
    device = next((weight.device for weight in quantizer.parameters()), torch.device("cpu"))
    common = quantizer.lookup(torch.zeros(1, 1, count, dtype=torch.int64, device=device))[0] * ((count - 1) / count)
    tables = []
    for k in range(count):
        ids = torch.zeros(1, size, count, dtype=torch.int64, device=device)
        ids[0, :, k] = torch.arange(size, device=device)
        tables.append((quantizer.lookup(ids)[0] - common).cpu())
    return tables


def save_codebook_vectors(file: Path, quantizer: Quantizer, vocabulary: VisualVocabulary) -> None:
    """Write `codebook_vectors` as the tensors codebook_0, codebook_1, ... of a safetensors file.

    The metadata `first_id_0`, ... state the id of the first row of each.

    Raises:
        SmaltiError: the codebook is too large, the vocabulary cuts the codes into sub-codes, or the file cannot be written.
    """
    from safetensors.torch import save_file

    from smalti.files import atomic_write

    _check_no_cut(vocabulary)
    tables = codebook_vectors(quantizer)
    metadata = {f"first_id_{k}": str(low) for k, (low, _) in enumerate(vocabulary.ranges)}
    try:
        with atomic_write(file) as partial:
            save_file({f"codebook_{k}": table.contiguous() for k, table in enumerate(tables)}, partial, metadata)
    except OSError as error:
        raise SmaltiError(f"The embeddings cannot be written to {file}: {error.strerror or error}.") from error


@torch.no_grad()
def initialize_embeddings(weight: Tensor, vocabulary: VisualVocabulary, quantizer: Quantizer, seed: int = 0) -> None:
    """Set the rows of visual codes in an embedding table, in place, to random projections of their codewords.

    Similar codewords get similar embeddings. The rows have the mean and the standard deviation of all other rows.

    Args:
        weight: (rows, D) embedding table with a row for every id.
        vocabulary: a vocabulary whose codebooks have ranges of ids of their own.
        quantizer: the quantizer of the tokenizer.
        seed: seed for the projection.

    Raises:
        SmaltiError: the table has too few rows, the codebooks share their ids, or the vocabulary cuts the codes.
    """
    _check_no_cut(vocabulary)
    if len(weight) < vocabulary.rows:
        raise SmaltiError(
            f"The embedding table has {len(weight)} rows, but the vocabulary needs {vocabulary.rows}: call "
            f"model.resize_token_embeddings({vocabulary.rows}) first."
        )
    if len(set(vocabulary.ranges)) < len(vocabulary.ranges):
        raise SmaltiError("Codebooks that share their ids need one embedding table each: use `codebook_vectors`.")
    low, high = vocabulary.code_range
    other = torch.cat([weight[:low], weight[high + 1 :]]).float()
    mean, deviation = (
        (other.mean(0), other.std()) if len(other) > 1 else (weight.new_zeros(()), weight.new_tensor(0.02))
    )
    generator = torch.Generator().manual_seed(seed)
    for table, (first, last) in zip(codebook_vectors(quantizer), vocabulary.ranges, strict=True):
        projected = (table - table.mean(0)) @ torch.randn(table.shape[1], weight.shape[1], generator=generator)
        rows = projected / projected.std().clamp_min(1e-12) * deviation.cpu() + mean.cpu()
        weight[first : last + 1] = rows.to(weight)


def _check_no_cut(vocabulary: VisualVocabulary) -> None:
    if vocabulary.codes.split_bits is not None:
        raise SmaltiError(
            f"The preset {vocabulary.preset} cuts codes into sub-codes, which have no codewords: leave out the embeddings."
        )
