"""A tokenizer: an encoder, a bottleneck and a decoder.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; N positions of all grids; C channels; G tokens per
position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.channel_groups import ChannelGroups, describe_groups
from smalti.errors import SmaltiError
from smalti.tokenizers.base import Decoder, Encoder, StreamState
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.configurable import Configurable
from smalti.tokenizers.input_checks import (
    check_ids,
    check_latents,
    check_size,
    check_tokens,
    first_weight,
    prepare_pixels,
)
from smalti.tokenizers.latent_statistics import LatentStatistics
from smalti.tokenizers.streaming import (
    align_chunks,
    chunk_size,
    default_chunk,
    join_chunks,
    split_frames,
    with_last,
)
from smalti.tokenizers.summary import summarize
from smalti.tokenizers.tiling import add_tiling
from smalti.types import Code, Latents, Layout, TokenGrid, pack, unpack


class Tokenizer(Configurable):
    """Encodes images and videos of any size to continuous latents or discrete tokens, and decodes them.

        pixels (B, 3, T, H, W) -> pad to the stride -> encoder -> one or more grids (B, C, t, h, w)
          -> pack -> bottleneck (B, N, C) -> z, ids -> unpack -> decoder -> trim -> pixels

    An image (B, 3, H, W) is a video of one frame, and is returned as an image.

    `print(tokenizer)` shows a summary, and `print(tokenizer.encoder)` all modules of the encoder. Gradients are recorded as
    in any PyTorch module: if an input or a parameter requires them. Parameters of a loaded tokenizer do not.

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
        if encoder.channels != decoder.channels:
            raise SmaltiError(
                f"The encoder reads the channels {describe_groups(encoder.channels)}, but the decoder returns "
                f"{describe_groups(decoder.channels)}: give both the same."
            )
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder

    @property
    def channels(self) -> ChannelGroups:
        """Groups of channels of the pixels, in order: {"rgb": 3} unless the tokenizer was given others."""
        return self.encoder.channels

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
    def latent_statistics(self) -> LatentStatistics | None:
        """Mean and standard deviation of each channel, as training measured them; None if it did not.

        They are those of the decoder, if it has some (LTX-Video), else those of the continuous bottleneck or branch.
        """
        bottleneck = self.bottleneck.branches.get("continuous", self.bottleneck)
        for module in (self.decoder, bottleneck):
            if isinstance(found := getattr(module, "statistics", None), LatentStatistics):
                return found if found.measured else None
        return None

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

    def __repr__(self) -> str:
        """Return a summary of a few lines; `torch.nn.Module.__repr__(tokenizer)` returns all modules."""
        return summarize(self)

    def layout(self, size: tuple[int, int], frames: int | None = None) -> Layout:
        """Return the latent grids of an image or a clip, before it is encoded.

        `layout(size).positions` times `quantizer.tokens_per_position` is the number of tokens.

        Args:
            size: (height, width) in pixels.
            frames: number of frames of a clip; None for an image.

        Raises:
            SmaltiError: `size` or `frames` is not positive.
        """
        check_size(size, frames)
        height, width = size
        padded = self.encoder.padded_size((frames or 1, height, width))
        return Layout(grids=self.encoder.latent_grids(padded), size=(height, width), frames=frames)

    def grid(self, ids: Tensor, size: tuple[int, int], frames: int | None = None) -> TokenGrid:
        """Arrange ids from another source, such as a language model, for `detokenize`.

        Args:
            ids: integers of shape (B, N, G), (B, N G), or (N G,) for one sample. All have the order of `TokenGrid.ids`: the
                G tokens of a position follow each other, as in `tokens.ids.flatten(1)`.
            size: (height, width) in pixels.
            frames: number of frames of a clip; None for an image.

        Raises:
            SmaltiError: the tokenizer is continuous, ids are not integers, or their number is not that of a sample of this
                size.
        """
        layout, per_position = self.layout(size, frames), self.quantizer.tokens_per_position
        ids = check_ids(ids)
        batch = ids[None] if ids.ndim == 1 else ids
        count = layout.positions * per_position
        if tuple(batch.shape[1:]) not in ((count,), (layout.positions, per_position)):
            flat = "" if per_position == 1 else f"(B, {layout.positions}, {per_position}) or "
            raise SmaltiError(
                f"{_describe_sample(layout)} has {layout.positions} positions with {per_position} tokens each: pass ids of "
                f"shape {flat}(B, {count}), not {tuple(ids.shape)}."
            )
        ids = batch.reshape(len(batch), layout.positions, per_position).long()
        return TokenGrid(ids=ids, grids=layout.grids, size=layout.size, frames=layout.frames)

    def default_chunk(self, size: tuple[int, int]) -> int:
        """Return the frames per chunk that `encode` and `decode` use without gradients for frames of this (height, width).

        See `smalti.tokenizers.streaming.default_chunk`.
        """
        weight = first_weight(self.encoder)
        return default_chunk(self.encoder.stride, size, torch.device("cpu") if weight is None else weight.device)

    @overload
    def encode(self, x: Tensor, chunk: int | None = None) -> Latents: ...
    @overload
    def encode(self, x: list[Tensor], chunk: int | None = None) -> list[Latents]: ...
    def encode(self, x: Tensor | list[Tensor], chunk: int | None = None) -> Latents | list[Latents]:
        """Encode pixels to latents.

        Args:
            x: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], of any size. It is padded to a multiple of the stride by
                repeating the right and the bottom edge and the last frame, and converted to the dtype of the weights. A
                list of such tensors, of different sizes, is encoded one tensor at a time.
            chunk: number of frames to encode per chunk. The result equals encoding the whole clip at once; peak memory
                depends only on the chunk. None: the whole clip in training mode or if gradients are recorded, else
                `default_chunk`.

        Returns:
            The code of every position, with losses in training mode, and the layout to decode it; a list for a list.

        Raises:
            SmaltiError: x has another shape, an integer dtype or another device; in evaluation mode, a value is far outside
                of [-1, 1] or NaN; `chunk` is below 1, or `chunk` is given in training mode.
        """
        if isinstance(x, list):
            return [self.encode(item, chunk) for item in x]
        x = self._prepare_pixels(x)
        video = x.unsqueeze(2) if x.ndim == 4 else x
        size = (x.shape[-2], x.shape[-1])
        chunk = self._chunk_size(chunk, size, self.encoder.streams, x, self.encoder, self.bottleneck)
        chunks = [video] if chunk is None else split_frames(video, chunk)
        latents = Latents.join_time(self._encode_chunks(chunks))
        return replace(latents, frames=None) if x.ndim == 4 else latents

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Latents]:
        """Encode a clip of any length chunk by chunk. Only one chunk and a small state are in memory.

        If the encoder does not stream (`Encoder.streams`), all chunks are joined and encoded at once.

        Args:
            chunks: (B, 3, T, H, W) each, consecutive parts of one clip, of any lengths T.

        Yields:
            Latents of consecutive parts of the clip. `Latents.join_time` joins them.

        Raises:
            SmaltiError: a chunk is not valid, see `encode`, or the batch or frame size changes.
        """
        return self._encode_chunks(self._prepare_pixels(chunk, stream=True) for chunk in chunks)

    def _prepare_pixels(self, x: object, *, stream: bool = False) -> Tensor:
        # Training checks the losses on all ranks at once. An error on one rank would leave the others waiting.
        channels = sum(self.channels.values())
        return prepare_pixels(x, first_weight(self.encoder), channels, check_values=not self.training, stream=stream)

    def _encode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Latents]:
        state = StreamState()
        if not self.encoder.streams:
            chunks = [join_chunks(chunks)]
        for video, frames, state.last in align_chunks(chunks, self.encoder.stride[0]):
            size = (video.shape[2], video.shape[3], video.shape[4])
            _, bottom, right = (n - m for n, m in zip(self.encoder.padded_size(size), size, strict=True))
            if bottom or right:
                video = F.pad(video, (0, right, 0, bottom, 0, 0), mode="replicate")
            h, grids = pack(self.encoder(video, state))
            yield Latents(code=self.bottleneck(h), grids=grids, size=size[1:], frames=frames)

    @overload
    def decode(
        self, latents: Latents, generator: torch.Generator | None = None, chunk: int | None = None
    ) -> Tensor: ...
    @overload
    def decode(
        self, latents: list[Latents], generator: torch.Generator | None = None, chunk: int | None = None
    ) -> list[Tensor]: ...
    def decode(
        self,
        latents: Latents | list[Latents],
        generator: torch.Generator | None = None,
        chunk: int | None = None,
    ) -> Tensor | list[Tensor]:
        """Decode latents to pixels of the original size.

        Args:
            latents: from `encode`, possibly with a modified z, or from `Latents.from_grids`. They are converted to the
                dtype of the weights. A list is decoded one item at a time.
            generator: source of a generative decoder's noise; None for the global generator.
            chunk: number of frames to decode per chunk, as in `encode`.

        Returns:
            (B, 3, H, W) or (B, 3, T, H, W), approximately in [-1, 1], not clamped; a list for a list.

        Raises:
            SmaltiError: the latents are those of another tokenizer or on another device; `chunk` is below 1, or `chunk` is
                given in training mode.
        """
        if isinstance(latents, list):
            return [self.decode(item, generator, chunk) for item in latents]
        latents = self._check_whole(latents)
        chunk = self._chunk_size(chunk, latents.size, self.decoder.streams, latents.z, self.decoder)
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

        If the decoder does not stream (`Decoder.streams`), all parts are joined and decoded at once.

        Args:
            latents: consecutive parts of one clip.
            generator: source of a generative decoder's noise; None for the global generator.

        Yields:
            (B, 3, T, H, W) per part, in order, with as many frames in total as were encoded. A decoder that looks ahead
            yields the last frames of a part together with the next part.

        Raises:
            SmaltiError: a part has latents of another tokenizer or on another device.
        """
        state, remaining = StreamState(), 0
        weight = first_weight(self.decoder)
        if not self.decoder.streams:
            latents = [Latents.join_time(list(latents))]
        for part, state.last in with_last(latents):
            check_latents(part, self.bottleneck.out_dim, weight)
            z = part.z if weight is None else part.z.to(weight.dtype)
            pixels = self.decoder(unpack(z, part.grids), generator, state)
            remaining += part.frames or 1
            pixels = pixels[:, :, :remaining, : part.size[0], : part.size[1]]
            remaining -= pixels.shape[2]
            if pixels.shape[2]:
                yield pixels

    @overload
    def tokenize(self, x: Tensor, chunk: int | None = None) -> TokenGrid: ...
    @overload
    def tokenize(self, x: list[Tensor], chunk: int | None = None) -> list[TokenGrid]: ...
    def tokenize(self, x: Tensor | list[Tensor], chunk: int | None = None) -> TokenGrid | list[TokenGrid]:
        """Encode pixels to integer tokens, without recording gradients. See `encode` for the arguments.

        Raises:
            SmaltiError: the tokenizer is continuous; see also `encode`.
        """
        self._check_discrete()  # before the encoder runs
        if isinstance(x, list):
            return [self.tokenize(item, chunk) for item in x]
        with torch.no_grad():
            return get_tokens(self.encode(x, chunk))

    @overload
    def detokenize(
        self, tokens: TokenGrid, generator: torch.Generator | None = None, chunk: int | None = None
    ) -> Tensor: ...
    @overload
    def detokenize(
        self, tokens: list[TokenGrid], generator: torch.Generator | None = None, chunk: int | None = None
    ) -> list[Tensor]: ...
    def detokenize(
        self,
        tokens: TokenGrid | list[TokenGrid],
        generator: torch.Generator | None = None,
        chunk: int | None = None,
    ) -> Tensor | list[Tensor]:
        """Decode tokens to pixels, the same as `decode` returns for the latents. See `decode` for the arguments.

        Raises:
            SmaltiError: see `dequantize` and `decode`.
        """
        if isinstance(tokens, list):
            return [self.detokenize(item, generator, chunk) for item in tokens]
        return self.decode(self.dequantize(tokens), generator, chunk)

    def dequantize(self, tokens: TokenGrid) -> Latents:
        """Look up the latents of tokens, for `decode`.

        Raises:
            SmaltiError: the tokenizer is continuous, ids are not integers or on another device, an id is out of range, or
                the number of ids does not match the grids.
        """
        quantizer = self.quantizer
        check_tokens(tokens, first_weight(self.decoder))
        ids = tokens.ids.long()
        code = Code(quantizer.lookup(ids), ids)
        return Latents(code=code, grids=tokens.grids, size=tokens.size, frames=tokens.frames)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Latents]:
        """Return the reconstruction of x, in the shape of x, and the latents from which it was decoded."""
        latents = self.encode(x)
        return self.decode(latents, generator), latents

    def _check_whole(self, latents: object) -> Latents:
        """Return the latents of a whole image or clip.

        Raises:
            SmaltiError: their grids are not those of this size with this tokenizer; see also `check_latents`.
        """
        latents = check_latents(latents, self.bottleneck.out_dim, first_weight(self.decoder))
        expected = self.layout(latents.size, latents.frames)
        if tuple(map(tuple, latents.grids)) != expected.grids:
            raise SmaltiError(
                f"{_describe_sample(expected)} has the latent grids {expected.grids} with this tokenizer (see "
                f"{type(self.encoder).__name__}.latent_grids), not {latents.grids}: decode with the tokenizer that encoded "
                "it, and give its true size and number of frames."
            )
        return latents

    def _chunk_size(
        self, chunk: int | None, size: tuple[int, int], streams: bool, *sources: Tensor | nn.Module
    ) -> int | None:
        """Return the frames per chunk, a multiple of the stride; None for the whole clip.

        Args:
            chunk: the argument of `encode` or `decode`.
            size: (height, width) of the frames.
            streams: whether the network can process a clip chunk by chunk.
            sources: input and networks of the call, which records gradients if one of them requires gradients.
        """
        if chunk is None and (not streams or self.training or _records_gradients(*sources)):
            return None
        if not streams:
            raise SmaltiError(
                "chunk cannot be used: this network needs the whole clip; leave chunk out, and cut long videos into clips."
            )
        if self.training:
            raise SmaltiError(
                "chunk cannot be used in training mode, where losses are computed over the whole clip: call eval() first."
            )
        if chunk is not None and chunk < 1:
            raise SmaltiError(f"chunk is {chunk}: give at least 1 frame.")
        return self.default_chunk(size) if chunk is None else chunk_size(self.encoder.stride[0], chunk)


def _records_gradients(*sources: Tensor | nn.Module) -> bool:
    """Return whether a computation with these tensors and the parameters of these modules records gradients."""
    tensors = (t for source in sources for t in ([source] if isinstance(source, Tensor) else source.parameters()))
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _describe_sample(layout: Layout) -> str:
    height, width = layout.size
    kind = "An image" if layout.frames is None else f"A clip of {layout.frames} frames"
    return f"{kind} of height {height} and width {width}"


def get_tokens(latents: Latents) -> TokenGrid:
    """Return the tokens of a discrete tokenizer's latents.

    Raises:
        SmaltiError: the latents are continuous.
    """
    if latents.code.ids is None:
        raise SmaltiError("These latents are continuous and have no tokens: encode with a discrete tokenizer.")
    return TokenGrid(ids=latents.code.ids, grids=latents.grids, size=latents.size, frames=latents.frames)
