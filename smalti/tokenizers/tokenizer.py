"""A tokenizer: an encoder, a bottleneck and a decoder, given built.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; N positions of all grids; C channels; G tokens a
position.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.codec import Decoder, Encoder
from smalti.tokenizers.parts import Part
from smalti.types import Latents, Layout, TokenGrid, pack, unpack


class Tokenizer(Part):
    """Pixels to codes and back, for images and videos of any size, continuous and discrete.

        pixels (B, 3, T, H, W) -> pad to the stride -> encoder -> one or more grids (B, C, t, h, w)
          -> pack -> bottleneck (B, N, C) -> z, ids -> unpack -> decoder -> trim -> pixels

    An image (B, 3, H, W) is a video of one frame, and comes back as an image.

    Args:
        encoder: pixels to grids of `bottleneck.in_dim` channels.
        bottleneck: what bounds the information; a `Quantizer` makes the tokenizer discrete.
        decoder: grids of `bottleneck.out_dim` channels to pixels.

    Raises:
        SmaltiError: channels of neighbours differ.
    """

    def __init__(self, encoder: Encoder, bottleneck: Bottleneck, decoder: Decoder) -> None:
        super().__init__()
        for giver, gives, taker, takes in (
            (encoder, encoder.out_dim, bottleneck, bottleneck.in_dim),
            (bottleneck, bottleneck.out_dim, decoder, decoder.in_dim),
        ):
            if gives != takes:
                raise SmaltiError(
                    f"{type(giver).__name__} gives {gives} channels but {type(taker).__name__} takes {takes}: "
                    "make the two equal in the recipe."
                )
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder

    @property
    def discrete(self) -> bool:
        """Whether `tokenize` and `detokenize` work."""
        return isinstance(self.bottleneck, Quantizer)

    @property
    def quantizer(self) -> Quantizer:
        """The bottleneck of a discrete tokenizer.

        Raises:
            SmaltiError: the tokenizer is continuous.
        """
        if not isinstance(self.bottleneck, Quantizer):
            raise SmaltiError(
                f"This tokenizer is continuous ({type(self.bottleneck).__name__}) and has no tokens: "
                "use encode and decode, or a tokenizer with a quantizer."
            )
        return self.bottleneck

    @property
    def bits_per_pixel(self) -> float:
        """Nominal bits a pixel of a frame: bits a position / pixels it spans. A code of one grid; RGB at 8 bits has 24.

        Raises:
            SmaltiError: the tokenizer is continuous.
        """
        t, h, w = self.encoder.stride
        return self.quantizer.bits_per_position / (t * h * w)

    @property
    def compression_ratio(self) -> float:
        """24 bits a pixel of uncompressed RGB / `bits_per_pixel` (WeTok, arXiv 2508.05599, table 1)."""
        return 24 / self.bits_per_pixel

    def encode(self, x: Tensor) -> Latents:
        """Pixels to latents.

        Args:
            x: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], of any size: the right and lower edge and the last frame are
                repeated up to the stride.

        Returns:
            The code of every position, with losses in training mode, and the layout to decode it.

        Raises:
            SmaltiError: another shape.
        """
        if x.ndim not in (4, 5) or x.shape[1] != 3 or 0 in x.shape:
            raise SmaltiError(
                f"A tokenizer takes (B, 3, H, W) or (B, 3, T, H, W) with no empty axis, not {tuple(x.shape)}."
            )
        video = x if x.ndim == 5 else x.unsqueeze(2)
        frames, height, width = video.shape[2:]
        padded = self.encoder.padded((frames, height, width))
        if padded != (frames, height, width):
            right, below, after = padded[2] - width, padded[1] - height, padded[0] - frames
            video = F.pad(video, (0, right, 0, below, 0, after), mode="replicate")
        h, grids = pack(self.encoder(video))
        layout_frames = frames if x.ndim == 5 else None
        return Latents(code=self.bottleneck(h), grids=grids, size=(height, width), frames=layout_frames)

    def decode(self, latents: Latents, generator: torch.Generator | None = None) -> Tensor:
        """Latents to pixels of the size that went in.

        Args:
            latents: what `encode` gave, or the same with another z.
            generator: decides the noise of a generative decoder; the global generator if None.

        Returns:
            (B, 3, H, W) or (B, 3, T, H, W), about [-1, 1], not clamped.
        """
        return self._decode(latents.z, latents, generator)

    def tokenize(self, x: Tensor) -> TokenGrid:
        """Pixels to integers; see `encode` for what it takes.

        Raises:
            SmaltiError: another shape, or a continuous tokenizer.
        """
        _ = self.quantizer
        latents = self.encode(x)
        assert latents.code.ids is not None
        return TokenGrid(ids=latents.code.ids, grids=latents.grids, size=latents.size, frames=latents.frames)

    def detokenize(self, tokens: TokenGrid, generator: torch.Generator | None = None) -> Tensor:
        """Integers to pixels; the same pixels as decoding what they were made from.

        Raises:
            SmaltiError: a continuous tokenizer, ids out of range, or more or fewer than the grids have positions.
        """
        quantizer = self.quantizer
        if tokens.ids.ndim == 3 and tokens.ids.shape[1] != tokens.positions:
            raise SmaltiError(
                f"The grids {tokens.grids} have {tokens.positions} positions, but ids are for {tokens.ids.shape[1]}."
            )
        return self._decode(quantizer.lookup(tokens.ids), tokens, generator)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Latents]:
        """The reconstruction of `x`, of its shape, and the latents between."""
        latents = self.encode(x)
        return self.decode(latents, generator), latents

    def _decode(self, z: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        weight = next(self.decoder.parameters(), z)
        pixels = self.decoder(unpack(z.to(weight.dtype), layout.grids), generator)
        (height, width), frames = layout.size, layout.frames or 1
        pixels = pixels[:, :, :frames, :height, :width]
        return pixels if layout.frames is not None else pixels.squeeze(2)
