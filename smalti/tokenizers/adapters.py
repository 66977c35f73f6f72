"""Low-rank adapters: train few weights next to a frozen decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smalti.errors import MissingExtraError, SmaltiError
from smalti.tokenizers.base import Decoder, StreamState
from smalti.tokenizers.tokenizer import Tokenizer

_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)


class LoRADecoder(Decoder):
    """A frozen decoder with a low-rank adapter next to each of its layers (LoRA, arXiv 2106.09685), by peft.

    It computes the same as the decoder until it is trained. `smalti.load` merges the adapters of a checkpoint into the
    weights: what is evaluated and exported is an ordinary decoder.

    Layers that pad in ways of their own, such as Wan's causal convolutions, and grouped convolutions have no adapter and
    stay frozen.

    Args:
        decoder: the decoder.
        rank: rank of the adapters.

    Raises:
        MissingExtraError: peft is not installed.
        SmaltiError: `rank` is below 1, or no layer of the decoder can have an adapter.
    """

    def __init__(self, decoder: Decoder, rank: int = 8) -> None:
        super().__init__()
        if rank < 1:
            raise SmaltiError(f"The rank of the adapters is {rank}: use at least 1, such as 8.")
        self.decoder, self.rank = decoder, rank
        self.in_dim, self.generative, self.streams = decoder.in_dim, decoder.generative, decoder.streams
        self.channels = decoder.channels
        # Subclasses may pad their input: an adapter would see it without.
        names = [name for name, m in decoder.named_modules() if type(m) in _LAYERS and getattr(m, "groups", 1) == 1]
        if not names:
            raise SmaltiError(
                f"No layer of {type(decoder).__name__} can have a low-rank adapter: train the decoder itself, or its last "
                "block."
            )
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ModuleNotFoundError as error:
            raise MissingExtraError("peft", "diffusers", "Low-rank adapters") from error
        decoder.requires_grad_(requires_grad=False)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
        inject_adapter_in_model(config, decoder)

    @property
    def last_layer(self) -> nn.Module:
        """The last layer of the wrapped decoder."""
        return self.decoder.last_layer

    def forward(
        self, latents: tuple[Tensor, ...], generator: torch.Generator | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Decode grids to pixels, see `Decoder.forward`."""
        return self.decoder(latents, generator, state)

    def merge(self) -> Decoder:
        """Add the adapters to the weights, and return the decoder without them. This wrapper cannot be used afterwards."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, layer in list(self.decoder.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                adapted: Any = layer
                adapted.merge()
                parent, _, child = name.rpartition(".")
                setattr(self.decoder.get_submodule(parent), child, adapted.get_base_layer())
        return self.decoder


def merge_adapters(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer whose adapters are merged into its weights; the tokenizer itself if it has none."""
    decoder = tokenizer.decoder
    return (
        Tokenizer(tokenizer.encoder, tokenizer.bottleneck, decoder.merge())
        if isinstance(decoder, LoRADecoder)
        else tokenizer
    )
