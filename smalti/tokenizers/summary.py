"""A summary of a tokenizer in a few lines, which `print(tokenizer)` shows."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from torch import nn

from smalti.tokenizers.configurable import Configurable

if TYPE_CHECKING:
    from smalti.tokenizers.tokenizer import Tokenizer


def summarize(tokenizer: Tokenizer) -> str:
    """Return the networks, the bottleneck, the compression, and the parameters of a tokenizer, one per line."""
    t, h, w = tokenizer.encoder.stride
    lines = [
        f"Tokenizer, {'discrete' if tokenizer.discrete else 'continuous'}, stride {t} x {h} x {w} (frames, height, width)",
        f"encoder: {_describe_network(tokenizer.encoder)}",
        f"bottleneck: {_describe_call(tokenizer.bottleneck)}",
        f"decoder: {_describe_network(tokenizer.decoder)}",
        f"code: {_describe_code(tokenizer)}",
        f"parameters: {_describe_parameters(tokenizer)}",
    ]
    return "\n  ".join(lines)


def millions(module: nn.Module) -> str:
    """Return the number of parameters of a module, such as "12.34M"."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f}M"


def _describe_network(network: Configurable) -> str:
    """Return the class and the number of parameters of an encoder or a decoder."""
    return f"{_class_names(network)}, {millions(network)} parameters"


def _class_names(module: Configurable) -> str:
    """Return the name of a class and, in parentheses, of the networks it wraps, such as TiledEncoder(WeTokEncoder)."""
    wrapped = [_class_names(child) for child in module.children() if isinstance(child, Configurable)]
    return type(module).__name__ + (f"({', '.join(wrapped)})" if wrapped else "")


def _describe_call(module: Configurable) -> str:
    """Return a module as its constructor call, without arguments that have their default, such as GQ(groups=4, bits=8)."""
    parameters = inspect.signature(type(module)).parameters
    arguments: list[str] = []
    for name, value in module._arguments.items():
        child = getattr(module, name, None)
        if isinstance(child, Configurable):
            arguments.append(f"{name}={_describe_call(child)}")
        elif name not in parameters or value != parameters[name].default:
            arguments.append(f"{name}={value!r}")
    return f"{type(module).__name__}({', '.join(arguments)})"


def _describe_code(tokenizer: Tokenizer) -> str:
    """Return what a latent position contains, and the compression."""
    if not tokenizer.discrete:
        return f"{tokenizer.bottleneck.out_dim} channels per latent position"
    quantizer = tokenizer.quantizer
    count = quantizer.tokens_per_position
    tokens = f"{count} token{'' if count == 1 else 's'} of {quantizer.codebook_size:,} values per latent position"
    return f"{tokens}, {tokenizer.bits_per_pixel:.3g} bits per pixel, compression {tokenizer.compression_ratio:.3g}x"


def _describe_parameters(tokenizer: Tokenizer) -> str:
    """Return number, size, dtypes, devices and state of all parameters."""
    weights = list(tokenizer.parameters())
    mode = "training mode" if tokenizer.training else "evaluation mode"
    if not weights:
        return f"none, {mode}"
    size = sum(weight.numel() * weight.element_size() for weight in weights) / 1e6
    dtypes = ", ".join(dict.fromkeys(str(weight.dtype).removeprefix("torch.") for weight in weights))
    devices = ", ".join(dict.fromkeys(str(weight.device) for weight in weights))
    trainable = sum(weight.requires_grad for weight in weights)
    state = "frozen" if not trainable else "trainable" if trainable == len(weights) else "partly frozen"
    return f"{millions(tokenizer)}, {size:.3g} MB, {dtypes} on {devices}, {state}, {mode}"
