"""Names of weights: those of a class of diffusers, and those of its two halves in a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_NAMES = {
    "encoder.": "encoder.network.",
    "quant_conv.": "encoder.quant_conv.",
    "decoder.": "decoder.network.",
    "post_quant_conv.": "decoder.post_quant_conv.",
}
_STORED = "decoder.stored."


def split_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a class under their names in a tokenizer."""
    renamed: dict[str, Tensor] = {}
    for key, weight in weights.items():
        prefix = next((prefix for prefix in _NAMES if key.startswith(prefix)), None)
        name = f"{_STORED}{key}" if prefix is None else f"{_NAMES[prefix]}{key.removeprefix(prefix)}"
        renamed[name] = weight
    return renamed


def join_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Invert `split_weights`. Weights of other parts of the tokenizer, such as projections, are not returned."""
    prefixes = {name: key for key, name in _NAMES.items()} | {_STORED: ""}
    return {
        key + name.removeprefix(prefix): weight
        for prefix, key in prefixes.items()
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
