"""Loading a tokenizer as commands select it: a branch of a joint one, tiles for large frames."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.errors import SmaltiError
from smalti.tokenizers.checkpoints import load
from smalti.tokenizers.tokenizer import Tokenizer


def open_tokenizer(
    path: str | Path, device: str | torch.device, branch: str | None = None, tile: int | None = None
) -> Tokenizer:
    """Load a tokenizer according to the command-line options.

    Args:
        path: an exported folder, a checkpoint, or an autoencoder of diffusers; see `load`.
        device: device to load it to.
        branch: "discrete" or "continuous" to select one branch of a joint tokenizer; None to keep the tokenizer unchanged.
        tile: height and width of tiles in pixels; None to process whole frames. Tiles overlap by a quarter.

    Returns:
        The tokenizer in evaluation mode.

    Raises:
        SmaltiError: the file cannot be loaded, the tokenizer has no such branch, or `tile` is too small or not a multiple
            of its stride.
    """
    tokenizer = load(path, device)
    if branch is not None:
        tokenizer = tokenizer.as_discrete() if branch == "discrete" else tokenizer.as_continuous()
    if tile is None:
        return tokenizer
    stride = tokenizer.encoder.stride[1]
    if tile % stride or tile < 2 * stride:
        raise SmaltiError(
            f"--tile is {tile}: give a multiple of the {stride} pixels per latent position, such as {32 * stride}, and "
            f"at least {2 * stride}."
        )
    return tokenizer.tiled(tile, overlap=-(-tile // (4 * stride)) * stride)
