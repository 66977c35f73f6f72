"""Building LTX-Video's tokenizers (arXiv 2501.00103) by version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.base import Bottleneck, Quantizer
from smalti.tokenizers.models.ltx.block_specs import (
    DECODER_OPTIONS,
    DEFAULT_BLOCKS,
    BlockList,
    parse_blocks,
    total_stride,
)
from smalti.tokenizers.models.ltx.decoder import LTXDecoder
from smalti.tokenizers.models.ltx.encoder import LTXEncoder
from smalti.tokenizers.tokenizer import Tokenizer

DENOISING_OPTIONS: dict[str, Any] = {"timestep": 0.05, "noise": 0.025, "training_noise": [0.0, 0.2]}
"""The published timestep and noise of a decoder that performs the last denoising step."""


@dataclass(frozen=True)
class _Version:
    """The networks of a released version.

    Attributes:
        encoder: blocks of the encoder.
        decoder: blocks of the decoder.
        denoising: whether the decoder performs the last denoising step.
    """

    encoder: BlockList
    decoder: BlockList
    denoising: bool


_UPSAMPLE = ["compress_all", {"multiplier": 2, "residual": True}]

_VERSIONS = {
    "0.9.0": _Version(encoder=DEFAULT_BLOCKS, decoder=DEFAULT_BLOCKS, denoising=False),
    "0.9.1": _Version(
        encoder=DEFAULT_BLOCKS,
        decoder=[
            ["res_x", {"num_layers": 5, "inject_noise": True}],
            _UPSAMPLE,
            ["res_x", {"num_layers": 6, "inject_noise": True}],
            _UPSAMPLE,
            ["res_x", {"num_layers": 7, "inject_noise": True}],
            _UPSAMPLE,
            ["res_x", {"num_layers": 8}],
        ],
        denoising=True,
    ),
    "0.9.5": _Version(
        encoder=[
            ["res_x", {"num_layers": 4}],
            ["compress_space_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 6}],
            ["compress_time_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 6}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 2}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 2}],
        ],
        decoder=[
            ["res_x", {"num_layers": 5}],
            _UPSAMPLE,
            ["res_x", {"num_layers": 5}],
            _UPSAMPLE,
            ["res_x", {"num_layers": 5}],
            _UPSAMPLE,
            ["res_x", {"num_layers": 5}],
        ],
        denoising=True,
    ),
}


def ltx(
    bottleneck: Bottleneck,
    version: Literal["0.9.0", "0.9.1", "0.9.5"] = "0.9.5",
    encoder_channels: int = 128,
    decoder_channels: int = 128,
    encoder_blocks: BlockList | None = None,
    decoder_blocks: BlockList | None = None,
    *,
    denoising: bool | None = None,
) -> Tokenizer:
    """Build an LTX-Video tokenizer with random weights. The bottleneck determines the latent channels.

    All versions encode 32x32 pixels x 8 frames to one latent position.

    >>> from smalti.tokenizers.bottlenecks import FSQ
    >>> ltx(FSQ([8, 8, 8]), encoder_channels=4, decoder_channels=4).encoder.stride
    (8, 32, 32)

    Args:
        bottleneck: the bottleneck; `KL(128, shared_log_variance=True)` in the released models.
        version: released version that determines the blocks: "0.9.0", "0.9.1" or "0.9.5".
        encoder_channels: channels of the encoder's first block.
        decoder_channels: output channels of the decoder's block next to the pixels.
        encoder_blocks: [name, options] of each block, see `LTXEncoder`; None: the blocks of the version.
        decoder_blocks: [name, options] of each block, see `LTXDecoder`; None: the blocks of the version.
        denoising: whether the decoder also performs the last denoising step, with the published noise. None: as in the
            version if the bottleneck is continuous (0.9.1 and 0.9.5 denoise); false for a quantizer, because noise would
            hide its levels.

    Raises:
        SmaltiError: there is no such version, or an argument does not describe a valid network.
    """
    if version not in _VERSIONS:
        raise SmaltiError(f"There is no version '{version}' of LTX-Video: give one of {', '.join(_VERSIONS)}.")
    released = _VERSIONS[version]
    if denoising is None:
        denoising = released.denoising and not isinstance(bottleneck, Quantizer)
    encoder_blocks = released.encoder if encoder_blocks is None else encoder_blocks
    decoder_blocks = released.decoder if decoder_blocks is None else decoder_blocks
    options = DENOISING_OPTIONS if denoising else {}
    encoder = LTXEncoder(bottleneck.in_dim, encoder_channels, encoder_blocks)
    decoder = LTXDecoder(bottleneck.out_dim, decoder_channels, decoder_blocks, **options)
    upsampling = total_stride(parse_blocks(decoder_blocks, DECODER_OPTIONS), decoder.patch)
    if upsampling != encoder.stride:
        raise SmaltiError(
            f"The encoder's blocks downsample (T, H, W) by {encoder.stride}, but the decoder's blocks upsample by "
            f"{upsampling}: give encoder_blocks and decoder_blocks that match."
        )
    return Tokenizer(encoder, bottleneck, decoder)
