"""Rivals of tokenizers: the linear codec, bicubic downsampling, and codecs of images and videos."""

from smalti.eval.rivals.base import Approximation, CodedFile, FileCodec, Rival
from smalti.eval.rivals.linear import fit_linear_codecs, load_linear_codec
from smalti.eval.rivals.registry import MissingRival, build_rivals, select_rivals

__all__ = [
    "Approximation",
    "CodedFile",
    "FileCodec",
    "MissingRival",
    "Rival",
    "build_rivals",
    "fit_linear_codecs",
    "load_linear_codec",
    "select_rivals",
]
