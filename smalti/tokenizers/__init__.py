"""What is trained and shipped: plain torch, no Lightning, no data, no metrics."""

from smalti.tokenizers.ltx import LTXDecoder, LTXEncoder
from smalti.tokenizers.onevae import OneVAEDecoder, OneVAEEncoder
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.tokenizers.wetok import WeTokDecoder, WeTokEncoder, WeTokGenerativeDecoder

__all__ = [
    "LTXDecoder",
    "LTXEncoder",
    "OneVAEDecoder",
    "OneVAEEncoder",
    "Tokenizer",
    "WeTokDecoder",
    "WeTokEncoder",
    "WeTokGenerativeDecoder",
]
