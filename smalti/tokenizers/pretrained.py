"""Building a tokenizer of a recipe from another one: its weights, with another bottleneck or decoder, or with adapters."""

from __future__ import annotations

from smalti.errors import SmaltiError
from smalti.tokenizers.adapters import LoRADecoder
from smalti.tokenizers.base import Decoder
from smalti.tokenizers.bottlenecks import Bottleneck, Projected, Quantizer, Unquantized
from smalti.tokenizers.channels import with_channels
from smalti.tokenizers.checkpoints import load
from smalti.tokenizers.tokenizer import Tokenizer


def pretrained(
    source: str,
    bottleneck: Bottleneck | None = None,
    decoder: Decoder | None = None,
    continuous: bool = False,
    lora_rank: int | None = None,
    channels: dict[str, int] | None = None,
) -> Tokenizer:
    """Load a tokenizer for training, and replace parts of it.

    In a recipe, FLUX.1's autoencoder that becomes discrete:

        model:
          tokenizer:
            class_path: pretrained
            init_args:
              source: diffusers:path/to/vae
              bottleneck: {class_path: GQ, init_args: {groups: 4, bits: 8}}
        start: {method: latents}

    A resumed run loads the source again before its checkpoint; keep it. Checkpoints and exports do not need it.

    Args:
        source: an exported folder, a checkpoint, or "diffusers:" and a folder or a repository of the Hub.
        bottleneck: replaces that of the source. A quantizer with other channels than the latents is put between linear
            projections (`Projected`), which `start.method: latents` fits to the data. None: the bottleneck of the source.
        decoder: replaces that of the source, with random weights: a small decoder for the same latents.
        continuous: remove the quantizer of a discrete source, whose decoder then gets the vectors before rounding.
        lora_rank: rank of low-rank adapters, the only weights of the decoder that are trained; None: no adapters.
        channels: groups of channels of the pixels in order, such as {rgb: 3, nir: 1, swir: 2}, whose first and last
            convolutions replace those of the source. A group that the source has (rgb, for photos) keeps its weights.
            None: the channels of the source.

    Returns:
        The tokenizer in training mode.

    Raises:
        SmaltiError: the source cannot be loaded, the parts do not fit, or two arguments contradict each other.
    """
    tokenizer = load(source).requires_grad_().train()
    if isinstance(tokenizer.bottleneck, Quantizer) and bottleneck is not None and not isinstance(bottleneck, Quantizer):
        raise SmaltiError(
            f"{source} is discrete, and {type(bottleneck).__name__} does not fit its encoder: set continuous to true "
            "instead."
        )
    if continuous:
        if bottleneck is not None or not tokenizer.discrete:
            raise SmaltiError(
                "continuous removes the quantizer of a discrete source: use it with a discrete source, without bottleneck."
            )
        bottleneck = Unquantized(tokenizer.quantizer)
    if lora_rank is not None and decoder is not None:
        raise SmaltiError("lora_rank adapts the decoder of the source, and decoder replaces it: set one of the two.")
    if channels is not None:
        if lora_rank is not None or decoder is not None:
            raise SmaltiError(
                "channels adds weights to the decoder of the source, which lora_rank would freeze and decoder replace: set "
                "only channels."
            )
        tokenizer = with_channels(tokenizer, channels)
    target = tokenizer.decoder if decoder is None else decoder
    if bottleneck is None:
        bottleneck = tokenizer.bottleneck
    elif isinstance(bottleneck, Quantizer) and not _fits(tokenizer, bottleneck, target):
        bottleneck = Projected(bottleneck, dim=target.in_dim, in_dim=tokenizer.encoder.out_dim)
    if lora_rank is not None:
        target = LoRADecoder(target, lora_rank)
    return Tokenizer(tokenizer.encoder, bottleneck, target).train()


def _fits(tokenizer: Tokenizer, bottleneck: Bottleneck, decoder: Decoder) -> bool:
    return (bottleneck.in_dim, bottleneck.out_dim) == (tokenizer.encoder.out_dim, decoder.in_dim)
