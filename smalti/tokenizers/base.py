"""Base classes of encoders and decoders. Each package in `models` implements them for one family of architectures.

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C channels per position.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smalti.channel_groups import RGB, ChannelGroups
from smalti.errors import SmaltiError
from smalti.tokenizers.configurable import Configurable
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.types import Grids

_NO_START = "{} cannot start as a linear codec: implement `linear_start` in the class, or set start.method to random."


class StreamState:
    """The frames that the layers of a network carry over from one chunk of a clip to the next.

    A long clip passes through an encoder or a decoder chunk by chunk, with the same state for all chunks. Each layer whose
    receptive field extends beyond the current chunk stores the frames it needs here, keyed by the layer. Modules hold no
    hidden state: several clips can stream through one network at the same time. A whole clip is a stream of one chunk.

    Create one state per clip and per direction (encoding or decoding).

    Args:
        last: whether the next chunk is the last.

    Attributes:
        last: whether the next chunk is the last. Set it before that chunk: layers then store nothing, and layers that look
            ahead release the frames they held back.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.last = last
        self._stored: dict[object, Tensor] = {}
        self._substates: dict[object, StreamState] = {}

    def is_first_chunk(self, layer: object) -> bool:
        """Return whether this is the layer's first chunk of the clip. Each layer may call this once per chunk."""
        first = (layer, "seen") not in self._stored
        self.store((layer, "seen"), torch.empty(0))
        return first

    def load(self, layer: object) -> Tensor | None:
        """Return what the layer stored in the previous chunk, or None in its first chunk."""
        return self._stored.get(layer)

    def store(self, layer: object, x: Tensor) -> None:
        """Store a copy of x for the layer's next chunk. A view would keep the whole chunk in memory."""
        if not self.last:
            self._stored[layer] = x.clone()

    def substate(self, name: object) -> StreamState:
        """Return the state of a part of the clip that streams separately, such as one tile of its frames."""
        substate = self._substates.setdefault(name, StreamState())
        substate.last = self.last
        return substate


class Encoder(Configurable):
    """Base class of encoders: pixels to latent grids.

    Encoders can stream: they are causal in time, or encode each frame separately. An encoder that needs the whole clip says
    so with `streams`.

    Attributes:
        stride: pixels per latent position along (T, H, W).
        out_dim: channels C per position.
        streams: whether a clip can be encoded chunk by chunk. Otherwise `Tokenizer` passes whole clips, and memory grows
            with their length.
        channels: groups of channels of the pixels. `smalti.tokenizers.channels` changes them.
        bands_inside: order of the inputs of the first convolution if it reads patches: for each element of a patch all
            channels (True), or for each channel all elements of a patch.
    """

    stride: tuple[int, int, int]
    out_dim: int
    streams: bool = True
    channels: ChannelGroups = RGB
    bands_inside: bool = False

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The layers that read pixels or return latents. Muon (`smalti.trainers.Muon`) does not orthogonalize them.

        The default is the first and the last linear or convolutional layer, in the order in which they were registered.
        """
        return _first_and_last(self)

    @abstractmethod
    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode a clip, or the next chunk of one.

        Args:
            x: (B, 3, T, H, W) in [-1, 1], of a size that `padded_size` returns. In a stream, x is the next chunk: the
                first chunk has such a size too, and later chunks have a multiple of the temporal stride in frames.
            state: state of the stream; None if x is a whole clip.

        Returns:
            One (B, C, t, h, w) tensor per grid.
        """
        raise NotImplementedError

    def padded_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the smallest (T, H, W) that the encoder accepts and that contains `size`.

        The default is 1 + k * stride frames, and multiples of the stride in height and width.
        """
        t, h, w = (-(-n // s) * s for n, s in zip((size[0] - 1, *size[1:]), self.stride, strict=True))
        return 1 + t, h, w

    @property
    def hidden_units(self) -> int:
        """Number of units that bend where `Bottleneck.linear_start` says: channels before the last activation function.

        0 if there is none, or if a norm before it moves the places where its units bend.
        """
        raise SmaltiError(_NO_START.format(type(self).__name__))

    def linear_start(self, pyramid: Pyramid, code: StartCode) -> Errors:
        """Set the weights so that the encoder computes a code of principal components, fitted to data.

        Args:
            pyramid: the data and its principal components.
            code: what the bottleneck expects.

        Returns:
            The share of the variance of its targets that each fitted layer does not explain, by name.

        Raises:
            SmaltiError: this class has no such start.
        """
        raise SmaltiError(_NO_START.format(type(self).__name__))

    def latent_grids(self, size: tuple[int, int, int]) -> Grids:
        """Return the (t, h, w) of each grid that `forward` returns for a whole clip. `Tokenizer.layout` uses this.

        The default is one grid with 1 + (T - 1) / stride latents in time. An encoder with several grids overrides this.

        Args:
            size: (T, H, W) that `padded_size` returns.
        """
        t, h, w = (n // s for n, s in zip((size[0] - 1, *size[1:]), self.stride, strict=True))
        return ((1 + t, h, w),)


class Decoder(Configurable):
    """Base class of decoders: latent grids to pixels.

    Attributes:
        in_dim: channels C per position.
        generative: whether the decoder draws noise, so that its output depends on a seed.
        streams: whether a clip can be decoded chunk by chunk, see `Encoder`.
        channels: groups of channels of the pixels, see `Encoder`.
        bands_inside: order of the outputs of the last convolution, see `Encoder`.
    """

    in_dim: int
    generative: bool = False
    streams: bool = True
    channels: ChannelGroups = RGB
    bands_inside: bool = False

    @property
    def last_layer(self) -> nn.Module:
        """The last layer, whose gradients can balance the losses (VQGAN, arXiv 2012.09841, eq. 7)."""
        raise NotImplementedError

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The layers that read latents or conditions, such as timesteps, or return pixels. See `Encoder.outer_layers`."""
        return _first_and_last(self)

    def linear_start(self, pyramid: Pyramid, code: StartCode, latents: Sequence[tuple[Tensor, ...]]) -> Errors:
        """Set the weights so that the decoder reconstructs the pixels from codewords, fitted to data.

        Args:
            pyramid: the data and its principal components.
            code: what the bottleneck returns.
            latents: codewords of each batch, one (B, C, t, h, w) tensor per grid.

        Returns:
            The share of the variance of its targets that each fitted layer does not explain, by name.

        Raises:
            SmaltiError: this class has no such start.
        """
        raise SmaltiError(_NO_START.format(type(self).__name__))

    @abstractmethod
    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode a clip, or the next chunk of one.

        Args:
            latents: one (B, C, t, h, w) tensor per grid. In a stream, the grids that the encoder returned for one chunk.
            generator: source of a generative decoder's noise; None for the global generator.
            state: state of the stream; None if the latents describe a whole clip. A decoder that looks ahead holds frames
                back until the next chunk.

        Returns:
            (B, 3, T, H, W), approximately in [-1, 1], not clamped.
        """
        raise NotImplementedError

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapt the weights of another decoder for this one, which then initially computes the same function.

        The default returns the weights unchanged.

        Args:
            weights: state dict of the other decoder.
        """
        return weights


def _first_and_last(network: nn.Module) -> tuple[nn.Module, ...]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    return (layers[0], layers[-1]) if layers else ()
