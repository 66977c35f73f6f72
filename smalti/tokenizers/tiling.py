"""Large frames tile by tile: the memory is that of a tile, and no seam shows.

A tile is coded as if it were a whole frame. Near its border it differs from what the whole frame would give, for want of
neighbours; so tiles overlap. Where two do, the outer quarter of each is left out, and in between one fades into the other:
the encoder's before the bottleneck, the decoder's in pixels.

Networks that see a frame as a whole by attention alone (OneVAE's) come within 45 dB and more of the whole frame. Those that
norm over it (WeTok's) do not, and neighbouring tiles may differ in brightness.

Shapes: B batch, T frames, H, W pixels; t, h, w latent positions; C channels; f the stride in space.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.base import Decoder, Encoder, StreamState
from smalti.tokenizers.layers.noise import generator_device

Tiles = tuple[Tensor, ...]
"""A piece of each of some maps."""
_LEAST = 1e-6
"""Share, before all are made 1, of what is left out: at the border of a frame there is no other tile."""


def tiled(encoder: Encoder, decoder: Decoder, tile: int, overlap: int) -> tuple[TiledEncoder, TiledDecoder]:
    """Both networks tile by tile, with the weights that they have.

    Args:
        encoder: of the same stride along rows and columns.
        decoder: of the encoder's grids.
        tile: rows and columns of a tile in pixels, a multiple of f; a frame that is no larger is coded whole.
        overlap: of neighbours in pixels, a multiple of f, at most half a tile.

    Raises:
        SmaltiError: sizes that are no such multiples.
    """
    over = TiledEncoder(encoder, tile, overlap)
    f = encoder.stride[1]
    weight = next(encoder.parameters(), torch.empty(0))
    with torch.no_grad():
        first = encoder(weight.new_zeros(1, 3, *encoder.padded_size((1, 2 * f, 2 * f))))[0]
    return over, TiledDecoder(decoder, f, tile, overlap, first.shape[-1] // 2)


class TiledEncoder(Encoder):
    """An encoder that sees tiles of a frame.

    Args:
        encoder: the one that it runs.
        tile: as `tiled`.
        overlap: as `tiled`.

    Raises:
        SmaltiError: as `tiled`.
    """

    def __init__(self, encoder: Encoder, tile: int = 256, overlap: int = 64) -> None:
        super().__init__()
        self.encoder = encoder
        self.stride, self.out_dim = encoder.stride, encoder.out_dim
        _check(self.stride[1], tile, overlap)
        self.tile, self.overlap = tile, overlap

    def padded_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """As the encoder's."""
        return self.encoder.padded_size(size)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """(B, 3, T, H, W) in [-1, 1] to the encoder's grids; in a stream, each tile has its own state."""
        state = StreamState(last=True) if state is None else state
        f = self.stride[1]
        units = (x.shape[3] // f, x.shape[4] // f)

        def run(piece: Tiles, place: int) -> Tiles:
            return self.encoder(piece[0], state.substate((self, place)))

        return _blended((x,), units, self.tile // f, self.overlap // f, run)


class TiledDecoder(Decoder):
    """A decoder that sees tiles of the grids.

    One that is generative draws each tile's noise by itself. A seed decides the pixels, in chunks too, but other ones than
    of the whole frame; and where tiles fade into each other their draws are mixed, so that drawn detail is softer there.

    Args:
        decoder: the one that it runs.
        stride: f, pixels that a position spans along rows and columns.
        tile: as `tiled`.
        overlap: as `tiled`.
        first_scale: positions of the first frame's own grid in a row, for one of the ordinary grid; 1: it has no own.

    Raises:
        SmaltiError: as `tiled`.
    """

    def __init__(self, decoder: Decoder, stride: int, tile: int = 256, overlap: int = 64, first_scale: int = 1) -> None:
        super().__init__()
        self.decoder = decoder
        self.in_dim, self.generative = decoder.in_dim, decoder.generative
        self.stride, self.first_scale = stride, first_scale
        _check(stride, tile, overlap)
        self.tile, self.overlap = tile, overlap

    @property
    def last_layer(self) -> nn.Module:
        """The decoder's."""
        return self.decoder.last_layer

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """The encoder's grids to (B, 3, T, H, W); in a stream, each tile has its own state."""
        state = StreamState(last=True) if state is None else state
        scale = self.first_scale if state.is_first_chunk(self) else 1
        units = (latents[0].shape[3] // scale, latents[0].shape[4] // scale)

        def run(piece: Tiles, place: int) -> Tiles:
            child = state.substate((self, place))
            if not self.generative or piece[0].shape == latents[0].shape:
                return (self.decoder(piece, generator, child),)
            own = _own_noise(piece[0], generator, child)
            pixels = self.decoder(piece, own, child)
            child.store("noise", own.get_state())
            return (pixels,)

        return _blended(latents, units, self.tile // self.stride, self.overlap // self.stride, run)[0]


def _own_noise(z: Tensor, generator: torch.Generator | None, state: StreamState) -> torch.Generator:
    """A tile's generator, seeded by the given one where the clip begins, so that chunks draw what the whole clip draws."""
    device = generator_device(z, generator)
    own = torch.Generator(device)
    kept = state.load("noise")
    if kept is None:
        return own.manual_seed(int(torch.randint(2**62, (), generator=generator, device=device)))
    return own.set_state(kept)


def _check(stride: int, tile: int, overlap: int) -> None:
    if tile < stride or tile % stride or overlap % stride or not 0 <= 2 * overlap <= tile:
        near = max(tile // stride, 4)
        raise SmaltiError(
            f"tile {tile} and overlap {overlap} must be multiples of the {stride} pixels that a position spans, and the "
            f"overlap at most half the tile: give, for instance, {near * stride} and {near // 4 * stride}."
        )


def spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """From where to where the tiles of an axis reach: as few as can be, all of one size, with even overlaps.

    >>> spans(20, 8, 2)
    [(0, 8), (6, 14), (12, 20)]
    >>> spans(5, 8, 2)
    [(0, 5)]

    Args:
        length: of the axis.
        tile: at most this long.
        overlap: at least this much, less than `tile`.
    """
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    starts = [i * (length - size) // (count - 1) for i in range(count)]
    return [(start, start + size) for start in starts]


def _shares(reach: list[tuple[int, int]], scale: int, overlap: int, like: Tensor) -> list[Tensor]:
    """The share of each tile at each of its places along an axis; together 1 everywhere."""
    whole = like.new_zeros(reach[-1][1] * scale, dtype=torch.float32)
    heights: list[Tensor] = []
    for start, stop in reach:
        inside = torch.arange((stop - start) * scale, device=like.device) + 0.5
        border = torch.minimum(inside, inside.flip(0))
        # A ramp over all of the overlap changes two to four times as many ids, where FSQ follows.
        ramp = (border / max(overlap * scale, 1) * 2 - 0.5).clamp(_LEAST, 1)
        heights.append(ramp)
        whole[start * scale : stop * scale] += ramp
    return [
        (height / whole[start * scale : stop * scale]).to(like.dtype)
        for height, (start, stop) in zip(heights, reach, strict=True)
    ]


def _blended(maps: Tiles, units: tuple[int, int], tile: int, overlap: int, run: Callable[[Tiles, int], Tiles]) -> Tiles:
    """What `run` makes of the tiles of some maps, put together.

    Args:
        maps: (B, C, T, rows, columns) each, of multiples of `units`.
        units: rows and columns that are never cut.
        tile: units of a tile.
        overlap: units of the overlap.
        run: a tile of each map, and its number, to maps of multiples of its units.
    """
    rows, columns = (spans(length, tile, overlap) for length in units)
    if len(rows) == len(columns) == 1:
        return run(maps, 0)
    wholes: list[Tensor] = []
    shares: list[tuple[list[Tensor], list[Tensor]]] = []
    for place, (i, j) in enumerate(product(range(len(rows)), range(len(columns)))):
        made = run(tuple(m[_area(m.shape[4] // units[1], rows[i], columns[j])] for m in maps), place)
        scales = [piece.shape[4] // (columns[j][1] - columns[j][0]) for piece in made]
        if not wholes:
            wholes = [p.new_zeros(*p.shape[:3], *(n * s for n in units)) for p, s in zip(made, scales, strict=True)]
            shares = [
                (_shares(rows, s, overlap, p), _shares(columns, s, overlap, p))
                for p, s in zip(made, scales, strict=True)
            ]
        for whole, piece, scale, (down, across) in zip(wholes, made, scales, shares, strict=True):
            whole[_area(scale, rows[i], columns[j])] += piece * (down[i][:, None] * across[j])
    return tuple(wholes)


def _area(scale: int, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Any, ...]:
    """Where a tile lies in a map that has `scale` positions along each unit."""
    return (..., *(slice(start * scale, stop * scale) for start, stop in (rows, columns)))
