"""Tokenizers for other channels than red, green and blue: satellite bands, depth, masks, 16-bit grayscale.

The first and the last convolution of a tokenizer get other channels. What it computes for the channels that it already had
does not change.

Shapes: B batch; C channels of pixels; T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from smalti.channel_groups import ChannelGroups, check_groups, describe_groups, group_slices
from smalti.errors import SmaltiError
from smalti.tokenizers.base import Decoder, Encoder, StreamState
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Grids

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TOLERANCE = 1e-3
"""Largest difference of pixels and latents, relative to their magnitude, that is float rounding."""


class ChannelEncoder(Encoder):
    """An encoder whose first convolution reads other channels.

    A group of channels that the encoder already has keeps its weights; those of new channels are zero. Without a common
    group, each channel has the mean of the weights: the encoder computes for C equal channels what it computed for gray.

    Args:
        encoder: the encoder; its first convolution is changed in place.
        channels: number of channels of each group, in order.

    Raises:
        SmaltiError: the groups are invalid, or the first layer is no convolution over the channels.
    """

    def __init__(self, encoder: Encoder, channels: ChannelGroups) -> None:
        super().__init__()
        self.encoder = encoder
        self.channels = check_groups(channels, "channels")
        self.stride, self.out_dim, self.streams = encoder.stride, encoder.out_dim, encoder.streams
        self.bands_inside = encoder.bands_inside
        conv = next(_convolutions(*encoder.outer_layers), None)
        _resize(encoder, conv, self.channels, axis=1)

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """Those of the encoder."""
        return self.encoder.outer_layers

    def padded_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the padded size of the encoder."""
        return self.encoder.padded_size(size)

    def latent_grids(self, size: tuple[int, int, int]) -> Grids:
        """Return the grids of the encoder."""
        return self.encoder.latent_grids(size)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode (B, C, T, H, W) in [-1, 1], see `Encoder.forward`."""
        return self.encoder(x, state)


class ChannelDecoder(Decoder):
    """A decoder whose last convolution returns other channels.

    A group of channels that the decoder already has keeps its weights; new channels start at 0. Without a common group,
    each channel is the mean of the channels that the decoder had.

    Args:
        decoder: the decoder; its last convolution is changed in place.
        channels: number of channels of each group, in order.

    Raises:
        SmaltiError: see `ChannelEncoder`.
    """

    def __init__(self, decoder: Decoder, channels: ChannelGroups) -> None:
        super().__init__()
        self.decoder = decoder
        self.channels = check_groups(channels, "channels")
        self.in_dim, self.generative, self.streams = decoder.in_dim, decoder.generative, decoder.streams
        self.bands_inside = decoder.bands_inside
        layers = list(_convolutions(decoder.last_layer))
        _resize(decoder, layers[-1] if layers else None, self.channels, axis=0)

    @property
    def last_layer(self) -> nn.Module:
        """The last layer of the decoder."""
        return self.decoder.last_layer

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """Those of the decoder."""
        return self.decoder.outer_layers

    @property
    def statistics(self) -> Any:
        """The latent statistics of the decoder; None if it has none."""
        return getattr(self.decoder, "statistics", None)

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode grids to (B, C, T, H, W), see `Decoder.forward`."""
        return self.decoder(latents, generator, state)


@torch.no_grad()
def with_channels(tokenizer: Tokenizer, channels: ChannelGroups) -> Tokenizer:
    """Return a tokenizer for other channels, which shares all weights but those of its first and its last convolution.

    The function is compared with that of the given tokenizer on a small random image.

    Args:
        tokenizer: the tokenizer; it cannot be used afterwards.
        channels: number of channels of each group, in order. Groups of the same name and size keep their weights.

    Raises:
        SmaltiError: the groups are invalid, or the tokenizer would compute something else for the channels that it has.
    """
    channels = check_groups(channels, "channels")
    if channels == tokenizer.channels:
        return tokenizer
    reads, returns = _mixing(tokenizer.channels, channels)
    new = torch.rand(1, sum(channels.values()), *_probe_size(tokenizer), generator=torch.Generator().manual_seed(0))
    weight = next(tokenizer.parameters())
    new = (2 * new - 1).to(weight)
    old = torch.einsum("on,bnthw->bothw", reads.to(weight), new)
    training = tokenizer.training
    tokenizer.eval()
    expected = _run(tokenizer, old)
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    adapted = Tokenizer(
        ChannelEncoder(encoder.encoder if isinstance(encoder, ChannelEncoder) else encoder, channels),
        tokenizer.bottleneck,
        ChannelDecoder(decoder.decoder if isinstance(decoder, ChannelDecoder) else decoder, channels),
    ).eval()
    h, pixels = _run(adapted, new)
    wanted = torch.einsum("no,bothw->bnthw", returns.to(weight), expected[1])
    for name, before, after in (("encoder", expected[0], h), ("decoder", wanted, pixels)):
        if (before - after).abs().max() > _TOLERANCE * (1 + before.abs().max()):
            raise SmaltiError(
                f"{type(getattr(tokenizer, name)).__name__} cannot be given other channels: its {name} would compute "
                "something else for the channels that it has. Use a tokenizer that reads and returns pixels by one "
                "convolution each."
            )
    return adapted.train(training)


def unread_groups(encoder: Encoder) -> list[str]:
    """Return the groups of channels that an encoder does not read, because all weights are zero: new ones."""
    if not isinstance(encoder, ChannelEncoder):
        return []
    weight = next(_convolutions(*encoder.outer_layers)).weight.detach()
    count = sum(encoder.channels.values())
    elements = weight.transpose(0, 1).unflatten(0, (-1, count) if encoder.bands_inside else (count, -1))
    read = (elements if encoder.bands_inside else elements.transpose(0, 1)).flatten(2).any(2).any(0)  # (C,)
    return [name for name, part in group_slices(encoder.channels).items() if not read[part].any()]


def _probe_size(tokenizer: Tokenizer) -> tuple[int, int, int]:
    _, height, width = tokenizer.encoder.stride
    return tokenizer.encoder.padded_size((1, 2 * height, 2 * width))


def _run(tokenizer: Tokenizer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first grid that the encoder returns, and the pixels that the decoder returns for fixed latents."""
    grids = tokenizer.encoder(x)
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(grid), tokenizer.decoder.in_dim, *grid.shape[2:]) for grid in grids]
    z = tuple(torch.randn(shape, generator=generator).to(x) for shape in shapes)
    return grids[0], tokenizer.decoder(z, torch.Generator(x.device).manual_seed(0))


def _mixing(old: ChannelGroups, new: ChannelGroups) -> tuple[Tensor, Tensor]:
    """Return how the old channels follow from the new ones at the input, (old, new), and vice versa at the output.

    Channels of common groups are equal, other old channels are 0 at the input, and other new ones are 0 at the output.
    """
    reads = torch.zeros(sum(old.values()), sum(new.values()))
    returns = torch.zeros(sum(new.values()), sum(old.values()))
    common = [name for name, count in new.items() if old.get(name) == count]
    if not common:
        return reads + 1 / sum(new.values()), returns + 1 / sum(old.values())
    before, after = group_slices(old), group_slices(new)
    for name in common:
        identity = torch.eye(new[name])
        reads[before[name], after[name]] = identity
        returns[after[name], before[name]] = identity
    return reads, returns


def _convolutions(*layers: nn.Module) -> Iterator[Any]:
    return (m for layer in layers for m in layer.modules() if isinstance(m, _CONVOLUTIONS))


@torch.no_grad()
def _resize(network: Encoder | Decoder, conv: Any, channels: ChannelGroups, axis: int) -> None:
    """Change the channels of pixels that a convolution reads (axis 1) or returns (axis 0), in place.

    Args:
        network: the network of the convolution.
        conv: the convolution; None if the network has none there.
        channels: the new groups.
        axis: axis of the weight.

    Raises:
        SmaltiError: it is no ordinary convolution over all channels.
    """
    old = network.channels
    count = sum(old.values())
    name = type(network).__name__
    if conv is None or conv.groups != 1 or "weight" not in conv._parameters or conv.weight.shape[axis] % count:
        raise SmaltiError(
            f"{name} cannot be given the channels {describe_groups(channels)}: its "
            f"{'first' if axis else 'last'} layer is no convolution over the {count} channels of the pixels."
        )
    reads, returns = _mixing(old, channels)
    elements = torch.eye(conv.weight.shape[axis] // count)
    mixing = reads.T.contiguous() if axis else returns
    matrix = torch.kron(elements, mixing) if network.bands_inside else torch.kron(mixing, elements)
    conv.weight = _mixed(matrix, conv.weight, axis)
    if axis:
        conv.in_channels = len(matrix)
    else:
        conv.out_channels = len(matrix)
        if conv.bias is not None:
            conv.bias = _mixed(matrix, conv.bias, 0)
    network.channels = dict(channels)


def _mixed(matrix: Tensor, weight: nn.Parameter, axis: int) -> nn.Parameter:
    """Return a parameter whose entries along an axis are linear combinations of those of another one."""
    entries = weight.detach().movedim(axis, 0)
    mixed = (matrix.to(weight) @ entries.reshape(len(entries), -1)).view(-1, *entries.shape[1:])
    return nn.Parameter(mixed.movedim(0, axis).contiguous(), requires_grad=weight.requires_grad)
