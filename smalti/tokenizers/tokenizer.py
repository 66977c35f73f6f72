"""A tokenizer: an encoder, a bottleneck and a decoder.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; N positions of all grids; C channels; G tokens per
position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.tokenizers.base import Decoder, Encoder, StreamState
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.configurable import Configurable
from smalti.tokenizers.streaming import DEFAULT_CHUNK, align_chunks, chunk_size, split_frames, with_last
from smalti.tokenizers.tiling import add_tiling
from smalti.types import Code, Latents, TokenGrid, pack, unpack


class Tokenizer(Configurable):
    """Encodes images and videos of any size to continuous latents or discrete tokens, and decodes them.

        pixels (B, 3, T, H, W) -> pad to the stride -> encoder -> one or more grids (B, C, t, h, w)
          -> pack -> bottleneck (B, N, C) -> z, ids -> unpack -> decoder -> trim -> pixels

    An image (B, 3, H, W) is a video of one frame, and is returned as an image.

    Args:
        encoder: maps pixels to grids with `bottleneck.in_dim` channels.
        bottleneck: limits the information; a `Quantizer` makes the tokenizer discrete.
        decoder: maps grids with `bottleneck.out_dim` channels to pixels.

    Raises:
        SmaltiError: the channels of two neighboring parts differ.
    """

    def __init__(self, encoder: Encoder, bottleneck: Bottleneck, decoder: Decoder) -> None:
        super().__init__()
        for source, out_dim, target, in_dim in (
            (encoder, encoder.out_dim, bottleneck, bottleneck.in_dim),
            (bottleneck, bottleneck.out_dim, decoder, decoder.in_dim),
        ):
            if out_dim != in_dim:
                raise SmaltiError(
                    f"{type(source).__name__} returns {out_dim} channels but {type(target).__name__} expects {in_dim}: "
                    "make the two equal in the recipe."
                )
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder

    @property
    def discrete(self) -> bool:
        """Whether the tokenizer has tokens, so that `tokenize` and `detokenize` work."""
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
        """Nominal bits per pixel of a tokenizer with one grid: bits per latent position / pixels per position.

        Raises:
            SmaltiError: the tokenizer is continuous.
        """
        t, h, w = self.encoder.stride
        return self.quantizer.bits_per_position / (t * h * w)

    @property
    def compression_ratio(self) -> float:
        """Compression relative to 8-bit RGB: 24 / `bits_per_pixel` (WeTok, arXiv 2508.05599, table 1)."""
        return 24 / self.bits_per_pixel

    @property
    def branches(self) -> dict[str, Tokenizer]:
        """The branches of a joint tokenizer by name, as tokenizers that share its weights. Empty for all others."""
        return {name: self._with_bottleneck(branch) for name, branch in self.bottleneck.branches.items()}

    def as_discrete(self) -> Tokenizer:
        """Return the discrete branch of a joint tokenizer, which shares its weights, or `self` if it is only discrete.

        Raises:
            SmaltiError: the tokenizer is continuous.
        """
        if "discrete" in self.bottleneck.branches:
            return self.branches["discrete"]
        self._check_discrete()
        return self

    def as_continuous(self) -> Tokenizer:
        """Return the continuous branch of a joint tokenizer, which shares its weights, or `self` if it is continuous.

        Raises:
            SmaltiError: the tokenizer is discrete.
        """
        if "continuous" in self.bottleneck.branches:
            return self.branches["continuous"]
        if self.discrete:
            raise SmaltiError(
                f"This tokenizer is discrete ({type(self.bottleneck).__name__}) and has no continuous branch: use a "
                "continuous or a joint tokenizer."
            )
        return self

    def tiled(self, tile: int = 256, overlap: int = 64) -> Tokenizer:
        """Return a tokenizer for large frames that processes overlapping tiles and blends them. It shares the weights.

        Args:
            tile: height and width of a tile in pixels, a multiple of the stride. A frame that is no larger is processed as
                a whole.
            overlap: overlap of neighboring tiles in pixels, a multiple of the stride, at most half a tile.

        Raises:
            SmaltiError: `tile` or `overlap` is not a multiple of the stride, or the overlap exceeds half a tile.
        """
        encoder, decoder = add_tiling(self.encoder, self.decoder, tile, overlap)
        tokenizer = Tokenizer(encoder, self.bottleneck, decoder)
        for module in (tokenizer, encoder, decoder):
            module.training = self.training  # not train(), which would change the mode of the shared modules
        return tokenizer

    def _with_bottleneck(self, bottleneck: Bottleneck) -> Tokenizer:
        tokenizer = Tokenizer(self.encoder, bottleneck, self.decoder)
        tokenizer.training = self.training  # not train(), which would change the mode of the shared modules
        return tokenizer

    def _check_discrete(self) -> None:
        """Raise a SmaltiError if the tokenizer is continuous."""
        _ = self.quantizer

    def encode(self, x: Tensor, chunk: int | None = None) -> Latents:
        """Encode pixels to latents.

        Args:
            x: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], of any size. It is padded to a multiple of the stride by
                repeating the right and the bottom edge and the last frame.
            chunk: number of frames to encode per chunk. The result equals encoding the whole clip at once; peak memory
                depends only on the chunk. None: the whole clip in training mode or if gradients are recorded, else a few
                frames (`smalti.tokenizers.streaming.DEFAULT_CHUNK`).

        Returns:
            The code of every position, with losses in training mode, and the layout to decode it.

        Raises:
            SmaltiError: x has another shape, `chunk` is below 1, or `chunk` is given in training mode.
        """
        video = x.unsqueeze(2) if x.ndim == 4 else x
        chunk = self._chunk_size(chunk)
        chunks = [video] if chunk is None else split_frames(video, chunk)
        latents = Latents.join_time(self.encode_stream(chunks))
        return replace(latents, frames=None) if x.ndim == 4 else latents

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Latents]:
        """Encode a clip of any length chunk by chunk. Only one chunk and a small state are in memory.

        Args:
            chunks: (B, 3, T, H, W) each, consecutive parts of one clip, of any lengths T.

        Yields:
            Latents of consecutive parts of the clip. `Latents.join_time` joins them.

        Raises:
            SmaltiError: a chunk has another shape, or the frame size changes.
        """
        state = StreamState()
        for video, frames, state.last in align_chunks(map(_check_video, chunks), self.encoder.stride[0]):
            size = (video.shape[2], video.shape[3], video.shape[4])
            _, bottom, right = (n - m for n, m in zip(self.encoder.padded_size(size), size, strict=True))
            if bottom or right:
                video = F.pad(video, (0, right, 0, bottom, 0, 0), mode="replicate")
            h, grids = pack(self.encoder(video, state))
            yield Latents(code=self.bottleneck(h), grids=grids, size=size[1:], frames=frames)

    def decode(self, latents: Latents, generator: torch.Generator | None = None, chunk: int | None = None) -> Tensor:
        """Decode latents to pixels of the original size.

        Args:
            latents: from `encode`, possibly with a modified z, or from `Latents.from_grids`.
            generator: source of a generative decoder's noise; None for the global generator.
            chunk: number of frames to decode per chunk, as in `encode`.

        Returns:
            (B, 3, H, W) or (B, 3, T, H, W), approximately in [-1, 1], not clamped.

        Raises:
            SmaltiError: `chunk` is below 1, or `chunk` is given in training mode.
        """
        chunk = self._chunk_size(chunk)
        parts = [latents] if chunk is None else latents.split_time(self.encoder.stride[0], chunk)
        frames = latents.frames or 1
        video: Tensor | None = None
        start = 0
        for part in self.decode_stream(parts, generator):
            if part.shape[2] == frames:
                return part if latents.frames is not None else part.squeeze(2)
            # Fill the clip part by part: torch.cat would hold all parts and the result in memory at the same time.
            video = part.new_empty(*part.shape[:2], frames, *part.shape[3:]) if video is None else video
            video[:, :, start : start + part.shape[2]] = part
            start += part.shape[2]
        assert video is not None
        return video

    def decode_stream(self, latents: Iterable[Latents], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Decode the latents of consecutive parts of a clip, as `encode_stream` yields them.

        Args:
            latents: consecutive parts of one clip.
            generator: source of a generative decoder's noise; None for the global generator.

        Yields:
            (B, 3, T, H, W) per part, in order, with as many frames in total as were encoded. A decoder that looks ahead
            yields the last frames of a part together with the next part.
        """
        state, remaining = StreamState(), 0
        for part, state.last in with_last(latents):
            weight = next(self.decoder.parameters(), part.z)
            pixels = self.decoder(unpack(part.z.to(weight.dtype), part.grids), generator, state)
            remaining += part.frames or 1
            pixels = pixels[:, :, :remaining, : part.size[0], : part.size[1]]
            remaining -= pixels.shape[2]
            if pixels.shape[2]:
                yield pixels

    def tokenize(self, x: Tensor, chunk: int | None = None) -> TokenGrid:
        """Encode pixels to integer tokens. See `encode` for the arguments.

        Raises:
            SmaltiError: the tokenizer is continuous; see also `encode`.
        """
        self._check_discrete()  # before the encoder runs
        return get_tokens(self.encode(x, chunk))

    def detokenize(
        self, tokens: TokenGrid, generator: torch.Generator | None = None, chunk: int | None = None
    ) -> Tensor:
        """Decode tokens to pixels, the same as `decode` returns for the latents. See `decode` for the arguments.

        Raises:
            SmaltiError: see `dequantize` and `decode`.
        """
        return self.decode(self.dequantize(tokens), generator, chunk)

    def dequantize(self, tokens: TokenGrid) -> Latents:
        """Look up the latents of tokens, for `decode`.

        Raises:
            SmaltiError: the tokenizer is continuous, an id is out of range, or the number of ids does not match the grids.
        """
        quantizer = self.quantizer
        if tokens.ids.ndim == 3 and tokens.ids.shape[1] != tokens.positions:
            raise SmaltiError(
                f"The grids {tokens.grids} have {tokens.positions} positions, but ids has {tokens.ids.shape[1]}: pass all "
                "ids of a sample with its own grids."
            )
        code = Code(quantizer.lookup(tokens.ids), tokens.ids)
        return Latents(code=code, grids=tokens.grids, size=tokens.size, frames=tokens.frames)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Latents]:
        """Return the reconstruction of x, in the shape of x, and the latents from which it was decoded."""
        latents = self.encode(x)
        return self.decode(latents, generator), latents

    def _chunk_size(self, chunk: int | None) -> int | None:
        """Return the frames per chunk, a multiple of the stride; None for the whole clip."""
        if chunk is None and (self.training or torch.is_grad_enabled()):
            return None
        if self.training:
            raise SmaltiError(
                "chunk cannot be used in training mode, where losses are computed over the whole clip: call eval() first."
            )
        if chunk is not None and chunk < 1:
            raise SmaltiError(f"chunk is {chunk}: give at least 1 frame.")
        return chunk_size(self.encoder.stride[0], chunk or DEFAULT_CHUNK)


def get_tokens(latents: Latents) -> TokenGrid:
    """Return the tokens of a discrete tokenizer's latents.

    Raises:
        SmaltiError: the latents are continuous.
    """
    if latents.code.ids is None:
        raise SmaltiError("These latents are continuous and have no tokens: encode with a discrete tokenizer.")
    return TokenGrid(ids=latents.code.ids, grids=latents.grids, size=latents.size, frames=latents.frames)


def _check_video(x: Tensor) -> Tensor:
    if x.ndim != 5 or x.shape[1] != 3 or 0 in x.shape:
        raise SmaltiError(
            f"A tokenizer takes pixels (B, 3, H, W) or (B, 3, T, H, W) with no empty axis, not {tuple(x.shape)}."
        )
    return x
