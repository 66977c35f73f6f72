"""Train, evaluate and export visual tokenizers: image and video, discrete and continuous.

>>> import smalti
>>> tokenizer = smalti.load("path/to/export")  # doctest: +SKIP
>>> tokens = tokenizer.tokenize(smalti.load_image("photo.jpg"))  # doctest: +SKIP
>>> smalti.save_image(tokenizer.detokenize(tokens), "reconstruction.png")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.version import __version__

if TYPE_CHECKING:
    from smalti.images import load_image, save_image
    from smalti.tokenization.token_array import load_tokens
    from smalti.tokenization.token_dataset import TokenDataset
    from smalti.tokenizers.checkpoints import load
    from smalti.tokenizers.tokenizer import Tokenizer

__all__ = ["TokenDataset", "Tokenizer", "__version__", "load", "load_image", "load_tokens", "save_image"]

_MODULES = {
    "TokenDataset": "smalti.tokenization.token_dataset",
    "Tokenizer": "smalti.tokenizers.tokenizer",
    "load": "smalti.tokenizers.checkpoints",
    "load_image": "smalti.images",
    "load_tokens": "smalti.tokenization.token_array",
    "save_image": "smalti.images",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: importing torch takes seconds, and `smalti --help` does not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'smalti' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
