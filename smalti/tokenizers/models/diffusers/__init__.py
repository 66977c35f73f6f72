"""Autoencoders of Hugging Face's diffusers as encoders and decoders. diffusers computes; nothing is reimplemented."""

from smalti.tokenizers.models.diffusers.decoder import DiffusersDecoder
from smalti.tokenizers.models.diffusers.encoder import DiffusersEncoder

__all__ = ["DiffusersDecoder", "DiffusersEncoder"]
