"""The linear codec as a rival: at the tokenizer's nominal bits, or with as many components as its latent channels.

Shapes: B batch; T frames, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.linear_codec import METHOD, LinearCodec
from smalti.eval.nominal_bits import CONTINUOUS_CHANNEL_BITS
from smalti.eval.rivals.base import MULTIPLES, Approximation, Rival
from smalti.pixels import pixels_to_uint8, to_pixels
from smalti.tokenizers.tokenizer import Tokenizer

HOW_TO_GET_IT = "pass --linear-codec with training data, such as --linear-codec my/train or photos:train, to fit one"
"""What to do if there is no linear codec, for messages."""

_TOLERANCE = 2.0
"""Bits per latent position by which the levels of a codec may miss the tokenizer's bits: they are whole numbers."""


class LinearRival(Rival):
    """Linear codecs at several rates.

    Args:
        codecs: codecs on the CPU, by those of `MULTIPLES` of the tokenizer's bits that they have; 1.0 is one of them.
        origin: what they were fitted on, for the description.
    """

    name = "linear_codec"
    label = "linear codec"
    equal = "nominal bits"
    all_channels = True

    def __init__(self, codecs: Mapping[float, LinearCodec], origin: str) -> None:
        self.codecs = dict(codecs)
        self.description = f"{METHOD}; fitted on {origin}"

    def approximate(self, original: Tensor, bits: float) -> dict[float, Approximation]:
        """Approximate a sample at the rates of the codecs. See `Rival.approximate`."""
        pixels = to_pixels(original)[None]
        approximations = {}
        for multiple, codec in self.codecs.items():
            restored = codec.reconstruct(pixels)[0]
            sample = restored if original.is_floating_point() else pixels_to_uint8(restored)
            approximations[multiple] = Approximation(sample, _bits_per_position(codec) * _positions(codec, original))
        return approximations


def load_linear_codec(path: Path, tokenizer: Tokenizer, *, clips: bool) -> LinearRival:
    """Return the codec in a file as a rival.

    Args:
        path: a file that `LinearCodec.save` wrote.
        tokenizer: the tokenizer that the codec competes with.
        clips: whether the samples are clips, not images.

    Raises:
        SmaltiError: the file is not a linear codec, or has another stride, rate or number of channels than the tokenizer.
    """
    codec = LinearCodec.load(path)
    _check_codec(codec, tokenizer, path, clips=clips)
    return LinearRival({1.0: codec}, f"the training data of {path}")


def fit_linear_codecs(batches: Sequence[Tensor], tokenizer: Tokenizer, origin: str) -> LinearRival:
    """Fit codecs at the bits of a tokenizer and at multiples of them; for a continuous tokenizer, one codec.

    With several processes, all must call this with the same batches.

    Args:
        batches: pixels (B, C, H, W) or (B, C, T, H, W) in [-1, 1] with the channels of the tokenizer, on the CPU.
        tokenizer: sets the stride, and the bits or channels per latent position.
        origin: what the batches are, for the description.

    Raises:
        SmaltiError: there are no batches, or the stride is too large.
    """
    stride = tokenizer.encoder.stride
    if batches and batches[0].ndim == 4:
        stride = (1, *stride[1:])
    if not tokenizer.discrete:
        codec = LinearCodec.fit(batches, stride, channels=tokenizer.bottleneck.out_dim)
        return LinearRival({1.0: codec}, origin)
    bits = tokenizer.quantizer.bits_per_position
    rates = {multiple: multiple * bits for multiple in MULTIPLES if multiple == 1 or multiple * bits >= 1}
    return LinearRival(
        {multiple: LinearCodec.fit(batches, stride, bits=rate) for multiple, rate in rates.items()}, origin
    )


def _check_codec(codec: LinearCodec, tokenizer: Tokenizer, path: Path, *, clips: bool) -> None:
    """Check that a codec has the stride and the rate of a tokenizer.

    Raises:
        SmaltiError: it has not.
    """
    rate, stride = codec.bits_per_position, tokenizer.encoder.stride
    if tokenizer.discrete:
        same = rate is not None and abs(rate - tokenizer.quantizer.bits_per_position) <= _TOLERANCE
    else:
        same = rate is None and len(codec.components.directions) == tokenizer.bottleneck.out_dim
    # The patch of an image repeats it as often as a patch has frames, so that codecs of clips are codecs of images too.
    strides = {stride} if clips else {stride, (1, *stride[1:])}
    if (
        not same
        or codec.components.stride not in strides
        or codec.components.channels != sum(tokenizer.channels.values())
    ):
        raise SmaltiError(
            f"{path} is a linear codec with {_describe_codec(codec)}, but the tokenizer has {_describe(tokenizer)}: "
            f"{HOW_TO_GET_IT}."
        )


def _bits_per_position(codec: LinearCodec) -> float:
    """Return the nominal bits of a codec, counted like those of a tokenizer."""
    rate = codec.bits_per_position
    return CONTINUOUS_CHANNEL_BITS * len(codec.components.directions) if rate is None else rate


def _positions(codec: LinearCodec, sample: Tensor) -> int:
    """Return the number of patches of a sample. See `smalti.tokenizers.linear_start.patches.to_patches`."""
    t, h, w = codec.components.stride
    frames = 1 if sample.ndim == 3 else 1 + -(-(sample.shape[1] - 1) // t)
    return frames * math.prod(-(-n // s) for n, s in zip(sample.shape[-2:], (h, w), strict=True))


def _describe(tokenizer: Tokenizer) -> str:
    channels = f"{tokenizer.bottleneck.out_dim} channels"
    amount = f"{tokenizer.quantizer.bits_per_position:.4g} bits" if tokenizer.discrete else channels
    return f"{amount} per {_size(tokenizer.encoder.stride)} pixels"


def _describe_codec(codec: LinearCodec) -> str:
    rate = codec.bits_per_position
    amount = f"{len(codec.components.directions)} channels" if rate is None else f"{rate:.4g} bits"
    return f"{amount} per {_size(codec.components.stride)} pixels"


def _size(stride: tuple[int, int, int]) -> str:
    return " x ".join(map(str, stride if stride[0] > 1 else stride[1:]))
