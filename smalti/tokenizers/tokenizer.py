"""A tokenizer: an encoder, a bottleneck and a decoder, given built.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; N positions of all grids; C channels; G tokens a
position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.bottlenecks.joint import Joint
from smalti.tokenizers.codec import Decoder, Encoder, State
from smalti.tokenizers.parts import Part
from smalti.tokenizers.streaming import aligned, frames_in_chunks, joined, latents_in_chunks, with_last
from smalti.tokenizers.tiling import tiled
from smalti.types import Code, Latents, TokenGrid, pack, unpack

DEFAULT_CHUNK = 4
"""Frames that are coded at a time where no gradients are recorded, rounded up to the stride."""


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

    @property
    def paths(self) -> dict[str, Tokenizer]:
        """Each path of a joint tokenizer by name, as a tokenizer that shares the weights; empty for any other."""
        if not isinstance(self.bottleneck, Joint):
            return {}
        return {"discrete": self.as_discrete(), "continuous": self.as_continuous()}

    def as_discrete(self) -> Tokenizer:
        """The discrete path of a joint tokenizer, which shares the weights; any other discrete one itself.

        Raises:
            SmaltiError: it is continuous.
        """
        if isinstance(self.bottleneck, Joint):
            return self._path(self.bottleneck.discrete)
        _ = self.quantizer
        return self

    def as_continuous(self) -> Tokenizer:
        """The continuous path of a joint tokenizer, which shares the weights; any other continuous one itself.

        Raises:
            SmaltiError: it is discrete.
        """
        if isinstance(self.bottleneck, Joint):
            return self._path(self.bottleneck.continuous)
        if self.discrete:
            raise SmaltiError(
                f"This tokenizer is discrete ({type(self.bottleneck).__name__}) and has no continuous path."
            )
        return self

    def tiled(self, tile: int = 256, overlap: int = 64) -> Tokenizer:
        """This tokenizer for large frames, coded in tiles that fade into each other; it shares the weights.

        Args:
            tile: rows and columns of a tile in pixels, a multiple of the stride; a frame that is no larger is coded whole.
            overlap: of neighbouring tiles in pixels, a multiple of the stride, at most half a tile.

        Raises:
            SmaltiError: sizes that are no such multiples.
        """
        encoder, decoder = tiled(self.encoder, self.decoder, tile, overlap)
        parts = Tokenizer(encoder, self.bottleneck, decoder)
        for part in (parts, encoder, decoder):
            part.training = self.training  # their own flags alone: each shared part stays in the mode that it is in
        return parts

    def _path(self, bottleneck: Bottleneck) -> Tokenizer:
        path = Tokenizer(self.encoder, bottleneck, self.decoder)
        path.training = self.training  # its own flag alone: each shared part stays in the mode that it is in
        return path

    def encode(self, x: Tensor, chunk: int | None = None) -> Latents:
        """Pixels to latents.

        Args:
            x: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], of any size: the right and lower edge and the last frame are
                repeated up to the stride.
            chunk: frames that are coded at a time; the result is that of the whole clip, the memory that of a chunk.
                None: the whole clip in training or where gradients are recorded, else a few frames.

        Returns:
            The code of every position, with losses in training mode, and the layout to decode it.

        Raises:
            SmaltiError: another shape, or `chunk` in training mode.
        """
        video = x.unsqueeze(2) if x.ndim == 4 else x
        chunk = self._chunk(chunk)
        pieces = [video] if chunk is None else frames_in_chunks(video, chunk)
        latents = joined(self.encode_stream(pieces))
        return replace(latents, frames=None) if x.ndim == 4 else latents

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Latents]:
        """A clip of any length, chunk by chunk, to its latents; nothing but the chunk and a little state is in memory.

        Args:
            chunks: (B, 3, T, H, W) each, of one clip in order, of any lengths T.

        Returns:
            Latents of consecutive parts of the clip, which `smalti.tokenizers.streaming.joined` puts together.

        Raises:
            SmaltiError: another shape, or frames that change their size.
        """
        state = State()
        for video, frames, state.last in aligned(map(_checked, chunks), self.encoder.stride[0]):
            height, width = video.shape[3:]
            _, below, right = (n - m for n, m in zip(self.encoder.padded(_size(video)), _size(video), strict=True))
            if below or right:
                video = F.pad(video, (0, right, 0, below, 0, 0), mode="replicate")
            h, grids = pack(self.encoder(video, state))
            yield Latents(code=self.bottleneck(h), grids=grids, size=(height, width), frames=frames)

    def decode(self, latents: Latents, generator: torch.Generator | None = None, chunk: int | None = None) -> Tensor:
        """Latents to pixels of the size that went in.

        Args:
            latents: what `encode` gave, or the same with another z.
            generator: decides the noise of a generative decoder; the global generator if None.
            chunk: frames that are decoded at a time, as in `encode`.

        Returns:
            (B, 3, H, W) or (B, 3, T, H, W), about [-1, 1], not clamped.
        """
        chunk = self._chunk(chunk)
        pieces = [latents] if chunk is None else latents_in_chunks(latents, self.encoder.stride[0], chunk)
        video: Tensor | None = None
        place = 0
        for part in self.decode_stream(pieces, generator):
            if part.shape[2] == (latents.frames or 1):
                return part if latents.frames is not None else part.squeeze(2)
            # Filled piece by piece: a list of pieces and their concatenation would be in memory at once.
            video = part.new_empty(*part.shape[:2], latents.frames or 1, *part.shape[3:]) if video is None else video
            video[:, :, place : place + part.shape[2]] = part
            place += part.shape[2]
        assert video is not None
        return video

    def decode_stream(self, latents: Iterable[Latents], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Latents of consecutive parts of a clip, as `encode_stream` gives them, to their pixels.

        Returns:
            (B, 3, T, H, W) each, in order; together, as many frames as went in. A decoder that looks ahead gives a
            part's last frames with the next part.
        """
        state, owed = State(), 0
        for piece, state.last in with_last(latents):
            weight = next(self.decoder.parameters(), piece.z)
            pixels = self.decoder(unpack(piece.z.to(weight.dtype), piece.grids), generator, state)
            owed += piece.frames or 1
            pixels = pixels[:, :, :owed, : piece.size[0], : piece.size[1]]
            owed -= pixels.shape[2]
            if pixels.shape[2]:
                yield pixels

    def tokenize(self, x: Tensor, chunk: int | None = None) -> TokenGrid:
        """Pixels to integers; see `encode` for what it takes.

        Raises:
            SmaltiError: another shape, or a continuous tokenizer.
        """
        _ = self.quantizer
        return tokens_of(self.encode(x, chunk))

    def detokenize(
        self, tokens: TokenGrid, generator: torch.Generator | None = None, chunk: int | None = None
    ) -> Tensor:
        """Integers to pixels; the same pixels as decoding what they were made from.

        Raises:
            SmaltiError: a continuous tokenizer, ids out of range, or more or fewer than the grids have positions.
        """
        return self.decode(self.latents_of(tokens), generator, chunk)

    def latents_of(self, tokens: TokenGrid) -> Latents:
        """What `decode` takes, from integers.

        Raises:
            SmaltiError: as `detokenize`.
        """
        quantizer = self.quantizer
        if tokens.ids.ndim == 3 and tokens.ids.shape[1] != tokens.positions:
            raise SmaltiError(
                f"The grids {tokens.grids} have {tokens.positions} positions, but ids are for {tokens.ids.shape[1]}."
            )
        code = Code(quantizer.lookup(tokens.ids), tokens.ids)
        return Latents(code=code, grids=tokens.grids, size=tokens.size, frames=tokens.frames)

    def latents_from(self, maps: tuple[Tensor, ...], size: tuple[int, int], frames: int | None = None) -> Latents:
        """What `decode` takes, from continuous latents of another making: a model's that generates them.

        Args:
            maps: one (B, C, t, h, w) tensor a grid.
            size: (height, width) in pixels.
            frames: of the clip; None: an image.
        """
        z, grids = pack(maps)
        return Latents(code=Code(z), grids=grids, size=size, frames=frames)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Latents]:
        """The reconstruction of `x`, of its shape, and the latents between."""
        latents = self.encode(x)
        return self.decode(latents, generator), latents

    def _chunk(self, chunk: int | None) -> int | None:
        """Frames at a time, a multiple of the stride; None: all."""
        if chunk is None and (self.training or torch.is_grad_enabled()):
            return None
        if self.training:
            raise SmaltiError(
                "chunk codes a clip in parts, and losses of training are of the whole: call eval() first."
            )
        if chunk is not None and chunk < 1:
            raise SmaltiError(f"chunk is {chunk}: give at least 1 frame.")
        stride = self.encoder.stride[0]
        return -(-(chunk or DEFAULT_CHUNK) // stride) * stride


def tokens_of(latents: Latents) -> TokenGrid:
    """The integers of a discrete tokenizer's latents.

    Raises:
        SmaltiError: the latents are continuous.
    """
    if latents.code.ids is None:
        raise SmaltiError("These latents are continuous and have no tokens: encode with a discrete tokenizer.")
    return TokenGrid(ids=latents.code.ids, grids=latents.grids, size=latents.size, frames=latents.frames)


def _checked(x: Tensor) -> Tensor:
    if x.ndim != 5 or x.shape[1] != 3 or 0 in x.shape:
        raise SmaltiError(
            f"A tokenizer takes (B, 3, H, W) or (B, 3, T, H, W) with no empty axis, not {tuple(x.shape)}."
        )
    return x


def _size(video: Tensor) -> tuple[int, int, int]:
    _, _, frames, height, width = video.shape
    return frames, height, width
