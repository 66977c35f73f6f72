"""The two modules that are traced: an encoder and a decoder whose inputs and outputs are plain tensors.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C channels of pixels or latents; G tokens per position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from smalti.tokenizers.layers.noise import replace_noise
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import pack, unpack


class EncoderProgram(nn.Module):
    """Maps pixels to ids, or to latents if the tokenizer is continuous. The bottleneck computes in float32 and int64.

    Args:
        tokenizer: a tokenizer in evaluation mode.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder = tokenizer.encoder
        self.bottleneck = tokenizer.bottleneck

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map (B, C, T, H, W), a size that the encoder accepts, to one tensor per grid.

        Returns:
            Ids (B, t, h, w, G) int64, or latents (B, C, t, h, w).
        """
        h, grids = pack(self.encoder(pixels))
        code = self.bottleneck(h)
        if code.ids is None:
            return unpack(code.z, grids)
        parts = code.ids.split([math.prod(grid) for grid in grids], dim=1) if len(grids) > 1 else (code.ids,)
        return tuple(ids.unflatten(1, grid) for ids, grid in zip(parts, grids, strict=True))

    def margins(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the decision margin of each id, in the shapes of the ids. See `Quantizer.decision_margin`."""
        h, grids = pack(self.encoder(pixels))
        margins = self.bottleneck.decision_margin(h)  # pyright: ignore[reportCallIssue]
        parts = margins.split([math.prod(grid) for grid in grids], dim=1)
        return tuple(part.unflatten(1, grid) for part, grid in zip(parts, grids, strict=True))


class DecoderProgram(nn.Module):
    """Maps ids, or latents, and the noise of a generative decoder to pixels.

    Args:
        tokenizer: a tokenizer in evaluation mode.
        grids: number of latent grids.
    """

    def __init__(self, tokenizer: Tokenizer, grids: int) -> None:
        super().__init__()
        self.quantizer = tokenizer.quantizer if tokenizer.discrete else None
        self.decoder = tokenizer.decoder
        self.grids = grids

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map one tensor per grid, as `EncoderProgram` returns them, and the noise in the order in which it is drawn."""
        grids: tuple[Tensor, ...] = inputs[: self.grids]
        noise = iter(inputs[self.grids :])
        if self.quantizer is not None:
            shapes = tuple((ids.shape[1], ids.shape[2], ids.shape[3]) for ids in grids)
            ids = torch.cat([ids.flatten(1, 3) for ids in grids], dim=1)
            grids = unpack(self.quantizer.lookup(ids), shapes)
        with replace_noise(lambda _: next(noise)):
            return self.decoder(grids)


def record_noise(tokenizer: Tokenizer, shapes: list[tuple[int, int, int]], batch: int) -> list[tuple[int, ...]]:
    """Return the shapes of the noise that the decoder draws for latents of these grids, in the order of drawing."""
    drawn: list[tuple[int, ...]] = []

    def draw(shape: tuple[int, ...]) -> Tensor:
        drawn.append(tuple(shape))
        return torch.zeros(shape)

    if tokenizer.decoder.generative:
        latents = tuple(torch.zeros(batch, tokenizer.decoder.in_dim, *shape) for shape in shapes)
        with replace_noise(draw), torch.no_grad():
            tokenizer.decoder(latents)
    return drawn
