"""Training a reducer to reconstruct latents, without a look at pixels.

Shapes: B batch; C latent channels; t, h, w latent positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.reducers.learned import ReducedDecoder
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.losses.base import LatentLoss
from smalti.types import Latents


class LatentRestoration(LatentLoss):
    """Share of the latents' variance that is lost between reducer and restorer, for tokenizers of the builder `reduced`.

        sum |z' - z|^2 / sum |z - mean(z)|^2

    z' are the latents that the decoder sees (`ReducedDecoder.restore`), the mean is that of each channel over the batch. 0
    is a perfect reconstruction, 1 that of a reducer that keeps nothing. No gradients pass to z: the target does not move.

    The loss restores the latents itself, in addition to the decoder, which costs little in comparison.

    Raises:
        SmaltiError: in `connect`, the tokenizer has no reducer.
    """

    reconstructs = True

    def __init__(self) -> None:
        super().__init__()
        self._decoders: list[ReducedDecoder] = []  # a list, because nn.Module does not register the modules in lists

    def connect(self, tokenizer: Tokenizer) -> None:
        """Remember the decoder. See `LatentLoss.connect`."""
        if not isinstance(tokenizer.decoder, ReducedDecoder):
            raise SmaltiError(
                f"LatentRestoration needs a tokenizer with a reducer, and this one decodes with "
                f"{type(tokenizer.decoder).__name__}: use the builder `reduced`, see reducers/uhd.yaml, or remove the loss."
            )
        self._decoders = [tokenizer.decoder]

    def forward(self, latents: Latents, original: Tensor) -> Tensor:
        """Return the loss, a scalar. See `LatentLoss.forward`."""
        targets = tuple(grid.detach().float() for grid in latents.to_grids())
        restored = self._decoders[0].restore(targets)
        dims = (0, 2, 3, 4)
        errors = [((z.float() - target) ** 2).sum() for z, target in zip(restored, targets, strict=True)]
        variances = [((target - target.mean(dims, keepdim=True)) ** 2).sum() for target in targets]
        return torch.stack(errors).sum() / (torch.stack(variances).sum() + 1e-12)
